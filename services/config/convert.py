"""What the configuration knows, as its messages say it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.api.config import v1
from mesh.config.paths import format_path
from services.config import records
from services.config.applied import Row
from services.config.diff import Difference
from services.config.editing import MAX_AUDITED_PATHS
from services.config.effective import Effective, Leaf
from services.config.gray import Rule
from services.config.layers import Layer
from services.config.records import App, Audit, Manifest, StoredText
from services.config.repository import Known
from services.config.text import Format

if TYPE_CHECKING:
    from services.config.schema import SchemaViolation

_FORMATS = {Format.YAML: v1.FORMAT_YAML, Format.JSON: v1.FORMAT_JSON}


def layer(given: Layer) -> v1.Layer:
    return v1.Layer(environment=given.environment, service=given.service, instance=given.instance)


def rule(given: Rule | None) -> v1.GrayRule | None:
    return None if given is None else v1.GrayRule(percent=given.percent or 0, labels=given.labels)


def document(where: Layer, text: StoredText) -> v1.Document:
    return v1.Document(
        layer=layer(where),
        format=_FORMATS[text.form],
        text=text.text,
        mod_revision=text.revision,
        author=text.author,
        time_unix_ms=text.time_ms,
    )


def application(known: Known[App], *, changed: bool, schema_revision: int) -> v1.Application:
    app = known.value
    return v1.Application(
        name=app.name,
        stable_release=app.stable,
        latest_release=app.latest,
        gray_release=app.gray.release if app.gray else 0,
        gray_rule=rule(app.gray.rule) if app.gray else None,
        changed=changed,
        schema_mod_revision=schema_revision,
        mod_revision=known.revision,
    )


def layer_info(where: Layer, app: App, stable: Manifest, texts: dict[int, StoredText]) -> v1.LayerInfo:
    drafted, released = app.draft.get(where), stable.get(where)
    return v1.LayerInfo(
        layer=layer(where),
        mod_revision=texts[drafted.document].revision if drafted else 0,
        since_release=released.since if released else 0,
        changed=(drafted and drafted.document) != (released and released.document),
    )


def release(given: records.Release) -> v1.Release:
    return v1.Release(
        number=given.number,
        author=given.author,
        comment=given.comment,
        time_unix_ms=given.time_ms,
        rollback_of=given.rollback_of,
        gray_rule=rule(given.gray_rule),
        layers=map(layer, given.manifest),
        changed_layers=map(layer, given.changed),
    )


def effective(given: Effective, content: str) -> v1.Effective:
    return v1.Effective(
        release=given.release,
        checksum=given.checksum,
        content_json=content,
        secret_paths=[format_path(path) for path, _ in given.secret_paths],
    )


def origin(leaf: Leaf) -> v1.Origin:
    return v1.Origin(path=format_path(leaf.path), layer=layer(leaf.layer), release=leaf.release)


def layer_diff(where: Layer, differences: list[Difference]) -> v1.LayerDiff:
    return v1.LayerDiff(
        layer=layer(where),
        values=[v1.ValueDiff(path=one.path, before_json=one.before, after_json=one.after) for one in differences],
    )


def violation(given: SchemaViolation) -> v1.SchemaViolation:
    return v1.SchemaViolation(
        path=given.path,
        description=given.what,
        layer=layer(given.layer),
        service=given.target.service,
        environment=given.target.environment,
    )


def applied(row: Row) -> v1.Applied:
    found = v1.Applied(
        service=row.key[0],
        instance=row.key[1],
        environment=row.environment,
        live=row.live,
        watching=row.watching,
        wanted_release=row.wanted,
        lags=row.lags,
    )
    if row.report is not None:
        found.release = row.report.release
        found.checksum = row.report.checksum
        found.state = row.report.state
        found.error = row.report.error
        found.time_unix_ms = row.report.time_ms
    return found


def audit(name: str, given: Audit) -> v1.AuditEntry:
    return v1.AuditEntry(
        revision=given.revision,
        time_unix_ms=given.time_ms,
        author=given.author,
        action=given.action,
        application=name,
        layer=None if given.layer is None else layer(given.layer),
        release=given.release,
        comment=given.comment,
        changed_paths=given.paths[:MAX_AUDITED_PATHS],
        gray_rule=rule(given.rule),
    )
