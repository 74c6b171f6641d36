"""Where telemetry is sent on to, as a URL says it.

`otlp://HOST:PORT` speaks plaintext, `otlps://HOST:PORT` TLS. After a `?` may follow `signals=logs,traces,metrics` (all
when left out), and with TLS `ca=FILE` (the system's authorities when left out), `cert=FILE` and `key=FILE`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from mesh.errors import UsageError
from mesh.options import FORWARD_HEADERS_VARIABLE, forwarding, parse_address, require

OPTION = "--forward"
_SCHEMES = {"otlp": False, "otlps": True}
_FILES = ("ca", "cert", "key")
_HEADER = re.compile(r"[a-z0-9_.-]{1,100}")


class Signal(Enum):
    """One of OpenTelemetry's signals."""

    LOGS = "logs"
    TRACES = "traces"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Target:
    """One collector."""

    # "HOST:PORT".
    address: str
    tls: bool = False
    signals: tuple[Signal, ...] = tuple(Signal)
    # Paths of PEM files; "" is none.
    ca: str = ""
    cert: str = ""
    key: str = ""
    # Metadata of each call, such as a token; never shown.
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        require(self.tls or not (self.ca or self.cert), f"{OPTION}: ca, cert and key make sense only with otlps://")
        require(bool(self.cert) == bool(self.key), f"{OPTION}: cert and key go together")

    @property
    def name(self) -> str:
        """What it is called in metrics and folders."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self.address)

    def files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Return what the files hold: authority, key and certificate. Raises UsageError."""
        try:
            ca, key, cert = (Path(path).read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        except OSError as error:
            raise UsageError(f"{OPTION}: {error.filename} cannot be read ({error.strerror})") from error
        return ca, key, cert


def parse_target(url: str, headers: Sequence[tuple[str, str]] = ()) -> Target:
    """Return what a URL says; raises UsageError."""
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or parts.path not in ("", "/") or parts.fragment or "@" in parts.netloc:
        raise UsageError(
            f"{OPTION}: '{url}' is not otlp://HOST:PORT or otlps://HOST:PORT, perhaps with ?signals=logs,traces,metrics"
        )
    address = parse_address(parts.netloc, OPTION)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    names = given.pop("signals", ",".join(one.value for one in Signal))
    try:
        signals = tuple(Signal(name) for name in names.split(","))
    except ValueError:
        raise UsageError(f"{OPTION}: signals={names}: those that there are: logs, traces, metrics") from None
    if unknown := given.keys() - set(_FILES):
        raise UsageError(f"{OPTION}: '{min(unknown)}' is none of signals, ca, cert, key")
    return Target(address, _SCHEMES[parts.scheme], tuple(dict.fromkeys(signals)), **given, headers=tuple(headers))


def parse_headers(text: str, what: str) -> tuple[tuple[str, str], ...]:
    """Return metadata as OpenTelemetry's environment variables have it: "name=value,name=value"; raises UsageError."""
    found = []
    for pair in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = pair.partition("=")
        name = name.strip().lower()
        # The value may be a secret: the message leaves it out.
        require(
            bool(equals) and _HEADER.fullmatch(name) is not None and value.isascii() and value.isprintable(),
            f"{what}: it is not NAME=VALUE[,NAME=VALUE...]",
        )
        found.append((name, value.strip()))
    return tuple(found)


def targets(urls: Sequence[str] = ()) -> tuple[Target, ...]:
    """Return where telemetry is sent on to: as given, else as the environment says; raises UsageError."""
    from_environment, headers = forwarding()
    sent = parse_headers(headers, FORWARD_HEADERS_VARIABLE)
    found = tuple(parse_target(url, sent) for url in urls or from_environment)
    require(len({one.address for one in found}) == len(found), f"{OPTION}: one address is given twice")
    return found


@dataclass(frozen=True, slots=True)
class ForwardOptions:
    """Bounds, for each collector and signal."""

    # What may wait in memory; from half of it on what waits goes to the disk.
    memory_bytes: int = 16 << 20
    # What may wait there; 0 is no disk.
    spool_bytes: int = 256 << 20
    # Of one request, before compression: gRPC's servers take 4 MiB unless they are told otherwise.
    request_bytes: int = 3 << 20
    # Small batches are sent together up to so much.
    group_bytes: int = 1 << 20
    # Seconds after which what is being sent, and what waits behind it, is on disk as well.
    keep_seconds: float = 1.0
    # Seconds that a collector gets to answer, and that the end may take to send what waits.
    timeout: float = 30.0
    close_seconds: float = 2.0

    def __post_init__(self) -> None:
        require(self.memory_bytes >= 1 << 16 and self.spool_bytes >= 0, "forwarding needs at least 64 KiB of memory")
        require(self.request_bytes >= 1 << 12 and self.group_bytes >= 1, "forwarding's requests are too small")
        require(self.timeout > 0 and self.close_seconds >= 0, "forwarding's times must be positive")
        require(self.keep_seconds > 0, "forwarding cannot be on disk before it begins")
