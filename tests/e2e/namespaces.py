"""A network namespace of its own for a process, whose link can be cut in such a way that packets vanish.

The link is cut at its far end. The near end stays up, keeps its route and knows the far end's hardware address for
good, so this machine sends on and is told nothing: no RST, no ICMP, no "no route to host". A process that waits for its
standard input to end holds the namespace, so nothing is left behind even when the tests are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from subprocess import DEVNULL, PIPE, CalledProcessError

import pytest

# 198.18.0.0/15 is set aside for tests of networks (RFC 2544): room for 32768 networks of four addresses.
_NETWORKS = IPv4Address("198.18.0.0")
_ROOM = 1 << 15
_NEAR_MAC, _FAR_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_TOOLS = ("ip", "unshare", "nsenter")
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_NOT_ALLOWED = "Operation not permitted"


class Namespace:
    """A network of two: this machine, and whoever is started inside."""

    def __init__(self, holder: int) -> None:
        network = _NETWORKS + 4 * (os.getpid() % _ROOM)
        # This machine's address in it, and that of the namespace.
        self.near, self.far = str(network + 1), str(network + 2)
        self._inside = (_tool("nsenter"), f"--net=/proc/{holder}/ns/net", "--")
        self._holder = str(holder)
        # At most 15 characters.
        self._near_link, self._far_link = f"mesh{os.getpid()}n", f"mesh{os.getpid()}f"

    def inside(self, *command: str) -> tuple[str, ...]:
        """Return a command that becomes (it keeps its pid) this command, inside."""
        return (*self._inside, *command)

    async def make(self) -> None:
        near, far = self._near_link, self._far_link
        pair = ("type", "veth", "peer", "name", far, "address", _FAR_MAC, "netns", self._holder)
        await _ip("link", "add", near, "address", _NEAR_MAC, *pair)
        await _ip("address", "add", f"{self.near}/30", "dev", near)
        await _ip("link", "set", near, "up")
        await _ip("neighbour", "replace", self.far, "lladdr", _FAR_MAC, "dev", near, "nud", "permanent")
        await self._ip_inside("address", "add", f"{self.far}/30", "dev", far)
        await self._ip_inside("link", "set", "lo", "up")
        await self.heal()

    async def cut(self) -> None:
        await self._ip_inside("link", "set", self._far_link, "down")

    async def heal(self) -> None:
        await self._ip_inside("link", "set", self._far_link, "up")

    async def remove(self) -> None:
        with contextlib.suppress(CalledProcessError):  # it was not made, or is gone
            await _ip("link", "delete", self._near_link)

    async def _ip_inside(self, *arguments: str) -> None:
        await _run(*self.inside(_tool("ip"), *arguments))


@contextlib.asynccontextmanager
async def namespace() -> AsyncIterator[Namespace]:
    """Make a namespace, which is gone in the end; skips the test where that is not allowed."""
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here, to make network namespaces with")
    # It says back what it hears: from then on it is inside.
    holder = await asyncio.create_subprocess_exec(
        *(_tool("unshare"), "--net", "cat"), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            holder.stdin.write(b"\n")
            await holder.stdin.drain()
        if not await holder.stdout.readline():
            _refused((await holder.stderr.read()).decode())
        made = Namespace(holder.pid)
        try:
            try:
                await made.make()
            except CalledProcessError as error:
                _refused(error.stderr)
            yield made
        finally:
            await made.remove()
    finally:
        holder.stdin.close()
        await holder.wait()


def _refused(said: str) -> None:
    if _NOT_ALLOWED in said:
        pytest.skip(f"network namespaces are for root: {said.strip()}")
    raise AssertionError(said)


def _tool(name: str) -> str:
    return shutil.which(name, path=_PATH) or name


async def _ip(*arguments: str) -> None:
    await _run(_tool("ip"), *arguments)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, said = await process.communicate()
    if process.returncode:
        raise CalledProcessError(process.returncode, command, stderr=said.decode())
