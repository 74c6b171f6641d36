"""Shows an overview: as a table for people, as a structure for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from mesh.api.edge.v1 import BreakerState, UpstreamEndpoint
from mesh.api.registry.v1 import Exposure, Health, Instance, Service
from mesh.cli.output import print_line, table
from mesh.cli.overview.collect import EdgeView, Overview

HEAD = ("SERVICE", "EXPOSED", "INSTANCE", "ENDPOINT", "VERSION", "HEALTH", "BREAKER", "IN FLIGHT")
NOTHING = "-"

# Of several edges' breakers the worst is shown: it is the one that somebody's calls fail by.
_BADNESS = (
    BreakerState.BREAKER_STATE_UNSPECIFIED,
    BreakerState.BREAKER_STATE_CLOSED,
    BreakerState.BREAKER_STATE_HALF_OPEN,
    BreakerState.BREAKER_STATE_OPEN,
)


def lines(overview: Overview) -> list[str]:
    """Return the table and a line for every edge."""
    rows = list(_rows(overview))
    shown = table(HEAD, rows) if rows else ["No service is registered."]
    notes = [*map(_protected_line, _protected(overview)), *(_edge_line(edge) for edge in overview.edges)]
    return [*shown, "", *notes] if notes else shown


def structure(overview: Overview) -> dict[str, Any]:
    """Return the overview as JSON's types."""
    return {
        "revision": overview.revision,
        "services": [
            {
                "name": service.name,
                "exposure": _exposure(service.exposure),
                "protection": _protection(service),
                "grpc_services": list(service.grpc_services),
                "instances": [_instance(overview, one) for one in overview.instances if one.service == service.name],
            }
            for service in sorted(overview.services, key=lambda service: service.name)
        ],
        "edges": [_edge(edge) for edge in overview.edges],
    }


def _rows(overview: Overview) -> Iterator[tuple[str, ...]]:
    for service in sorted(overview.services, key=lambda service: service.name):
        exposed = _exposure(service.exposure).lower()
        instances = [instance for instance in overview.instances if instance.service == service.name]
        if not instances:
            yield service.name, exposed, *[NOTHING] * 3, "no live instance", NOTHING, NOTHING
        for instance in instances:
            for address in instance.endpoints:
                seen = [endpoint for _, endpoint in _seen(overview.edges, instance, address)]
                yield (
                    service.name,
                    exposed,
                    instance.instance_id,
                    address,
                    instance.version or NOTHING,
                    health_name(instance.health) + (" (protected)" if instance.protected else ""),
                    (_breaker(seen) or NOTHING) + (", EJECTED" if any(one.ejected_seconds for one in seen) else ""),
                    str(sum(endpoint.calls_in_flight for endpoint in seen)) if seen else NOTHING,
                )


def _protected(overview: Overview) -> list[Service]:
    return [service for service in overview.services if service.HasField("protection")]


def _protected_line(service: Service) -> str:
    return (
        f"{service.name} is protected until {_clock(service.protection.until_ms)} at the latest: "
        f"{service.protection.reason}"
    )


def _protection(service: Service) -> dict[str, Any] | None:
    if not service.HasField("protection"):
        return None
    kept = service.protection
    return {"reason": kept.reason, "since_ms": kept.since_ms, "until_ms": kept.until_ms}


def _clock(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().strftime("%H:%M:%S")


def _edge_line(edge: EdgeView) -> str:
    if edge.info is None:
        return f"edge {edge.instance_id} at {edge.address}: does not answer ({edge.error})"
    registry = "connected" if edge.info.registry_connected else "away, it goes on with what it knows"
    known = edge.info.configuration
    release = f", release {known.release}" if known.release else ""
    rejected = f", release {known.rejected_release} rejected" if known.rejected_release else ""
    return (
        f"edge {edge.instance_id} at {edge.address}: engine {edge.info.engine}, "
        f"calls {edge.info.calls_total}, in flight {edge.info.calls_in_flight}, registry {registry}{release}{rejected}"
    )


def _instance(overview: Overview, instance: Instance) -> dict[str, Any]:
    return {
        "instance_id": instance.instance_id,
        "version": instance.version,
        "zone": instance.zone,
        "weight": instance.weight,
        "health": health_name(instance.health),
        "health_reason": instance.health_reason,
        "protected": instance.protected,
        "ttl_seconds": instance.ttl_seconds,
        "metadata": dict(instance.metadata),
        "grpc_services": list(instance.grpc_services),
        "endpoints": [_endpoint(overview, instance, address) for address in instance.endpoints],
    }


def _endpoint(overview: Overview, instance: Instance, address: str) -> dict[str, Any]:
    seen = _seen(overview.edges, instance, address)
    endpoints = [endpoint for _, endpoint in seen]
    return {
        "address": address,
        "breaker": _breaker(endpoints) or None,
        "calls_in_flight": sum(endpoint.calls_in_flight for endpoint in endpoints),
        "calls_total": sum(endpoint.calls_total for endpoint in endpoints),
        "failures_total": sum(endpoint.failures_total for endpoint in endpoints),
        # What each edge says, by its instance id.
        "edges": {edge.instance_id: _opinion(endpoint) for edge, endpoint in seen},
    }


def _edge(edge: EdgeView) -> dict[str, Any]:
    known = {"instance_id": edge.instance_id, "address": edge.address}
    info = edge.info
    if info is None:
        return {**known, "error": edge.error}
    return {
        **known,
        "engine": info.engine,
        "version": info.version,
        "public_address": info.public_address,
        "internal_address": info.internal_address,
        "admin_address": info.admin_address,
        "uptime_seconds": info.uptime_seconds,
        "registry_connected": info.registry_connected,
        "registry_revision": info.registry_revision,
        "release": info.configuration.release,
        "rejected_release": info.configuration.rejected_release,
        "environment": info.configuration.environment,
        "interceptors": list(info.interceptors),
        "calls_in_flight": info.calls_in_flight,
        "calls_total": info.calls_total,
    }


def _opinion(endpoint: UpstreamEndpoint) -> dict[str, Any]:
    return {
        "health": endpoint.health,
        "breaker": _breaker((endpoint,)) or None,
        "breaker_retry_seconds": endpoint.breaker_retry_seconds,
        "window_calls": endpoint.window_calls,
        "failure_rate": endpoint.failure_rate,
        "slow_call_rate": endpoint.slow_call_rate,
        "calls_in_flight": endpoint.calls_in_flight,
        "calls_total": endpoint.calls_total,
        "failures_total": endpoint.failures_total,
        "ejected_seconds": endpoint.ejected_seconds,
        "ejections_total": endpoint.ejections_total,
    }


def _seen(edges: Iterable[EdgeView], instance: Instance, address: str) -> list[tuple[EdgeView, UpstreamEndpoint]]:
    key = (instance.service, instance.instance_id, address)
    return [(edge, edge.endpoints[key]) for edge in edges if key in edge.endpoints]


def _breaker(endpoints: Iterable[UpstreamEndpoint]) -> str:
    """Return the worst state among the edges; "" when no edge knows the endpoint."""
    worst = max((endpoint.breaker for endpoint in endpoints), key=_BADNESS.index, default=_BADNESS[0])
    return "" if worst == _BADNESS[0] else BreakerState.Name(worst).removeprefix("BREAKER_STATE_")


def health_name(health: Health.ValueType) -> str:
    """Return how people write a health."""
    return Health.Name(health).removeprefix("HEALTH_").replace("UNSPECIFIED", "SERVING")


def _exposure(exposure: Exposure.ValueType) -> str:
    return "PUBLIC" if exposure == Exposure.EXPOSURE_PUBLIC else "INTERNAL"


def print_states(text: str, *, anew: bool = False) -> None:
    """Print a table of states as plain text; on a terminal with colours and, `anew`, in place of what was there."""
    if not sys.stdout.isatty():
        print_line(text)
        return
    from rich.console import Console
    from rich.text import Text

    shown = Text(text, no_wrap=True, overflow="ignore")
    shown.highlight_regex(r"\bSERVING\b|\bCLOSED\b", "green")
    shown.highlight_regex(r"\bNOT_SERVING\b|\bOPEN\b|no live instance|does not answer", "red")
    shown.highlight_regex(r"\bSTARTING\b|\bDRAINING\b|\bHALF_OPEN\b", "yellow")
    shown.highlight_regex(r"^SERVICE.*", "bold")
    console = Console()
    if anew:
        console.clear()
    console.print(shown, soft_wrap=True)
