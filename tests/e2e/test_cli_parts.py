"""`mesh control` and `mesh edge`: the parts of a mesh, each run alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.api.registry.v1 import Instance
from tests.e2e.harness import ANY_PORTS, Running, eventually, instances, mesh

pytestmark = pytest.mark.xdist_group("parts")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("control")
    running = Running.start(folder, "control", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"))
    try:
        said, address = running.next_line().strip().rsplit(" ", 1)
        assert said == "control is ready: control"
        yield address
    finally:
        assert running.stop() == 0


def edges(control: str) -> list[Instance]:
    return list(instances(control, "mesh-edge").values())


def test_two_edges_on_one_registry_are_both_shown(control: str, tmp_path: Path) -> None:
    running = []
    try:
        for name in ("east", "west"):
            options = ("--instance-id", name, "--access-log", "off", "--json", *ANY_PORTS)
            running.append(Running.start(tmp_path, "edge", "--control", control, *options))
        ready = [json.loads(edge.next_line()) for edge in running]
        assert all(addresses.keys() == {"public", "internal", "admin", "engine"} for addresses in ready)
        eventually(lambda: len(edges(control)) == 2)
        # Any edge's internal listener is as good as the control process.
        shown = mesh("services", "--json", "--control", ready[0]["internal"])
        assert shown.returncode == 0, shown.stderr
        known = {edge["instance_id"]: edge for edge in json.loads(shown.stdout)["edges"]}
        assert known.keys() == {"east", "west"}
        assert [known[name]["internal_address"] for name in ("east", "west")] == [one["internal"] for one in ready]
        # An edge that is killed says nothing any more; its lease has not run out yet.
        running[1].kill()
        table = mesh("services", "--control", control).stdout
        assert f"edge west at {ready[1]['internal']}: does not answer (UNAVAILABLE)\n" in table
        assert f"edge east at {ready[0]['internal']}: engine wire" in table
        assert running[0].stop() == 0
        assert [edge.instance_id for edge in edges(control)] in ([], ["west"])
    finally:
        for edge in running:
            edge.kill()


def test_an_edge_finds_the_registry_by_the_environment(control: str, tmp_path: Path) -> None:
    options = ("--instance-id", "by-environment", "--access-log", "off", *ANY_PORTS)
    running = Running.start(tmp_path, "edge", *options, env={"MESH_CONTROL": control})
    try:
        assert running.next_line().startswith("edge is ready: ")
        eventually(lambda: "by-environment" in [edge.instance_id for edge in edges(control)])
    finally:
        assert running.stop() == 0


def test_a_port_in_use_is_one_line(control: str, tmp_path: Path) -> None:
    for failed, option in (
        (mesh("control", "--listen", control, "--data-dir", str(tmp_path)), "--listen"),
        (mesh("edge", "--control", control, *ANY_PORTS[:4], "--admin", control), "--admin"),
        (mesh("edge", "--control", control, *ANY_PORTS[2:], "--public", control), "--public"),
    ):
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
        assert control in failed.stderr
        assert option in failed.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ("control", "--listen", "127.0.0.1"),
        ("control", "--grace", "-1"),
        ("edge", "--control", "127.0.0.1:0"),
        ("edge", "--admin", "::1:1"),
        ("edge", "--config", "/no/such/file.toml"),
    ],
)
def test_bad_usage_is_one_line_and_2(wrong: tuple[str, ...]) -> None:
    failed = mesh(*wrong)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
