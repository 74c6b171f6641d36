"""nginx with grpc_pass: least connections, request id, a buffered access log."""

from __future__ import annotations

from benchmarks import processes, tools
from benchmarks.load.backends import GRPC_SERVICE
from benchmarks.peers.peer import Running, Site

_CONFIG = """
daemon off;
worker_processes {workers};
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 8192; }}
http {{
  log_format calls escape=json '{{"ts":$msec,"correlation_id":"$request_id","peer":"$remote_addr:$remote_port",'
    '"method":"$uri","endpoint":"$upstream_addr","status":$status,"code":"$sent_trailer_grpc_status",'
    '"duration_s":$request_time,"upstream_s":"$upstream_response_time","bytes_out":$bytes_sent}}';
  access_log {folder}/access.log calls buffer=64k flush=1s;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_timeout 1h;
  http2_max_concurrent_streams 1000;
  upstream endpoints {{
    least_conn;
    {servers}
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} http2{reuseport};
    location /{service}/ {{
      grpc_set_header x-request-id $request_id;
      grpc_read_timeout 1h;
      grpc_send_timeout 1h;
      grpc_pass grpc://endpoints;
    }}
  }}
}}
"""


class Nginx:
    """nginx."""

    name = "nginx"
    main = False

    def missing(self) -> str:
        return "" if tools.find("nginx") else "nginx is not installed"

    def start(self, site: Site) -> Running:
        port = processes.free_port()
        config = site.folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                workers=site.workers,
                folder=site.folder,
                port=port,
                reuseport=" reuseport" if site.workers > 1 else "",
                service=GRPC_SERVICE,
                servers=" ".join(f"server 127.0.0.1:{endpoint};" for endpoint in site.endpoints),
            )
        )
        # Its workers run as another user, who has to reach the folder.
        site.folder.chmod(0o755)
        command = [tools.path_of("nginx"), "-p", str(site.folder), "-c", str(config)]
        log = site.folder / "output.log"
        return Running(processes.start_listening(self.name, command, log, port), port, site.folder)
