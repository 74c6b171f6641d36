"""Documents for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

KEYS = st.sampled_from(["a", "b", "c", "no", "1", "x.y", "ä b", "~"])
TRAPS = ["no", "on", "1:30", "0o17", "1e3", "0x1f", "null", "~", "", " a", "a: b", "# c", "- d", "2001-01-01", "x\ny\n"]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(TRAPS)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[Any] = st.booleans() | NUMBERS | TEXTS
NULLABLE = SCALARS | st.none()


def documents(leaves: st.SearchStrategy[Any] = NULLABLE) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings of anything that JSON can say, with few keys, so that they meet."""
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
    )
    return st.dictionaries(KEYS, values, max_size=5)
