"""`mesh version`."""

from __future__ import annotations

import platform

import typer

from mesh import __version__
from mesh.cli.arguments import Json
from mesh.cli.output import print_json, print_line


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("version")(version)


def version(*, as_json: Json = False) -> None:
    """Print the version of the mesh and of what it stands on."""
    from importlib import metadata

    from proxy.call import call

    versions = {
        "meshplane": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("grpcio", "protobuf", "uvloop")},
        # Whether this installation compiled what every call runs (setup.py).
        "data path": "interpreted" if str(call.__file__).endswith(".py") else "compiled",
    }
    if as_json:
        print_json(versions)
    else:
        print_line(" ".join((f"meshplane {__version__}", *(f"{k} {v}" for k, v in list(versions.items())[1:]))))
