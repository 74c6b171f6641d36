"""What the Config service says, as the client's model. Pure, but for the messages."""

from __future__ import annotations

import json
from typing import Any

from mesh.api.config import v1
from mesh.config.model import Outcome, Subject, View

_STATES = {
    Outcome.APPLIED: v1.APPLIED_STATE_APPLIED,
    Outcome.REJECTED: v1.APPLIED_STATE_REJECTED,
    Outcome.PENDING_RESTART: v1.APPLIED_STATE_PENDING_RESTART,
}


def view_from_proto(header: v1.Header, effective: v1.Effective, *, revealed: bool) -> View:
    """Return a configuration; `revealed` says that its secrets are in clear."""
    paths = frozenset(effective.secret_paths)
    return View(
        cluster_id=header.cluster_id,
        revision=header.revision,
        release=effective.release,
        checksum=effective.checksum,
        content=json.loads(effective.content_json),
        secret_paths=paths,
        missing=frozenset() if revealed else paths,
    )


def watch_request(subject: Subject, lease_id: int, have: View) -> v1.WatchRequest:
    """Return the request that goes on from what the watcher has."""
    request = v1.WatchRequest(lease_id=lease_id, **_subject(subject))
    if have.cluster_id:
        request.seen.cluster_id = have.cluster_id
        request.seen.revision = have.revision
        # What has holes is asked for again, whole.
        if not have.missing:
            request.release, request.checksum = have.release, have.checksum
    return request


def effective_request(subject: Subject, lease_id: int, release: int) -> v1.GetEffectiveRequest:
    return v1.GetEffectiveRequest(lease_id=lease_id, release=release, **_subject(subject))


def report_request(subject: Subject, view: View, outcome: Outcome, error: str) -> v1.ReportAppliedRequest:
    return v1.ReportAppliedRequest(
        release=view.release, checksum=view.checksum, state=_STATES[outcome], error=error, **_subject(subject)
    )


def _subject(subject: Subject) -> Any:
    return {
        "application": subject.application,
        "service": subject.service,
        "instance": subject.instance,
        "environment": subject.environment,
        "labels": dict(subject.labels),
    }
