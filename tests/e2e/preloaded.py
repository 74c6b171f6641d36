"""Runs `mesh` commands as processes of their own, without each of them loading Python and its modules anew.

`python -m tests.e2e.preloaded FD` loads the command line once and then forks itself for every command that comes over
the socket FD. Such a process has its own arguments, environment, streams and exit code, and runs `mesh.cli.main` from
the beginning; what it does not do again is to import. That is most of what a command costs, and the tests run about a
thousand. Processes that go on (`mesh up`, control processes, edges) start as they do for users.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 1 << 20
# Bytes of a number: the command's process, and its exit code.
_NUMBER = 8


class Preloaded:
    """The process that forks; `run` may be called from several threads."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Start it; what its libraries read of the environment when they are loaded is that of `env`."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.preloaded", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=env,
                cwd=ROOT,
            )

    def run(self, arguments: Sequence[str], env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: it had not ended then, and was killed.

        """
        reader, writer = os.pipe()
        stdout, stderr = os.memfd_create("stdout"), os.memfd_create("stderr")
        with os.fdopen(reader, "rb") as told, os.fdopen(stdout, "rb") as out, os.fdopen(stderr, "rb") as err:
            try:
                asked = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(Path.cwd())}).encode()
                socket.send_fds(self._socket, [asked], [stdout, stderr, writer])
            finally:
                os.close(writer)
            pid = int.from_bytes(told.read(_NUMBER), "little")
            assert pid, "the process that forks has ended"
            ended, _, _ = select.select([told], [], [], timeout)
            if not ended:
                os.kill(pid, signal.SIGKILL)
            code = int.from_bytes(told.read(_NUMBER), "little", signed=True)
            texts = [_whole(stream) for stream in (out, err)]
            if not ended:
                raise subprocess.TimeoutExpired(list(arguments), timeout, *texts)
            return subprocess.CompletedProcess(["mesh", *arguments], code, *texts)

    def close(self) -> None:
        """End it."""
        self._socket.close()
        self._process.wait()


def _whole(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read().decode())


def _serve(commands: socket.socket) -> int:
    """Fork for every command; returns the exit code, in each of the processes that this becomes."""
    from mesh.cli.main import main

    while True:
        asked, descriptors, _, _ = socket.recv_fds(commands, _LONGEST, 3)
        if not asked:
            return 0
        if os.fork():
            for descriptor in descriptors:
                os.close(descriptor)
            os.waitpid(-1, os.WNOHANG)
            continue
        commands.close()
        stdout, stderr, told = descriptors
        pid = os.fork()
        if pid:
            os.write(told, pid.to_bytes(_NUMBER, "little"))
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(told, code.to_bytes(_NUMBER, "little", signed=True))
            os._exit(0)
        os.close(told)
        for descriptor, standard in ((stdout, 1), (stderr, 2)):
            os.dup2(descriptor, standard)
            os.close(descriptor)
        command = json.loads(asked)
        os.environ.clear()
        os.environ.update(command["env"])
        os.chdir(command["cwd"])
        sys.argv[1:] = command["arguments"]
        # From here on as `python -m mesh.cli`: its end is the interpreter's own.
        return main()


def _load() -> None:
    """Load what commands load when they run."""
    from mesh.cli.quiet import quieten

    quieten()
    import mesh.cli

    for module in pkgutil.walk_packages(mesh.cli.__path__, "mesh.cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("mesh.runtime", "grpc.aio", "typer._adapters", "typer.main"):
        importlib.import_module(name)


if __name__ == "__main__":
    _load()
    with socket.socket(fileno=int(sys.argv[1])) as given:
        sys.exit(_serve(given))
