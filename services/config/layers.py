"""Layers: which concern an instance, in which order, and what their documents come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mesh.config.paths import Path
from services.config import secrets
from services.config.tree import Document, Value

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Layer:
    """One document's place in an application: what is empty is not asked for."""

    environment: str = ""
    service: str = ""
    instance: str = ""

    def __str__(self) -> str:
        """Return how a sentence speaks of it."""
        if self.instance:
            return f"instance {self.service}/{self.instance}"
        named = (("service", self.service), ("environment", self.environment))
        return " in ".join(f"{word} {name}" for word, name in named if name) or "defaults"


@dataclass(frozen=True, slots=True)
class Target:
    """Who a configuration is for."""

    service: str = ""
    environment: str = ""
    instance: str = ""
    # What gray rules may select by.
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Origin:
    """Which layer a leaf comes from, as a position among the merged ones."""

    path: Path
    layer: int


@dataclass(frozen=True, slots=True)
class Merged:
    document: Document
    origins: tuple[Origin, ...]


def order(target: Target) -> Iterator[Layer]:
    """Yield the layers that concern the target, each to be laid over those before."""
    yield Layer()
    if target.environment:
        yield Layer(environment=target.environment)
    if target.service:
        yield Layer(service=target.service)
        if target.environment:
            yield Layer(environment=target.environment, service=target.service)
        if target.instance:
            yield Layer(service=target.service, instance=target.instance)


def stack(target: Target, documents: Mapping[Layer, T]) -> list[tuple[Layer, T]]:
    """Return the layers of the target that there are, lowest first."""
    return [(layer, documents[layer]) for layer in order(target) if layer in documents]


def merge(documents: Sequence[Document]) -> Merged:
    """Lay each document over those before it.

    Mappings merge key by key, null removes the key, anything else (a secret as well) replaces what is below.
    """
    result: Document = {}
    # Where every leaf comes from, in the shape of the result.
    origins: dict[str, object] = {}
    for number, document in enumerate(documents):
        _lay(result, origins, document, number)
    return Merged(result, tuple(_leaves(result, origins, ())))


def targets(layers: Iterable[Layer]) -> list[Target]:
    """Return whom an application with these layers is for, as far as the layers tell.

    Every named service in every named environment, and the named instances. Where environments are named, nobody is
    taken to run in none.
    """
    known = list(layers)
    environments = sorted({layer.environment for layer in known if layer.environment}) or [""]
    services = sorted({layer.service for layer in known if layer.service}) or [""]
    whole = [Target(service, environment) for environment in environments for service in services]
    instances = sorted({(layer.service, layer.instance) for layer in known if layer.instance})
    return whole + [Target(service, environment, one) for environment in environments for service, one in instances]


def _lay(below: Document, origins: dict[str, object], over: Document, number: int) -> None:
    for key, value in over.items():
        if value is None:
            below.pop(key, None)
            origins.pop(key, None)
        elif _mapping(value):
            if not _mapping(below.get(key)):
                below[key] = {}
                origins[key] = {}
            elif not isinstance(origins[key], dict):
                origins[key] = {}  # an empty mapping, which was a leaf
            inner = origins[key]
            assert isinstance(inner, dict)
            _lay(below[key], inner, value, number)
            if not below[key]:
                origins[key] = number
        else:
            below[key] = value
            origins[key] = number


def _mapping(value: Value) -> bool:
    return isinstance(value, dict) and secrets.masked(value) is None


def _leaves(value: Document, origins: Mapping[str, object], path: Path) -> Iterator[Origin]:
    for key, inner in value.items():
        origin = origins[key]
        if isinstance(origin, dict):
            yield from _leaves(inner, origin, (*path, key))
        else:
            assert isinstance(origin, int)
            yield Origin((*path, key), origin)
