"""A real Envoy: a gRPC health checker that is not ours, and a client of the edge."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVOY = Path(sys.executable).parent / "envoy"
_CLUSTER = "edge"
_TYPE = "type.googleapis.com/envoy.extensions"


@dataclass
class Envoy:
    """A running Envoy whose one cluster is the edge."""

    admin: str
    # Where it takes calls that it sends on to the edge.
    address: str

    async def health_becomes(self, *, healthy: bool) -> None:
        """Wait until Envoy's health checker says so of the edge."""
        while await self.is_healthy() is not healthy:
            await asyncio.sleep(0.05)  # Envoy has no event to wait on here

    async def is_healthy(self) -> bool:
        """Tell what Envoy's health checker thinks of the edge."""
        clusters = await self._get("/clusters?format=json")
        hosts = next(one for one in clusters["cluster_statuses"] if one["name"] == _CLUSTER)["host_statuses"]
        return all("failed_active_health_check" not in host["health_status"] for host in hosts)

    async def checks(self) -> int:
        """Return how many health checks Envoy has made."""
        stats = await self._get(f"/stats?format=json&filter=cluster.{_CLUSTER}.health_check.attempt")
        return int(stats["stats"][0]["value"])

    async def _get(self, path: str) -> Any:
        return json.loads(await asyncio.to_thread(_fetch, f"http://{self.admin}{path}"))


@contextlib.asynccontextmanager
async def running_envoy(edge: str, health_service: str, folder: Path) -> AsyncIterator[Envoy]:
    """Run an Envoy that checks `health_service` at `edge` ten times a second and forwards every call there."""
    config, admin_file, log = folder / "envoy.json", folder / "envoy.admin", folder / "envoy.log"
    config.write_text(json.dumps(_config(edge, health_service)))
    with log.open("wb") as output:
        # base-id: several Envoys on one machine must not share memory.
        process = await asyncio.create_subprocess_exec(
            ENVOY, "-c", config, "--admin-address-path", admin_file, "--use-dynamic-base-id", "--concurrency", "1",
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        while not (admin_file.exists() and admin_file.read_text().strip()):
            assert process.returncode is None, log.read_text()
            await asyncio.sleep(0.02)
        admin = admin_file.read_text().strip()
        envoy = Envoy(admin, "")
        while not (listeners := (await envoy._get("/listeners?format=json")).get("listener_statuses")):
            await asyncio.sleep(0.02)
        address = listeners[0]["local_address"]["socket_address"]
        envoy.address = f"{address['address']}:{address['port_value']}"
        yield envoy
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return bytes(reply.read())


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _config(edge: str, health_service: str) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": _CLUSTER, "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    cluster = {
        "name": _CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": _CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(edge)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        # Unhealthy is unhealthy, also when it is the only host.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [
            {
                "timeout": "2s",
                "interval": "0.1s",
                "no_traffic_interval": "0.1s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "always_log_health_check_failures": True,
                "grpc_health_check": {"service_name": health_service},
            }
        ],
    }
    return {
        "admin": {"address": _socket("127.0.0.1:0")},
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": _socket("127.0.0.1:0"),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [cluster],
        },
    }
