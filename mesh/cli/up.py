"""`mesh up`: the whole mesh on this machine, in one command."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.output import print_json, print_line, progress, say
from mesh.cli.parts import edge_options
from mesh.options import DEFAULT_CONTROL_LISTEN, DEFAULT_INTERNAL, default_data_dir, parse_address, require

if TYPE_CHECKING:
    from mesh.cli.supervisor.plan import UpOptions
    from mesh.cli.supervisor.supervisor import Supervisor
    from mesh.runtime import Process


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "up",
        epilog=arguments.examples(
            "mesh up --demo                     the mesh with a shop to try it on",
            "mesh up --public 0.0.0.0:7710      open to other machines",
            "mesh up --data-dir /tmp/m --public 127.0.0.1:0 --internal 127.0.0.1:0 \\\\",
            "    --admin 127.0.0.1:0 --json     one more, on any free ports",
        ),
    )(up)


def up(
    *,
    demo: Annotated[bool, typer.Option("--demo", help="Run the shop of examples/shop on it.")] = False,
    data_dir: arguments.DataDir = None,
    public: arguments.Public = None,
    internal: arguments.Internal = None,
    admin: arguments.Admin = None,
    engine: arguments.Engine = None,
    workers: arguments.Workers = None,
    config: arguments.Config = None,
    http: arguments.Http = "127.0.0.1:0",
    alert_webhook: arguments.AlertWebhook = None,
    alertmanager: arguments.Alertmanager = None,
    forward: arguments.Forward = None,
    keep: arguments.Keep = None,
    grace: arguments.OptionalGrace = None,
    environment: arguments.Environment = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Start the mesh: the control services and an edge, and with --demo a shop to try it on.

    It prints its addresses when all of it is ready, starts again what dies, and stops with Ctrl-C.
    """
    from mesh.cli.supervisor.plan import UpOptions
    from mesh.runtime import Process, run

    edge = edge_options(
        config,
        control=DEFAULT_CONTROL_LISTEN,
        public=public,
        internal=internal,
        admin=admin,
        engine=engine,
        workers=workers,
        grace=grace,
        environment=environment,
    )
    # Everything on this machine asks the mesh there, and speaks plaintext with it.
    require(not edge.internal_tls.enabled, "mesh up: the internal listener cannot speak TLS; run mesh edge for that")
    options = UpOptions(
        data_dir or default_data_dir(),
        edge,
        config,
        parse_address(http, "--http", port_zero=True),
        tuple(alert_webhook or ()),
        tuple(alertmanager or ()),
        tuple(forward or ()),
        tuple(keep or ()),
        demo=demo,
        debug=debug,
    )
    return run(lambda process: _up(options, process, as_json=as_json), Process(debug=debug))


async def _up(options: UpOptions, process: Process, *, as_json: bool) -> None:
    from dataclasses import replace

    from mesh.cli.supervisor.folder import claimed
    from mesh.cli.supervisor.supervisor import Supervisor

    began = time.monotonic()
    with claimed(options.data_dir) as folder, progress() as shown:
        supervisor = Supervisor(replace(options, data_dir=folder), say, shown)

        def announce() -> None:
            shown.clear()
            if as_json:
                print_json(_summary(supervisor, folder), indent=None)
            else:
                print_line(_table(supervisor, folder, time.monotonic() - began))

        await supervisor.run(process.stop, announce)


def _summary(supervisor: Supervisor, folder: Path) -> dict[str, Any]:
    control, edge, *shop = supervisor.parts
    return {
        **{name: edge.addresses[name] for name in ("public", "internal", "admin", "engine")},
        **{name: control.addresses[name] for name in ("control", "http")},
        "data_dir": str(folder),
        "pid": os.getpid(),
        "parts": [{"name": part.name, "pid": part.pid, "log": str(part.log.path)} for part in supervisor.parts],
        "demo": {part.name: part.addresses["endpoint"] for part in shop},
    }


def _table(supervisor: Supervisor, folder: Path, seconds: float) -> str:
    control, edge, *shop = supervisor.parts
    public, internal, admin = (edge.addresses[name] for name in ("public", "internal", "admin"))
    lines = [
        f"The mesh is up, after {seconds:.1f} s{', with the shop on it' if shop else ''}. Ctrl-C stops it.",
        "",
        f"  public    {public:<22} what clients may call",
        f"  internal  {internal:<22} every service, and the mesh itself: MESH_CONTROL",
        f"  admin     {f'http://{admin}/metrics'}",
        f"  metrics   http://{control.addresses['http']:<15} as a Prometheus, for Grafana and promtool",
        f"  data      {folder} (logs in {folder / 'logs'})",
        "",
    ]
    services = f"mesh services{'' if internal == DEFAULT_INTERNAL else f' --control {internal}'}"
    lines += [f"Try: {services}", *((f"     grpcurl -plaintext {public} list",) if shop else ())]
    return "\n".join(lines)
