"""What `mesh up` runs: the parts, and the command line of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mesh
from mesh.cli.supervisor.part import Spec
from mesh.errors import StartError
from proxy.options import EdgeOptions

LISTENERS = ("public", "internal", "admin")


@dataclass(frozen=True)
class UpOptions:
    """What `mesh up` was asked for."""

    data_dir: Path
    # As its configuration file and the command line have it; where the control services are is not known yet.
    edge: EdgeOptions
    # Given to the edge for what no option says: its breaker, deadlines and limits.
    config: Path | None = None
    # Where the control services speak Prometheus' HTTP API.
    http: str = "127.0.0.1:0"
    # URLs that alerts are sent to: webhooks, and Alertmanagers.
    alert_webhooks: tuple[str, ...] = ()
    alertmanagers: tuple[str, ...] = ()
    # URLs of collectors that telemetry is sent on to.
    forward: tuple[str, ...] = ()
    # How long telemetry is kept.
    keep: tuple[str, ...] = ()
    demo: bool = False
    # For every part.
    debug: bool = False


def control(options: UpOptions) -> Spec:
    """Return the control services: on any free port, since everybody reaches them through the edge."""
    return Spec(
        "control",
        lambda addresses: (
            "control",
            *("--listen", addresses["control"]),
            *("--data-dir", str(options.data_dir)),
            *("--http", addresses["http"]),
            *(f"--alert-webhook={url}" for url in options.alert_webhooks),
            *(f"--alertmanager={url}" for url in options.alertmanagers),
            *(f"--forward={url}" for url in options.forward),
            *(f"--keep={entry}" for entry in options.keep),
            *("--grace", f"{options.edge.grace:g}"),
        ),
        {"control": "127.0.0.1:0", "http": options.http},
    )


def edge(options: UpOptions, control_address: str) -> Spec:
    """Return the edge. Its access log goes to a file of its own where nobody asked for another place."""
    wanted = options.edge
    to_file = wanted.access_log == "-"
    access_log = str(options.data_dir / "logs" / "access.log") if to_file else wanted.access_log
    return Spec(
        "edge",
        lambda addresses: (
            "edge",
            *("--control", control_address),
            *(text for name in LISTENERS for text in (f"--{name}", addresses[name])),
            *("--engine", wanted.engine),
            *("--workers", str(wanted.workers)),
            *("--access-log", access_log),
            *("--telemetry", "on", "--spool", str(options.data_dir / "spool" / "edge")),
            *("--grace", f"{wanted.grace:g}"),
            *("--state", wanted.state or str(options.data_dir / "edge")),
            *(("--environment", wanted.environment) if wanted.environment else ()),
            *(("--zone", wanted.zone) if wanted.zone else ()),
            *(("--config", str(options.config.absolute())) if options.config is not None else ()),
        ),
        {name: getattr(wanted, name) for name in LISTENERS},
    )


@dataclass(frozen=True)
class DemoInstance:
    """One process of the shop."""

    instance_id: str
    version: str = "1.0.0"

    @property
    def service(self) -> str:
        """Its name in the registry."""
        return self.instance_id.rpartition("-")[0]


DEMO = (
    DemoInstance("inventory-1"),
    DemoInstance("payments-1"),
    DemoInstance("orders-1"),
    DemoInstance("orders-2", version="1.1.0"),
    DemoInstance("storefront-1"),
)
DEMO_PUBLIC_SERVICE = "shop.v1.Storefront"


def demo(control_address: str, grace: float) -> list[Spec]:
    """Return the shop's processes: each joins the mesh by itself.

    Raises:
        StartError: the shop is not there.

    """
    root = Path(mesh.__file__).resolve().parents[1]
    if not (root / "examples" / "shop" / "__main__.py").exists():
        raise StartError(
            "the demo is not part of the installed package: run 'make up' in a checkout of the sources, "
            "or 'mesh up' without --demo"
        )
    return [_shop(instance, control_address, grace, root) for instance in DEMO]


def _shop(instance: DemoInstance, control_address: str, grace: float, root: Path) -> Spec:
    return Spec(
        instance.instance_id,
        lambda addresses: (
            instance.service,
            *("--control", control_address),
            *("--name", instance.instance_id),
            *("--version", instance.version),
            *("--listen", addresses["endpoint"]),
            *("--grace", f"{grace:g}"),
        ),
        {"endpoint": "127.0.0.1:0"},
        folder=root,
        module="examples.shop",
    )
