"""Which methods are said to be unary. What is said may be wrong: it decides what a call costs, not what it may do."""

from __future__ import annotations

from collections.abc import Iterable


class UnaryClaims:
    """The paths of methods that take one message and give one, by what their instances say of themselves."""

    def __init__(self) -> None:
        # Replaced as a whole; read for every call.
        self.methods: frozenset[bytes] = frozenset()
        self._refuted: set[bytes] = set()

    def replace(self, methods: Iterable[bytes]) -> None:
        """Take what is claimed now; a claim that was made before and turned out wrong does not count again."""
        claimed = frozenset(methods)
        self._refuted &= claimed
        self.methods = claimed - self._refuted

    def refute(self, method: bytes) -> None:
        """Note that an upstream did not answer with one message."""
        self._refuted.add(method)
        self.methods -= {method}
