"""Compiles what every call runs, where a C compiler is at hand. All else about the package is in pyproject.toml.

The modules stay plain Python, which runs as well: mypyc turns what mypy has checked into C. MESHPLANE_COMPILE says
whether it does: "auto" (where it can), "no", or "yes" (else the build fails). An editable installation is never
compiled, since what is edited would then not be what runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from setuptools import setup

# What every call runs. Not here: options, whose types are asked for at run time (limits.py, deadline.py,
# protection.py); proxy/call/reason.py, an enum with values of its own; interceptor.py, which others inherit from; and
# proxy/upstream/targets.py, which is referred to weakly.
COMPILED = (
    "mesh/correlation.py",
    "mesh/resilience/breaker.py",
    "mesh/resilience/deadline.py",
    "mesh/resilience/outcome.py",
    "mesh/resilience/window.py",
    "mesh/tracing.py",
    "proxy/call/call.py",
    "proxy/call/dispatch.py",
    "proxy/call/pipeline.py",
    "proxy/engines/wire/credit.py",
    "proxy/engines/wire/endings.py",
    "proxy/engines/wire/exchange.py",
    "proxy/engines/wire/framing.py",
    "proxy/engines/wire/headers.py",
    "proxy/engines/wire/joining.py",
    "proxy/engines/wire/mirroring.py",
    "proxy/engines/wire/replies.py",
    "proxy/engines/wire/reply.py",
    "proxy/engines/wire/session.py",
    "proxy/engines/wire/transport.py",
    "proxy/engines/wire/upstream.py",
    "proxy/engines/wire/wheel.py",
    "proxy/interceptors/access_log.py",
    "proxy/interceptors/breaker.py",
    "proxy/interceptors/correlation.py",
    "proxy/interceptors/metrics.py",
    "proxy/interceptors/tracing.py",
    "proxy/routing/table.py",
    "proxy/upstream/endpoint.py",
)

_BUILDS = {"bdist_wheel", "build", "build_ext", "install"}


def _extensions() -> list[Any]:
    wish = os.environ.get("MESHPLANE_COMPILE", "auto")
    if wish not in {"auto", "no", "yes"}:
        raise SystemExit(f"MESHPLANE_COMPILE is '{wish}': it must be auto, no or yes")
    if wish == "no" or not _BUILDS.intersection(sys.argv):
        return []
    why = _cannot_compile()
    if why and wish == "yes":
        raise SystemExit(f"the data path cannot be compiled: {why}")
    if why:
        sys.stderr.write(f"the data path is installed as plain Python and takes half as much CPU again: {why}\n")
        return []
    from mypyc.build import mypycify

    # What the modules import need not be installed here: it is not compiled.
    checking = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--namespace-packages"]
    extensions: list[Any] = mypycify(
        [*checking, "--explicit-package-bases", *COMPILED], opt_level="3", debug_level="0", group_name="meshplane"
    )
    return extensions


def _cannot_compile() -> str:
    """Return why nothing can be compiled here, "" when it can."""
    try:
        import mypyc.build  # noqa: F401
    except ImportError as error:
        return f"mypyc cannot be imported ({error})"
    from setuptools._distutils.ccompiler import new_compiler
    from setuptools._distutils.errors import CCompilerError, DistutilsError
    from setuptools._distutils.sysconfig import customize_compiler, get_python_inc

    compiler = new_compiler()
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.c")
        probe.write_text("#include <Python.h>\n")
        try:
            compiler.compile([str(probe)], output_dir=folder, include_dirs=[get_python_inc()])
        except (CCompilerError, DistutilsError, OSError) as error:
            return f"no C compiler, or no headers of Python ({error})"
    return ""


setup(ext_modules=_extensions())
