"""Checks shared by option classes, and the one place that reads the environment."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

from mesh.errors import UsageError

DEFAULT_PUBLIC = "127.0.0.1:7710"
DEFAULT_INTERNAL = "127.0.0.1:7711"
DEFAULT_ADMIN = "127.0.0.1:7712"
# Where `mesh control` listens when it runs alone; under `mesh up` it takes any free port.
DEFAULT_CONTROL_LISTEN = "127.0.0.1:7713"

CONTROL_VARIABLE = "MESH_CONTROL"
CONFIG_KEY_VARIABLE = "MESH_CONFIG_KEY"
CONFIG_KEY_FILE_VARIABLE = "MESH_CONFIG_KEY_FILE"
SNAPSHOT_KEY_VARIABLE = "MESH_SNAPSHOT_KEY"
CA_VARIABLE = "MESH_CA"
CERT_VARIABLE = "MESH_CERT"
KEY_VARIABLE = "MESH_KEY"

INSTANCE_VARIABLE = "MESH_INSTANCE"
LISTEN_VARIABLE = "MESH_LISTEN"
ADVERTISE_VARIABLE = "MESH_ADVERTISE"
VERSION_VARIABLE = "MESH_VERSION"
ZONE_VARIABLE = "MESH_ZONE"
ENVIRONMENT_VARIABLE = "MESH_ENVIRONMENT"
STATE_VARIABLE = "MESH_STATE"

ALERT_WEBHOOKS_VARIABLE = "MESH_ALERT_WEBHOOKS"
ALERTMANAGERS_VARIABLE = "MESH_ALERTMANAGERS"
ALERT_SECRET_VARIABLE = "MESH_ALERT_SECRET"  # noqa: S105 - the name of a variable
ALERT_SECRET_FILE_VARIABLE = "MESH_ALERT_SECRET_FILE"  # noqa: S105 - the same

KEEP_VARIABLE = "MESH_KEEP"
FORWARD_VARIABLE = "MESH_FORWARD"
FORWARD_HEADERS_VARIABLE = "MESH_FORWARD_HEADERS"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
_MAX_PORT = 65535


def default_control() -> str:
    """Return where clients look for the control services: `MESH_CONTROL`, else where `mesh up` puts them."""
    value = os.environ.get(CONTROL_VARIABLE, "").strip()
    return parse_addresses(value, CONTROL_VARIABLE) if value else DEFAULT_INTERNAL


def default_data_dir() -> Path:
    """Return where the mesh keeps its data: `$XDG_DATA_HOME/meshplane`, else `~/.local/share/meshplane`."""
    home = os.environ.get("XDG_DATA_HOME", "").strip()
    # The XDG specification: a relative path is invalid and ignored.
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "share") / "meshplane"


def config_keys(file: Path | None) -> list[str]:
    """Return the keys for secrets of the configuration, in base64, the one that encrypts first.

    They are the lines of `file`, else of the file that `MESH_CONFIG_KEY_FILE` names, else what `MESH_CONFIG_KEY` holds,
    with commas between. None at all is allowed: then secrets are refused.

    Raises:
        UsageError: the file cannot be read.

    """
    named = os.environ.get(CONFIG_KEY_FILE_VARIABLE, "").strip()
    path = file if file is not None else Path(named) if named else None
    if path is None:
        text = os.environ.get(CONFIG_KEY_VARIABLE, "").replace(",", "\n")
    else:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UsageError(f"the key file {path} cannot be read ({reason})") from error
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def snapshot_key() -> str:
    """Return the key that an instance encrypts the secrets in its snapshot with; "" is none: then it keeps none."""
    return os.environ.get(SNAPSHOT_KEY_VARIABLE, "").strip()


def client_tls() -> tuple[str, str, str]:
    """Return the files by which the mesh's own services are called over TLS: authority, certificate, key.

    Those that are not set are "". Plaintext is spoken when none is.
    """
    ca, cert, key = (os.environ.get(name, "").strip() for name in (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE))
    require(bool(cert) == bool(key), f"{CERT_VARIABLE} and {KEY_VARIABLE} go together: a certificate and its key")
    return ca, cert, key


def said(variable: str, otherwise: str = "") -> str:
    """Return what the environment says in `variable`, else `otherwise`."""
    return os.environ.get(variable, "").strip() or otherwise


def alert_receivers() -> tuple[list[str], list[str], str]:
    """Return where alerts go when no option says so: URLs of webhooks and of Alertmanagers, and what signs webhooks.

    `MESH_ALERT_WEBHOOKS` and `MESH_ALERTMANAGERS` have URLs, spaces between; the secret is in `MESH_ALERT_SECRET` or
    in the file that `MESH_ALERT_SECRET_FILE` names.

    Raises:
        UsageError: that file cannot be read.

    """
    webhooks = os.environ.get(ALERT_WEBHOOKS_VARIABLE, "").split()
    alertmanagers = os.environ.get(ALERTMANAGERS_VARIABLE, "").split()
    secret = os.environ.get(ALERT_SECRET_VARIABLE, "").strip()
    named = os.environ.get(ALERT_SECRET_FILE_VARIABLE, "").strip()
    if named:
        try:
            secret = Path(named).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{ALERT_SECRET_FILE_VARIABLE}: the file {named} cannot be read") from error
    return webhooks, alertmanagers, secret


def forwarding() -> tuple[list[str], str]:
    """Return where telemetry is sent on to when no option says so, as URLs, and the metadata of these calls.

    `MESH_FORWARD` has URLs, spaces between; `MESH_FORWARD_HEADERS` is NAME=VALUE[,NAME=VALUE...].
    """
    return os.environ.get(FORWARD_VARIABLE, "").split(), os.environ.get(FORWARD_HEADERS_VARIABLE, "")


def kept() -> list[str]:
    """Return how long telemetry is kept when no option says so: `MESH_KEEP` has NAME=VALUE, spaces between."""
    return os.environ.get(KEEP_VARIABLE, "").split()


def editor() -> str:
    """Return the command of the person's editor."""
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"


def parse_address(text: str, what: str, *, port_zero: bool = False) -> str:
    """Return `text` as "HOST:PORT" or "[IPV6]:PORT" in one spelling.

    `port_zero` allows port 0, "any free port", which only makes sense where one listens.

    Raises:
        UsageError: it is no such address; the message names `what`.

    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not _valid_host(host[1:-1] if bracketed else host, ipv6=bracketed):
        raise UsageError(f"{what}: '{text}' is not HOST:PORT, for example 127.0.0.1:7711 or [::1]:7711")
    lowest = 0 if port_zero else 1
    if not (port.isascii() and port.isdigit() and lowest <= int(port) <= _MAX_PORT):
        raise UsageError(f"{what}: the port in '{text}' is not a number from {lowest} to {_MAX_PORT}")
    return f"{host}:{int(port)}"


def parse_addresses(text: str, what: str) -> str:
    """Return `text` as "HOST:PORT[,HOST:PORT...]" in one spelling; `UsageError` as with `parse_address`."""
    return ",".join(parse_address(address, what) for address in text.split(","))


def _valid_host(host: str, *, ipv6: bool) -> bool:
    if not ipv6:
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as a sentence at the call
    """Raise `UsageError` with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)
