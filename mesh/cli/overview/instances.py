"""What `mesh instances` shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any

from mesh.api.registry.v1 import EXPOSURE_PUBLIC, Instance, OpinionSource
from mesh.cli.output import print_json, table
from mesh.cli.overview.collect import listed
from mesh.cli.overview.show import NOTHING, health_name, print_states
from mesh.discovery.convert import instance_from_proto
from mesh.errors import MeshError
from mesh.resilience.warmup import effective_weight
from mesh.runtime import Process

HEAD = ("SERVICE", "INSTANCE", "STATE", "ENDPOINT", "VERSION", "ZONE", "WEIGHT", "AGE", "WHY")
WATCH_SECONDS = 1.0
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


async def show(control: str, service: str, process: Process, *, watch: bool, as_json: bool) -> None:
    """Print the instances of the registry at `control`; with `watch` whenever they change, until told to stop.

    Raises:
        MeshError: the registry does not answer, or refuses; while watching, it is shown instead.

    """
    shown: object = None
    while not process.stop.is_set():
        try:
            revision, _, found = await listed(control, service)
            now = time.time()
            answer: Any = structure(revision, found, now) if as_json else "\n".join(lines(found, now))
        except MeshError as error:
            if not watch:
                raise
            answer = {"error": str(error)} if as_json else str(error)
        if answer != shown:
            shown = answer
            if as_json:
                print_json(answer, indent=None if watch else 2)
            else:
                print_states(f"{answer}\n" if watch else str(answer), anew=watch)
        if not watch:
            return
        try:
            await asyncio.wait_for(process.stop.wait(), WATCH_SECONDS)
        except TimeoutError:
            continue


def lines(instances: Sequence[Instance], now: float) -> list[str]:
    """Return the table, as of `now` in seconds since 1970."""
    if not instances:
        return ["No instance is registered."]
    return table(HEAD, _rows(instances, now))


def structure(revision: int, instances: Iterable[Instance], now: float) -> dict[str, Any]:
    """Return the same as JSON's types."""
    return {"revision": revision, "instances": [_structure(one, now) for one in instances]}


def age(seconds: float) -> str:
    """Return a time span as people say it, in its largest unit or two."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"


def _rows(instances: Iterable[Instance], now: float) -> Iterable[tuple[str, ...]]:
    for one in instances:
        weight = round(effective_weight(instance_from_proto(one), now))
        yield (
            one.service,
            one.instance_id,
            health_name(one.health) + (" (protected)" if one.protected else ""),
            ",".join(one.endpoints),
            one.version or NOTHING,
            one.zone or NOTHING,
            str(one.weight) if weight == one.weight else f"{weight} of {one.weight}",
            age(now - one.registered_at_ms / 1000) if one.registered_at_ms else NOTHING,
            one.health_reason or NOTHING,
        )


def _structure(one: Instance, now: float) -> dict[str, Any]:
    return {
        "service": one.service,
        "instance_id": one.instance_id,
        "health": health_name(one.health),
        "reason": one.health_reason,
        "protected": one.protected,
        "opinions": [
            {
                "source": OpinionSource.Name(said.source).removeprefix("OPINION_SOURCE_"),
                "health": health_name(said.health),
                "reason": said.reason,
                "since_ms": said.since_ms,
                "until_ms": said.until_ms,
            }
            for said in one.opinions
        ],
        "endpoints": list(one.endpoints),
        "version": one.version,
        "zone": one.zone,
        "weight": one.weight,
        "effective_weight": effective_weight(instance_from_proto(one), now),
        "warm_up_seconds": one.warm_up_seconds,
        "registered_at_ms": one.registered_at_ms,
        "serving_since_ms": one.serving_since_ms,
        "ttl_seconds": one.ttl_seconds,
        "metadata": dict(one.metadata),
        "grpc_services": list(one.grpc_services),
        "exposure": "PUBLIC" if one.exposure == EXPOSURE_PUBLIC else "INTERNAL",
    }
