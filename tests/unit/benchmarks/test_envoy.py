"""Envoy takes the configuration that it is measured with."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import tools
from benchmarks.peers import envoy
from benchmarks.peers.peer import Site


@pytest.mark.skipif(tools.find("envoy") is None, reason="envoy is not installed")
@pytest.mark.parametrize("tls", [False, True])
def test_envoy_takes_its_configuration(tmp_path: Path, *, tls: bool) -> None:
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(envoy.configuration(Site(tmp_path, (1, 2, 3), tls=tls), 10_000)))
    command = [tools.path_of("envoy"), "--mode", "validate", "-c", str(path), "-l", "warn"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
