"""nghttpx: libnghttp2's own proxy in C++, without any policy. What forwarding alone costs."""

from __future__ import annotations

from benchmarks import processes, tools
from benchmarks.peers.peer import Running, Site

_WINDOW = "1048575"


class Nghttpx:
    """nghttpx with an access log."""

    name = "nghttpx"
    main = False

    def missing(self) -> str:
        return "" if tools.find("nghttpx") else "nghttpx is not installed"

    def start(self, site: Site) -> Running:
        port = processes.free_port()
        empty = site.folder / "nghttpx.conf"
        empty.touch()
        command = [tools.path_of("nghttpx"), f"--conf={empty}", f"--frontend=127.0.0.1,{port};no-tls"]
        command += [f"--backend=127.0.0.1,{endpoint};;proto=h2" for endpoint in site.endpoints]
        command += [
            f"--workers={site.workers}",
            f"--accesslog-file={site.folder / 'access.log'}",
            f"--errorlog-file={site.folder / 'nghttpx.log'}",
            "--frontend-http2-max-concurrent-streams=1000",
            f"--frontend-http2-window-size={_WINDOW}",
            f"--backend-http2-window-size={_WINDOW}",
        ]
        log = site.folder / "output.log"
        return Running(processes.start_listening(self.name, command, log, port), port, site.folder)
