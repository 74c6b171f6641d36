"""The control processes of the mesh, as the registry has them. Pure."""

from __future__ import annotations

from mesh.api.registry.v1 import HEALTH_SERVING, Instance
from services.registry.view import View

# The name under which control processes find themselves in their own registry.
SERVICE = "mesh-control"


def others(view: View, me: str) -> list[Instance]:
    """Return the control processes that live and serve, but `me`."""
    return [one for one in view.page(SERVICE, None) if one.instance_id != me and one.health == HEALTH_SERVING]
