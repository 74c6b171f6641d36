"""Two HTTP/2 implementations behind one protocol: what hypothesis makes up, both must understand and say alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.engines.wire.h2 import Http2, Http2Options, Library, load
from proxy.engines.wire.h2_pure import load_pure

LIBRARIES = (load(), load_pure())
OPTIONS = Http2Options(max_streams=8)
WINDOW = 65_535

Step = tuple[Any, ...]

REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"), (b":authority", b"x")]
FIELDS = st.lists(
    st.tuples(
        st.from_regex(rb"x-[a-z0-9-]{1,10}", fullmatch=True),
        st.binary(max_size=30).map(lambda value: value.hex().encode()),
    ),
    max_size=4,
)
BODY = st.integers(0, 3000).map(bytes)
# A stream is named by its place among those that the client opened.
STREAM = st.integers(0, 5)
CLIENT: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("request"), FIELDS, st.booleans()),
    st.tuples(st.just("data"), STREAM, BODY, st.booleans()),
    st.tuples(st.just("reset"), STREAM, st.sampled_from([0, 2, 7, 8, 11])),
    st.tuples(st.just("ping"), st.binary(min_size=8, max_size=8)),
)
SERVER: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("response"), STREAM, FIELDS),
    st.tuples(st.just("data"), STREAM, BODY, st.just(False)),  # noqa: FBT003 - gRPC ends replies with trailers
    st.tuples(st.just("trailers"), STREAM, FIELDS),
    st.tuples(st.just("reset"), STREAM, st.sampled_from([0, 2, 7, 8, 11])),
    st.tuples(st.just("ping"), st.binary(min_size=8, max_size=8)),
)
STEPS = st.lists(st.one_of(st.tuples(st.just("client"), CLIENT), st.tuples(st.just("server"), SERVER)), max_size=25)


class End:
    """One end of a connection, and what it has seen."""

    def __init__(self, library: Library, *, client: bool) -> None:
        self.library = library
        self.h2: Http2 = (library.client if client else library.server)(OPTIONS)
        self.seen: list[Step] = []
        self.opened: list[int] = []

    def do(self, step: Step) -> None:
        """Take a step; one that makes no sense now is refused alike by all."""
        kind, *given_ = step
        try:
            if kind == "request":
                fields, end = given_
                self.opened.append(self.h2.send_request([*REQUEST, *fields], end_stream=end))
                return
            if kind == "ping":
                self.h2.ping(*given_)
                return
            place, *rest = given_
            stream_id = 2 * place + 1
            actions: dict[str, Callable[[], None]] = {
                "response": lambda: self.h2.send_response(stream_id, [(b":status", b"200"), *rest[0]]),
                "data": lambda: self.h2.send_data(stream_id, rest[0], end_stream=rest[1]),
                "trailers": lambda: self.h2.send_trailers(stream_id, [(b"grpc-status", b"0"), *rest[0]]),
                "reset": lambda: self.h2.reset_stream(stream_id, rest[0]),
            }
            actions[kind]()
        except self.library.errors as error:
            self.seen.append(("refused", kind, type(error).__name__))

    def take(self, data: bytes) -> None:
        """Take bytes, and note what they mean."""
        self.h2.receive_data(data)
        for event in self.h2.events():
            self._note(event)

    def _note(self, event: Any) -> None:
        kind = event.__class__
        library = self.library
        if kind is library.Data:
            self.h2.acknowledge_received_data(len(event.data), event.stream_id)
            before = self.seen[-1] if self.seen else ()
            if before[:2] == ("data", event.stream_id) and not before[3]:
                self.seen[-1] = ("data", event.stream_id, before[2] + event.data, event.end_stream)
            else:
                self.seen.append(("data", event.stream_id, event.data, event.end_stream))
        elif kind in (library.Request, library.Response):
            self.seen.append(("headers", event.stream_id, tuple(map(tuple, event.headers)), event.end_stream))
        elif kind is library.Trailers:
            self.seen.append(("trailers", event.stream_id, tuple(map(tuple, event.headers))))
        elif kind in (library.Closed, library.Reset):
            self.seen.append((kind is library.Closed, event.stream_id, event.error_code))
        elif kind is library.Ping:
            self.seen.append(("ping", event.opaque_data))


def exchange(client: End, server: End) -> None:
    """Move bytes until both are quiet."""
    for _ in range(100):
        up, down = client.h2.data_to_send(2**20), server.h2.data_to_send(2**20)
        if up:
            server.take(up)
        if down:
            client.take(down)
        if not up and not down:
            return
    raise AssertionError("they never stop talking")


def play(client: Library, server: Library, steps: Sequence[Step]) -> list[list[Step]]:
    """Take the steps, and return what each end saw of each stream, in order."""
    ends = {"client": End(client, client=True), "server": End(server, client=False)}
    exchange(*ends.values())
    for end in ends.values():
        end.seen.clear()
    for who, step in steps:
        if sensible(who, step, ends):
            ends[who].do(step)
            exchange(*ends.values())
    return [normal(end.seen) for end in ends.values()]


def normal(seen: list[Step]) -> list[Step]:
    """Leave out how each library words its errors, and empty frames of data."""
    return [step for step in seen if step[0] != "refused" and not (step[0] == "data" and not step[2] and not step[3])]


def sensible(who: str, step: Step, ends: dict[str, End]) -> bool:
    """Tell whether the engine would do this now: it keeps to the order that HTTP/2 asks for."""
    state = ends["client"].__dict__.setdefault("streams", {})
    kind = step[0]
    if kind == "request":
        if len(state) >= OPTIONS.max_streams - 2:
            return False
        state[len(state)] = {"client": not step[2], "server": "new"}
        return True
    if kind == "ping":
        return True
    stream = state.get(step[1])
    if stream is None:
        return False
    if kind == "reset":
        open_ = bool(stream["client"]) or stream["server"] != "over"
        stream.update(client=False, server="over")
        return open_
    if who == "client":
        can = bool(stream["client"])
        stream["client"] = can and not step[3]
        return can
    before, after = {"response": ("new", "begun"), "data": ("begun", "begun"), "trailers": ("begun", "over")}[kind]
    if stream["server"] != before:
        return False
    stream["server"] = after
    return True


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_all_pairings_of_implementations_see_the_same(steps: list[Step]) -> None:
    results = [play(client, server, steps) for client in LIBRARIES for server in LIBRARIES]
    for other in results[1:]:
        assert other == results[0]


@settings(deadline=None, max_examples=60)
@given(STEPS, st.lists(st.integers(1, 400), min_size=1))
def test_bytes_mean_the_same_however_they_are_cut(steps: list[Step], cuts: list[int]) -> None:
    """Record what a client says, and have each implementation of a server read it in pieces."""
    recorded = bytearray()
    client = End(LIBRARIES[0], client=True)
    ends = {"client": client, "server": client}
    for who, step in steps:
        if who == "client" and sensible(who, step, ends):
            client.do(step)
            recorded += client.h2.data_to_send(2**20)
    seen = []
    for library in LIBRARIES:
        server, position, turn = End(library, client=False), 0, 0
        while position < len(recorded):
            size = cuts[turn % len(cuts)]
            server.take(bytes(recorded[position : position + size]))
            position, turn = position + size, turn + 1
        server.h2.data_to_send(2**20)
        seen.append(normal(server.seen))
    assert seen[0] == seen[1]


@settings(deadline=None, max_examples=300)
@given(garbage=st.lists(st.binary(max_size=200), max_size=10), greet=st.booleans())
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: str(library.name))
def test_garbage_ends_a_connection_and_nothing_else(library: Library, garbage: list[bytes], *, greet: bool) -> None:
    end = End(library, client=False)
    pieces = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])] if greet else []
    for piece in [*pieces, *garbage]:
        if not end.h2.want_read:
            break
        try:
            end.take(piece)
        except library.errors:
            break
        end.h2.data_to_send(2**20)


@pytest.mark.parametrize("client", LIBRARIES, ids=lambda library: str(library.name))
@pytest.mark.parametrize("server", LIBRARIES, ids=lambda library: str(library.name))
def test_windows_hold_a_sender_back_and_let_it_go_on(client: Library, server: Library) -> None:
    ends = End(client, client=True), End(server, client=False)
    exchange(*ends)
    stream_id = ends[0].h2.send_request(REQUEST)
    ends[0].h2.send_data(stream_id, bytes(3 * WINDOW), end_stream=True)
    taken = 0
    data: Any = server.Data
    ends[1].h2.receive_data(ends[0].h2.data_to_send(2**20))
    while taken < 3 * WINDOW:
        events: list[Any] = ends[1].h2.events()
        sizes = [len(event.data) for event in events if isinstance(event, data)]
        assert 0 < sum(sizes) <= WINDOW
        taken += sum(sizes)
        for size in sizes:
            ends[1].h2.acknowledge_received_data(size, stream_id)
        ends[0].h2.receive_data(ends[1].h2.data_to_send(2**20))
        ends[0].h2.events()
        ends[1].h2.receive_data(ends[0].h2.data_to_send(2**20))
    assert taken == 3 * WINDOW
    assert ends[0].h2.queued_body_size(stream_id) == 0
