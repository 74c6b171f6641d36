"""`mesh logs` on a mesh: the edge's own records, and those of a collector, by one correlation id."""

from __future__ import annotations

import json
import shlex
import uuid
from pathlib import Path

import pytest

from examples.shop.api.v1 import PlaceOrderRequest, StorefrontStub
from tests.e2e.harness import ROOT, Running, RunningMesh, channel, eventually

pytestmark = pytest.mark.xdist_group("demo")


def test_a_call_is_found_by_its_correlation_id(demo: RunningMesh, tmp_path: Path) -> None:
    cid = uuid.uuid4().hex
    with channel(demo.public) as public:
        StorefrontStub(public).PlaceOrder(
            PlaceOrderRequest(sku="tea", quantity=1, order_id=cid), metadata=(("x-correlation-id", cid),), timeout=30
        )
    log = tmp_path / "app.log"
    log.write_text(json.dumps({"msg": "shipped it", "correlation_id": cid, "carrier": "pigeon"}) + "\nother\n")
    collected = demo.mesh("collect", str(log), "--once", "--service", "shipping", "--places", str(tmp_path / "p.json"))
    assert (collected.returncode, collected.stderr) == (0, "")

    def found() -> list[dict[str, object]]:
        shown = demo.mesh("logs", "--cid", cid, "--json")
        assert shown.returncode == 0, shown.stderr
        records = [json.loads(line) for line in shown.stdout.splitlines()]
        return records if {"mesh-edge", "shipping"} <= {record["service"] for record in records} else []

    records = eventually(found, "the records of one conversation")
    (entry,) = [record for record in records if record["body"] == "/shop.v1.Storefront/PlaceOrder OK"]
    assert entry["attributes"]["service"] == "storefront"  # type: ignore[index]
    assert entry["attributes"]["listener"] == "public"  # type: ignore[index]
    shown = demo.mesh("logs", "--attr", "carrier=pigeon", "--service", "shipping", "SHIPPED")
    assert (shown.returncode, shown.stderr) == (0, "")
    (line,) = [line for line in shown.stdout.splitlines() if cid in line]
    assert line.endswith(f"shipped it  carrier=pigeon cid={cid}")


def test_nothing_found_and_what_makes_no_sense(demo: RunningMesh) -> None:
    shown = demo.mesh("logs", "--cid", "nobody-has-this")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert shown.stderr.startswith("mesh: no log record fits")
    for arguments, code, says in (
        (("--regex", "("), 2, "mesh: --regex: missing )"),
        (("--level", "loud"), 2, "--level"),
        (("-f", "--since", "1h"), 2, "-f"),
    ):
        shown = demo.mesh("logs", *arguments)
        assert shown.returncode == code
        assert shown.stderr.count("\n") == 1
        assert says in shown.stderr


def commands() -> list[list[str]]:
    """Return the searches that docs/logs.md shows."""
    text = (ROOT / "docs" / "logs.md").read_text()
    found = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("mesh logs")]
    return [words[1:] for words in found if "-f" not in words]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_what_the_docs_show(demo: RunningMesh, command: list[str]) -> None:
    shown = demo.mesh(*command)
    assert shown.returncode == 0, shown.stderr


def test_following(demo: RunningMesh, tmp_path: Path) -> None:
    word = uuid.uuid4().hex
    following = Running.start(tmp_path, "logs", "-f", word, "--control", demo.internal)
    try:
        log = tmp_path / "app.log"
        log.write_text(f"hello {word}\n")
        collected = demo.mesh("collect", str(log), "--once", "--places", str(tmp_path / "p.json"))
        assert collected.returncode == 0, collected.stderr
        assert f"hello {word}" in following.next_line()
    finally:
        following.process.terminate()
        following.process.wait()
