"""The library that service authors import: `import mesh`, then `mesh.join`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.context import CallContext, annotate, current, without_deadline
    from mesh.sdk.mesh import Mesh, join

__version__ = "0.1.0"
__all__ = ["CallContext", "Mesh", "__version__", "annotate", "current", "join", "without_deadline"]

# Read when first asked for: the command line imports this package too, and needs none of them.
_WHERE = {
    "CallContext": "mesh.context",
    "Mesh": "mesh.sdk.mesh",
    "annotate": "mesh.context",
    "current": "mesh.context",
    "join": "mesh.sdk.mesh",
    "without_deadline": "mesh.context",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mesh' has no attribute '{name}'")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
