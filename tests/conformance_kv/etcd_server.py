"""The real etcd: one member or three, on ports that the system picked, killed and started again at will."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
# Generous: the machine may be busy, and a hang fails by pytest's own timeout.
PATIENCE = 60.0
# Ports are let go of before etcd takes them: another process may be faster.
ATTEMPTS = 5


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class EtcdMember:
    """One etcd process, and its data across restarts."""

    name: str
    folder: Path
    client: str
    peer: str
    # "NAME=URL,..." of all members.
    cluster: str = ""
    extra: Sequence[str] = ()
    scheme: str = "http"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process; see `wait`."""
        log = (self.folder / f"{self.name}.log").open("ab")
        command = [
            *(str(BIN / "etcd"), "--name", self.name, "--data-dir", str(self.folder / self.name)),
            *("--listen-client-urls", f"{self.scheme}://{self.client}"),
            *("--advertise-client-urls", f"{self.scheme}://{self.client}"),
            *("--listen-peer-urls", f"http://{self.peer}", "--initial-advertise-peer-urls", f"http://{self.peer}"),
            *("--initial-cluster", self.cluster or f"{self.name}=http://{self.peer}"),
            # With these etcd grants leases of a second. (Not --unsafe-no-fsync: with that etcd keeps in its own memory
            # what it has acknowledged, and a kill loses it.)
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *("--logger", "zap", "--log-level", "error"),
            *self.extra,
        ]
        with log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self) -> bool:
        """Return whether it came to serve; if not it has ended, as when another process took its port."""
        assert self.process is not None
        host, _, port = self.client.rpartition(":")
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return True
            assert time.monotonic() < deadline, f"etcd does not start: {self.log()}"
            time.sleep(0.02)
        return False

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()
        assert self.wait(), self.log()

    def pause(self) -> None:
        """Let it hang: connections stay, nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    def etcdctl(self, *arguments: str) -> str:
        command = [str(BIN / "etcdctl"), "--endpoints", f"{self.scheme}://{self.client}", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=_environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_leader(self) -> bool:
        (answer,) = json.loads(self.etcdctl("endpoint", "status", "-w", "json"))
        return bool(answer["Status"]["leader"] == answer["Status"]["header"]["member_id"])


@contextlib.contextmanager
def running_etcd(
    folder: Path, count: int = 1, *, extra: Sequence[str] = (), scheme: str = "http"
) -> Iterator[list[EtcdMember]]:
    """Run a cluster of `count` members while the block runs."""
    members: list[EtcdMember] = []
    try:
        for attempt in range(ATTEMPTS):
            members = _members(folder / str(attempt), count, extra, scheme)
            for member in members:
                member.start()
            if all(member.wait() for member in members):
                break
            for member in members:
                member.kill()
        else:
            raise AssertionError("etcd does not start")
        yield members
    finally:
        for member in members:
            if member.process is not None:
                member.go_on()
            member.kill()


def url_of(members: Sequence[EtcdMember], namespace: str, query: str = "", user: str = "") -> str:
    return f"etcd://{user}{','.join(member.client for member in members)}/{namespace}{query and '?' + query}"


def _members(folder: Path, count: int, extra: Sequence[str], scheme: str) -> list[EtcdMember]:
    folder.mkdir(parents=True)
    ports = free_ports(2 * count)
    peers = [f"127.0.0.1:{port}" for port in ports[count:]]
    cluster = ",".join(f"m{number}=http://{peer}" for number, peer in enumerate(peers))
    return [
        EtcdMember(f"m{number}", folder, f"127.0.0.1:{ports[number]}", peers[number], cluster, extra, scheme)
        for number in range(count)
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "ETCDCTL_API": "3"}
