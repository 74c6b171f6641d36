from __future__ import annotations

import pytest

from mesh.resilience import outcome
from mesh.resilience.failure import connection_failure
from mesh.resilience.retry import Failure, unnoticed


@pytest.mark.parametrize(
    ("code", "details", "failure"),
    [
        (outcome.UNAVAILABLE, "failed to connect to all addresses; last error: refused", Failure.CONNECT),
        (outcome.UNAVAILABLE, "connections to all backends failing; last error: x", Failure.CONNECT),
        (outcome.UNAVAILABLE, "GOAWAY received; Error code: 0", Failure.REFUSED),
        (outcome.UNAVAILABLE, "Stream removed (GOAWAY received; Error code: 0)", Failure.REFUSED),
        (outcome.UNAVAILABLE, "Received RST_STREAM with error code 7", Failure.REFUSED),
        (outcome.INTERNAL, "Received RST_STREAM with error code 2", Failure.LOST),
        (outcome.CANCELLED, "Stream removed (RST_STREAM (Received RST_STREAM with error code 8", Failure.LOST),
        (outcome.UNAVAILABLE, "Socket closed", Failure.LOST),
        (outcome.UNAVAILABLE, "recvmsg:Connection reset by peer", Failure.LOST),
        (outcome.UNAVAILABLE, "busy: come again", None),
        (outcome.INTERNAL, "Socket closed, says the instance", None),
        (outcome.OK, "", None),
    ],
)
def test_what_core_says_of_connections(code: int, details: str, failure: Failure | None) -> None:
    assert connection_failure(code, details) is failure


def test_what_nobody_has_seen_is_tried_again_at_once() -> None:
    assert [unnoticed(Failure.CONNECT, attempts) for attempts in (1, 2, 3)] == [True, True, False]
    assert [unnoticed(Failure.REFUSED, attempts) for attempts in (1, 2)] == [True, False]
    assert not unnoticed(Failure.LOST, 1)
    assert not unnoticed(Failure.SLOW, 1)
    assert not unnoticed(None, 1)
