"""The document of the application `mesh.edge` as an edge reads it: all of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.edge.policy import document
from mesh.edge.policy.document import Document, check_ceiling
from mesh.edge.policy.reading import Place
from proxy.call.limits import Limits
from proxy.engines.options import Protection

_LIMITS = ("max_message_bytes", "max_header_bytes", "max_headers", "max_calls_in_flight")


def read(content: object, ceiling: Limits) -> Document:
    """Return what a document says; no limit may be over `ceiling`, the edge's own.

    Raises:
        PolicyError: it makes no sense.

    """

    def edge(place: Place) -> tuple[Mapping[str, int], Mapping[str, Any]]:
        given = place.mapping(("limits", "protection"))
        return (
            _limits(given["limits"], ceiling) if "limits" in given else {},
            _given(given["protection"], Protection) if "protection" in given else {},
        )

    return document.read(content, ceiling, edge)


def _limits(place: Place, ceiling: Limits) -> dict[str, int]:
    place.mapping(_LIMITS)
    found = _given(place, Limits)
    check_ceiling(place, _LIMITS, ceiling)
    return found


def _given(place: Place, kind: type) -> dict[str, Any]:
    """Return what a mapping sets of the fields of a class of options."""
    options = place.options(kind)
    return {name: getattr(options, name) for name in place.mapping()}
