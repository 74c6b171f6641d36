"""Small values that are made by the dozen for each write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a dataclass that nobody changes; type checkers see to that.

    What sees to it when the program runs makes each value cost four times as much, and a write makes a dozen of them.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
