"""HTTP/2 as the engine sees it, and the only place that imports ngh2.

The engine depends on the protocols here. Their names are ngh2's own, so that with ngh2 there is no layer in between:
a call of the engine is a call into C.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from mesh.errors import UsageError

Header = tuple[bytes, bytes]

# Settings and error codes of RFC 9113 that the engine names.
MAX_CONCURRENT_STREAMS = 0x03
INITIAL_WINDOW_SIZE = 0x04
MAX_HEADER_LIST_SIZE = 0x06
ENABLE_PUSH = 0x02
NO_RFC7540_PRIORITIES = 0x09

NO_ERROR = 0x00
PROTOCOL_ERROR = 0x01
INTERNAL_ERROR = 0x02
REFUSED_STREAM = 0x07
CANCEL = 0x08
ENHANCE_YOUR_CALM = 0x0B

# The largest a flow control window can be.
MAX_WINDOW = 2**31 - 1
# Streams are numbered with 31 bits; a connection is replaced well before they run out.
LAST_USABLE_STREAM = 2**31 - 2**16


class HeadersEvent(Protocol):
    """A request, a response or trailers."""

    @property
    def stream_id(self) -> int: ...
    @property
    def headers(self) -> tuple[Header, ...]: ...
    @property
    def end_stream(self) -> bool: ...


class DataEvent(Protocol):
    """Bytes of a body."""

    @property
    def stream_id(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def end_stream(self) -> bool: ...


class ClosedEvent(Protocol):
    """The end of a stream: both sides ended it, or one reset it."""

    @property
    def stream_id(self) -> int: ...
    @property
    def error_code(self) -> int: ...


class GoAwayEvent(Protocol):
    """The peer takes no more streams."""

    @property
    def last_stream_id(self) -> int: ...
    @property
    def error_code(self) -> int: ...


class Http2(Protocol):
    """One connection's protocol, without I/O. Sends are queued until `data_to_send`."""

    def receive_data(self, data: bytes) -> None:
        """Take received bytes; may raise what `Library.errors` names, after which the connection is dead."""

    def events(self) -> list[Any]: ...
    def data_to_send(self, amount: int) -> bytes:
        """Return at most about `amount` bytes to write, b"" when nothing can be sent now."""
        ...

    def send_request(self, headers: Iterable[Header], *, end_stream: bool = False) -> int: ...
    def send_response(self, stream_id: int, headers: Iterable[Header], *, end_stream: bool = False) -> None: ...
    def send_trailers(self, stream_id: int, headers: Iterable[Header]) -> None: ...
    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None: ...
    def end_stream(self, stream_id: int) -> None: ...
    def reset_stream(self, stream_id: int, error_code: int) -> None: ...
    def ping(self, opaque_data: bytes) -> None: ...
    def send_shutdown_notice(self) -> None:
        """Announce a GOAWAY: no stream is refused yet."""

    def send_goaway(self, error_code: int = 0, *, last_stream_id: int | None = None) -> None: ...
    def terminate_connection(self, error_code: int) -> None: ...
    def acknowledge_received_data(self, amount: int, stream_id: int) -> None:
        """Give received bytes back to the windows of stream and connection, also after the stream was closed."""

    def set_local_window_size(self, window_size: int, *, stream_id: int = 0) -> None: ...
    def queued_body_size(self, stream_id: int) -> int:
        """Return how many bytes of a body wait in the library; 0 for streams that are gone."""
        ...

    @property
    def want_read(self) -> bool: ...
    @property
    def want_write(self) -> bool: ...
    @property
    def next_stream_id(self) -> int: ...
    @property
    def remote_settings(self) -> Mapping[int, int]: ...


class Over:
    """Stands for the protocol of a connection that is over: whatever is still sent on it goes nowhere."""

    want_read = False
    want_write = False
    next_stream_id = LAST_USABLE_STREAM
    remote_settings: Mapping[int, int] = MappingProxyType({})

    def receive_data(self, data: bytes) -> None: ...
    def events(self) -> list[Any]:
        return []

    def data_to_send(self, amount: int) -> bytes:
        return b""

    def send_request(self, headers: Iterable[Header], *, end_stream: bool = False) -> int:
        raise RuntimeError("a connection that is over was given a call")

    def send_response(self, stream_id: int, headers: Iterable[Header], *, end_stream: bool = False) -> None: ...
    def send_trailers(self, stream_id: int, headers: Iterable[Header]) -> None: ...
    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None: ...
    def end_stream(self, stream_id: int) -> None: ...
    def reset_stream(self, stream_id: int, error_code: int) -> None: ...
    def ping(self, opaque_data: bytes) -> None: ...
    def send_shutdown_notice(self) -> None: ...
    def send_goaway(self, error_code: int = 0, *, last_stream_id: int | None = None) -> None: ...
    def terminate_connection(self, error_code: int) -> None: ...
    def acknowledge_received_data(self, amount: int, stream_id: int) -> None: ...
    def set_local_window_size(self, window_size: int, *, stream_id: int = 0) -> None: ...
    def queued_body_size(self, stream_id: int) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Http2Options:
    """What the two roles of a connection are told."""

    # Streams that a client may have open; servers only.
    max_streams: int = 1000
    # The most that a header list may have before the whole connection is ended. What is over the edge's own limit
    # is refused per call, so this is far above it.
    max_header_list_bytes: int = 256 * 1024
    # The initial window of a stream. Streams that are read fast are given more.
    stream_window: int = 64 * 1024 - 1


class Library(NamedTuple):
    """An implementation of HTTP/2: its connections, and the classes of its events."""

    name: str
    server: Any
    client: Any
    # What `receive_data` and the senders raise.
    errors: tuple[type[Exception], ...]
    Request: type
    Response: type
    Data: type
    Trailers: type
    Closed: type
    Reset: type
    Settings: type
    WindowUpdated: type
    Ping: type
    PingAcknowledged: type
    GoAway: type


def load() -> Library:
    """Return the fastest implementation that is installed.

    Raises:
        UsageError: none is.

    """
    try:
        return _load_ngh2()
    except ImportError as error:
        try:
            from proxy.engines.wire.h2_pure import load_pure
        except ImportError:
            raise UsageError(
                "the engine 'wire' needs the package ngh2, which cannot be imported here "
                f"({error}); install it with 'pip install ngh2', or choose --engine aio"
            ) from error
        return load_pure()


def _load_ngh2() -> Library:
    import ngh2

    def server(options: Http2Options) -> Any:
        connection = ngh2.Connection(ngh2.Role.SERVER, _configuration(ngh2, options))
        connection.initiate_connection(
            {
                MAX_CONCURRENT_STREAMS: options.max_streams,
                INITIAL_WINDOW_SIZE: options.stream_window,
                MAX_HEADER_LIST_SIZE: options.max_header_list_bytes // 2,
                NO_RFC7540_PRIORITIES: 1,
            }
        )
        connection.set_local_window_size(MAX_WINDOW)
        return connection

    def client(options: Http2Options) -> Any:
        connection = ngh2.Connection(ngh2.Role.CLIENT, _configuration(ngh2, options))
        connection.initiate_connection(
            {
                ENABLE_PUSH: 0,
                INITIAL_WINDOW_SIZE: options.stream_window,
                MAX_HEADER_LIST_SIZE: options.max_header_list_bytes // 2,
            }
        )
        connection.set_local_window_size(MAX_WINDOW)
        return connection

    return Library(
        name="ngh2",
        server=server,
        client=client,
        errors=(ngh2.NGH2Error, ValueError),
        Request=ngh2.RequestReceived,
        Response=ngh2.ResponseReceived,
        Data=ngh2.DataReceived,
        Trailers=ngh2.TrailersReceived,
        Closed=ngh2.StreamClosed,
        Reset=ngh2.StreamReset,
        Settings=ngh2.SettingsReceived,
        WindowUpdated=ngh2.WindowUpdated,
        Ping=ngh2.PingReceived,
        PingAcknowledged=ngh2.PingAcknowledged,
        GoAway=ngh2.GoAwayReceived,
    )


# Rates that are ours to limit (`protection.py`): the library's own defaults end connections of well-behaved peers
# after a burst of deadlines or cancels.
_NEVER = (2**62, 2**62)


def _configuration(ngh2: Any, options: Http2Options) -> Any:
    return ngh2.Configuration(
        auto_window_update=False,
        # Looking names up in the encoder's table costs more than the bytes that it saves inside a data centre.
        max_deflate_dynamic_table_size=0,
        max_send_header_block_length=2 * options.max_header_list_bytes,
        max_inbound_header_list_size=options.max_header_list_bytes,
        max_inbound_header_count=options.max_header_list_bytes // 64,
        # As many frames as a header block of that size needs at the default 16 KiB, and some.
        max_continuations=options.max_header_list_bytes // (16 * 1024) + 8,
        stream_reset_rate_limit=_NEVER,
        glitch_rate_limit=_NEVER,
    )
