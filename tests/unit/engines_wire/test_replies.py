from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.resilience import outcome
from proxy.call.call import Call
from proxy.call.reason import Reason
from proxy.engines.wire import replies


@settings(deadline=None)
@given(st.text())
def test_messages_survive_their_encoding(text: str) -> None:
    wire = replies.encode_message(text)
    assert all(0x20 <= one <= 0x7E for one in wire)
    assert replies.decode_message(wire) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(("wire", "text"), [(b"50% off", "50% off"), (b"%", "%"), (b"%4", "%4"), (b"%41%zz", "A%zz")])
def test_badly_encoded_messages_are_taken_as_they_are(wire: bytes, text: str) -> None:
    assert replies.decode_message(wire) == text


@settings(deadline=None)
@given(st.binary())
def test_no_message_is_too_odd_to_read(wire: bytes) -> None:
    replies.decode_message(wire)


def test_status_is_one_of_grpcs() -> None:
    assert replies.parse_status(b"14") == outcome.UNAVAILABLE
    for odd in (b"", b"17", b"-1", b"014", b"x"):
        assert replies.parse_status(odd) == outcome.UNKNOWN


def test_trailers_of_a_refusal_say_why() -> None:
    call = Call(b"/a/b", (), "", "public", 0.0)
    call.finish(14, "é", Reason.OVERLOADED)
    assert replies.status_trailers(call, ((b"x", b"1"),)) == [
        (b"grpc-status", b"14"),
        (b"grpc-message", b"%C3%A9"),
        (b"x", b"1"),
        (b"mesh-reason", b"overloaded"),
    ]
