"""The application: `/api/v1/...` as Prometheus has it, and this process' own `/metrics`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import mesh
from mesh.errors import MeshError
from services.metrics import selecting
from services.metrics.alerts.keeper import GroupHealth, Health
from services.metrics.alerts.records import Kept
from services.metrics.alerts.states import State
from services.metrics.errors import BusyError, InvalidError, NotFoundError
from services.metrics.http import render
from services.metrics.http.parameters import Parameters
from services.metrics.promql.errors import LimitError, ParseError, PromqlError, QueryTimeoutError, StepsError
from services.metrics.promql.numbers import exchanged
from services.metrics.promql.parse import parse
from services.metrics.service import Metrics
from services.storage.columns.base import ColumnsError

# Of a form: a query of full length, every character escaped, and some selectors.
MAX_FORM = 512 * 1024
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Handler = Callable[[Parameters, Request], Awaitable[Any]]


class Api:
    """Prometheus' API over the service."""

    def __init__(self, metrics: Metrics, own: CollectorRegistry) -> None:
        """Serve `own` as /metrics."""
        self._metrics = metrics
        self._own = own

    def app(self) -> Starlette:
        both = ["GET", "POST"]
        return Starlette(
            routes=[
                Route("/", _root),
                Route("/api/v1/query", _route(self.query), methods=both),
                Route("/api/v1/query_range", _route(self.query_range), methods=both),
                Route("/api/v1/series", _route(self.series), methods=both),
                Route("/api/v1/labels", _route(self.labels), methods=both),
                Route("/api/v1/label/{name}/values", _route(self.label_values)),
                Route("/api/v1/rules", _route(self.rules)),
                Route("/api/v1/alerts", _route(self.alerts)),
                Route("/api/v1/targets", _route(self.targets)),
                Route("/api/v1/metadata", _route(self.metadata)),
                Route("/api/v1/query_exemplars", _route(self.exemplars), methods=both),
                Route("/api/v1/status/buildinfo", _route(self.buildinfo)),
                Route("/metrics", self.own),
                Route("/-/healthy", _well),
                Route("/-/ready", _well),
            ]
        )

    async def query(self, given: Parameters, _: Request) -> Any:
        found = await self._metrics.queries.instant(given.text("query"), given.time("time"), given.duration("timeout"))
        return await self._metrics.queries.aside(render.answer, found)

    async def query_range(self, given: Parameters, _: Request) -> Any:
        step = given.duration("step")
        if step is None:
            raise InvalidError('invalid parameter "step": it is missing')
        found = await self._metrics.queries.range(
            given.text("query"),
            given.needed_time("start"),
            given.needed_time("end"),
            round(step * 1000),
            given.duration("timeout"),
        )
        return await self._metrics.queries.aside(render.answer, found)

    async def series(self, given: Parameters, _: Request) -> Any:
        found, _more = selecting.series(
            self._metrics.store.index, given.all("match[]"), given.time("start"), selecting.limit(given.count("limit"))
        )
        return [dict(labels) for labels in found]

    async def labels(self, given: Parameters, _: Request) -> Any:
        most = selecting.limit(given.count("limit"))
        return selecting.names(self._metrics.store.index, given.all("match[]"), given.time("start"), most)[0]

    async def label_values(self, given: Parameters, request: Request) -> Any:
        name, most = request.path_params["name"], selecting.limit(given.count("limit"))
        if not _LABEL.fullmatch(name):
            raise InvalidError(f'invalid label name: "{name[:100]}"')
        return selecting.values(self._metrics.store.index, name, given.all("match[]"), given.time("start"), most)[0]

    async def rules(self, given: Parameters, _: Request) -> Any:
        keeper = self._metrics.keeper
        wanted = {"alert": True, "record": False}.get(given.all("type")[0]) if given.all("type") else None
        by_rule: dict[tuple[str, str, str], list[Kept]] = {}
        for kept in keeper.alerts():
            if kept.active.state is not State.RESOLVED:
                by_rule.setdefault(kept.rule, []).append(kept)
        groups = []
        for group in keeper.groups():
            health = keeper.health.get((group.file, group.name), GroupHealth())
            healths = [*health.rules, *(Health() for _ in group.rules)]
            rules = [
                _rule(rule, one, by_rule.get((group.file, group.name, rule.id), []))
                for rule, one in zip(group.rules, healths, strict=False)
                if wanted is None or rule.alerting is wanted
            ]
            groups.append(
                {
                    "name": group.name,
                    "file": group.file,
                    "interval": group.interval or self._metrics.store.options.rule_interval,
                    "limit": group.limit,
                    "rules": rules,
                    "evaluationTime": health.seconds,
                    "lastEvaluation": _time(health.at_ms),
                }
            )
        return {"groups": groups}

    async def alerts(self, given: Parameters, _: Request) -> Any:
        alerts = [kept for kept in self._metrics.keeper.alerts() if kept.active.state is not State.RESOLVED]
        return {"alerts": [_alert(kept) for kept in alerts]}

    async def targets(self, given: Parameters, _: Request) -> Any:
        options = self._metrics.store.options
        active = [
            {
                "discoveredLabels": state.target.labels,
                "labels": state.target.labels,
                "scrapePool": state.target.job,
                "scrapeUrl": state.target.url,
                "globalUrl": state.target.url,
                "lastError": state.error,
                "lastScrape": _time(state.at_ms),
                "lastScrapeDuration": state.seconds,
                "health": {"refused": "down"}.get(state.health, state.health),
                "scrapeInterval": f"{options.scrape_interval:g}s",
                "scrapeTimeout": f"{options.scrape_timeout:g}s",
            }
            for state in self._metrics.scraper.states
        ]
        return {"activeTargets": active, "droppedTargets": []}

    async def metadata(self, given: Parameters, _: Request) -> Any:
        known, names = self._metrics.store.meta, given.all("metric")
        most = given.count("limit") or len(known)
        return {
            name: [{"type": one.type, "help": one.help, "unit": one.unit}]
            for name, one in list(known.items())[:most]
            if not names or name == names[0]
        }

    async def exemplars(self, given: Parameters, _: Request) -> Any:
        # None are kept; Grafana asks beside every query, and would show an error.
        parse(given.text("query"))
        return []

    async def buildinfo(self, given: Parameters, _: Request) -> Any:
        # Clients look here for what they may ask: it is the version whose answers these are.
        return {
            "version": "2.42.0",
            "revision": f"meshplane-{mesh.__version__}",
            "branch": "",
            "buildUser": "",
            "buildDate": "",
            "goVersion": "",
        }

    async def own(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._own), headers={"content-type": content_type})


async def _root(_request: Request) -> Response:
    """Tell whoever opens the address in a browser what it is for."""
    return PlainTextResponse(
        "This is the metrics service of a meshplane, which speaks Prometheus' HTTP API: /api/v1/query, query_range,\n"
        "series, labels, label/NAME/values, rules, alerts, targets and metadata.\n\n"
        "Graphs: add this address to Grafana as a data source of type Prometheus; or in a terminal\n"
        "  mesh query 'sum by (job) (rate(rpc_server_call_duration_seconds_count[1m]))' --range 1h\n"
        "  mesh top\n"
    )


async def _well(_request: Request) -> Response:
    return PlainTextResponse("meshplane is well.\n")


def _route(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        try:
            body = render.success(await handler(await _parameters(request), request))
        except MeshError as error:
            status, kind = _failure(error)
            return Response(render.failure(kind, str(error)), status, media_type="application/json")
        return Response(body, media_type="application/json")

    return serve


async def _parameters(request: Request) -> Parameters:
    """Return the parameters of the URL and of a form.

    Raises:
        InvalidError: the form is too long, or not one.

    """
    try:
        pairs = parse_qsl(request.url.query, keep_blank_values=True, errors="strict", max_num_fields=1000)
        if request.method == "POST":
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_FORM:
                    raise InvalidError(f"the form is longer than {MAX_FORM} bytes")
            pairs = [*parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000), *pairs]
    except ValueError as error:
        raise InvalidError(f"the parameters cannot be read: {error}") from error
    return Parameters(pairs)


def _failure(error: MeshError) -> tuple[int, str]:
    """Return the HTTP status and Prometheus' name of what went wrong."""
    if isinstance(error, ParseError | InvalidError | StepsError):
        return 400, "bad_data"
    if isinstance(error, QueryTimeoutError):
        return 503, "timeout"
    if isinstance(error, LimitError | PromqlError):
        return 422, "execution"
    if isinstance(error, NotFoundError):
        return 404, "not_found"
    if isinstance(error, BusyError | ColumnsError):
        return 503, "unavailable"
    return 500, "internal"


def _rule(rule: Any, health: Health, alerts: list[Kept]) -> dict[str, Any]:
    made = {
        "name": rule.name,
        "query": rule.expr,
        "labels": {name: template.source for name, template in rule.labels.items()},
        "health": health.health,
        "lastError": health.error,
        "evaluationTime": health.seconds,
        "lastEvaluation": _time(health.at_ms),
        "type": "alerting" if rule.alerting else "recording",
    }
    if not rule.alerting:
        return made
    states = {kept.active.state.value for kept in alerts}
    return made | {
        "duration": rule.for_,
        "keepFiringFor": rule.keep_firing_for,
        "annotations": {name: template.source for name, template in rule.annotations.items()},
        "alerts": [_alert(kept) for kept in alerts],
        "state": next((state for state in ("firing", "pending") if state in states), "inactive"),
    }


def _alert(kept: Kept) -> dict[str, Any]:
    active = kept.active
    return {
        "labels": dict(active.labels),
        "annotations": dict(active.annotations),
        "state": active.state.value,
        "activeAt": _time(active.active_ms),
        "value": exchanged(active.value),
    }


def _time(at_ms: int) -> str:
    if not at_ms:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
