"""The series that are known, in memory: by number, by identity, and by their labels. Pure.

A series' identity is a hash of its labels, so it is the same in every process and after every start; its slot is its
place in the arrays of this process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from services.metrics.promql.data import Ints
from services.metrics.promql.labels import Labels, get
from services.metrics.promql.matchers import Matcher

_NOTHING: frozenset[int] = frozenset()


def identity(labels: Labels) -> int:
    """Return the 63-bit identity of a series."""
    packed = "\xff".join(part for pair in labels for part in pair).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "big") >> 1


class SeriesIndex:
    """All known series."""

    def __init__(self) -> None:
        self.labels: list[Labels | None] = []
        self._slots: dict[Labels, int] = {}
        self._postings: dict[str, dict[str, set[int]]] = {}
        # By slot, with room for more; `ids` is -1 where a series was forgotten.
        self.ids = np.empty(1024, np.int64)
        # Milliseconds of the newest sample, and of the period in which the series was last written down.
        self.newest = np.empty(1024, np.int64)
        self.announced = np.empty(1024, np.int64)

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, labels: Labels) -> int | None:
        """Return the slot of a series, None when it is not known."""
        return self._slots.get(labels)

    def add(self, labels: Labels) -> int:
        """Return the slot of a series, which is known from now on."""
        found = self._slots.get(labels)
        if found is not None:
            return found
        slot = len(self.labels)
        if slot == len(self.ids):
            self.ids, self.newest, self.announced = (
                np.concatenate((array, np.empty_like(array))) for array in (self.ids, self.newest, self.announced)
            )
        self.labels.append(labels)
        self._slots[labels] = slot
        self.ids[slot], self.newest[slot], self.announced[slot] = identity(labels), 0, -1
        for name, value in labels:
            self._postings.setdefault(name, {}).setdefault(value, set()).add(slot)
        return slot

    def forget_before(self, horizon_ms: int) -> int:
        """Forget the series that have no sample after `horizon_ms`; return how many."""
        old = [slot for slot in self._slots.values() if self.newest[slot] < horizon_ms]
        for slot in old:
            labels = self.labels[slot]
            assert labels is not None
            del self._slots[labels]
            self.labels[slot] = None
            self.ids[slot] = -1
            for name, value in labels:
                values = self._postings[name]
                values[value].discard(slot)
                if not values[value]:
                    del values[value]
                    if not values:
                        del self._postings[name]
        return len(old)

    def match(self, groups: Iterable[Sequence[Matcher]]) -> list[int]:
        """Return the slots of the series that fit all matchers of any group, by labels."""
        found: set[int] = set()
        for group in groups:
            found |= self._all_of(group)
        return sorted(found, key=self._order)

    def select(self, groups: Sequence[Sequence[Matcher]], start: int | None) -> list[int]:
        """As `match`, of series with a sample at `start` (milliseconds) or later; no groups at all is every series."""
        slots = self.match(groups) if groups else sorted(self._slots.values(), key=self._order)
        return slots if start is None else [slot for slot in slots if self.newest[slot] >= start]

    def names(self) -> list[str]:
        return sorted(self._postings)

    def values(self, name: str) -> list[str]:
        return sorted(self._postings.get(name, ()))

    def of(self, slots: Iterable[int]) -> Iterator[Labels]:
        """Yield the labels of slots."""
        for slot in slots:
            labels = self.labels[slot]
            assert labels is not None
            yield labels

    def alive(self, slots: Ints) -> bool:
        """Tell whether all these slots still are those of a series."""
        return bool((self.ids[slots] >= 0).all())

    def _order(self, slot: int) -> Labels:
        labels = self.labels[slot]
        assert labels is not None
        return labels

    def _all_of(self, matchers: Sequence[Matcher]) -> set[int]:
        """Return the slots that fit all matchers: first those that narrow by an index, then the others one by one."""
        narrowed: set[int] | None = None
        rest = []
        for matcher in matchers:
            test = matcher.test()
            if test(""):
                rest.append((matcher.name, test))  # fits series without the label as well
                continue
            values = self._postings.get(matcher.name, {})
            exact = matcher.exact()
            sets = [values.get(value, _NOTHING) for value in exact] if exact is not None else None
            if sets is None:
                sets = [slots for value, slots in values.items() if test(value)]
            fitting: set[int] = set().union(*sets) if len(sets) != 1 else set(sets[0])
            narrowed = fitting if narrowed is None else narrowed & fitting
            if not narrowed:
                return set()
        if narrowed is None:
            narrowed = set(self._slots.values())
        for name, test in rest:
            without = test("")
            values = self._postings.get(name, {})
            if len(values) < len(narrowed):  # cheaper by value than by series
                wrong: set[int] = set().union(*(slots for value, slots in values.items() if not test(value)))
                narrowed -= wrong
            else:
                narrowed = {
                    slot for slot in narrowed if (test(value) if (value := get(self._order(slot), name)) else without)
                }
        return narrowed
