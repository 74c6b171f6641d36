"""Envoy with what the edge has on as well: limits, ejection of outliers, ids, an access log, least request, stats."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import processes, tools
from benchmarks.load.backends import GRPC_SERVICE
from benchmarks.peers.peer import Running, Site

# As many as the edge allows (proxy/call/limits.py); Envoy's default of 1,024 would refuse the idle streams.
_MAX_REQUESTS = 10_000

_LOG = {
    "ts": "%START_TIME%",
    "correlation_id": "%REQ(X-REQUEST-ID)%",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "method": "%REQ(:PATH)%",
    "service": "%UPSTREAM_CLUSTER%",
    "endpoint": "%UPSTREAM_HOST%",
    "code": "%GRPC_STATUS%",
    "duration_ms": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream_ms": "%RESPONSE_DURATION%",
    "reason": "%RESPONSE_FLAGS%",
}


class Envoy:
    """Envoy from its wheel."""

    name = "envoy"
    main = True

    def missing(self) -> str:
        return "" if tools.find("envoy") else "envoy is not installed"

    def start(self, site: Site) -> Running:
        port = processes.free_port()
        config = site.folder / "envoy.json"
        config.write_text(json.dumps(_config(site, port), indent=1))
        command = [tools.path_of("envoy"), "-c", str(config), "--concurrency", str(site.workers), "-l", "warn"]
        command += ["--disable-hot-restart"]
        log = site.folder / "envoy.log"
        return Running(processes.start_listening(self.name, command, log, port), port)


def _config(site: Site, port: int) -> dict[str, Any]:
    listener = {
        "name": "public",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _connection_manager(site)}]}],
    }
    return {
        "admin": {"address": _address(processes.free_port())},
        "static_resources": {"listeners": [listener], "clusters": [_cluster(site)]},
    }


def _connection_manager(site: Site) -> dict[str, Any]:
    route = {
        "match": {"prefix": f"/{GRPC_SERVICE}/", "grpc": {}},
        "route": {
            "cluster": "bench",
            "timeout": "0s",
            "max_stream_duration": {"grpc_timeout_header_max": "0s"},  # the caller's own, whatever it is
        },
    }
    access_log = {
        "@type": _type("extensions.access_loggers.file.v3.FileAccessLog"),
        "path": str(site.folder / "access.log"),
        "log_format": {"json_format": _LOG},
    }
    router = {"@type": _type("extensions.filters.http.router.v3.Router")}
    return {
        "@type": _type("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "public",
        "codec_type": "HTTP2",
        "use_remote_address": True,
        "generate_request_id": True,
        "stream_idle_timeout": "0s",
        "access_log": [{"name": "file", "typed_config": access_log}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": [route]}]},
    }


def _cluster(site: Site) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in site.endpoints]
    http = {
        "@type": _type("extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    limits = {
        "max_connections": _MAX_REQUESTS,
        "max_pending_requests": _MAX_REQUESTS,
        "max_requests": _MAX_REQUESTS,
        "track_remaining": True,
    }
    return {
        "name": "bench",
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {"cluster_name": "bench", "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http},
        "circuit_breakers": {"thresholds": [limits]},
        "outlier_detection": {"consecutive_5xx": 5, "interval": "10s", "base_ejection_time": "30s"},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"
