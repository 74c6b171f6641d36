"""Which calls a route is for, judged by their metadata. Pure.

Regular expressions are RE2's: they take time in proportion to the value, whatever their author or the client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import re2

from mesh.edge.policy.reading import Place, shown

MAX_HEADERS = 16
MAX_PATTERN = 256
# Longer values match no regular expression.
MAX_VALUE_BYTES = 4096
# What one expression may take of memory: RE2 goes on without its automaton, and slower, where that does not do.
_MAX_REGEX_BYTES = 1 << 20

_METADATA = re.compile(r"[a-z0-9_.-]{1,128}")

_WORDS = {"exact": "is", "prefix": "begins with", "regex": "matches"}

# Received metadata by name.
Headers = Mapping[bytes, bytes]
# Told whether a call with such metadata matches.
Match = Callable[[Headers], bool]


def ALWAYS(_headers: Headers) -> bool:
    """Match every call."""
    return True


def read_match(place: Place) -> Match:
    """Return the match that `headers` of a route describes: all of them have to.

    Raises:
        PolicyError: it makes no sense.

    """
    tests = [_read_header(name, one) for name, one in place.mapping(most=MAX_HEADERS).items()]
    if not tests:
        raise place.wrong("names no header")
    if len(tests) == 1:
        return tests[0]
    together = tuple(tests)
    return lambda headers: all(test(headers) for test in together)


def in_words(place: Place) -> str:
    """Return for people what `headers` of a route asks, which `read_match` has read."""
    said = []
    for name, one in place.mapping().items():
        ((kind, value),) = one.mapping().items()
        if kind == "present":
            said.append(f"{name} is {'there' if value.value else 'not there'}")
        else:
            said.append(f"{name} {_WORDS[kind]} {shown(value.value)}")
    return " and ".join(said)


def metadata_name(place: Place, name: str) -> bytes:
    """Return a name of metadata that calls can be judged by; raises PolicyError."""
    if not _METADATA.fullmatch(name):
        raise place.wrong("is no name of metadata: lower case letters, digits and -_.")
    if name.endswith("-bin"):
        raise place.wrong("is binary metadata, which cannot be judged")
    return name.encode()


def _read_header(key: str, place: Place) -> Match:
    name = metadata_name(place, key)
    given = place.mapping(("exact", "prefix", "regex", "present"))
    if len(given) != 1:
        raise place.wrong("must be one of exact, prefix, regex and present")
    ((kind, value),) = given.items()
    if kind == "present":
        there = value.truth()
        return lambda headers: (name in headers) is there
    if kind == "regex":
        return _regex(name, value)
    text = value.text()
    wanted = text.encode("utf-8", "surrogatepass")
    if kind == "exact":
        return lambda headers: headers.get(name) == wanted
    if not wanted:
        raise value.wrong("is empty: write present: true")
    return lambda headers: (found := headers.get(name)) is not None and found.startswith(wanted)


def _regex(name: bytes, place: Place) -> Match:
    text = place.text(longest=MAX_PATTERN)
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_REGEX_BYTES
    # Metadata is ASCII; whatever else comes must not be an error of encoding.
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    try:
        matches = re2.compile(text.encode("latin-1"), options).fullmatch
    except UnicodeEncodeError:
        raise place.wrong("metadata is ASCII, and so must this be") from None
    except re2.error as error:
        why = error.args[0]
        reason = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
        raise place.wrong(f"{shown(text)} is no regular expression as RE2 has them ({reason[:100]})") from None

    def match(headers: Headers) -> bool:
        value = headers.get(name)
        return value is not None and len(value) <= MAX_VALUE_BYTES and matches(value) is not None

    return match
