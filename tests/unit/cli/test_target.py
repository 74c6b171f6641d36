from __future__ import annotations

import os
import socket
import sys

import pytest

from mesh.child import ending
from mesh.cli.quiet import environment, quieten
from mesh.cli.register import _pairs
from mesh.cli.target.command import Command, Reservation, filled_in
from mesh.cli.target.reflection import application_services
from mesh.errors import StartError, UsageError


def test_what_every_server_has_is_not_the_application_s() -> None:
    names = ["b.v1.B", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "a.v1.A", "grpcish.v1.C"]
    assert application_services(names) == ["a.v1.A", "b.v1.B", "grpcish.v1.C"]


def test_the_command_is_told_where_to_listen() -> None:
    assert filled_in(["serve", "--at={address}", "{port}", "{other}"], "[::1]:5") == [
        "serve",
        "--at=[::1]:5",
        "5",
        "{other}",
    ]


def test_a_reserved_port_is_nobody_else_s_and_the_command_can_have_it() -> None:
    reservation = Reservation("127.0.0.1")
    port = int(reservation.address.rpartition(":")[2])
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    # As gRPC's servers do it.
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        pass
    reservation.release()


def test_a_host_that_is_not_ours_is_said() -> None:
    with pytest.raises(StartError, match=r"cannot take a free port on 192\.0\.2\.1"):
        Reservation("192.0.2.1")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with 0"),
        (7, "exited with 7"),
        (137, "was killed by SIGKILL"),
        (-15, "was killed by SIGTERM"),
        (255, "exited with 255"),
    ],
)
def test_how_a_command_ended(code: int, words: str) -> None:
    assert ending(code) == words


async def test_a_command_s_exit_code_is_passed_on() -> None:
    command = await Command.start([sys.executable, "-c", "raise SystemExit(5)"], own_group=True)
    assert await command.ended() == 5
    assert await command.stop(1) == 5


async def test_a_command_that_does_not_listen_to_reason_is_killed() -> None:
    script = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    command = await Command.start([sys.executable, "-c", script], own_group=True)
    assert await command.stop(0) in (128 + 9, 128 + 15)


def test_metadata_is_pairs() -> None:
    assert _pairs(["a=b", "c=", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}
    for wrong in ("a", "=b"):
        with pytest.raises(UsageError, match="is not KEY=VALUE"):
            _pairs([wrong])


def test_a_program_that_is_not_ours_keeps_its_grpc_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "1")
    before = dict(os.environ)
    quieten()
    assert os.environ["GRPC_VERBOSITY"] == "NONE"
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "1"
    assert environment() == before
