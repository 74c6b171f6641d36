"""HAProxy: least connections, unique id, an access log (which it writes a line at a time)."""

from __future__ import annotations

from benchmarks import processes, tools
from benchmarks.peers.peer import Running, Site

_CONFIG = """
global
  nbthread {workers}
  maxconn 8192
  log stdout len 2048 format raw local0 info
  tune.h2.max-concurrent-streams 1000
defaults
  mode http
  log global
  option httplog
  timeout connect 1s
  timeout client 1h
  timeout server 1h
frontend public
  bind 127.0.0.1:{port} proto h2
  unique-id-format %{{+X}}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid
  unique-id-header x-request-id
  default_backend endpoints
backend endpoints
  balance leastconn
  http-reuse always
{servers}
"""


class Haproxy:
    """HAProxy."""

    name = "haproxy"
    main = False

    def missing(self) -> str:
        return "" if tools.find("haproxy") else "haproxy is not installed"

    def start(self, site: Site) -> Running:
        port = processes.free_port()
        servers = [f"  server s{n} 127.0.0.1:{endpoint} proto h2" for n, endpoint in enumerate(site.endpoints)]
        config = site.folder / "haproxy.cfg"
        config.write_text(_CONFIG.format(workers=site.workers, port=port, servers="\n".join(servers)))
        command = [tools.path_of("haproxy"), "-db", "-f", str(config)]
        log = site.folder / "access.log"
        return Running(processes.start_listening(self.name, command, log, port), port, site.folder)
