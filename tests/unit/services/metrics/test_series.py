"""The index of series against a scan of all of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.metrics.promql.labels import from_mapping, get
from services.metrics.promql.matchers import Matcher, Op
from services.metrics.series import SeriesIndex, identity

_NAMES = st.sampled_from(("__name__", "job", "code"))
_VALUES = st.sampled_from(("", "a", "b", "ab", "c"))
_LABELS = st.dictionaries(_NAMES, _VALUES, min_size=1).map(from_mapping)
_PATTERNS = st.sampled_from(("a", "a|b", "a.*", ".*", ".+", "", "b|", "[ab]+"))
_MATCHERS = st.one_of(
    st.builds(Matcher, _NAMES, st.sampled_from((Op.EQUAL, Op.NOT_EQUAL)), _VALUES),
    st.builds(Matcher, _NAMES, st.sampled_from((Op.MATCHES, Op.MATCHES_NOT)), _PATTERNS),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_LABELS, max_size=20), st.lists(st.lists(_MATCHERS, max_size=3), max_size=2), st.integers(0, 3))
def test_what_matches_is_what_a_scan_finds(series: list, groups: list, gone: int) -> None:
    index = SeriesIndex()
    for i, one in enumerate(series):
        index.newest[index.add(one)] = 0 if i < gone else 10
    index.forget_before(5)
    left = {one for one in series if (slot := index.slot(one)) is not None and index.newest[slot] == 10}
    found = list(index.of(index.match(groups)))
    assert found == sorted(
        one for one in left if any(all(m.test()(get(one, m.name)) for m in group) for group in groups)
    )
    assert index.names() == sorted({name for one in left for name, _ in one})
    assert index.values("job") == sorted({get(one, "job") for one in left} - {""})
    assert len(index) == len(left)


def test_an_identity_is_of_the_labels_alone_and_fits_a_signed_column() -> None:
    one, other = from_mapping({"a": "bc", "d": ""}), from_mapping({"ab": "c"})
    assert identity(one) == identity(from_mapping({"a": "bc"})) != identity(other)
    assert 0 <= identity(one) < 2**63


def test_arrays_grow_with_the_series() -> None:
    index = SeriesIndex()
    for i in range(3000):
        assert index.add(from_mapping({"i": str(i + 1)})) == i
    assert len(set(index.ids[:3000].tolist())) == 3000
    assert index.add(from_mapping({"i": "7"})) == 6
