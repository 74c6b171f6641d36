"""One end of an HTTP/2 connection that does what a test says, also what no decent peer would.

The `h2` package keeps the books (HPACK, windows); frames that it would refuse to send are written raw, and every
frame that arrives is kept as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import Frame, GoAwayFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

Settings = Mapping[h2.settings.SettingCodes, int]
Headers = Sequence[tuple[bytes, bytes]]

# No test takes so long; what hangs says where.
HANG_SECONDS = 20.0

# More than this is not piled up in this process.
DRAIN_BYTES = 64 * 1024

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER = 9


class PeerGoneError(Exception):
    """The connection ended, or the stream was reset, before what was waited for."""


class Stream:
    """One stream as this end sees it."""

    def __init__(self, peer: Peer, stream_id: int) -> None:
        self.peer = peer
        self.id = stream_id
        # What the other end sent, as it came.
        self.headers: Headers = ()
        self.trailers: Headers = ()
        self.chunks: list[bytes] = []
        self.ended = False
        self.reset_code: int | None = None

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self.ended or self.reset_code is not None or self.peer.lost

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the last header of that name."""
        return dict(self.headers).get(name)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on this stream holds; raises PeerGoneError when it no more can."""
        await self.peer.until(lambda: condition() or self.reset_code is not None or self.peer.lost)
        if not condition():
            raise PeerGoneError(f"stream {self.id}: reset {self.reset_code}, lost {self.peer.lost}")

    async def until_over(self) -> None:
        await self.peer.until(lambda: self.over)

    async def until_reset(self) -> int:
        """Wait for RST_STREAM and return its code."""
        await self.until(lambda: self.reset_code is not None)
        assert self.reset_code is not None
        return self.reset_code

    def send_headers(self, headers: Headers, *, end: bool = False) -> None:
        if self.reset_code is not None or self.peer.lost:
            raise PeerGoneError(f"stream {self.id} is closed")
        self.peer.h2.send_headers(self.id, list(headers), end_stream=end)
        self.peer.flush()

    async def send_data(self, data: bytes, *, end: bool = False, frame_size: int = 16384) -> None:
        """Send bytes in DATA frames of `frame_size`, as far as the other end's window lets them through."""
        position = 0
        while position < len(data):
            await self.until(lambda: self._window() > 0)
            size = min(self._window(), frame_size, len(data) - position)
            last = position + size == len(data)
            try:
                self.peer.h2.send_data(self.id, data[position : position + size], end_stream=end and last)
            except h2.exceptions.StreamClosedError as error:
                raise PeerGoneError(f"stream {self.id} is closed") from error
            self.peer.flush()
            position += size
        if end and not data:
            self.end()

    def end(self) -> None:
        self.peer.h2.end_stream(self.id)
        self.peer.flush()

    def reset(self, code: int) -> None:
        with contextlib.suppress(h2.exceptions.StreamClosedError):
            self.peer.h2.reset_stream(self.id, code)
        self.peer.flush()

    def _window(self) -> int:
        try:
            return self.peer.h2.local_flow_control_window(self.id)
        except h2.exceptions.StreamClosedError as error:
            raise PeerGoneError(f"stream {self.id} is closed") from error


class Peer(asyncio.Protocol):
    """One end of a connection."""

    def __init__(
        self,
        *,
        client: bool,
        settings: Settings | None = None,
        acknowledge: bool = True,
        on_stream: Callable[[Stream], None] | None = None,
    ) -> None:
        """Make an end; `acknowledge` off never opens a window again, `on_stream` hears of the other end's streams."""
        config = h2.config.H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        values = {codes.MAX_CONCURRENT_STREAMS: 1000, codes.MAX_HEADER_LIST_SIZE: 2**24}
        values.update({codes(setting): value for setting, value in (settings or {}).items()})
        self.h2.local_settings = h2.settings.Settings(client=client, initial_values=values)
        self.h2.decoder.max_header_list_size = 2**24
        self.frames: list[Frame] = []
        self.streams: dict[int, Stream] = {}
        self.lost = False
        self.acknowledge = acknowledge
        self.transport: asyncio.Transport
        self._client = client
        self._on_stream = on_stream
        self._buffer = bytearray()
        self._preface = b"" if client else _PREFACE
        self._news = asyncio.Event()
        self._greeted = False

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, looked at again whenever something arrives."""
        async with asyncio.timeout(HANG_SECONDS):
            while not condition():
                await self._news.wait()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.lost:
            self.transport.write(data)

    def send_frame(self, frame: Frame) -> None:
        """Send a frame past all the rules."""
        self.send_raw(frame.serialize())

    def send_raw(self, data: bytes) -> None:
        self.flush()
        self.transport.write(data)

    def h2_closed(self, stream_id: int) -> bool:
        """Tell whether a stream is over on both sides."""
        return self.h2.streams[stream_id].closed if stream_id in self.h2.streams else True

    async def drained(self) -> None:
        """Wait until the kernel took what was sent."""
        while not self.lost and self.transport.get_write_buffer_size() > DRAIN_BYTES:
            await asyncio.sleep(0.01)

    def goaway(self, last_stream_id: int, code: int = 0) -> None:
        self.send_frame(GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code))

    def cut(self) -> None:
        """Drop the connection as a killed process does."""
        self.transport.abort()

    def received(self, kind: type[Frame], stream_id: int | None = None) -> list[Frame]:
        """Return the frames of a kind that arrived."""
        return [one for one in self.frames if isinstance(one, kind) and stream_id in (None, one.stream_id)]

    @property
    def goaways(self) -> list[Frame]:
        return self.received(GoAwayFrame)

    def resets(self) -> list[int]:
        """Return the codes of the RST_STREAM frames that arrived."""
        return [one.error_code for one in self.frames if isinstance(one, RstStreamFrame)]

    async def ping(self, data: bytes = b"conforms") -> None:
        """Ping and wait for the answer: the other end has handled all that was sent before."""
        before = self._pongs(data)
        self.send_frame(PingFrame(0, opaque_data=data))
        await self.until(lambda: self._pongs(data) > before or self.lost)
        if self.lost:
            raise PeerGoneError("the connection ended")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        # The connection's window is wide: tests look at the windows of streams.
        self.h2.increment_flow_control_window(2**24)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._preface:
            if len(self._buffer) < len(self._preface):
                return
            self.h2.receive_data(bytes(self._buffer[: len(self._preface)]))
            del self._buffer[: len(self._preface)]
            self._preface = b""
        while (raw := self._next_frame()) is not None:
            self._handle_frame(raw)
        self.flush()
        self._tell()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _pongs(self, data: bytes) -> int:
        return sum(isinstance(one, PingFrame) and "ACK" in one.flags and one.opaque_data == data for one in self.frames)

    def _next_frame(self) -> bytes | None:
        if len(self._buffer) < _FRAME_HEADER:
            return None
        size = _FRAME_HEADER + int.from_bytes(self._buffer[:3], "big")
        if len(self._buffer) < size:
            return None
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        return raw

    def _handle_frame(self, raw: bytes) -> None:
        frame, _ = Frame.parse_frame_header(memoryview(raw[:_FRAME_HEADER]))
        frame.parse_body(memoryview(raw[_FRAME_HEADER:]))
        self.frames.append(frame)
        if isinstance(frame, GoAwayFrame):
            return  # h2 would refuse everything from here on, which a draining connection does not
        if isinstance(frame, PingFrame) and "ACK" in frame.flags:
            return
        try:
            events = self.h2.receive_data(raw)
        except h2.exceptions.ProtocolError:
            if isinstance(frame, (SettingsFrame, WindowUpdateFrame)):
                raise
            return  # late frames of a stream that a raw frame ended
        self._handle_events(events)

    def _handle_events(self, events: Iterable[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                stream = self.streams[event.stream_id] = Stream(self, event.stream_id)
                stream.headers = _bytes(event.headers)
                if self._on_stream is not None:
                    self._on_stream(stream)
            elif isinstance(event, h2.events.ResponseReceived):
                self.streams[event.stream_id].headers = _bytes(event.headers)
            elif isinstance(event, h2.events.TrailersReceived):
                self.streams[event.stream_id].trailers = _bytes(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.streams[event.stream_id].chunks.append(event.data)
                self._acknowledge(event)
            elif isinstance(event, h2.events.StreamEnded):
                self.streams[event.stream_id].ended = True
            elif isinstance(event, h2.events.StreamReset) and event.stream_id in self.streams:
                self.streams[event.stream_id].reset_code = int(event.error_code)

    def _acknowledge(self, event: h2.events.DataReceived) -> None:
        if self.acknowledge and event.flow_controlled_length:
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)


def _bytes(headers: Iterable[tuple[bytes | str, bytes | str]]) -> list[tuple[bytes, bytes]]:
    return [(_as_bytes(name), _as_bytes(value)) for name, value in headers]


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
