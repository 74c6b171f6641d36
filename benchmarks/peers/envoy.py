"""Envoy as somebody would configure it who wants from it what the edge does by default; no more, and no less.

What is on and why stands in docs/performance.md, "The same work". Each line below has its counterpart in the edge.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks import processes, tools
from benchmarks.load import certificate
from benchmarks.load.backends import GRPC_SERVICE
from benchmarks.peers.peer import Running, Site

# As many as the edge allows (proxy/call/limits.py); Envoy's default of 1,024 would refuse the idle streams.
_MAX_REQUESTS = 10_000
_MAX_STREAMS = 1000

# As large a request as the edge keeps for a further attempt (proxy/engines/wire/exchange.py), and as often.
_REPLAY_BYTES = 64 * 1024
_RETRIES = 2

# The fields of the edge's own line for a call that went well, and its reason for one that did not.
_LOG = {
    "ts": "%START_TIME%",
    "correlation_id": "%REQ(X-REQUEST-ID)%",
    "listener": "public",
    "peer": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "method": "%REQ(:PATH)%",
    "service": "%UPSTREAM_CLUSTER%",
    "instance": "%UPSTREAM_HOST_NAME%",
    "endpoint": "%UPSTREAM_HOST%",
    "code": "%GRPC_STATUS%",
    "duration_ms": "%DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream_ms": "%RESPONSE_DURATION%",
    "deadline": "%REQ(GRPC-TIMEOUT)%",
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
        config.write_text(json.dumps(configuration(site, port), indent=1))
        command = [tools.path_of("envoy"), "-c", str(config), "--concurrency", str(site.workers), "-l", "warn"]
        command += ["--disable-hot-restart"]
        log = site.folder / "envoy.log"
        return Running(processes.start_listening(self.name, command, log, port), port, site.folder)


def configuration(site: Site, port: int) -> dict[str, Any]:
    """Return what it reads at its start."""
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": _connection_manager(site)}]}
    if site.tls:
        chain["transport_socket"] = {"name": "tls", "typed_config": _tls(site)}
    listener = {"name": "public", "address": _address(port), "filter_chains": [chain]}
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
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": _RETRIES},
        },
    }
    access_log = {
        "@type": _type("extensions.access_loggers.file.v3.FileAccessLog"),
        "path": str(site.folder / "access.log"),
        "log_format": {"json_format": _LOG},
    }
    # Numbers by method and code, and durations by method, as the edge's /metrics has them.
    grpc_stats = {
        "@type": _type("extensions.filters.http.grpc_stats.v3.FilterConfig"),
        "stats_for_all_methods": True,
        "enable_upstream_stats": True,
    }
    router = {"@type": _type("extensions.filters.http.router.v3.Router"), "suppress_envoy_headers": True}
    host = {
        "name": "bench",
        "domains": ["*"],
        "routes": [route],
        "per_request_buffer_limit_bytes": _REPLAY_BYTES,
    }
    return {
        "@type": _type("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "public",
        "codec_type": "HTTP2",
        # The log has the true peer; the edge sends no x-forwarded-for, and no header that names itself.
        "use_remote_address": True,
        "skip_xff_append": True,
        "server_header_transformation": "PASS_THROUGH",
        # An id that came with the call is kept, and told in the answer.
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "http2_protocol_options": {"max_concurrent_streams": _MAX_STREAMS},
        "stream_idle_timeout": "0s",
        "access_log": [{"name": "file", "typed_config": access_log}],
        "http_filters": [
            {"name": "envoy.filters.http.grpc_stats", "typed_config": grpc_stats},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "route_config": {"virtual_hosts": [host]},
    }


def _cluster(site: Site) -> dict[str, Any]:
    endpoints = [
        {"endpoint": {"address": _address(port), "hostname": f"bench-{number}"}}
        for number, port in enumerate(site.endpoints)
    ]
    http = {
        "@type": _type("extensions.upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    limits = {
        "max_connections": _MAX_REQUESTS,
        "max_pending_requests": _MAX_REQUESTS,
        "max_requests": _MAX_REQUESTS,
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


def _tls(site: Site) -> dict[str, Any]:
    """TLS 1.3 without session tickets, which the edge does not give either: a resumed session shows no certificate."""
    cert, key = certificate.write(site.folder)
    return {
        "@type": _type("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}],
        },
        "disable_stateless_session_resumption": True,
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _type(name: str) -> str:
    return f"type.googleapis.com/envoy.{name}"
