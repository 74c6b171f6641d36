"""The options of an edge, and the file that they can come from."""

from __future__ import annotations

import dataclasses
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mesh.errors import UsageError
from mesh.options import DEFAULT_ADMIN, DEFAULT_INTERNAL, DEFAULT_PUBLIC, parse_address, parse_addresses, require
from mesh.resilience.breaker import BreakerOptions
from mesh.telemetry.sampling import TracingOptions
from mesh.tls.options import ListenerTls, UpstreamTls
from proxy.call.limits import Limits
from proxy.engines.options import PoolOptions, Protection
from proxy.interceptors.deadline import DeadlineOptions

# The first is the default: the fastest that can run here.
ENGINES = ("auto", "wire", "aio")

MAX_WORKERS = 256
# As in the registry.
MAX_ZONE = 128

ACCESS_LOG_OFF = "off"

_ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,62}").fullmatch


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """How an edge runs. Addresses are "HOST:PORT"; port 0 takes a free one."""

    # Where the registry is: the control process, or the internal listener of another edge; with commas, several.
    control: str
    # Where the public services are called.
    public: str = DEFAULT_PUBLIC
    # Where all services are called, and the mesh itself: not for the world.
    internal: str = DEFAULT_INTERNAL
    # Where /metrics, /healthz and /readyz are asked for, by HTTP.
    admin: str = DEFAULT_ADMIN
    # What moves the bytes: wire, aio, or auto, which is wire where ngh2 is installed.
    engine: str = ENGINES[0]
    # Processes that share the listeners; limits are each one's own. One is this process alone.
    workers: int = 1
    # Whether the public listener answers reflection, for the public services alone.
    public_reflection: bool = True
    # Where one JSON line a call goes: "-" is standard output, "off" is nowhere, else a path.
    access_log: str = "-"
    # Whether the access log goes to the log sink, at `control`, as well, and calls are traced: on or off.
    telemetry: str = "off"
    # Which spans go to the trace sink.
    tracing: TracingOptions = field(default_factory=TracingOptions)
    # A folder where log records and spans wait while a sink is away, up to 256 MiB of each; empty is none: then 16 MiB
    # of memory.
    spool: str = ""
    # Seconds that calls in flight are given at a stop.
    grace: float = 10.0
    # Whose layers of the configuration (`mesh config`, application `mesh.edge`) it gets, such as prod.
    environment: str = ""
    # A folder for what it needs to start while the control services are away: the last configuration and
    # the last state of the registry. "" keeps nothing.
    state: str = ""
    # How it is called in the registry; made from the process where it is empty.
    instance_id: str = ""
    # Where it runs: calls stay in this zone while enough of it serves. Empty spreads them over all zones.
    zone: str = ""
    public_tls: ListenerTls = field(default_factory=ListenerTls)
    internal_tls: ListenerTls = field(default_factory=ListenerTls)
    upstream_tls: UpstreamTls = field(default_factory=UpstreamTls)
    breaker: BreakerOptions = field(default_factory=BreakerOptions)
    deadline: DeadlineOptions = field(default_factory=DeadlineOptions)
    limits: Limits = field(default_factory=Limits)
    protection: Protection = field(default_factory=Protection)
    pool: PoolOptions = field(default_factory=PoolOptions)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: one of them makes no sense; the message names it.

        """
        parse_addresses(self.control, "--control")
        for name in ("public", "internal", "admin"):
            parse_address(getattr(self, name), f"--{name}", port_zero=True)
        require(self.engine in ENGINES, f"--engine: '{self.engine}' is none of {', '.join(ENGINES)}")
        require(1 <= self.workers <= MAX_WORKERS, f"--workers must be from 1 to {MAX_WORKERS}")
        require(
            self.workers == 1 or sys.platform == "linux",
            "--workers: only Linux spreads the connections of one port over several processes; leave it out here",
        )
        require(0 <= self.grace <= 3600, "--grace must be from 0 to 3600 seconds")
        require(bool(self.access_log), "--access-log must be -, off or a path")
        require(
            not self.environment or _ENVIRONMENT(self.environment) is not None,
            "--environment must be 1-63 characters of a-z 0-9 and -, beginning with a letter",
        )
        require(len(self.zone) <= MAX_ZONE, f"--zone must be at most {MAX_ZONE} characters")
        require(self.telemetry in ("on", "off"), f"--telemetry: '{self.telemetry}' is neither on nor off")


def load_config(path: Path) -> dict[str, Any]:
    """Return the fields of EdgeOptions that a TOML file sets: plain keys, and a table for each group of options.

    Raises:
        UsageError: it cannot be read, is no TOML, or sets what does not exist; the message names file and key.

    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the config file {path} is not valid TOML: {error}") from error
    try:
        return _fields(EdgeOptions, content, "")
    except UsageError as error:
        raise UsageError(f"the config file {path}: {error}") from error


def _fields(options: Any, content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    hints = get_type_hints(options)
    result = {}
    for key, value in content.items():
        name = prefix + key
        if key not in hints:
            known = ", ".join(sorted(hints))
            raise UsageError(f"unknown key '{name}' (known here: {known})")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            require(isinstance(value, dict), f"'{name}' must be a table")
            result[key] = _make(kind, _fields(kind, value, f"{name}."))
        else:
            result[key] = _typed(kind, value, name)
    return result


def _make(kind: Any, fields: Mapping[str, Any]) -> Any:
    return kind(**fields)


def _typed(kind: Any, value: Any, name: str) -> Any:
    allowed = tuple(one for one in get_args(kind) if one is not type(None)) or (kind,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = allowed[0]
    if type(value) is not wanted:
        raise UsageError(f"'{name}' must be {_WORDS[wanted]}, not {value!r}")
    return value


_WORDS: Mapping[type, str] = {float: "a number", int: "a whole number", bool: "true or false", str: "a string"}
