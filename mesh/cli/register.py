"""`mesh register`: keeps a server that knows nothing of the mesh registered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from mesh.cli import arguments
from mesh.errors import UsageError
from mesh.options import parse_address

_MAX_WEIGHT = 1000
_DEFAULT_WEIGHT = 100


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "register",
        # What follows -- is the command's, options and all.
        context_settings={"allow_interspersed_args": True},
        epilog=arguments.examples(
            "mesh register orders 127.0.0.1:50051",
            "mesh register orders 127.0.0.1:50051 --public --version 1.4.2",
            "mesh register orders 127.0.0.1:50051 --grpc-service shop.v1.Orders --ttl 5",
            "mesh register orders 10.0.0.8:50051 --check --check-interval 5",
            "mesh register orders 127.0.0.1:0 -- ./orders --listen {address}",
        ),
    )(register)


def register(
    *,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="Its name in the mesh, such as orders.")],
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT", help="Where it takes calls. With a COMMAND, port 0 stands for any free port."
        ),
    ],
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND",
            help=(
                "Starts the server as well, and stops it after it has left the mesh. {address} and {port} in it "
                "are replaced by where it shall listen. The exit code is then its own."
            ),
        ),
    ] = None,
    grpc_service: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A gRPC service that it serves; may be repeated. Left out: asked by reflection."
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let clients reach it by the public listener.")] = False,
    ttl: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, max=3600, help="How long it stays when this command is killed.")
    ] = 15.0,
    instance_id: Annotated[str, typer.Option(metavar="ID", help="Its own name; SERVICE-HOST-PORT when left out.")] = "",
    version: Annotated[str, typer.Option(metavar="TEXT", help="What runs.")] = "",
    zone: Annotated[str, typer.Option(metavar="NAME", help="Where it runs.")] = "",
    weight: Annotated[
        int, typer.Option(metavar="N", min=0, max=_MAX_WEIGHT, help="Its share of calls relative to its siblings.")
    ] = _DEFAULT_WEIGHT,
    warm_up: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, max=3600, help="How long its share of calls grows from a tenth to all."),
    ] = 0.0,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Have the control services check it as well: from where they are, by grpc.health.v1."
        ),
    ] = False,
    check_interval: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=1, max=300, help="Time between two such checks; 10 s when left out."),
    ] = None,
    check_service: Annotated[
        str, typer.Option(metavar="NAME", help="What these ask for; the whole server when left out.")
    ] = "",
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Anything else to say of it; may be repeated.")
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long the server may take to answer at the start.")
    ] = 30.0,
    grace: arguments.Grace = arguments.DEFAULT_GRACE,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
    ready_fd: arguments.ReadyFd = None,
    lifeline_fd: arguments.LifelineFd = None,
) -> int:
    """Keep a running server registered until Ctrl-C, though it knows nothing of the mesh.

    What it serves is found by its reflection. While it is away, or says by grpc.health.v1 that it is not serving, it
    gets no calls. Ctrl-C takes it out of the mesh.
    """
    from mesh.cli.target.keeper import Keeper, RegisterOptions
    from mesh.discovery.model import Check, Instance
    from mesh.runtime import Process, run

    asked = check or check_interval is not None or bool(check_service)
    where = parse_address(address, "HOST:PORT", port_zero=bool(command))
    options = RegisterOptions(
        control=arguments.control_address(control),
        instance=Instance(
            service=service,
            instance_id=instance_id,
            endpoints=(where,),
            version=version,
            zone=zone,
            weight=weight,
            warm_up_seconds=warm_up,
            metadata=_pairs(metadata or ()),
            grpc_services=tuple(grpc_service or ()),
            public=public,
            check=Check(check_service, check_interval or 0.0) if asked else None,
        ),
        command=tuple(command or ()),
        ttl=ttl,
        wait=wait,
        grace=grace,
    )
    keeper = Keeper(options, as_json=as_json)
    return run(keeper.run, Process(ready_fd, lifeline_fd, debug)) or keeper.exit_code


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--metadata: '{text}' is not KEY=VALUE")
        pairs[key] = value
    return pairs
