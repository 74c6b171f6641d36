"""Who may import whom, held by reading the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Folders that decide and do no I/O: neither these packages nor time of their own.
PURE = (
    "mesh/resilience",
    "proxy/call",
    "proxy/interceptors",
    "proxy/policy",
    "proxy/routing",
    "proxy/upstream",
    "proxy/stack.py",
    "mesh/config/model.py",
    "mesh/config/paths.py",
    "mesh/edge/policy",
    "mesh/discovery/model.py",
    *(
        f"services/config/{name}.py"
        for name in (
            *("cache", "diff", "errors", "gray", "keys", "layers", "records"),
            *("schema", "secrets", "text", "tree", "validation", "yaml_reader"),
        )
    ),
    "services/metrics/promql",
    "services/storage/kv/state.py",
    "services/storage/columns/rows.py",
    "services/storage/columns/sql.py",
    *(f"services/logsink/{name}.py" for name in ("otlp", "records", "searching")),
    *(f"services/sinks/{name}.py" for name in ("columns", "errors", "otlp", "searching")),
    "mesh/telemetry/formats",
    "mesh/telemetry/collect/lines.py",
    "mesh/telemetry/record.py",
    "mesh/telemetry/sampling.py",
    "mesh/telemetry/spans.py",
    "mesh/tracing.py",
)
IMPURE_MODULES = {"asyncio", "grpc", "ngh2", "h2", "uvloop", "socket", "time", "threading", "sqlite3"}

# Who may not import what, of our own packages.
FORBIDDEN = {
    "mesh": {"proxy", "services", "examples"},
    "proxy": {"services", "examples", "mesh.cli"},
    "services": {"proxy", "examples", "mesh.cli"},
    "mesh/api": {"mesh.cli", "mesh.discovery"},
}
# The command line is the one place that puts everything together.
COMPOSITION_ROOT = ROOT / "mesh" / "cli"


def sources(folder: str) -> list[Path]:
    path = ROOT / folder
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or "api" in path.parts, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", PURE)
def test_pure_code_imports_nothing_that_acts(folder: str) -> None:
    files = sources(folder)
    assert files
    for path in files:
        bad = {name for name in imports(path) if name.split(".")[0] in IMPURE_MODULES}
        assert not bad, f"{path.relative_to(ROOT)} is pure and imports {bad}"


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN.items())
def test_packages_keep_to_themselves(package: str, forbidden: set[str]) -> None:
    files = [path for path in sources(package) if COMPOSITION_ROOT not in path.parents]
    assert files
    for path in files:
        bad = {name for name in imports(path) if any(name == one or name.startswith(f"{one}.") for one in forbidden)}
        assert not bad, f"{path.relative_to(ROOT)} imports {bad}"


def test_files_are_short() -> None:
    """A file is one idea."""
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("mesh", "proxy", "services")
        for path in sources(folder)
        if "api" not in path.relative_to(ROOT).parts and (count := len(path.read_text().splitlines())) > 350
    }
    assert not long
