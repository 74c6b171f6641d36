from __future__ import annotations

from proxy.call.call import Call
from proxy.engines.wire.headers import reply_head, request_head

AUTHORITY = (b":authority", b"shop.example")


def call_with(*metadata: tuple[bytes, bytes]) -> Call:
    return Call(b"/a.B/C", metadata, "", "public", 100.0)


def test_request_keeps_metadata_and_drops_what_is_of_the_hop() -> None:
    kept = [(b"x", b"1"), (b"x", b"2"), (b"user-agent", b"grpc/1"), (b"a-bin", b"AAE")]
    call = call_with((b"te", b"trailers"), kept[0], (b"connection", b"x"), *kept[1:], (b"grpc-timeout", b"9S"))
    assert request_head(call, AUTHORITY, 100.0) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        AUTHORITY,
        (b"te", b"trailers"),
        *kept,
    ]


def test_request_says_what_time_is_left() -> None:
    call = call_with((b"grpc-timeout", b"9S"))
    call.deadline = 109.0
    timeouts = [value for name, value in request_head(call, AUTHORITY, 104.0) if name == b"grpc-timeout"]
    assert timeouts == [b"5000m"]


def test_interceptors_replace_what_the_client_sent() -> None:
    call = call_with((b"x-id", b"forged"), (b"y", b"1"), (b"x-id", b"again"))
    call.send_upstream(b"x-id", b"ours")
    assert request_head(call, AUTHORITY, 0.0)[5:] == [(b"y", b"1"), (b"x-id", b"ours")]


def test_reply_gets_the_edges_headers_in_place_of_the_upstreams() -> None:
    call = call_with()
    call.send_reply(b"x-id", b"ours")
    received = ((b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-id", b"theirs"), (b"k", b"v"))
    assert reply_head(call, received) == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"k", b"v"),
        (b"x-id", b"ours"),
    ]
