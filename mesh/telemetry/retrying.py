"""When a server that refuses a call asks for the next try."""

from __future__ import annotations

import contextlib

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


def retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """Return the seconds that a status' `google.rpc.RetryInfo` says, None when there is none."""
    retry = error_details_pb2.RetryInfo()
    with contextlib.suppress(ValueError):  # a status that contradicts its details
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        for detail in status.details if status is not None else ():
            if detail.Unpack(retry):
                return float(max(0.0, retry.retry_delay.ToMilliseconds() / 1000))
    return None
