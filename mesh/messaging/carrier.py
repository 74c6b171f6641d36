"""Headers of messages in the shapes that brokers' clients have them: mappings, lists of pairs, text or bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, TypeAlias

# Names and values are str or bytes; a mapping's value may be a list of them.
Headers: TypeAlias = "Mapping[Any, Any] | Iterable[tuple[Any, Any]]"
Writable: TypeAlias = "MutableMapping[Any, Any] | MutableSequence[tuple[Any, Any]]"

# Of a message from outside: more headers than these are not looked at, nor values longer than this.
MAX_HEADERS = 256
MAX_VALUE = 8192


def read(headers: Headers | None, wanted: frozenset[str]) -> dict[str, list[str]]:
    """Return the values of the `wanted` headers, whose names are in small letters; names match in any case.

    What is no text, is not ASCII, or is longer than 8192 characters is left out, as is all behind the 256th header.
    """
    found: dict[str, list[str]] = {}
    if headers is None:
        return found
    for number, (name, value) in enumerate(_pairs(headers)):
        if number >= MAX_HEADERS:
            break
        key = _text(name)
        if key is None or (key := key.lower()) not in wanted:
            continue
        for one in value[:MAX_HEADERS] if isinstance(value, list | tuple) else (value,):
            text = _text(one)
            if text is not None:
                found.setdefault(key, []).append(text.strip())
    return found


def write(headers: Writable, values: Mapping[str, str]) -> None:
    """Set `values` in `headers`, in place of whatever stands there under the same names in any case.

    They are written as the headers have theirs; where there are none yet, in a list of pairs as (str, bytes), which is
    Kafka's, and in a mapping as text.
    """
    pairs = not isinstance(headers, MutableMapping)
    first: tuple[Any, Any] | None = next(iter(_pairs(headers)), None)
    bytes_names = first is not None and isinstance(first[0], bytes)
    bytes_values = isinstance(first[1], bytes) if first is not None else pairs
    new = [
        (name.encode() if bytes_names else name, value.encode() if bytes_values else value)
        for name, value in values.items()
    ]
    if isinstance(headers, MutableMapping):
        for name in [name for name in headers if _is_one_of(name, values)]:
            del headers[name]
        headers.update(new)
        return
    headers[:] = [pair for pair in headers if not _is_one_of(pair[0], values)]
    headers.extend(new)


def _is_one_of(name: object, names: Mapping[str, str]) -> bool:
    text = _text(name)
    return text is not None and text.lower() in names


def _pairs(headers: Headers | Writable) -> Iterator[tuple[Any, Any]]:
    for item in headers.items() if isinstance(headers, Mapping) else headers:
        if isinstance(item, tuple | list) and len(item) == 2:
            yield item[0], item[1]


def _text(value: object) -> str | None:
    """Return text or bytes as ASCII text; None for all else."""
    if isinstance(value, str):
        return value if len(value) <= MAX_VALUE and value.isascii() else None
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value[: MAX_VALUE + 1])
        return raw.decode() if len(raw) <= MAX_VALUE and raw.isascii() else None
    return None
