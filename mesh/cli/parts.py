"""`mesh control` and `mesh edge`: one part of the mesh, alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments, tls
from mesh.cli.tls import with_tables
from mesh.options import DEFAULT_CONTROL_LISTEN, default_data_dir, parse_address

if TYPE_CHECKING:
    from proxy.options import EdgeOptions
    from proxy.workers.place import Place


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "control",
        epilog=arguments.examples(
            "mesh control",
            "mesh control --listen 10.0.0.5:7713 --data-dir /var/lib/meshplane",
            "mesh control --forward otlp://collector:4317",
            "mesh control --listen 10.0.0.5:7713 --store etcd://a:2379,b:2379,c:2379",
        ),
    )(control)
    app.command(
        "edge",
        epilog=arguments.examples(
            "mesh edge --control 10.0.0.5:7713",
            "mesh edge --control 10.0.0.5:7713 --public 0.0.0.0:8443 --config edge.toml",
        ),
    )(edge)


def control(
    *,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where it takes calls; port 0 is any free one.")
    ] = DEFAULT_CONTROL_LISTEN,
    data_dir: arguments.DataDir = None,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="What holds the state: sqlite:///PATH, or etcd://HOST:PORT[,HOST:PORT...] for several control "
            "processes on one fleet.  \\[default: a file in --data-dir]",
            show_default=False,
        ),
    ] = "",
    telemetry_store: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="What holds logs and metrics: duckdb:///PATH, or postgresql://USER@HOST:PORT/DATABASE; off serves "
            "neither.  "
            "\\[default: a file in --data-dir]",
            show_default=False,
        ),
    ] = "",
    grace: arguments.Grace = arguments.DEFAULT_GRACE,
    http: arguments.Http = "",
    alert_webhook: arguments.AlertWebhook = None,
    alertmanager: arguments.Alertmanager = None,
    forward: arguments.Forward = None,
    keep: arguments.Keep = None,
    config_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keys that secrets of the configuration are encrypted with, one a line, the one in use first. "
            "Default: $MESH_CONFIG_KEY_FILE, else $MESH_CONFIG_KEY.",
        ),
    ] = None,
    tls_cert: tls.ControlCert = None,
    tls_key: tls.ControlKey = None,
    tls_client_ca: tls.ControlClientCa = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
    ready_fd: arguments.ReadyFd = None,
    lifeline_fd: arguments.LifelineFd = None,
) -> int:
    """Run the control services (registry, configuration, logs, metrics) alone, for edges and services elsewhere."""
    from mesh.cli.announcing import Announcing
    from mesh.runtime import run
    from mesh.tls.options import ListenerTls
    from services.control import ControlOptions, run_control
    from services.forwarding.options import targets
    from services.metrics.alerts.receivers import default_receivers
    from services.retention import retention

    options = ControlOptions(
        listen=parse_address(listen, "--listen", port_zero=True),
        data_dir=data_dir or default_data_dir(),
        store=store,
        telemetry_store=telemetry_store,
        grace=grace,
        config_key_file=config_key_file,
        http=http,
        receivers=default_receivers(alert_webhook or (), alertmanager or ()),
        forward=targets(forward or ()),
        keep=retention(keep or ()),
        tls=ListenerTls(*(str(path or "") for path in (tls_cert, tls_key, tls_client_ca))),
    )
    process = Announcing(ready_fd, lifeline_fd, debug, name="control", as_json=as_json)
    return run(lambda process: run_control(options, process), process)


def edge(
    *,
    control: arguments.Control = None,
    public: arguments.Public = None,
    internal: arguments.Internal = None,
    admin: arguments.Admin = None,
    engine: arguments.Engine = None,
    workers: arguments.Workers = None,
    config: arguments.Config = None,
    access_log: Annotated[
        str | None, typer.Option(metavar="FILE", help="One JSON line a call; - is standard output.  \\[default: -]")
    ] = None,
    telemetry: Annotated[
        str | None,
        typer.Option(metavar="on|off", help="Send the access log to the log sink as well.  \\[default: off]"),
    ] = None,
    spool: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where records wait on disk while the sink is away.")
    ] = None,
    instance_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Its name in the registry; made when left out.")
    ] = None,
    zone: arguments.Zone = None,
    grace: arguments.OptionalGrace = None,
    environment: arguments.Environment = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where it keeps what it needs to start while the control services are away."),
    ] = None,
    public_tls_cert: tls.PublicCert = None,
    public_tls_key: tls.PublicKey = None,
    public_tls_client_ca: tls.PublicClientCa = None,
    internal_tls_cert: tls.InternalCert = None,
    internal_tls_key: tls.InternalKey = None,
    internal_tls_client_ca: tls.InternalClientCa = None,
    upstream_tls_ca: tls.UpstreamCa = None,
    upstream_tls_cert: tls.UpstreamCert = None,
    upstream_tls_key: tls.UpstreamKey = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
    ready_fd: arguments.ReadyFd = None,
    lifeline_fd: arguments.LifelineFd = None,
    worker: arguments.WorkerPlace = None,
) -> int:
    """Run one edge alone: it finds the services by the registry and carries their calls."""
    from mesh.cli.announcing import Announcing
    from mesh.runtime import run
    from proxy.edge import run_edge

    given = {
        "control": arguments.control_address(control),
        "public": public,
        "internal": internal,
        "admin": admin,
        "engine": engine,
        "workers": workers,
        "access_log": access_log,
        "telemetry": telemetry,
        "spool": spool,
        "instance_id": instance_id,
        "zone": zone,
        "grace": grace,
        "environment": environment,
        "state": str(state) if state is not None else None,
        "public_tls_cert": public_tls_cert,
        "public_tls_key": public_tls_key,
        "public_tls_client_ca": public_tls_client_ca,
        "internal_tls_cert": internal_tls_cert,
        "internal_tls_key": internal_tls_key,
        "internal_tls_client_ca": internal_tls_client_ca,
        "upstream_tls_ca": upstream_tls_ca,
        "upstream_tls_cert": upstream_tls_cert,
        "upstream_tls_key": upstream_tls_key,
    }
    options = edge_options(config, **given)
    process = Announcing(ready_fd, lifeline_fd, debug, name="edge", as_json=as_json)
    if worker is not None:
        from proxy.workers.place import Place

        place = Place.from_json(worker)
        return run(lambda process: run_edge(options, process, place), process)
    if options.workers == 1:
        return run(lambda process: run_edge(options, process), process)

    from proxy.workers.master import run_master

    def command(instance_id: str, place: Place) -> list[str]:
        # Not the master's options as they are: a worker reads the file, so that a replacement has what is in it now.
        asked = {**given, "config": config, "instance_id": instance_id, "worker": place.to_json()}
        words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items() if value is not None]
        return ["edge", *words, *(("--debug",) if debug else ())]

    return run(lambda process: run_master(options, process, command), process)


def edge_options(config: Path | None, **given: Any) -> EdgeOptions:
    """Return an edge's options: what is given, else what the file says, else the defaults. None is not given.

    Raises:
        UsageError: the file is broken, or an option makes no sense.

    """
    from proxy.options import EdgeOptions, load_config

    for listener in ("public", "internal", "admin"):
        given[listener] = arguments.listen_address(given.get(listener), f"--{listener}")
    fields = load_config(config) if config is not None else {}
    return EdgeOptions(**with_tables(fields, given))
