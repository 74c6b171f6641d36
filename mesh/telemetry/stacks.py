"""Which function holds an event loop up, from what its thread was doing at two moments."""

from __future__ import annotations

import asyncio.base_events
import asyncio.runners
import selectors
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

import mesh
from mesh.context import CallContext

# Deeper stacks are cut at their inner end.
MAX_DEPTH = 200
# What is innermost while a loop runs no callback.
_OF_LOOPS = frozenset({selectors.__file__, asyncio.runners.__file__, asyncio.base_events.__file__})


@dataclass(frozen=True, slots=True)
class WorkUnderWay:
    """The call that a frame works on."""

    # "/shop.v1.Orders/Get"; empty is not known.
    method: str
    context: CallContext | None = None


# Reads the call from the locals of a frame that serves one.
Reader: TypeAlias = Callable[[Mapping[str, Any]], WorkUnderWay | None]
_readers: dict[CodeType, Reader] = {}


@dataclass(frozen=True, slots=True)
class Step:
    """One frame of a stack."""

    # The frame's identity, as long as it lives.
    identity: int
    code: CodeType
    line: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What the loop's thread was doing: frames of the callback that it ran, the outermost first."""

    steps: tuple[Step, ...] = ()
    work: WorkUnderWay | None = None


@dataclass(frozen=True, slots=True)
class Culprit:
    """Where an event loop was held up."""

    # "Orders.Get", its file and the line: the innermost of the application's own code, else the innermost of all.
    function: str
    file: str
    line: int
    # The innermost function of a library where the application waited in one; else empty.
    inside: str = ""
    work: WorkUnderWay | None = None

    @property
    def place(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


def names_calls(function: Callable[..., Any], reader: Reader) -> None:
    """Have `reader` tell the call that a frame of `function` serves, from its locals; None is not known.

    It is asked only when something blocks, from another thread, so calls pay nothing for it.
    """
    _readers[function.__code__] = reader


def base(frame: FrameType | None) -> tuple[CodeType, ...]:
    """Return the code of `frame` and all that called it, the outermost first: what a loop's callbacks run under."""
    return tuple(step.f_code for step in _outermost_first(frame))


def sample(frame: FrameType | None, under: tuple[CodeType, ...]) -> Sample:
    """Return what runs in `frame`, without what a loop's own callbacks run under."""
    frames = _outermost_first(frame)
    first = 0
    while first < min(len(frames), len(under)) and frames[first].f_code is under[first]:
        first += 1
    frames = frames[first:][:MAX_DEPTH]
    if not frames or frames[-1].f_code.co_filename in _OF_LOOPS:
        return Sample()
    work = None
    for one in frames:
        reader = _readers.get(one.f_code)
        if reader is not None:
            work = reader(one.f_locals) or work
    return Sample(tuple(Step(id(one), one.f_code, one.f_lineno) for one in frames), work)


def judge(first: Sample, second: Sample) -> Culprit | None:
    """Return who was at it at both moments; None where it was nobody, or not the same."""
    same = 0
    for one, other in zip(first.steps, second.steps, strict=False):
        if (one.identity, one.code) != (other.identity, other.code):
            break
        same += 1
    if not same:
        return None
    steps = second.steps[:same]
    own = next((step for step in reversed(steps) if not _of_a_library(step.code)), None)
    guilty = own or steps[-1]
    innermost = second.steps[-1].code
    inside = innermost if own is not None and _of_a_library(innermost) else None
    return Culprit(
        guilty.code.co_qualname,
        _shown(guilty.code.co_filename),
        guilty.line,
        f"{Path(inside.co_filename).stem}.{inside.co_qualname}" if inside is not None else "",
        second.work,
    )


def _outermost_first(frame: FrameType | None) -> list[FrameType]:
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


_LIBRARIES = tuple(
    {
        *(f"{path}/" for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platlib", "purelib")),
        f"{Path(mesh.__file__).parent}/",
        "<frozen",
    }
)


def _of_a_library(code: CodeType) -> bool:
    return code.co_filename.startswith(_LIBRARIES)


def _shown(file: str) -> str:
    """Return a path as short as it can be written from here."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
