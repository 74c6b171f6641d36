"""The guide, done as a newcomer would: its files written, its commands run as printed, what comes is what it shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from mesh.edge import schema
from mesh.options import DEFAULT_INTERNAL, DEFAULT_PUBLIC
from services.config.schema import Schema
from services.config.text import Format, read
from tests.e2e.harness import BIN, PATIENCE, ROOT, environment, running_mesh

GUIDE = (ROOT / "docs" / "guide.md").read_text()
MARK = "=====next====="


def files() -> dict[str, str]:
    """Return what stands under a line that begins with a file's name."""
    found = re.findall(r"^`([\w.]+)`[^\n]*\n\n```(?:proto|python|yaml|ini)\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    return dict(found)


def steps() -> list[tuple[str, str]]:
    """Return the commands of the console blocks, in order, each with what it shows."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def shape(text: str) -> list[str]:
    """Return `text` without what may differ: how many calls a breaker let through, times, widths."""
    text = re.sub(r"^ *\d+ (?= *\"note\")", "N ", text, flags=re.MULTILINE)
    text = re.sub(r"in [\d.]+s", "in T", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def test_it_has_what_it_promises() -> None:
    assert sorted(files()) == ["canary.yaml", "greeter.py", "hello.proto", "pytest.ini", "test_greeter.py", "titles.py"]
    commands = "\n".join(command for command, _ in steps())
    for needed in ("protoc", "titles.py", "greeter.py", "canary.yaml", "touch lost", "pytest"):
        assert needed in commands
    for text in re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE):
        assert Schema(schema.text()).violations(read(text, Format.YAML).data()) == []
    for link in re.findall(r"\]\(([^)]+)\)", GUIDE):
        assert link.startswith("https://") or (ROOT / "docs" / link).exists(), link


def test_a_newcomer_gets_through_it(tmp_path: Path) -> None:
    folder = tmp_path / "hello"
    folder.mkdir()
    for name, text in files().items():
        (folder / name).write_text(text)
    script = f"\necho {MARK}\n".join(command for command, _ in steps())
    with running_mesh(tmp_path) as mesh:
        for default, own in ((DEFAULT_PUBLIC, mesh.public), (DEFAULT_INTERNAL, mesh.internal)):
            script = script.replace(default, own)
        variables = {
            "MESH_CONTROL": mesh.internal,
            "PATH": f"{BIN}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            # There by its entry point, where the package is installed anew.
            "PYTEST_ADDOPTS": "-p mesh.testing.plugin -p no:cacheprovider",
        }
        # What is left running when a command fails must not hold the output open.
        whole = f"exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{script}"
        done = subprocess.run(
            ["bash", "-e", "-c", whole],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
            env=environment("guide", variables),
        )
        logs = "".join(f"{log.name}: {log.read_text()}" for log in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stdout + logs
    for (command, expected), output in zip(steps(), done.stdout.split(f"{MARK}\n"), strict=True):
        assert shape(output) == shape(expected), f"{command}: {logs}"
