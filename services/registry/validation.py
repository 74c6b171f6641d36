"""What a registration may say: every limit of registry.proto, in one place. Pure.

Each check returns the value in the one spelling that is stored, or raises `InvalidError` that names the field, the
value and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from mesh.api.registry.v1 import (
    EXPOSURE_INTERNAL,
    EXPOSURE_UNSPECIFIED,
    HEALTH_SERVING,
    HEALTH_UNSPECIFIED,
    Exposure,
    Health,
    HealthCheck,
    Instance,
)
from mesh.errors import MeshError, Source, UsageError
from mesh.options import parse_address

DEFAULT_TTL = 15.0
MIN_TTL, MAX_TTL = 1.0, 3600.0
DEFAULT_WEIGHT, MAX_WEIGHT = 100, 1000
MAX_ENDPOINTS = 16
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 64, 128, 1024
MAX_GRPC_SERVICES, MAX_GRPC_SERVICE = 256, 255
MAX_LABEL = 128
MAX_REASON = 256
MAX_WARM_UP = 3600.0
# Kubernetes' figures for its probes.
DEFAULT_INTERVAL, MIN_INTERVAL, MAX_INTERVAL = 10.0, 1.0, 300.0
DEFAULT_TIMEOUT, MIN_TIMEOUT, MAX_TIMEOUT = 1.0, 0.1, 60.0
DEFAULT_UNHEALTHY, DEFAULT_HEALTHY, MAX_THRESHOLD = 3, 1, 10
DEFAULT_DRAIN, MAX_DRAIN = 5.0, 300.0
MAX_AWAIT = 5.0
DEFAULT_PAGE, MAX_PAGE = 1000, 5000
# What the address of a Unix socket can hold (108 bytes with the end mark).
MAX_UNIX_PATH = 107
_LONGEST_SHOWN = 60

_SERVICE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_INSTANCE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_GRPC_SERVICE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

# Every server has these and the edge answers them itself: nobody's calls are routed by them.
_EVERYWHERE = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)


class InvalidError(MeshError):
    """A field of a request is missing, malformed or over its limit: its text begins with the field and a colon."""

    source = Source.DOWNSTREAM

    @property
    def field(self) -> str:
        """The field, as a path in the request."""
        return str(self).partition(": ")[0]


def instance(given: Instance, *, make_id: str) -> Instance:
    """Return the instance as it is stored, with `make_id` for an empty id and without what the registry sets."""
    return Instance(
        service=service_name(given.service, "instance.service"),
        instance_id=an_instance_id(given.instance_id or make_id, "instance.instance_id"),
        endpoints=endpoints(given.endpoints, "instance.endpoints"),
        version=label(given.version, "instance.version"),
        zone=label(given.zone, "instance.zone"),
        weight=weight(given.weight, "instance.weight") if given.HasField("weight") else DEFAULT_WEIGHT,
        metadata=metadata(given.metadata, "instance.metadata"),
        grpc_services=grpc_services(given.grpc_services, "instance.grpc_services"),
        exposure=exposure(given.exposure, "instance.exposure") or EXPOSURE_INTERNAL,
        health=health(given.health, "instance.health") or HEALTH_SERVING,
        health_reason=reason(given.health_reason, "instance.health_reason"),
        warm_up_seconds=warm_up(given.warm_up_seconds, "instance.warm_up_seconds"),
        check=check(given.check, "instance.check", given.metadata) if given.HasField("check") else None,
    )


def service_name(name: str, field: str) -> str:
    if not _SERVICE.fullmatch(name):
        raise _invalid(field, name, "1-63 characters of a-z 0-9 and -, beginning with a letter")
    return name


def endpoints(given: Iterable[str], field: str) -> list[str]:
    found = list(dict.fromkeys(_endpoint(text, f"{field}[{index}]") for index, text in enumerate(given)))
    if not 1 <= len(found) <= MAX_ENDPOINTS:
        raise InvalidError(f"{field}: there are {len(found)}, it must be 1 to {MAX_ENDPOINTS} of them")
    return found


def label(text: str, field: str) -> str:
    if len(text) > MAX_LABEL:
        raise _invalid(field, text, f"at most {MAX_LABEL} characters")
    return text


def reason(text: str, field: str) -> str:
    """Return a sentence for people, on one line."""
    if len(text) > MAX_REASON:
        raise _invalid(field, text, f"at most {MAX_REASON} characters")
    return " ".join(text.split())


def warm_up(seconds: float, field: str) -> float:
    return _seconds(seconds, field, 0, MAX_WARM_UP)


def drain_timeout(seconds: float) -> float:
    return _seconds(seconds, "timeout_seconds", 0, MAX_DRAIN)


def await_timeout(seconds: float) -> float:
    return _seconds(seconds, "timeout_seconds", 0, MAX_AWAIT)


def check(given: HealthCheck, field: str, metadata: Mapping[str, str]) -> HealthCheck:
    """Return what is asked of active checks with its defaults; `metadata` is the instance's."""
    if metadata.get("tls") == "on":
        raise InvalidError(f"{field}: the registry checks in plaintext, and this instance takes TLS: leave it out")
    name = given.grpc_service
    if name and (len(name) > MAX_GRPC_SERVICE or not _GRPC_SERVICE.fullmatch(name)):
        raise _invalid(
            f"{field}.grpc_service", name, "empty, or the full name of a gRPC service, such as shop.v1.Orders"
        )
    interval = _seconds(
        given.interval_seconds or DEFAULT_INTERVAL, f"{field}.interval_seconds", MIN_INTERVAL, MAX_INTERVAL
    )
    timeout = given.timeout_seconds or min(DEFAULT_TIMEOUT, interval)
    return HealthCheck(
        grpc_service=name,
        interval_seconds=interval,
        timeout_seconds=_seconds(timeout, f"{field}.timeout_seconds", MIN_TIMEOUT, min(MAX_TIMEOUT, interval)),
        unhealthy_threshold=_threshold(given.unhealthy_threshold or DEFAULT_UNHEALTHY, f"{field}.unhealthy_threshold"),
        healthy_threshold=_threshold(given.healthy_threshold or DEFAULT_HEALTHY, f"{field}.healthy_threshold"),
    )


def weight(value: int, field: str) -> int:
    if value > MAX_WEIGHT:
        raise _invalid(field, value, f"0 to {MAX_WEIGHT}")
    return value


def metadata(given: Mapping[str, str], field: str) -> Mapping[str, str]:
    if len(given) > MAX_METADATA:
        raise InvalidError(f"{field}: there are {len(given)} entries, it must be at most {MAX_METADATA}")
    for key, value in given.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY:
            raise _invalid(f"{field}: the key", key, f"1-{MAX_METADATA_KEY} characters")
        if len(value) > MAX_METADATA_VALUE:
            raise _invalid(f"{field}['{_shorten(key)}']", value, f"at most {MAX_METADATA_VALUE} characters")
    return given


def grpc_services(given: Iterable[str], field: str) -> list[str]:
    names = list(dict.fromkeys(given))
    if len(names) > MAX_GRPC_SERVICES:
        raise InvalidError(f"{field}: there are {len(names)}, it must be at most {MAX_GRPC_SERVICES}")
    for name in names:
        if len(name) > MAX_GRPC_SERVICE or not _GRPC_SERVICE.fullmatch(name):
            raise _invalid(field, name, "the full name of a gRPC service, such as shop.v1.Orders")
    return [name for name in names if name not in _EVERYWHERE]


def exposure(value: Exposure.ValueType, field: str) -> Exposure.ValueType:
    """Return EXPOSURE_UNSPECIFIED, which is false, for itself."""
    if value not in Exposure.values():
        raise _invalid(field, value, "one of " + _names(Exposure.keys(), but=Exposure.Name(EXPOSURE_UNSPECIFIED)))
    return value


def health(value: Health.ValueType, field: str) -> Health.ValueType:
    """Return HEALTH_UNSPECIFIED, which is false, for itself."""
    if value not in Health.values():
        raise _invalid(field, value, "one of " + _names(Health.keys(), but=Health.Name(HEALTH_UNSPECIFIED)))
    return value


def ttl(seconds: float) -> float:
    if seconds == 0:
        return DEFAULT_TTL
    if not (math.isfinite(seconds) and MIN_TTL <= seconds <= MAX_TTL):
        raise _invalid("ttl_seconds", f"{seconds:g}", f"{MIN_TTL:g} to {MAX_TTL:g} seconds")
    return seconds


def _seconds(seconds: float, field: str, least: float, most: float) -> float:
    if not (math.isfinite(seconds) and least <= seconds <= most):
        raise _invalid(field, f"{seconds:g}", f"{least:g} to {most:g} seconds")
    return seconds


def _threshold(value: int, field: str) -> int:
    if value > MAX_THRESHOLD:
        raise _invalid(field, value, f"1 to {MAX_THRESHOLD}")
    return value


def page_size(limit: int) -> int:
    if limit > MAX_PAGE:
        raise _invalid("limit", limit, f"1 to {MAX_PAGE}")
    return limit or DEFAULT_PAGE


def an_instance_id(text: str, field: str) -> str:
    if not _INSTANCE_ID.fullmatch(text):
        raise _invalid(field, text, "1-128 characters of A-Z a-z 0-9 . _ : -")
    return text


def _endpoint(text: str, field: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > MAX_UNIX_PATH:
            raise _invalid(field, text, f"unix: and an absolute path of at most {MAX_UNIX_PATH} bytes")
        return text
    try:
        return parse_address(text, field)
    except UsageError:
        raise _invalid(field, text, "HOST:PORT, [IPV6]:PORT or unix:/PATH") from None


def _invalid(field: str, value: object, allowed: str) -> InvalidError:
    return InvalidError(f"{field}: '{_shorten(str(value))}' must be {allowed}")


def _shorten(text: str) -> str:
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    # Kept to one line, and to what can go into grpc-message and a terminal unharmed.
    return shown.encode("unicode_escape").decode("ascii") if not shown.isprintable() else shown


def _names(names: Iterable[str], *, but: str) -> str:
    return ", ".join(name for name in names if name != but)
