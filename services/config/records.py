"""How the configuration lies in the key-value store. Pure.

`config/apps/APP`                       what there is of an application: its draft, which releases are out, the schema.
                                        Every change of an application is a transaction that holds only if this is
                                        unchanged, so that changes of one application have one order.
`config/documents/APP/ID`               a text, never changed; its secrets are masked
`config/releases/APP/NUMBER`            which texts a release holds, never changed
`config/schemas/APP/ID`                 a schema, never changed
`config/secrets/APP/ID`                 an encrypted secret
`config/audit/APP/ID`                   one change: who, when, what
`config/applied/APP/SERVICE/INSTANCE`   what an instance reported last

An ID is the number of the change that made it, as ten digits, so that they sort by age. (Secrets have random ones.)
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mesh.api.config.v1 import Action, AppliedState
from services.config.gray import Rule
from services.config.keys import Token
from services.config.layers import Layer
from services.config.text import Format

PREFIX = "config/"
APPS = PREFIX + "apps/"
APPLIED = PREFIX + "applied/"
SECRETS = PREFIX + "secrets/"


def key(kind: str, application: str, name: str | int) -> str:
    """Return the key of one thing of an application; numbers sort as text."""
    return f"{PREFIX}{kind}/{application}/{name if isinstance(name, str) else f'{name:010}'}"


def app_key(application: str) -> str:
    return APPS + application


@dataclass(frozen=True, slots=True)
class Entry:
    """The document of a layer: which one, and the release that brought it; 0 while it is in none."""

    document: int
    since: int = 0


Manifest = Mapping[Layer, Entry]


@dataclass(frozen=True, slots=True)
class Gray:
    release: int
    rule: Rule


@dataclass(frozen=True, slots=True)
class App:
    """One application; `changes` counts them, and so numbers the next."""

    name: str
    changes: int = 0
    latest: int = 0
    stable: int = 0
    gray: Gray | None = None
    schema: int = 0
    draft: Manifest = field(default_factory=dict)
    # Documents that were drafts and are in no release, oldest first: kept for a while.
    superseded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    number: int
    author: str
    comment: str
    time_ms: int
    manifest: Manifest
    # Those that differ from the release before.
    changed: tuple[Layer, ...]
    rollback_of: int = 0
    gray_rule: Rule | None = None
    schema: int = 0


@dataclass(frozen=True, slots=True)
class StoredText:
    """A document or a schema, as it was put."""

    text: str
    form: Format
    author: str
    time_ms: int
    # Where it was put. Not stored: the key that it is under knows.
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Audit:
    """One change."""

    action: Action.ValueType
    author: str
    time_ms: int
    layer: Layer | None = None
    release: int = 0
    comment: str = ""
    paths: tuple[str, ...] = ()
    rule: Rule | None = None
    # Layers of the draft that got other documents by this; 0 is none any more.
    drafts: Mapping[Layer, int] = field(default_factory=dict)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """What an instance reported."""

    environment: str
    labels: Mapping[str, str]
    release: int
    checksum: str
    state: AppliedState.ValueType
    error: str
    time_ms: int


def encode_app(app: App) -> bytes:
    return _dump(
        {
            "changes": app.changes,
            "latest": app.latest,
            "stable": app.stable,
            "gray": app.gray and [app.gray.release, _rule(app.gray.rule)],
            "schema": app.schema,
            "draft": _manifest(app.draft),
            "superseded": app.superseded,
        }
    )


def decode_app(name: str, value: bytes) -> App:
    found = json.loads(value)
    gray = found["gray"] and Gray(found["gray"][0], _to_rule(found["gray"][1]))
    found |= {"gray": gray, "draft": _to_manifest(found["draft"]), "superseded": tuple(found["superseded"])}
    return App(name, **found)


def encode_release(release: Release) -> bytes:
    return _dump(
        {
            "author": release.author,
            "comment": release.comment,
            "time_ms": release.time_ms,
            "manifest": _manifest(release.manifest),
            "changed": [_layer(layer) for layer in release.changed],
            "rollback_of": release.rollback_of,
            "gray_rule": release.gray_rule and _rule(release.gray_rule),
            "schema": release.schema,
        }
    )


def decode_release(number: int, value: bytes) -> Release:
    found = json.loads(value)
    rule = found["gray_rule"] and _to_rule(found["gray_rule"])
    changed = tuple(Layer(*layer) for layer in found["changed"])
    return Release(
        number, **found | {"manifest": _to_manifest(found["manifest"]), "changed": changed, "gray_rule": rule}
    )


def encode_text(text: StoredText) -> bytes:
    return _dump({"text": text.text, "form": text.form.value, "author": text.author, "time_ms": text.time_ms})


def decode_text(value: bytes, revision: int) -> StoredText:
    found = json.loads(value)
    return StoredText(**found | {"form": Format(found["form"])}, revision=revision)


def encode_audit(audit: Audit) -> bytes:
    return _dump(
        {
            "action": audit.action,
            "author": audit.author,
            "time_ms": audit.time_ms,
            "layer": audit.layer and _layer(audit.layer),
            "release": audit.release,
            "comment": audit.comment,
            "paths": audit.paths,
            "rule": audit.rule and _rule(audit.rule),
            "drafts": [[_layer(layer), document] for layer, document in audit.drafts.items()],
        }
    )


def decode_audit(value: bytes, revision: int) -> Audit:
    found = json.loads(value)
    found |= {
        "layer": found["layer"] and Layer(*found["layer"]),
        "paths": tuple(found["paths"]),
        "rule": found["rule"] and _to_rule(found["rule"]),
        "drafts": {Layer(*layer): document for layer, document in found["drafts"]},
    }
    return Audit(**found, revision=revision)


def encode_token(token: Token) -> bytes:
    return _dump({"key": token.key_id, "data": base64.b64encode(token.data).decode()})


def decode_token(value: bytes) -> Token:
    found = json.loads(value)
    return Token(found["key"], base64.b64decode(found["data"]))


def encode_applied(applied: Applied) -> bytes:
    return _dump(
        {
            "environment": applied.environment,
            "labels": dict(applied.labels),
            "release": applied.release,
            "checksum": applied.checksum,
            "state": applied.state,
            "error": applied.error,
            "time_ms": applied.time_ms,
        }
    )


def decode_applied(value: bytes) -> Applied:
    return Applied(**json.loads(value))


def same_report(one: Applied, other: Applied) -> bool:
    """Tell whether two reports differ in nothing but their time."""
    return replace(one, time_ms=0) == replace(other, time_ms=0)


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _layer(layer: Layer) -> list[str]:
    return [layer.environment, layer.service, layer.instance]


def _manifest(manifest: Manifest) -> list[list[Any]]:
    return [[_layer(layer), entry.document, entry.since] for layer, entry in sorted(manifest.items(), key=_by_layer)]


def _by_layer(item: tuple[Layer, Entry]) -> Layer:
    return item[0]


def _to_manifest(found: list[list[Any]]) -> Manifest:
    return {Layer(*layer): Entry(document, since) for layer, document, since in found}


def _rule(rule: Rule) -> dict[str, Any]:
    return {"percent": rule.percent, "labels": dict(rule.labels)}


def _to_rule(found: dict[str, Any]) -> Rule:
    return Rule(found["percent"], found["labels"])
