"""Label sets: tuples of (name, value), by name, without empty values."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

Labels: TypeAlias = tuple[tuple[str, str], ...]

NAME = "__name__"
BUCKET = "le"


def from_mapping(labels: Mapping[str, str]) -> Labels:
    """Return the label set of a mapping; an empty value is the same as no label."""
    return tuple(sorted(pair for pair in labels.items() if pair[1]))


def without_name(labels: Labels) -> Labels:
    if not labels or labels[0][0] > NAME:
        return labels
    if labels[0][0] == NAME:  # nearly always
        return labels[1:]
    return tuple(pair for pair in labels if pair[0] != NAME)


def keep(labels: Labels, names: Collection[str]) -> Labels:
    return tuple(pair for pair in labels if pair[0] in names)


def drop(labels: Labels, names: Collection[str]) -> Labels:
    return tuple(pair for pair in labels if pair[0] not in names)


def get(labels: Labels, name: str) -> str:
    """Return the value of a label, "" when there is none."""
    for key, value in labels:
        if key == name:
            return value
    return ""


def replaced(labels: Labels, changes: Iterable[tuple[str, str]]) -> Labels:
    """Return the labels with some set anew; an empty value removes one."""
    found = dict(labels)
    found.update(changes)
    return from_mapping(found)


def text(labels: Labels) -> str:
    """Return the labels as PromQL writes them."""
    name = get(labels, NAME)
    inside = ", ".join(f"{key}={quoted(value)}" for key, value in labels if key != NAME)
    return f"{name}{{{inside}}}" if inside or not name else name


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
