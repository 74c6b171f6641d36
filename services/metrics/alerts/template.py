"""Templates of labels and annotations: the part of Prometheus' that rules use. Pure, bounded, and nothing is executed.

`{{ $labels.NAME }}`, `{{ $value }}`, each also through `| humanize`, `| humanize1024`, `| humanizeDuration`,
`| humanizePercentage` or `| printf "%.2f"`, and `{{ printf "%.2f" $value }}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from services.metrics.errors import InvalidError
from services.metrics.promql.numbers import formatted

MAX_TEXT = 4096

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_VALUE = r"\$value|\$labels\.(?P<label>[a-zA-Z_][a-zA-Z0-9_]*)"
_PIPED = re.compile(rf"(?:{_VALUE})(?P<pipes>(?:\s*\|\s*(?:[a-zA-Z0-9]+|printf\s+\"%[^\"]*\"))*)")
_PRINTF = re.compile(r"printf\s+\"(?P<format>[^\"]*)\"\s+\$value")
_FORMAT = re.compile(r"(?:[^%]|%%)*%(?:\.\d{1,2})?[fgesv](?:[^%]|%%)*")


def humanize(value: float, *, base: float = 1000.0) -> str:
    """Return a number with a prefix of its size: 12.34k."""
    if not math.isfinite(value) or value == 0:
        return formatted(value)
    prefixes = (
        ("", "k", "M", "G", "T", "P", "E", "Z", "Y") if base == 1000 else ("", "ki", "Mi", "Gi", "Ti", "Pi", "Ei")
    )
    place = 0
    while abs(value) >= base and place < len(prefixes) - 1:
        value, place = value / base, place + 1
    if place or abs(value) >= 1 or base != 1000:
        return f"{value:.4g}{prefixes[place]}"
    small = min(4, math.ceil(-math.log10(abs(value)) / 3))
    return f"{value * 1000.0**small:.4g}{('', 'm', 'u', 'n', 'p')[small]}"


def _duration(value: float) -> str:
    if not math.isfinite(value):
        return formatted(value)
    if abs(value) < 1:
        return f"{humanize(value)}s" if value else "0s"
    left, sign = int(abs(value)), "-" if value < 0 else ""
    if left < 60:
        return f"{value:.4g}s"
    parts: list[str] = []
    for name, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or name == "s":
            parts.append(f"{count}{name}")
    return sign + " ".join(parts)


_FUNCTIONS: Mapping[str, Callable[[float], str]] = {
    "humanize": humanize,
    "humanize1024": lambda value: humanize(value, base=1024.0),
    "humanizeDuration": _duration,
    "humanizePercentage": lambda value: f"{value * 100:.4g}%",
}


@dataclass(frozen=True, slots=True)
class _Part:
    """Plain text, or the name of a label ("" is the value) and what it goes through."""

    text: str = ""
    label: str | None = None
    pipes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template."""

    source: str
    parts: tuple[_Part, ...]

    def render(self, labels: Mapping[str, str], value: float) -> str:
        """Return the text, cut at 4096 characters."""
        return "".join(_shown(part, labels, value) for part in self.parts)[:MAX_TEXT]


def compile_template(source: str, where: str) -> Template:
    """Return the template of a text.

    Raises:
        InvalidError: it has an action that is not served; the message begins with `where`.

    """
    if len(source) > MAX_TEXT:
        raise InvalidError(f"{where}: it is longer than {MAX_TEXT} characters")
    parts: list[_Part] = []
    end = 0
    for action in _ACTION.finditer(source):
        parts.append(_Part(source[end : action.start()]))
        parts.append(_action(action[1], where))
        end = action.end()
    rest = source[end:]
    if "{{" in rest:
        raise InvalidError(f"{where}: a '{{{{' has no '}}}}'")
    return Template(source, (*parts, _Part(rest)))


def _action(text: str, where: str) -> _Part:
    if (printf := _PRINTF.fullmatch(text)) is not None:
        return _Part(label="", pipes=(_checked(f"printf {printf['format']}", where),))
    found = _PIPED.fullmatch(text)
    if found is None:
        raise InvalidError(
            f"{where}: '{{{{ {text[:60]} }}}}' is not served: use $value or $labels.NAME, through "
            f"{', '.join(_FUNCTIONS)} or printf"
        )
    pipes = [pipe.strip().replace('"', "") for pipe in found["pipes"].split("|")[1:]]
    return _Part(label=found["label"] or "", pipes=tuple(_checked(pipe, where) for pipe in pipes))


def _checked(pipe: str, where: str) -> str:
    name, _, form = pipe.partition(" ")
    if name == "printf":
        if _FORMAT.fullmatch(form.strip()) is None:
            raise InvalidError(
                f"{where}: printf takes one of %f %g %e %s %v, perhaps with a precision, not '{form[:40]}'"
            )
        return f"printf {form.strip()}"
    if name not in _FUNCTIONS:
        raise InvalidError(f"{where}: the function '{name}' is not served: use {', '.join(_FUNCTIONS)} or printf")
    return pipe


def _shown(part: _Part, labels: Mapping[str, str], value: float) -> str:
    if part.label is None:
        return part.text
    shown = labels.get(part.label, "") if part.label else formatted(value)
    for pipe in part.pipes:
        number = _number(shown) if part.label or shown != formatted(value) else value
        if number is None:
            return shown
        name, _, form = pipe.partition(" ")
        shown = _printf(form, number) if name == "printf" else _FUNCTIONS[name](number)
    return shown


def _printf(form: str, value: float) -> str:
    if form.replace("%%", "").rstrip("%").find("%s") >= 0 or "%v" in form:
        return form.replace("%v", "%s") % formatted(value)
    return form % value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
