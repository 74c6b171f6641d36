"""The README's commands, run as printed against a mesh that is started as it says: the output has the shape shown."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mesh.options import DEFAULT_ADMIN, DEFAULT_INTERNAL, DEFAULT_PUBLIC
from proxy.options import EdgeOptions, load_config
from tests.e2e.harness import ANY_PORTS, BIN, PATIENCE, ROOT, Running, environment

# One mesh for all of them.
pytestmark = pytest.mark.xdist_group("readme")

README = (ROOT / "README.md").read_text()
UP = "make up"
MARK = "=====next====="


@dataclass(frozen=True)
class Step:
    """A command of the README and what it shows below it."""

    command: str
    output: str


def steps() -> list[Step]:
    """Return the commands of the README's console blocks, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Step(command, output))
    return found


def shape(text: str) -> list[str]:
    """Return `text` without what differs from run to run: ports, ids, times, counts, widths."""
    for pattern, instead in (
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"\S*/meshplane\b", "DATA"),
        (r"\b(control|edge)-[\w.-]+", r"\1-ID"),
        (r"\borders-[12]\b(?=\")", "orders-N"),
        (r"\bpay-\d+", "pay-N"),
        (r"after [\d.]+ s", "after T s"),
        (r"calls \d+", "calls N"),
        (r"^ *\d+ (?=ABORTED)", "N "),
        (r"[ \t]+", " "),
    ):
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return [line.rstrip() for line in text.strip().splitlines()]


@dataclass(frozen=True)
class Shown:
    """What the mesh of the test printed, and where it is."""

    printed: str
    public: str
    internal: str
    admin: str


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("readme")
    # What `make up` runs, but for the ports, which others may have.
    running = Running.start(folder, "up", "--demo", *ANY_PORTS, env={"XDG_DATA_HOME": str(folder)})
    try:
        printed = running.next_line()
        while "grpcurl" not in printed:
            printed += running.next_line()
        found = dict(line.split()[:2] for line in printed.splitlines() if line.startswith("  "))
        admin = found["admin"].removeprefix("http://").removesuffix("/metrics")
        yield Shown(printed, found["public"], found["internal"], admin)
    finally:
        code = running.stop()
    assert (code, running.stderr) == (0, "")


def test_starting_it_prints_what_the_readme_shows(up: Shown) -> None:
    (shown,) = (step.output for step in steps() if step.command == UP)
    # With other ports than the default ones it says how to find them.
    assert shape(up.printed.replace(f" --control {up.internal}", "")) == shape(shown)


def test_make_up_is_what_the_test_starts() -> None:
    made = subprocess.run(["make", "--dry-run", "up"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ".venv/bin/mesh up --demo" in made.stdout


def test_every_command_works_as_printed(up: Shown, tmp_path: Path) -> None:
    todo = [step for step in steps() if step.command != UP]
    script = f"\necho {MARK}\n".join(step.command for step in todo)
    for default, own in ((DEFAULT_PUBLIC, up.public), (DEFAULT_INTERNAL, up.internal), (DEFAULT_ADMIN, up.admin)):
        script = script.replace(default, own)
    # One shell for all of them, as for a reader; .venv need not be where the README has it.
    script = script.replace("$PWD/.venv/bin", str(BIN))
    done = subprocess.run(
        ["bash", "-e", "-c", f"exec 2>&1\n{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
        env=environment("readme", {"MESH_CONTROL": up.internal}),
    )
    assert done.returncode == 0, done.stdout
    outputs = done.stdout.split(f"{MARK}\n")
    for step, output in zip(todo, outputs, strict=True):
        assert shape(output) == shape(step.output), step.command


def test_every_promise_of_the_first_page_is_kept() -> None:
    commands = "\n".join(step.command for step in steps())
    for needed in (" list", " describe ", "/PlaceOrder", "/WatchOrder", "grpc.health.v1.Health/Check"):
        assert needed in commands


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_the_configuration_file_of_the_docs_is_taken(tmp_path: Path) -> None:
    docs = (ROOT / "docs" / "operations.md").read_text()
    (content,) = re.findall(r"^```toml\n(.*?)^```", docs, re.DOTALL | re.MULTILINE)
    config = tmp_path / "edge.toml"
    config.write_text(content)
    assert EdgeOptions(control=DEFAULT_INTERNAL, **load_config(config)) != EdgeOptions(control=DEFAULT_INTERNAL)
