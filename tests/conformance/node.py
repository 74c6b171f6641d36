"""Node's gRPC client, `@grpc/grpc-js`: installed by npm into the build folder when a test first wants it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "interop_node"
INSTALLED = ROOT / "build" / "interop_node"
_INSTALL_SECONDS = 100
_CASE_SECONDS = 60


def install() -> None:
    """Have the packages of package.json installed; skips the test where that cannot be."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("no node and npm here, which @grpc/grpc-js needs")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    wanted = (SOURCE / "package.json").read_bytes()
    done = INSTALLED / "installed.json"
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if done.exists() and done.read_bytes() == wanted:
            return
        (INSTALLED / "package.json").write_bytes(wanted)
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        try:
            result = subprocess.run(
                command, cwd=INSTALLED, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm has not installed @grpc/grpc-js within {_INSTALL_SECONDS} s")
        if result.returncode:
            pytest.skip(f"npm cannot install @grpc/grpc-js: {result.stderr.strip()[-300:]}")
        done.write_bytes(wanted)


async def run_case(address: str, case: str, ca: str = "") -> str:
    """Run one interop case against an address; returns what differed, "" when all was right."""
    process = await asyncio.create_subprocess_exec(
        *("node", str(SOURCE / "interop.js"), address, case, *((ca,) if ca else ())),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NODE_PATH": str(INSTALLED / "node_modules")},
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _CASE_SECONDS)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return "" if process.returncode == 0 else said.decode() or f"exit {process.returncode}"
