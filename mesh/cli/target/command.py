"""The command that `mesh register -- COMMAND` starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence

from mesh.cli.quiet import environment
from mesh.errors import StartError

_KILL_MARGIN = 1.0
# As shells say it: 128 + the number of the signal that ended a command.
_SIGNALLED = 128


class Command:
    """A child process that serves what is registered."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, arguments: Sequence[str], *, own_group: bool) -> Command:
        """Start it. In its own group it gets no Ctrl-C of the terminal, which comes to it when it may stop.

        Raises:
            StartError: there is no such program, or it cannot be run.

        """
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments, stdin=asyncio.subprocess.DEVNULL, start_new_session=own_group, env=environment()
            )
        except OSError as error:
            raise StartError(f"cannot run '{arguments[0]}': {error.strerror}") from error
        return cls(process)

    async def ended(self) -> int:
        """Return its exit code when it ends; 128 + the signal's number when one ended it."""
        code = await self._process.wait()
        return code if code >= 0 else _SIGNALLED - code

    async def stop(self, grace: float) -> int:
        """Ask it to end, kill it when it does not within `grace` seconds, and return its exit code."""
        self._send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.ended(), grace + _KILL_MARGIN)
        self._send(signal.SIGKILL)
        return await self.ended()

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


class Reservation:
    """A free port that is kept from everybody but the command.

    A socket that is bound and does not listen lets another one be bound beside it where both say SO_REUSEADDR, as
    gRPC's servers do; it keeps the system from giving the port to anybody else in between.
    """

    def __init__(self, host: str) -> None:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise StartError(f"cannot take a free port on {host}: {error.strerror}") from error
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            raise StartError(f"cannot take a free port on {host}: {error.strerror}") from error
        self.address = f"{host}:{self._socket.getsockname()[1]}"

    def release(self) -> None:
        """Let the port go."""
        self._socket.close()


def filled_in(arguments: Sequence[str], address: str) -> list[str]:
    """Return `arguments` with {address} and {port} replaced by where the command shall listen."""
    port = address.rpartition(":")[2]
    return [argument.replace("{address}", address).replace("{port}", port) for argument in arguments]
