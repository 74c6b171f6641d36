from __future__ import annotations

import pytest

from mesh.api.etcd import v3
from services.storage.kv.base import Batch, CompactedError, Event, EventKind, KeyValue
from services.storage.kv.etcd.assemble import Assembler
from services.storage.kv.etcd.wire import REVOKED, Layout

LAYOUT = Layout("ns")


def put(key: str, revision: int, *, version: int = 1, lease: int = 0) -> v3.Event:
    kv = v3.KeyValue(
        key=LAYOUT.key(key), value=b"v", create_revision=revision, mod_revision=revision, version=version, lease=lease
    )
    return v3.Event(type=v3.EVENT_TYPE_PUT, kv=kv)


def gone(key: bytes, revision: int, *, lease: int = 0, value: bytes = b"v") -> v3.Event:
    prev = v3.KeyValue(key=key, value=value, create_revision=1, mod_revision=1, version=1, lease=lease)
    kv = v3.KeyValue(key=key, mod_revision=revision)
    return v3.Event(type=v3.EVENT_TYPE_DELETE, kv=kv, prev_kv=prev)


def keys(batches: list[Batch]) -> list[tuple[int, list[str]]]:
    return [(batch.revision, [event.key for event in batch.events]) for batch in batches]


def test_a_response_is_taken_apart_by_revision() -> None:
    watch = Assembler(LAYOUT, "", 5)
    assert watch.request().create_request.start_revision == 4
    response = v3.WatchResponse(events=[put("old", 4), put("a", 5), put("b", 5), put("c", 7)])
    assert keys(watch.feed(response)) == [(5, ["a", "b"]), (7, ["c"])]
    assert watch.position == 7
    assert watch.request().create_request.start_revision == 7


def test_fragments_are_put_together() -> None:
    watch = Assembler(LAYOUT, "", 5)
    assert watch.feed(v3.WatchResponse(events=[put("a", 5)], fragment=True)) == []
    assert watch.feed(v3.WatchResponse(events=[put("b", 5), put("c", 6)], fragment=True)) == []
    assert keys(watch.feed(v3.WatchResponse(events=[put("d", 6)]))) == [(5, ["a", "b"]), (6, ["c", "d"])]


def test_a_stream_that_breaks_between_fragments_leaves_nothing_behind() -> None:
    watch = Assembler(LAYOUT, "", 5)
    watch.feed(v3.WatchResponse(events=[put("a", 5)], fragment=True))
    watch.request()
    assert keys(watch.feed(v3.WatchResponse(events=[put("a", 5), put("b", 5)]))) == [(5, ["a", "b"])]


def test_what_a_new_stream_repeats_is_dropped() -> None:
    watch = Assembler(LAYOUT, "", 5)
    watch.feed(v3.WatchResponse(events=[put("a", 5), put("b", 6)]))
    assert keys(watch.feed(v3.WatchResponse(events=[put("b", 6), put("c", 7)]))) == [(7, ["c"])]


def test_other_prefixes_count_as_progress_at_the_end_only() -> None:
    watch = Assembler(LAYOUT, "a/", 5)
    response = v3.WatchResponse(events=[put("b/1", 5), put("a/1", 6), put("b/2", 7), put("b/3", 8)])
    assert keys(watch.feed(response)) == [(6, ["a/1"]), (8, [])]


@pytest.mark.parametrize(
    ("companion", "kind"), [(None, EventKind.DELETE), (b"", EventKind.EXPIRE), (REVOKED, EventKind.DELETE)]
)
def test_the_companion_says_why_keys_left(companion: bytes | None, kind: EventKind) -> None:
    events = [gone(LAYOUT.key("a"), 5, lease=7)]
    if companion is not None:
        events.append(gone(LAYOUT.companion(7), 5, lease=7, value=companion))
    # The end of another lease at the same revision would say nothing of this one.
    events += [gone(LAYOUT.key("b"), 5, lease=8)]
    (batch,) = Assembler(LAYOUT, "", 5).feed(v3.WatchResponse(events=events))
    assert batch.events == (
        Event(kind, "a", None, KeyValue("a", b"v", 1, 1, 7)),
        Event(EventKind.DELETE, "b", None, KeyValue("b", b"v", 1, 1, 8)),
    )


@pytest.mark.parametrize("deleted", [True, False])
def test_a_value_before_that_has_been_compacted_is_not_made_up(deleted: bool) -> None:  # noqa: FBT001
    event = gone(LAYOUT.key("a"), 5) if deleted else put("a", 5, version=2)
    event.ClearField("prev_kv")
    with pytest.raises(CompactedError) as caught:
        Assembler(LAYOUT, "", 5).feed(v3.WatchResponse(events=[event]))
    assert caught.value.compact_revision == 5
