"""Who is scraped: what an instance's registration says about its metrics. Pure.

The metadata `metrics` says where they are: `9100`, `9100/path`, `HOST:9100` or `HOST:9100/path`, by HTTP; the path is
/metrics when it is left out. An edge needs none: its `admin` address serves them. The host must be one of the
instance's own endpoints, so that a registration cannot make this process ask whatever it likes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.api.registry.v1 import Instance

METRICS = "metrics"
ADMIN = "admin"
DEFAULT_PATH = "/metrics"

_PLACE = re.compile(r"(?:(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):)?(?P<port>\d{1,5})(?P<path>/[!-~]{0,500})?")
_ANY = frozenset({"0.0.0.0", "[::]"})  # noqa: S104 - compared only
_LOCAL = frozenset({"127.0.0.1", "[::1]", "localhost"})


@dataclass(frozen=True, slots=True)
class Target:
    """An instance that is scraped."""

    job: str
    instance: str
    # "" when it must not be scraped; then `problem` says why.
    url: str
    problem: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.job, self.instance

    @property
    def labels(self) -> dict[str, str]:
        return {"job": self.job, "instance": self.instance}


def target(instance: Instance) -> Target | None:
    """Return how an instance is scraped; None when it offers no metrics."""
    said = instance.metadata.get(METRICS) or instance.metadata.get(ADMIN)
    if not said:
        return None
    url, problem = _url(said, [endpoint for endpoint in instance.endpoints if not endpoint.startswith("unix:")])
    return Target(instance.service, instance.instance_id, url, problem)


def targets(instances: Iterable[Instance]) -> dict[tuple[str, str], Target]:
    """Return the targets by service and instance id.

    Instances that share one address, such as the workers of an edge, which has one /metrics, are one target.
    """
    found: dict[tuple[str, str], Target] = {}
    urls: set[str] = set()
    for instance in sorted(instances, key=lambda one: (one.service, one.instance_id)):
        made = target(instance)
        if made is None or (made.url and made.url in urls):
            continue
        urls.add(made.url)
        found[made.key] = made
    return found


def _url(said: str, endpoints: list[str]) -> tuple[str, str]:
    """Return the URL that metadata stands for, or "" and what is wrong with it."""
    place = _PLACE.fullmatch(said)
    if place is None or not 0 < int(place["port"]) < 65536:
        return "", f"its metadata says '{said[:100]}', which is not [HOST:]PORT[/PATH]"
    hosts = [endpoint.rpartition(":")[0] for endpoint in endpoints]
    if not hosts:
        return "", "it has no endpoint with a host"
    host = place["host"] or hosts[0]
    if host in _ANY:
        host = hosts[0]
    if host not in hosts and not (host in _LOCAL and _LOCAL.intersection(hosts)):
        return "", f"its metrics are at {host}, which is none of its endpoints' hosts: let it serve them there"
    return f"http://{host}:{int(place['port'])}{place['path'] or DEFAULT_PATH}", ""
