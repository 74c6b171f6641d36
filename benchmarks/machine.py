"""Where and with what a run was made."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import tools

_PACKAGES = ("grpcio", "ngh2", "uvloop")
_PROGRAMS = ("envoy", "nghttpx", "haproxy", "nginx", "h2load")


def describe(python: str, *, quick: bool) -> dict[str, Any]:
    """Return what is worth knowing of a run that begins now, whose edge runs on an interpreter."""
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "mesh", "proxy")),
        "quick": quick,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": _python(python),
        "versions": {name: tools.version(name) for name in _PROGRAMS} | {name: _package(name) for name in _PACKAGES},
    }


def _python(path: str) -> str:
    """Return the version of a Python, its compiler, and how it was built as far as it tells."""
    script = (
        "import platform, sysconfig\n"
        "flags = sysconfig.get_config_var('CONFIG_ARGS') or ''\n"
        "told = [flag for flag in ('--enable-optimizations', '--with-lto', '--enable-shared') if flag in flags]\n"
        "print(platform.python_version(), platform.python_compiler(), *told, sep=', ')\n"
    )
    return subprocess.run([path, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(tools.ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
