"""What a watch of etcd says, as batches: whole revisions, in order, none twice. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from mesh.api.etcd import v3
from services.storage.kv.base import Batch, CompactedError, Event, EventKind
from services.storage.kv.etcd.wire import REVOKED, Layout


class Assembler:
    """Where one watcher is, across all the streams that it takes to follow etcd."""

    def __init__(self, layout: Layout, prefix: str, start_revision: int) -> None:
        self._layout = layout
        self._prefix = layout.key(prefix)
        # The last revision that has been dealt with.
        self.position = start_revision - 1
        self._parts: list[v3.Event] = []

    def request(self) -> v3.WatchRequest:
        """Return the request for a new stream, which forgets what is left of the old one.

        It asks for one revision more than is missing: etcd takes a watch from the very revision that was compacted,
        whose deletions it may have lost by then, where we say that those up to it are gone. `feed` drops the surplus.

        The whole namespace is watched, whatever the prefix: companions say why keys left, and revisions of other keys
        are a place to resume from.
        """
        self._parts = []
        everything = self._layout.everything
        create = v3.WatchCreateRequest(
            key=everything.key,
            range_end=everything.range_end,
            start_revision=max(1, self.position),
            prev_kv=True,
            fragment=True,
        )
        return v3.WatchRequest(create_request=create)

    def feed(self, response: v3.WatchResponse) -> list[Batch]:
        """Return the revisions that are complete with this response.

        Raises:
            CompactedError: what happened before them is no longer known.

        """
        self._parts.extend(response.events)
        if response.fragment:
            return []
        events, self._parts = self._parts, []
        found = []
        # etcd sends revisions in order, and a response (once its fragments are together) holds all of each.
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            if revision > self.position:
                found.append(Batch(revision, tuple(self._events(revision, list(group)))))
                self.position = revision
        return [batch for batch in found if batch.events or batch is found[-1]]

    def _events(self, revision: int, events: list[v3.Event]) -> Iterable[Event]:
        ended = dict(self._ended(events))
        for event in events:
            if not event.kv.key.startswith(self._prefix):
                continue
            deleted = event.type == v3.EVENT_TYPE_DELETE
            if not event.HasField("prev_kv") and (deleted or event.kv.version > 1):
                # Compaction was faster than we: etcd looks for the value before when it sends the event.
                raise CompactedError(revision)
            key = self._layout.own_key(event.kv.key)
            assert key is not None
            prev = self._layout.key_value(event.prev_kv) if event.HasField("prev_kv") else None
            if not deleted:
                yield Event(EventKind.PUT, key, self._layout.key_value(event.kv), prev)
            else:
                yield Event(ended.get(event.prev_kv.lease, EventKind.DELETE), key, None, prev)

    def _ended(self, events: list[v3.Event]) -> Iterable[tuple[int, EventKind]]:
        """Yield the leases that ended in this revision, and what that means for their keys."""
        for event in events:
            lease_id = self._layout.own_lease(event.kv.key)
            if lease_id is not None and event.type == v3.EVENT_TYPE_DELETE:
                revoked = event.prev_kv.value == REVOKED
                yield lease_id, EventKind.DELETE if revoked else EventKind.EXPIRE
