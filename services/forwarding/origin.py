"""What a control process says of telemetry that it sends on, so that another one stores it once, and no circle forms.

It is metadata beside OTLP's own messages; other collectors leave it alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PRODUCER = "x-mesh-producer"
SEQ = "x-mesh-seq"
# The control processes that it has come through, the first one first.
VIA = "x-mesh-via"
# Longer ways are a circle of processes without a memory of who they are.
MAX_VIA = 8

_PRODUCER = re.compile(r"[!-~]{1,200}")
_VIA = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from; empty for one that no control process has sent on."""

    # With `seq` it is stored once, however often it is sent.
    producer: str = ""
    seq: int = 0
    via: tuple[str, ...] = ()

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Origin:
        """Return what the metadata of a call says; what makes no sense counts as nothing."""
        said = {name: value for name, value in metadata if name.startswith("x-mesh-") and isinstance(value, str)}
        producer, seq = said.get(PRODUCER, ""), said.get(SEQ, "")
        known = _PRODUCER.fullmatch(producer) is not None and seq.isascii() and seq.isdigit() and len(seq) < 19
        via = tuple(one for one in said.get(VIA, "").split(",") if _VIA.fullmatch(one))[: MAX_VIA + 1]
        return cls(f"forwarded/{producer}" if known and int(seq) else "", int(seq) if known else 0, via)

    def circular(self, me: str) -> bool:
        """Tell whether it has been here already, or has come too far."""
        return me in self.via or len(self.via) > MAX_VIA


# Of what comes from anybody else.
UNKNOWN = Origin()


def metadata(producer: str, seq: int, via: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a request."""
    return (PRODUCER, producer), (SEQ, str(seq)), (VIA, ",".join(via))
