from __future__ import annotations

import grpc
import pytest

from mesh.discovery.backoff import FIRST, LONGEST, Backoff
from mesh.discovery.channel import mesh_error
from mesh.discovery.errors import RefusedError
from mesh.errors import MeshError, UnreachableError

NOTHING = grpc.aio.Metadata()


@pytest.mark.parametrize(
    ("code", "details", "kind", "sentence"),
    [
        (
            grpc.StatusCode.UNAVAILABLE,
            "failed to connect to all addresses",
            UnreachableError,
            "no control service answers at h:1 (start one with `mesh up`, or set --control or MESH_CONTROL)",
        ),
        (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "",
            UnreachableError,
            "the control service at h:1 does not answer in time",
        ),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            "Method not found!",
            UnreachableError,
            "h:1 answers, but is no control service (does --control or MESH_CONTROL name another server?)",
        ),
        (grpc.StatusCode.INVALID_ARGUMENT, "ttl_seconds: too long", RefusedError, "ttl_seconds: too long"),
        (grpc.StatusCode.NOT_FOUND, "", RefusedError, "the control service at h:1 answered NOT_FOUND"),
        (grpc.StatusCode.INTERNAL, "", UnreachableError, "the control service at h:1 failed with INTERNAL"),
        (grpc.StatusCode.UNKNOWN, "oops", UnreachableError, "the control service at h:1 failed with UNKNOWN: oops"),
    ],
)
def test_a_failure_says_what_it_means(
    code: grpc.StatusCode, details: str, kind: type[MeshError], sentence: str
) -> None:
    error = mesh_error(grpc.aio.AioRpcError(code, NOTHING, NOTHING, details), "h:1")
    assert type(error) is kind
    assert str(error) == sentence


def test_an_edge_that_answers_in_the_place_of_a_control_service_is_told_from_nobody() -> None:
    trailers = grpc.aio.Metadata(("mesh-reason", "no_endpoint"))
    error = mesh_error(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, NOTHING, trailers, "it is away"), "h:1")
    assert type(error) is UnreachableError
    assert str(error) == "no control service answers behind the edge at h:1: it is away"


def test_waits_double_up_to_a_bound_and_begin_anew_after_a_success() -> None:
    longest, shortest = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
    assert [longest.next() for _ in range(8)] == pytest.approx([FIRST, 0.1, 0.2, 0.4, 0.8, LONGEST, LONGEST, LONGEST])
    assert [shortest.next() for _ in range(3)] == pytest.approx([FIRST / 2, 0.05, 0.1])
    longest.reset()
    assert longest.next() == FIRST
