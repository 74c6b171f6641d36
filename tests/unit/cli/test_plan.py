from __future__ import annotations

from pathlib import Path

import pytest

import mesh
from mesh.cli.supervisor import plan
from mesh.cli.supervisor.ready import dialable
from mesh.errors import StartError
from proxy.options import EdgeOptions


def options(**edge: str) -> plan.UpOptions:
    return plan.UpOptions(Path("/data"), EdgeOptions(control="127.0.0.1:1", **edge))  # type: ignore[arg-type]


def value(command: tuple[str, ...], option: str) -> str:
    return command[command.index(option) + 1]


def test_a_restart_asks_for_the_addresses_that_the_first_start_got() -> None:
    spec = plan.edge(options(public="127.0.0.1:0"), "127.0.0.1:9")
    first = tuple(spec.command(spec.addresses))
    assert value(first, "--public") == "127.0.0.1:0"
    again = tuple(spec.command({**spec.addresses, "public": "127.0.0.1:4711"}))
    assert value(again, "--public") == "127.0.0.1:4711"
    assert value(again, "--control") == "127.0.0.1:9"


@pytest.mark.parametrize(("asked", "given"), [("-", "/data/logs/access.log"), ("off", "off"), ("/log", "/log")])
def test_the_access_log_goes_to_a_file(asked: str, given: str) -> None:
    spec = plan.edge(options(access_log=asked), "127.0.0.1:9")
    assert value(tuple(spec.command(spec.addresses)), "--access-log") == given


def test_the_shop_joins_the_mesh_by_itself() -> None:
    specs = plan.demo("c:1", 1.5)
    assert {spec.module for spec in specs} == {"examples.shop"}
    for spec in specs:
        command = tuple(spec.command(spec.addresses))
        assert value(command, "--control") == "c:1"
        assert value(command, "--grace") == "1.5"
        assert value(command, "--name") == spec.name
        assert spec.name.startswith(f"{command[0]}-")


def test_a_package_without_the_sources_says_where_the_demo_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mesh, "__file__", str(tmp_path / "site-packages" / "mesh" / "__init__.py"))
    with pytest.raises(StartError, match="run 'make up' in a checkout of the sources"):
        plan.demo("c:1", 1.5)


@pytest.mark.parametrize(
    ("listener", "dialled"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1"), ("[::2]:1", "[::2]:1")],
)
def test_a_listener_on_all_addresses_is_dialled_at_the_loopback(listener: str, dialled: str) -> None:
    assert dialable(listener) == dialled
