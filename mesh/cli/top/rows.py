"""What `mesh top` asks the metrics, and the rows that come of it. Pure.

A service that joined by the SDK counts what it serves, whoever calls it: through an edge or directly. Where there are
such numbers a row has them, and nothing of the edges', which saw some of the same calls; else it has the edges'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mesh.cli.output import table
from mesh.edge import CONTROL_SERVICE, EDGE_SERVICE

if TYPE_CHECKING:
    from mesh.api.metrics.v1 import TimeSeries

BY = ("service", "method", "instance")
QUANTILES = (0.5, 0.95, 0.99)

# As the alerts that ship have it: a client's mistake is no error of a service.
_FAILED = 'code=~"UNKNOWN|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|DATA_LOSS|RESOURCE_EXHAUSTED|UNIMPLEMENTED"'
# Before the names of what servers tell, and of the breakers of clients.
_SERVED, _CLIENTS = "served ", "clients "
_BREAKERS = ("closed", "HALF-OPEN", "OPEN")
# Of an edge's own metrics, for which `instance` is the edge.
_INSTANCE = "exported_instance"

_VALUES = ("calls", "errors", "in_flight", *(f"p{one}" for one in QUANTILES))

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Calls of one service, method or instance; None is unknown. Rates are calls a second, latencies seconds."""

    key: Key
    calls: float
    errors: float
    in_flight: float
    quantiles: tuple[float | None, ...]
    # 0 closed, 1 half-open, 2 open: the worst of all edges, clients and endpoints; None where none has it.
    breaker: int | None

    @property
    def share(self) -> float:
        """The share of calls that failed."""
        return self.errors / self.calls if self.calls > 0 else 0.0


def labels_of(by: str) -> tuple[str, ...]:
    """Return the labels that tell rows apart."""
    return {"service": ("service",), "method": ("service", "method"), "instance": ("service", _INSTANCE)}[by]


def served_labels_of(by: str) -> tuple[str, ...]:
    """Return the same for what servers tell."""
    return {"service": ("job",), "method": ("job", "rpc_method"), "instance": ("job", "instance")}[by]


def client_labels_of(by: str) -> tuple[str, ...]:
    """Return the same for the breakers of clients, which know nothing of methods."""
    return ("peer_service", "peer_instance") if by == "instance" else ("peer_service",)


def queries(by: str, over: str) -> dict[str, str]:
    """Return what is asked, by name, in PromQL; rates are of the time `over`, such as 30s."""
    clients = f"max by ({', '.join(client_labels_of(by))}) (mesh_client_breaker_state)"
    return {**_of_edges(by, over), **_of_servers(by, over), f"{_CLIENTS}breaker": clients}


def _of_servers(by: str, over: str) -> dict[str, str]:
    names, calls = ", ".join(served_labels_of(by)), "rpc_server_call_duration_seconds"
    found = {
        "calls": f"sum by ({names}) (rate({calls}_count[{over}]))",
        "errors": f"sum by ({names}) (rate({calls}_count{{rpc_status_{_FAILED}}}[{over}]))",
        "in_flight": f"sum by ({names}) (rpc_server_calls_in_flight)",
    }
    if by != "instance":
        for quantile in QUANTILES:
            buckets = f"sum by ({names}, le) (rate({calls}_bucket[{over}]))"
            found[f"p{quantile}"] = f"histogram_quantile({quantile}, {buckets})"
    return {_SERVED + name: query for name, query in found.items()}


def _of_edges(by: str, over: str) -> dict[str, str]:
    names = ", ".join(labels_of(by))
    if by == "instance":
        return {
            "calls": f"sum by ({names}) (rate(mesh_edge_endpoint_attempts_total[{over}]))",
            "errors": f"sum by ({names}) (rate(mesh_edge_endpoint_failures_total[{over}]))",
            "in_flight": f"sum by ({names}) (mesh_edge_endpoint_calls_in_flight)",
            "breaker": f"max by ({names}) (mesh_edge_breaker_state)",
        }
    found = {
        "calls": f"sum by ({names}) (rate(mesh_edge_calls_total[{over}]))",
        "errors": f"sum by ({names}) (rate(mesh_edge_calls_total{{{_FAILED}}}[{over}]))",
        "in_flight": f"sum by ({names}) (mesh_edge_calls_in_flight)",
        "breaker": "max by (service) (mesh_edge_breaker_state)",
    }
    for quantile in QUANTILES:
        buckets = f"sum by ({names}, le) (rate(mesh_edge_call_duration_seconds_bucket[{over}]))"
        found[f"p{quantile}"] = f"histogram_quantile({quantile}, {buckets})"
    return found


def rows(by: str, answers: Mapping[str, Iterable[TimeSeries]], *, everything: bool = False) -> list[Row]:
    """Return the rows, the busiest first; those of the mesh itself only with `everything`."""
    edges = {name: _by_key(answers.get(name, ()), labels_of(by)) for name in _VALUES}
    servers = {name: _by_key(answers.get(_SERVED + name, ()), served_labels_of(by)) for name in _VALUES}
    breakers = _by_key(answers.get("breaker", ()), labels_of("instance" if by == "instance" else "service"))
    for key, state in _by_key(answers.get(f"{_CLIENTS}breaker", ()), client_labels_of(by)).items():
        breakers[key] = max(state, breakers.get(key, state))
    known = {**edges["in_flight"], **edges["calls"], **servers["calls"]}
    if by != "method":  # a service that nobody calls has a breaker all the same
        known = {**breakers, **known}
    found = []
    for key in known:
        if not everything and key[0] in (CONTROL_SERVICE, EDGE_SERVICE):
            continue
        # All from one of them: shares of one in the other would be nonsense.
        values = servers if key in servers["calls"] else edges
        found.append(
            Row(
                key=key,
                calls=_number(values["calls"].get(key)) or 0.0,
                errors=_number(values["errors"].get(key)) or 0.0,
                in_flight=_number(values["in_flight"].get(key)) or 0.0,
                quantiles=tuple(_number(values[f"p{one}"].get(key)) for one in QUANTILES),
                breaker=_state(breakers.get(key if by == "instance" else key[:1])),
            )
        )
    return sorted(found, key=lambda row: (-row.calls, row.key))


def lines(by: str, found: Sequence[Row]) -> list[str]:
    """Return the rows as a table."""
    if not found:
        return ["no calls yet: edges and services tell their metrics every 10 s"]
    head = ("SERVICE", *{"method": ("METHOD",), "instance": ("INSTANCE",)}.get(by, ()))
    times = ("P50", "P95", "P99") if by != "instance" else ()
    return table(
        (*head, "CALLS/S", "ERRORS", "IN FLIGHT", *times, "BREAKER"),
        (
            (
                *(part or "-" for part in row.key),
                _short(row.calls),
                f"{100 * row.share:.3g} %" if row.calls else "-",
                f"{row.in_flight:.0f}",
                *(duration(one) for one in row.quantiles if times),
                "-" if row.breaker is None else _BREAKERS[row.breaker],
            )
            for row in found
        ),
    )


def structure(by: str, found: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as data."""
    names = ("service", *((by,) if by != "service" else ()))
    return [
        {
            **dict(zip(names, row.key, strict=True)),
            "calls_per_second": row.calls,
            "errors_per_second": row.errors,
            "error_share": row.share,
            "in_flight": row.in_flight,
            **(
                {f"p{100 * q:.0f}_seconds": one for q, one in zip(QUANTILES, row.quantiles, strict=True)}
                if by != "instance"
                else {}
            ),
            "breaker": None if row.breaker is None else _BREAKERS[row.breaker].lower(),
        }
        for row in found
    ]


def duration(seconds: float | None) -> str:
    """Return a duration as people read it; "-" when it is unknown."""
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _short(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def _by_key(series: Iterable[TimeSeries], labels: Sequence[str]) -> dict[Key, float]:
    return {tuple(one.labels.get(name, "") for name in labels): one.values[-1] for one in series if one.values}


def _number(value: float | None) -> float | None:
    return value if value is not None and value - value == 0 else None


def _state(value: float | None) -> int | None:
    known = _number(value)
    return None if known is None else min(max(int(known), 0), len(_BREAKERS) - 1)
