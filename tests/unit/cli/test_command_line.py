from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from mesh.cli.main import app, main


def test_help_imports_nothing_that_is_slow() -> None:
    script = "import sys; from mesh.cli.main import main; main(['--help']); print(*sys.modules, sep='\\n')"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.split())
    assert loaded & {"asyncio", "grpc", "google.protobuf", "proxy.edge", "services.control", "sqlite3"} == set()


def test_a_wrong_command_is_one_line_and_where_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "mesh: No such command 'nonsense'; see mesh --help\n"


def test_a_wrong_option_points_at_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--nonsense"]) == 2
    assert capsys.readouterr().err.endswith("; see mesh up --help\n")


def test_a_usage_error_of_ours_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", "orders", "nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("mesh: HOST:PORT: 'nowhere' is not HOST:PORT")


def test_a_free_port_needs_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", "orders", "127.0.0.1:0"]) == 2
    assert "port" in capsys.readouterr().err


def commands(of: typer.Typer = app, before: str = "mesh") -> Iterator[tuple[str, str, str]]:
    """Yield each command's name, help and examples."""
    for one in of.registered_commands:
        yield f"{before} {one.name}", one.help or "", one.epilog or ""
    for group in of.registered_groups:
        if isinstance(group.typer_instance, typer.Typer):
            yield from commands(group.typer_instance, f"{before} {group.typer_instance.info.name}")


@pytest.mark.parametrize(("name", "text", "examples"), list(commands()), ids=lambda value: value[:20])
def test_help_fits_a_terminal_of_80_columns(name: str, text: str, examples: str) -> None:
    assert [line for line in examples.splitlines() if len(line) > 78] == [], name
    assert [paragraph for paragraph in text.split("\n\n") if "\n" in paragraph] == [], f"{name}: it is wrapped twice"
