"""`mesh config` as a person and a script use it, against a real control process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from mesh.api.registry.v1 import Instance, RegisterRequest, RegistryStub
from mesh.cli.main import main
from services.config.keys import make_key
from tests.e2e.harness import ANY_PORTS, PATIENCE, Running, RunningMesh, channel, eventually, grpcurl, mesh


class Mesh:
    """A control process and the command for it."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.address = str(json.loads(running.next_line())["control"])

    def run(self, *arguments: str, text: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run `mesh config` in the test's own process, which saves a second each."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, {"MESH_CONTROL": self.address, **env}),
            mock.patch.object(sys, "stdin", io.StringIO(text)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(("config", *arguments))
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def ok(self, *arguments: str, text: str = "", **env: str) -> str:
        done = self.run(*arguments, text=text, **env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def fails(self, *arguments: str, code: int = 1, **env: str) -> str:
        done = self.run(*arguments, **env)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert done.stderr.startswith("mesh: ")
        assert done.stderr.count("\n") == 1
        return done.stderr


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("config")
    running = Running.start(
        folder,
        *("control", "--listen", "127.0.0.1:0", "--data-dir", str(folder / "data"), "--json"),
        env={"MESH_CONFIG_KEY": make_key()},
    )
    try:
        yield Mesh(running)
        assert running.stop() == 0
    finally:
        running.kill()


pytestmark = pytest.mark.xdist_group("config")


def test_from_the_first_value_to_a_rollback(control: Mesh) -> None:
    control.ok("set", "shop", "http.port=80", "log.level=info")
    control.ok("set", "shop", "http.port=8080", "-e", "prod")
    assert "+ http.port: 8080" in control.ok("diff", "shop")
    assert "release 1 is out" in control.ok("publish", "shop", "-m", "the first", "--author", "ann")
    shown = control.ok("get", "shop", "--effective", "-e", "prod", "-s", "orders")
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line}
    assert rows["http.port"] == ["8080", "environment", "prod", "1"]
    assert rows["log.level"] == ['"info"', "defaults", "1"]
    assert control.ok("get", "shop", "http.port", "--effective", "-e", "prod") == "8080\n"

    control.ok("set", "shop", "http.port=81")
    control.ok("publish", "shop")
    history = control.ok("history", "shop").splitlines()
    assert [line.split()[:2] for line in history] == [["RELEASE", "IS"], ["2", "stable"], ["1", "-"]]
    assert "the first" in history[2]
    assert "ann" in history[2]
    assert "- http.port: 80\n  + http.port: 81" in control.ok("diff", "shop", "1", "2")
    assert "release 3 is out, with what release 1 held" in control.ok("rollback", "shop", "1")
    assert control.ok("get", "shop", "http.port", "--effective") == "80\n"
    assert "nothing to publish" in control.fails("publish", "shop")
    audit = json.loads(control.ok("audit", "shop", "--json"))["entries"]
    assert [entry["action"] for entry in audit][:2] == ["ACTION_ROLLBACK", "ACTION_PUBLISH"]


def test_every_worker_of_an_edge_says_what_it_runs(control: Mesh, tmp_path: Path) -> None:
    edge = Running.start(
        tmp_path,
        *("edge", "--control", control.address, "--workers", "2", "--instance-id", "pair", "--access-log", "off"),
        *("--json", *ANY_PORTS),
    )
    try:
        edge.next_line()
        control.ok("apply", "mesh.edge", "-f", "-", text="defaults: {timeout: {default_seconds: 7}}")
        control.ok("publish", "mesh.edge")

        def rows() -> list[tuple[str, int, str]]:
            found = json.loads(control.ok("status", "mesh.edge", "--json"))["instances"]
            return sorted((one["instance"], int(one.get("release", 0)), one.get("state", "")) for one in found)

        wanted = [(f"pair-w{number}", 1, "APPLIED_STATE_APPLIED") for number in range(2)]
        eventually(lambda: rows() == wanted, "both workers have reported")
    finally:
        edge.kill()


def test_comments_stay_and_secrets_do_not_show(control: Mesh) -> None:
    text = "# The database.\ndb:\n  user: me  # not root\n"
    control.ok("apply", "vault", "-f", "-", text=text)
    assert "unchanged" in control.ok("apply", "vault", "-f", "-", text=text)
    control.ok("set", "vault", "--secret", "db.password", text="hunter2\n")
    shown = control.ok("get", "vault")
    assert shown.startswith("# The database.\ndb:\n  user: me  # not root\n  password: {$masked: ")
    control.ok("set", "vault", "db.user=you")
    control.ok("publish", "vault")
    everything = [
        control.ok("get", "vault", "--json"),
        control.ok("get", "vault", "--effective"),
        control.ok("get", "vault", "--effective", "--json"),
        control.ok("history", "vault", "--json"),
        control.ok("diff", "vault", "0", "1", "--json"),
        control.ok("audit", "vault", "--json"),
        control.running.stderr,
    ]
    assert not any("hunter2" in one for one in everything)
    assert "********" in everything[1]
    files = (control.running.stderr_path.parent / "data").glob("*")
    assert not any(b"hunter2" in file.read_bytes() for file in files if file.is_file())
    assert control.ok("rotate") == "0 of 1 secrets were encrypted anew\n"


def test_edit(control: Mesh, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf \'%s\\n\' "$TEXT" > "$1"\n')
    editor.chmod(editor.stat().st_mode | stat.S_IEXEC)
    assert "a" in control.ok("edit", "edited", EDITOR=str(editor), TEXT="a: 1 # one")
    assert control.ok("get", "edited") == "a: 1 # one\n"
    assert control.ok("edit", "edited", EDITOR="true") == "nothing changed\n"
    error = control.fails("edit", "edited", EDITOR=str(editor), TEXT="a: [1")
    assert "line 2, column 1" in error
    kept = Path(error.rpartition(" your text is in ")[2].strip())
    assert kept.read_text() == "a: [1\n"
    kept.unlink()
    assert "ended with 1: nothing was changed" in control.fails("edit", "edited", EDITOR="false")
    assert "cannot be started" in control.fails("edit", "edited", EDITOR="/no/such/editor")


def test_a_folder_is_applied_checked_and_pruned(control: Mesh, tmp_path: Path) -> None:
    schema = {"properties": {"port": {"type": "integer"}}, "additionalProperties": False}
    for name, text in {
        "schema.json": json.dumps(schema),
        "defaults.yaml": "port: 1\n",
        "environments/prod.yaml": "port: many\n",
        "services/orders.json": '{"port": 3}',
        "services/orders/prod.yaml": "port: 4\n",
        "instances/orders/orders-1.yaml": "port: 5\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    done = json.loads(control.ok("apply", "folder", "-f", str(tmp_path), "--json"))
    assert [(one["what"], one["did"]) for one in done] == [
        ("schema", "put"),
        ("defaults", "put"),
        ("environment prod", "put"),
        ("service orders", "put"),
        ("instance orders/orders-1", "put"),
        ("service orders in prod", "put"),
    ]
    (tmp_path / "services" / "orders" / "prod.yaml").unlink()
    (tmp_path / "instances" / "orders" / "orders-1.yaml").unlink()
    (tmp_path / "services" / "orders.json").unlink()
    assert "folder: service orders removed" in control.ok("apply", "folder", "-f", str(tmp_path), "--prune")
    error = control.fails("publish", "folder")
    assert "the draft of 'folder' does not satisfy its schema: port: must be of type integer" in error
    (tmp_path / "environments" / "prod.yaml").write_text("port: 2\n")
    control.ok("apply", "folder", "-f", str(tmp_path))
    control.ok("publish", "folder")
    assert json.loads(control.ok("schema", "folder")) == schema
    (tmp_path / "other.yaml").write_text("")
    assert "the folder may have defaults.yaml" in control.fails("apply", "folder", "-f", str(tmp_path), code=2)


def test_gray_and_status(control: Mesh) -> None:
    with channel(control.address) as opened:
        for number in (1, 2):
            instance = Instance(service="gray", instance_id=f"gray-{number}", endpoints=["127.0.0.1:1"])
            RegistryStub(opened).Register(RegisterRequest(instance=instance, ttl_seconds=600), timeout=PATIENCE)
    control.ok("set", "gray", "a=1")
    control.ok("publish", "gray")
    control.ok("set", "gray", "a=2")
    assert "for instance=gray-1" in control.ok("publish", "gray", "--label", "instance=gray-1")
    status = json.loads(control.ok("status", "gray", "--json"))
    assert (status["live_instances"], status["lagging_instances"]) == (2, 2)
    table = control.ok("status", "gray")
    assert table.startswith("gray: release 1, gray release 2 for instance=gray-1, the draft has changes, 2 of 2 live")
    assert len(control.ok("status", "gray", "--not-in", "2").splitlines()) == 5
    assert "promote or abort it first" in control.fails("publish", "gray")
    assert "50 %" in control.ok("promote", "gray", "--percent", "50")
    assert "for all instances" in control.ok("promote", "gray")
    assert "no gray release" in control.fails("abort", "gray")
    applications = json.loads(control.ok("status", "--json"))["applications"]
    assert {one["name"]: one["stable_release"] for one in applications}["gray"] == 2


def test_status_is_shown_again_when_it_changes(control: Mesh, tmp_path: Path) -> None:
    control.ok("set", "watched", "a=1")
    running = Running.start(
        tmp_path, "config", "status", "watched", "--watch", "--json", env={"MESH_CONTROL": control.address}
    )
    try:
        assert json.loads(running.next_line())["application"]["stable_release"] == 0
        control.ok("publish", "watched")
        while json.loads(running.next_line())["application"]["stable_release"] != 1:
            pass
        assert running.stop() == 0
    finally:
        running.kill()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("get", "none"), 1, "there is no application 'none'"),
        (("set", "x", "a"), 2, "'a' is not PATH=VALUE"),
        (("set", "x"), 2, "nothing to set"),
        (("set", "x", "a..b=1"), 1, "is not a path"),
        (("set", "X", "a=1"), 1, "application: 'X' must be 1-63 characters"),
        (("set", "x", "a=1", "-i", "one"), 1, "layer.service: it is missing"),
        (("apply", "x", "-f", "/no/such/file"), 2, "/no/such/file: cannot be read"),
        (("publish", "x", "--percent", "0"), 2, "--percent: 0 is not"),
        (("publish", "x", "--label", "zone"), 2, "'zone' is not KEY=VALUE"),
        (("nonsense",), 2, "No such command 'nonsense'"),
    ],
)
def test_errors_are_one_line(control: Mesh, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in control.fails(*arguments, code=code)


def test_without_a_control_process() -> None:
    done = mesh("config", "status", "--control", "127.0.0.1:1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no control service answers at 127.0.0.1:1" in done.stderr


def test_a_key_that_is_none(tmp_path: Path) -> None:
    done = mesh("control", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path), env={"MESH_CONFIG_KEY": "abc"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "key 1 is not 32 bytes in base64" in done.stderr
    assert "abc" not in done.stderr


@pytest.mark.xdist_group("plain")
def test_through_the_edge(plain: RunningMesh) -> None:
    """`mesh up` serves the configuration on its internal listener, errors with their details, and not on its public."""
    application = "through-the-edge"
    for arguments in (("set", application, "a=1"), ("publish", application)):
        assert plain.mesh("config", *arguments).returncode == 0
    shown = plain.mesh("config", "get", application, "a", "--effective")
    assert (shown.returncode, shown.stdout) == (0, "1\n")
    refused = plain.mesh("config", "publish", application)
    assert "nothing to publish" in refused.stderr
    request = '{"application": "X"}'
    details = grpcurl("-d", request, plain.internal, "mesh.config.v1.Config/Get")
    assert "google.rpc.BadRequest" in details.stderr
    assert "must be 1-63 characters" in details.stderr
    outside = grpcurl("-d", request, plain.public, "mesh.config.v1.Config/Get")
    assert outside.returncode != 0
    assert "BadRequest" not in outside.stderr
