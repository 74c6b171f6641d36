"""What tests of the mesh, and of services on it, are made with.

`Mesh` is a whole mesh in one process; `RealControl` the real control services in another one. Both are fixtures of
pytest too, `service_mesh` and `mesh_control` (`mesh.testing.plugin`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mesh.testing.clock import ManualClock

if TYPE_CHECKING:
    from mesh.testing.faults import Fault, SeenCall
    from mesh.testing.real import RealControl
    from mesh.testing.world import Instance, Mesh

__all__ = ["Fault", "Instance", "ManualClock", "Mesh", "RealControl", "SeenCall"]

# Read when first asked for: a clock needs none of them.
_WHERE = {
    "Fault": "mesh.testing.faults",
    "Instance": "mesh.testing.world",
    "Mesh": "mesh.testing.world",
    "RealControl": "mesh.testing.real",
    "SeenCall": "mesh.testing.faults",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'mesh.testing' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)
