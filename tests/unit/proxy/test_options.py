from __future__ import annotations

import math
from pathlib import Path

import pytest

import tools.options
from mesh.errors import UsageError
from mesh.resilience import breaker
from proxy.options import EdgeOptions, load_config

CONTROL = "127.0.0.1:7711"


def test_the_file_sets_fields_and_tables(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text('public = "0.0.0.0:443"\ngrace = 3\n[breaker]\nopen_seconds = 2\n[deadline]\nmax_seconds = 9\n')
    options = EdgeOptions(control=CONTROL, **load_config(path))
    assert (options.public, options.grace) == ("0.0.0.0:443", 3.0)
    assert (options.breaker.open_seconds, options.breaker.minimum_calls) == (2.0, 20)
    assert options.deadline.max_seconds == 9.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("public = ", "not valid TOML"),
        ("publik = 1", "unknown key 'publik'"),
        ("[breaker]\nopen = 1", "unknown key 'breaker.open'"),
        ("breaker = 3", "'breaker' must be a table"),
        ("public = 3", "'public' must be a string"),
        ("[limits]\nmax_headers = 1.5", "'limits.max_headers' must be a whole number"),
        ("[breaker]\nenabled = 1", "'breaker.enabled' must be true or false"),
        ("[breaker]\nfailure_rate = 7", "breaker.failure_rate must be above 0"),
        ("[limits]\nmax_headers = 0", "limits.max_headers must be at least 1"),
        ("[deadline]\nmax_seconds = -1", "deadline.max_seconds must be above 0"),
        ("[protection]\nresets = 1", "unknown key 'protection.resets'"),
        ("[protection]\nmax_connections = 0", "protection.max_connections must be from 1 to"),
        ("[protection]\nidle_seconds = 0", "protection.idle_seconds must be above 0, or inf"),
        ("[protection]\nfirst_call_seconds = nan", "protection.first_call_seconds must be above 0, or inf"),
        ("[protection]\nhandshake_seconds = inf", "protection.handshake_seconds must be above 0 and at most 300"),
        ("[protection]\nmax_buffered_bytes = -1", "protection.max_buffered_bytes must be from 0 to"),
        ("[pool]\nmax_waiting = 0", "pool.max_waiting must be from 1 to"),
        ("[pool]\nbackoff_seconds = 3", "pool.backoff_seconds must not be above pool.max_backoff_seconds"),
    ],
)
def test_a_broken_file_is_told_by_its_name_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refusal:
        load_config(path)
    assert said in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in said


def test_a_time_can_be_without_end(tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text("[protection]\nidle_seconds = inf\n")
    options = EdgeOptions(control=CONTROL, **load_config(path))
    assert options.protection.idle_seconds == math.inf


@pytest.mark.skipif(not str(breaker.__file__).endswith(".py"), reason="what is compiled has no source to read")
def test_the_docs_have_every_option_with_its_default() -> None:
    assert tools.options.main(["--check"]) == 0, "run `python -m tools.options`"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("field", "value"),
    [("public", "nonsense"), ("internal", "127.0.0.1:99999"), ("engine", "jet"), ("grace", -1), ("control", "x:0")],
)
def test_options_that_make_no_sense_are_named(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"--{field}"):
        EdgeOptions(**{"control": CONTROL, field: value})  # type: ignore[arg-type]
