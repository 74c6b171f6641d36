"""How the commands of `mesh config` ask the service, and what they have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from mesh.cli import arguments
from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.api.config import v1
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub

T = TypeVar("T")

TIMEOUT = 15.0

Application = Annotated[
    str, typer.Argument(metavar="APPLICATION", help="Whose configuration; often the service's name.")
]
Environment = Annotated[
    str, typer.Option("--environment", "-e", metavar="NAME", help="The layer of this environment, such as prod.")
]
Service = Annotated[str, typer.Option("--service", "-s", metavar="NAME", help="The layer of this service.")]
Instance = Annotated[
    str, typer.Option("--instance", "-i", metavar="ID", help="The layer of this instance of --service.")
]
Author = Annotated[
    str, typer.Option("--author", metavar="TEXT", help="Who makes the change, for the audit.  [dim]\\[default: you][/]")
]
Comment = Annotated[str, typer.Option("--comment", "-m", metavar="TEXT", help="Why, for history and audit.")]
Percent = Annotated[
    float | None, typer.Option("--percent", metavar="P", help="Only for this share of the instances: a gray release.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="KEY=VALUE",
        help="Only for instances with this label: instance, service, environment, or one of their own. Repeatable.",
    ),
]


def asking(ask: Callable[[ConfigAsyncStub], Awaitable[None]], control: str | None, *, debug: bool) -> int:
    """Run `ask` with the Config service and return the exit code."""
    from mesh.runtime import Process, run

    address = arguments.control_address(control)
    return run(lambda _: with_config(address, ask), Process(debug=debug))


async def with_config(address: str, ask: Callable[[ConfigAsyncStub], Awaitable[T]]) -> T:
    """Return what `ask` makes of the Config service at `address`.

    Raises:
        MeshError: the service refuses or does not answer; one sentence says why.

    """
    import grpc

    from mesh.api.config.v1 import ConfigStub
    from mesh.discovery.channel import control_channel, mesh_error
    from mesh.discovery.errors import RefusedError

    # Refusals that a client could try again, and a person reads first.
    refusals = {grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE}
    async with control_channel(address) as channel:
        try:
            return await ask(ConfigStub(channel))
        except grpc.aio.AioRpcError as error:
            if error.code() in refusals:
                raise RefusedError(error.details() or error.code().name) from error
            raise mesh_error(error, address) from error


def layer_of(environment: str, service: str, instance: str) -> v1.Layer:
    from mesh.api.config import v1

    return v1.Layer(environment=environment, service=service, instance=instance)


def author_of(given: str) -> str:
    """Return who makes the change: as given, else who is logged in here."""
    import getpass
    import os
    import socket

    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no name for this user id
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:128]


def rule_of(percent: float | None, labels: Sequence[str] | None) -> v1.GrayRule | None:
    """Return the gray rule that is asked for; None for all instances."""
    from mesh.api.config import v1

    if percent is None and not labels:
        return None
    pairs = {}
    for text in labels or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--label: '{text}' is not KEY=VALUE")
        pairs[key] = value
    if percent is not None and not 0 < percent <= 100:
        raise UsageError(f"--percent: {percent:g} is not more than 0 and at most 100")
    return v1.GrayRule(percent=percent or 0, labels=pairs)


def structure(message: Any) -> Any:
    """Return a message as JSON's types."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
