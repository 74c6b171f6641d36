"""What a request may say: every limit of config.proto on what is no document. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.protobuf.message import Message

from mesh.api.config.v1 import AppliedState, Format, GrayRule
from mesh.api.config.v1 import Layer as LayerMessage
from services.config import gray
from services.config.errors import InvalidError
from services.config.gray import Rule
from services.config.layers import Layer, Target
from services.config.text import Format as TextFormat

MAX_REQUEST_BYTES = 1536 * 1024
MAX_AUTHOR = 128
MAX_COMMENT = 1024
MAX_LABELS, MAX_LABEL_KEY, MAX_LABEL_VALUE = 64, 128, 1024
MAX_ERROR = 1024

_APPLICATION = re.compile(r"[a-z][a-z0-9.-]{0,62}")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_INSTANCE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_LONGEST_SHOWN = 60


def size(request: Message) -> None:
    found = request.ByteSize()
    if found > MAX_REQUEST_BYTES:
        raise InvalidError("request", f"there are {found} bytes, a request has at most {MAX_REQUEST_BYTES}")


def application(name: str) -> str:
    if not _APPLICATION.fullmatch(name):
        raise _invalid("application", name, "1-63 characters of a-z 0-9 . and -, beginning with a letter")
    return name


def layer(given: LayerMessage) -> Layer:
    found = Layer(
        environment=given.environment and _name("layer.environment", given.environment),
        service=given.service and _name("layer.service", given.service),
        instance=given.instance and _instance("layer.instance", given.instance),
    )
    if found.instance and not found.service:
        raise InvalidError("layer.service", "it is missing: an instance's id is unique within its service only")
    if found.instance and found.environment:
        raise InvalidError("layer.environment", "it must be empty: an instance has one layer, whatever its environment")
    return found


def target(service: str, environment: str, instance: str, labels: Mapping[str, str]) -> Target:
    """Return whom a request is about."""
    if instance and not service:
        raise InvalidError("service", "it is missing: an instance's id is unique within its service only")
    if len(labels) > MAX_LABELS:
        raise InvalidError("labels", f"there are {len(labels)}, it must be at most {MAX_LABELS}")
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY or len(value) > MAX_LABEL_VALUE:
            allowed = f"at most {MAX_LABEL_KEY} characters, and its value {MAX_LABEL_VALUE}"
            raise _invalid("labels: the key", key, allowed)
    return Target(
        service and _name("service", service),
        environment and _name("environment", environment),
        instance and _instance("instance", instance),
        dict(labels),
    )


def author(name: str) -> str:
    text = name.strip()
    if not text:
        raise InvalidError("author", "it is missing: say who you are, every change is audited")
    if len(text) > MAX_AUTHOR or not text.isprintable():
        raise _invalid("author", text, f"1-{MAX_AUTHOR} printable characters")
    return text


def comment(text: str) -> str:
    if len(text) > MAX_COMMENT:
        raise _invalid("comment", text, f"at most {MAX_COMMENT} characters")
    return text


def text_format(value: Format.ValueType) -> TextFormat:
    if value not in Format.values():
        raise _invalid("format", value, "FORMAT_YAML or FORMAT_JSON")
    return TextFormat.JSON if value == Format.FORMAT_JSON else TextFormat.YAML


def rule(given: GrayRule) -> Rule:
    # proto3 tells no percent from 0 percent; both select by labels alone.
    return gray.check(Rule(given.percent or None, dict(given.labels)))


def limit(value: int, default: int, most: int) -> int:
    if value > most:
        raise _invalid("limit", value, f"1 to {most}")
    return value or default


def state(value: AppliedState.ValueType) -> AppliedState.ValueType:
    if value == AppliedState.APPLIED_STATE_UNSPECIFIED or value not in AppliedState.values():
        names = [name for name in AppliedState.keys() if name != "APPLIED_STATE_UNSPECIFIED"]  # noqa: SIM118 - an enum
        raise _invalid("state", value, f"one of {', '.join(names)}")
    return value


def checksum(text: str) -> str:
    if not _CHECKSUM.fullmatch(text):
        raise _invalid("checksum", text, "the checksum of a Watch or GetEffective")
    return text


def before(token: str) -> int:
    """Return the revision that a page of the audit is before; 0 for the first one."""
    if token and not (token.isascii() and token.isdigit() and len(token) < 20):
        raise _invalid("page_token", token, "next_page_token of the page before, unchanged")
    return int(token or 0)


def _name(field: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise _invalid(field, text, "1-63 characters of a-z 0-9 and -, beginning with a letter")
    return text


def _instance(field: str, text: str) -> str:
    if not _INSTANCE.fullmatch(text):
        raise _invalid(field, text, "1-128 characters of A-Z a-z 0-9 . _ : -")
    return text


def _invalid(field: str, value: object, allowed: str) -> InvalidError:
    text = str(value)
    shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    if not shown.isprintable():
        shown = shown.encode("unicode_escape").decode("ascii")
    return InvalidError(field, f"'{shown}' must be {allowed}")
