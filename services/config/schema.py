"""JSON Schema (draft 2020-12) over merged documents: what is wrong, where, and because of which layer. Pure.

The sentences are ours and not the library's: that quotes whole values, and a value may be long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
from jsonschema import Draft202012Validator
from referencing.jsonschema import DRAFT202012

from mesh.config.paths import Path, format_path
from services.config import secrets
from services.config import text as texts
from services.config.errors import InvalidError
from services.config.layers import Layer, Merged, Target, merge, stack, targets
from services.config.text import Format, canonical
from services.config.tree import Document, Value

MAX_SCHEMA_BYTES = 256 * 1024
MAX_VIOLATIONS = 50
_PLACEHOLDER = "********"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class SchemaViolation:
    """One way in which one merged configuration does not satisfy the schema."""

    path: str
    what: str
    layer: Layer
    target: Target


class Schema:
    """A schema that has been checked."""

    def __init__(self, text: str) -> None:
        """Read a schema from JSON or YAML.

        Raises:
            InvalidError: it is none.

        """
        if len(text.encode("utf-8", "surrogatepass")) > MAX_SCHEMA_BYTES:
            raise InvalidError("schema", f"it has at most {MAX_SCHEMA_BYTES} bytes")
        form = Format.JSON if text.lstrip().startswith("{") else Format.YAML
        try:
            document = texts.read(text, form).data()
            Draft202012Validator.check_schema(document)
            _check_references(document)
            # Without a way to fetch what is elsewhere.
            self._validator = Draft202012Validator(document, registry=referencing.Registry())
            next(self._validator.iter_errors({}), None)
        except RecursionError:
            raise InvalidError("schema", "a $ref leads to itself") from None
        except InvalidError as error:
            (violation,) = error.violations
            raise InvalidError(f"schema, {violation.where}", violation.what) from None
        except jsonschema.SchemaError as error:
            where = format_path(tuple(error.absolute_path)) or "the schema"
            raise InvalidError(f"schema, {where}", f"this is not JSON Schema ({error.message[:200]})") from None
        except referencing.exceptions.Unresolvable as error:
            raise InvalidError("schema", f"$ref '{error.ref}' leads nowhere: write what it means below $defs") from None

    def violations(self, document: Document) -> list[tuple[Path, str]]:
        """Return what is wrong with a merged document, by path."""
        places = {path for path, _ in secrets.find(document)}
        plain = secrets.reveal(document, {secret_id: _PLACEHOLDER for _, secret_id in secrets.find(document)})
        found: dict[tuple[Path, str], None] = {}
        try:
            for error in self._validator.iter_errors(plain):
                for path, what in _explain(error):
                    # Of a secret only the type is known here, and shall be.
                    if path not in places or error.validator == "type":
                        found[path, what] = None
                if len(found) >= MAX_VIOLATIONS:
                    break
        except referencing.exceptions.Unresolvable as error:
            found[(), f"the schema's $ref '{error.ref}' leads nowhere"] = None
        except RecursionError:
            found[(), "the schema has a $ref that leads to itself"] = None
        return sorted(found, key=lambda one: (format_path(one[0]), one[1]))


def check_all(schema: Schema, documents: Mapping[Layer, Document]) -> list[SchemaViolation]:
    """Return what is wrong with the configuration of anybody that the layers are for, each thing once."""
    found: dict[tuple[str, str], SchemaViolation] = {}
    seen: set[tuple[Layer, ...]] = set()
    for target in targets(documents):
        layers = stack(target, documents)
        names = tuple(layer for layer, _ in layers)
        if names in seen:
            continue
        seen.add(names)
        merged = merge([document for _, document in layers])
        for path, what in schema.violations(merged.document):
            text = format_path(path)
            found.setdefault((text, what), SchemaViolation(text, what, _blame(names, merged, path), target))
        if len(found) >= MAX_VIOLATIONS:
            break
    return list(found.values())


def _check_references(document: Document) -> None:
    """Refuse references that lead out of the schema, or nowhere."""
    resource = DRAFT202012.create_resource(document)
    resolver = referencing.Registry().with_resource("", resource).resolver()
    for node in _nodes(document):
        for keyword in ("$ref", "$dynamicRef"):
            reference = node.get(keyword, "#")
            if isinstance(reference, str) and not reference.startswith("#"):
                raise InvalidError(keyword, f"'{reference[:_SHOWN]}' leads out of the schema: write it below $defs")
            if isinstance(reference, str) and reference.startswith("#/"):
                resolver.lookup(reference)


def _nodes(value: Value) -> Iterator[dict[str, Value]]:
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _blame(layers: tuple[Layer, ...], merged: Merged, path: Path) -> Layer:
    """Return the highest layer that has a say in what stands at or below `path`."""
    concerned = [
        origin.layer
        for origin in merged.origins
        if origin.path[: len(path)] == path or path[: len(origin.path)] == origin.path
    ]
    return layers[max(concerned)] if concerned and layers else Layer()


def _explain(error: Any) -> Iterator[tuple[Path, str]]:
    path: Path = tuple(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        said = _SENTENCES.get(error.validator, lambda value: f"must satisfy {error.validator}: {_short(value)}")
        yield (*path, str(error.instance)), f"is a key that {said(error.validator_value)}"
        return
    say = _SENTENCES.get(error.validator)
    if error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield (*path, name), "is missing"
    elif error.validator == "additionalProperties" and error.validator_value is False:
        for name in _unknown(error.instance, error.schema):
            yield (*path, name), "is not known here"
    elif say is not None:
        yield path, say(error.validator_value)
    else:
        yield path, f"does not satisfy {error.validator}: {_short(error.validator_value)}"


def _unknown(instance: Mapping[str, Value], schema: Mapping[str, Any]) -> Iterable[str]:
    patterns = [re.compile(pattern) for pattern in schema.get("patternProperties", ())]
    known = schema.get("properties", {})
    return [name for name in instance if name not in known and not any(one.search(name) for one in patterns)]


_SENTENCES: Mapping[str, Callable[[Any], str]] = {
    "type": lambda kind: f"must be of type {' or '.join(kind) if isinstance(kind, list) else kind}",
    "enum": lambda values: f"must be one of {', '.join(map(_short, values))}",
    "const": lambda value: f"must be {_short(value)}",
    "minimum": lambda bound: f"must be at least {bound}",
    "maximum": lambda bound: f"must be at most {bound}",
    "exclusiveMinimum": lambda bound: f"must be more than {bound}",
    "exclusiveMaximum": lambda bound: f"must be less than {bound}",
    "pattern": lambda pattern: f"must match {_short(pattern)}",
    "minLength": lambda bound: f"must have at least {bound} characters",
    "maxLength": lambda bound: f"must have at most {bound} characters",
    "minItems": lambda bound: f"must have at least {bound} items",
    "maxItems": lambda bound: f"must have at most {bound} items",
    "uniqueItems": lambda _: "must not have the same item twice",
    "minProperties": lambda bound: f"must have at least {bound} keys",
    "maxProperties": lambda bound: f"must have at most {bound} keys",
    "anyOf": lambda _: "does not satisfy any of the forms that the schema allows (anyOf)",
    "oneOf": lambda _: "must satisfy exactly one of the forms that the schema allows (oneOf)",
}


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
