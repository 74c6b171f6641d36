"""HTTP/2 on the package h2: the same protocol in pure Python, some twenty times slower.

It is what ngh2 is checked against in tests, and what the engine runs on where ngh2 cannot be installed. It differs on
purpose in one thing: what h2 calls a protocol error ends the connection, also where ngh2 would only reset a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from h2.settings import SettingCodes
from h2.settings import Settings as H2Settings
from hyperframe.frame import Frame, GoAwayFrame

from proxy.engines.wire.h2 import (
    CANCEL,
    MAX_WINDOW,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Header,
    Http2Options,
    Library,
)
from proxy.engines.wire.h2_events import (
    Closed,
    Data,
    GoAway,
    OutStream,
    Ping,
    PingAcknowledged,
    Request,
    Reset,
    Response,
    Settings,
    Trailers,
    WindowUpdated,
)

_PREFACE, _FRAME_HEADER = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 9


class OverError(Exception):
    """The connection takes nothing more."""


class PureConnection:
    """One connection; see h2.Http2."""

    def __init__(self, options: Http2Options, *, client: bool) -> None:
        config = h2.config.H2Configuration(
            client_side=client, header_encoding=None, normalize_outbound_headers=False, validate_outbound_headers=False
        )
        self._h2 = h2.connection.H2Connection(config)
        values = {SettingCodes.INITIAL_WINDOW_SIZE: options.stream_window}
        if not client:
            values[SettingCodes.MAX_CONCURRENT_STREAMS] = options.max_streams
        values[SettingCodes.MAX_HEADER_LIST_SIZE] = options.max_header_list_bytes // 2
        self._h2.local_settings = H2Settings(client=client, initial_values=values)
        self._h2.decoder.max_header_list_size = options.max_header_list_bytes
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(MAX_WINDOW - 65535)
        self._client = client
        self._streams: dict[int, OutStream] = {}
        self._events: list[Any] = []
        self._unread = bytearray()
        self._preface = b"" if client else _PREFACE
        self._raw = bytearray()
        self._highest = 0
        # A GOAWAY went or came: the connection ends with its last stream.
        self._going = False
        self._over = False

    # What comes.

    def receive_data(self, data: bytes) -> None:
        """Take received bytes; a protocol error ends the connection."""
        self._unread += data
        if self._preface:
            if len(self._unread) < len(self._preface):
                return
            self._pass(bytes(self._unread[: len(self._preface)]))
            del self._unread[: len(self._preface)]
            self._preface = b""
        while not self._over and (raw := self._next_frame()):
            if raw[3] == GoAwayFrame.type:
                self._goaway_received(raw)
            else:
                self._pass(raw)

    def events(self) -> list[Any]:
        """Return what happened since the last time."""
        events, self._events = self._events, []
        return events

    def _next_frame(self) -> bytes:
        unread = self._unread
        if len(unread) < _FRAME_HEADER:
            return b""
        size = int.from_bytes(unread[:3], "big")
        if size > self._h2.max_inbound_frame_size:
            self._fail()
            return b""
        if len(unread) < _FRAME_HEADER + size:
            return b""
        raw = bytes(unread[: _FRAME_HEADER + size])
        del unread[: _FRAME_HEADER + size]
        return raw

    def _pass(self, raw: bytes) -> None:
        try:
            happened = self._h2.receive_data(raw)
        except h2.exceptions.StreamClosedError:
            return  # late frames of a stream that is over
        except (h2.exceptions.ProtocolError, ValueError, IndexError):
            self._fail()
            return
        for event in happened:
            self._translate(event)

    def _goaway_received(self, raw: bytes) -> None:
        frame, _ = Frame.parse_frame_header(memoryview(raw[:_FRAME_HEADER]))
        frame.parse_body(memoryview(raw[_FRAME_HEADER:]))
        assert isinstance(frame, GoAwayFrame)
        self._going = True
        self._events.append(GoAway(frame.last_stream_id, frame.error_code))
        if self._client:
            for stream_id in [one for one in self._streams if one > frame.last_stream_id]:
                self._close(stream_id, REFUSED_STREAM)

    def _fail(self) -> None:
        self._raw += self._h2.data_to_send()
        self.terminate_connection(PROTOCOL_ERROR)

    def _translate(self, event: h2.events.Event) -> None:  # noqa: C901, PLR0912 - a table, in effect
        add = self._events.append
        match event:
            case h2.events.RequestReceived():
                self._highest = max(self._highest, event.stream_id)
                self._streams[event.stream_id] = OutStream()
                add(Request(event.stream_id, _headers(event), event.stream_ended is not None))
            case h2.events.ResponseReceived():
                add(Response(event.stream_id, _headers(event), event.stream_ended is not None))
            case h2.events.TrailersReceived():
                add(Trailers(event.stream_id, _headers(event)))
            case h2.events.DataReceived():
                unseen = (event.flow_controlled_length or 0) - len(event.data)
                if unseen:  # padding is nobody's to acknowledge
                    self.acknowledge_received_data(unseen, event.stream_id)
                add(Data(event.stream_id, event.data, event.stream_ended is not None))
            case h2.events.StreamEnded():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    stream.received_end = True
                    self._close_when_ended(event.stream_id, stream)
            case h2.events.StreamReset():
                add(Reset(event.stream_id, int(event.error_code)))
                self._close(event.stream_id, int(event.error_code))
            case h2.events.RemoteSettingsChanged():
                add(Settings({int(code): one.new_value for code, one in event.changed_settings.items()}))
            case h2.events.WindowUpdated():
                add(WindowUpdated(event.stream_id or 0, event.delta or 0))
            case h2.events.PingReceived():
                add(Ping(event.ping_data))
            case h2.events.PingAckReceived():
                add(PingAcknowledged(event.ping_data))
            case _:
                pass

    def _close_when_ended(self, stream_id: int, stream: OutStream) -> None:
        if stream.sent_end and stream.received_end:
            self._close(stream_id, NO_ERROR)

    def _close(self, stream_id: int, error_code: int) -> None:
        if self._streams.pop(stream_id, None) is not None:
            self._events.append(Closed(stream_id, error_code))

    # What goes.

    def data_to_send(self, amount: int) -> bytes:
        """Return what can be sent now. The whole of it: the windows bound it."""
        if not self._over:
            for stream_id in list(self._streams):
                self._send_queued(stream_id)
            self._raw += self._h2.data_to_send()
        out = bytes(self._raw)
        self._raw.clear()
        return out

    def _send_queued(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        queue = stream.queue
        while queue:
            size = min(len(queue), self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if size <= 0:
                return
            last = stream.ended and size == len(queue) and stream.trailers is None
            self._h2.send_data(stream_id, bytes(queue[:size]), end_stream=last)
            del queue[:size]
            stream.sent_end = last
        if stream.ended and not stream.sent_end:
            if stream.trailers is None:
                self._h2.end_stream(stream_id)
            else:
                self._h2.send_headers(stream_id, stream.trailers, end_stream=True)
            stream.sent_end = True
        self._close_when_ended(stream_id, stream)

    def send_request(self, headers: Iterable[Header], *, end_stream: bool = False) -> int:
        """Open a stream; returns its number."""
        self._check()
        stream_id = self._h2.get_next_available_stream_id()
        self._streams[stream_id] = stream = OutStream()
        self._h2.send_headers(stream_id, list(headers), end_stream=end_stream)
        stream.ended = stream.sent_end = end_stream
        return stream_id

    def send_response(self, stream_id: int, headers: Iterable[Header], *, end_stream: bool = False) -> None:
        """Send the headers of a reply."""
        stream = self._open(stream_id)
        self._h2.send_headers(stream_id, list(headers), end_stream=end_stream)
        stream.ended = stream.sent_end = end_stream

    def send_trailers(self, stream_id: int, headers: Iterable[Header]) -> None:
        """Send trailers once the body has left, which ends the stream."""
        stream = self._open(stream_id)
        stream.trailers = list(headers)
        stream.ended = True

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Queue bytes of a body."""
        stream = self._open(stream_id)
        stream.queue += data
        stream.ended = end_stream

    def end_stream(self, stream_id: int) -> None:
        """End the body."""
        self._open(stream_id).ended = True

    def reset_stream(self, stream_id: int, error_code: int = CANCEL) -> None:
        """Reset a stream; one that is over is left alone."""
        self._check()
        if stream_id in self._streams:
            self._h2.reset_stream(stream_id, error_code)
            self._close(stream_id, error_code)

    def ping(self, opaque_data: bytes) -> None:
        """Ping the peer."""
        self._check()
        self._h2.ping(opaque_data)

    def send_shutdown_notice(self) -> None:
        """Announce a GOAWAY."""
        self._check()
        self._goaway(MAX_WINDOW, NO_ERROR)  # the highest stream as well

    def send_goaway(self, error_code: int = 0, *, last_stream_id: int | None = None) -> None:
        """Take no further streams."""
        self._check()
        self._going = True
        self._goaway(self._highest if last_stream_id is None else last_stream_id, error_code)

    def terminate_connection(self, error_code: int) -> None:
        """End the connection with a GOAWAY."""
        self._check()
        self._raw += self._h2.data_to_send()
        self._goaway(self._highest, error_code)
        self._over = True

    def _goaway(self, last_stream_id: int, error_code: int) -> None:
        self._raw += self._h2.data_to_send()
        self._raw += GoAwayFrame(0, last_stream_id=last_stream_id, error_code=error_code).serialize()

    def acknowledge_received_data(self, amount: int, stream_id: int) -> None:
        """Give received bytes back."""
        self._check()
        if amount:
            self._h2.acknowledge_received_data(amount, stream_id)

    def set_local_window_size(self, window_size: int, *, stream_id: int = 0) -> None:
        """Widen a window."""
        self._check()
        if stream_id and stream_id in self._streams:
            current = self._h2._get_stream_by_id(stream_id)._inbound_window_manager.max_window_size  # noqa: SLF001
            if window_size > current:
                self._h2.increment_flow_control_window(window_size - current, stream_id)

    def queued_body_size(self, stream_id: int) -> int:
        """Return how much of a body waits."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else len(stream.queue)

    @property
    def want_read(self) -> bool:
        return not self._over and not (self._going and not self._streams)

    @property
    def want_write(self) -> bool:
        # Asking h2 would take its bytes: an empty flush costs little here.
        return not self._over or bool(self._raw)

    @property
    def next_stream_id(self) -> int:
        self._check()
        return int(self._h2.get_next_available_stream_id()) if self._client else 2

    @property
    def remote_settings(self) -> Mapping[int, int]:
        return {int(code): value for code, value in self._h2.remote_settings.items()}

    def _open(self, stream_id: int) -> OutStream:
        self._check()
        stream = self._streams.get(stream_id)
        if stream is None or stream.ended:
            raise OverError(f"stream {stream_id} has no open body")
        return stream

    def _check(self) -> None:
        if self._over:
            raise OverError("the connection is over")


def load_pure() -> Library:
    """Return the implementation on h2."""
    return Library(
        name="h2",
        server=lambda options: PureConnection(options, client=False),
        client=lambda options: PureConnection(options, client=True),
        errors=(OverError, h2.exceptions.H2Error),
        Request=Request,
        Response=Response,
        Data=Data,
        Trailers=Trailers,
        Closed=Closed,
        Reset=Reset,
        Settings=Settings,
        WindowUpdated=WindowUpdated,
        Ping=Ping,
        PingAcknowledged=PingAcknowledged,
        GoAway=GoAway,
    )


def _headers(event: Any) -> tuple[Header, ...]:
    return tuple((name, value) for name, value in event.headers)
