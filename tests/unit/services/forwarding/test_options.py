"""Where telemetry is sent on to, as URLs and metadata say it."""

from __future__ import annotations

import pytest

from mesh.errors import UsageError
from services.forwarding.options import Signal, Target, parse_headers, parse_target, targets
from services.forwarding.origin import MAX_VIA, UNKNOWN, Origin, metadata


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("otlp://c:4317", Target("c:4317")),
        ("otlps://[::1]:4317/", Target("[::1]:4317", tls=True)),
        ("otlp://c:4317?signals=logs,metrics", Target("c:4317", signals=(Signal.LOGS, Signal.METRICS))),
        ("otlps://c:1?ca=/ca.pem&cert=/c.pem&key=/k", Target("c:1", tls=True, ca="/ca.pem", cert="/c.pem", key="/k")),
    ],
)
def test_urls(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize(
    ("url", "says"),
    [
        *((url, "is not otlp://") for url in ("http://c:4317", "c:4317", "otlp://c:4317/v1", "otlp://u:p@c:4317")),
        ("otlp://c", "is not HOST:PORT"),
        ("otlp://c:0", "not a number from 1"),
        ("otlp://c:1?signals=spans", "those that there are"),
        ("otlp://c:1?insecure=1", "'insecure' is none of"),
        ("otlp://c:1?ca=/x", "only with otlps"),
        ("otlps://c:1?cert=/x", "go together"),
    ],
)
def test_urls_that_are_none(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_target(url)


def test_the_environment_is_asked_where_no_option_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESH_FORWARD", "otlp://a:1 otlp://b:2")
    monkeypatch.setenv("MESH_FORWARD_HEADERS", "Authorization=Bearer x=y, x-scope=1")
    found = targets()
    assert [one.address for one in found] == ["a:1", "b:2"]
    assert found[0].headers == (("authorization", "Bearer x=y"), ("x-scope", "1"))
    assert "Bearer" not in repr(found[0])
    assert [one.address for one in targets(["otlp://c:3"])] == ["c:3"]
    with pytest.raises(UsageError, match="twice"):
        targets(["otlp://a:1", "otlps://a:1"])


@pytest.mark.parametrize("text", ["secret", "a b=secret", "a=secret\n1", "=secret"])
def test_metadata_that_is_none_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_headers(text, "HEADERS")
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"/none\.pem cannot be read"):
        Target("c:1", tls=True, ca="/none.pem").files()


def test_where_a_request_comes_from() -> None:
    found = Origin.of(metadata("p", 7, ("a", "b")))
    assert found == Origin("forwarded/p", 7, ("a", "b"))
    assert [found.circular(me) for me in ("a", "c")] == [True, False]
    assert Origin.of(metadata("p", 1, [str(n) for n in range(MAX_VIA + 5)])).circular("me")
    assert Origin.of([("user-agent", "x")]) == UNKNOWN
    for bad in ((("x-mesh-producer", "p"),), metadata("p", 0, ()), metadata("p " * 300, 5, ()), metadata("p", -1, ())):
        assert Origin.of(bad).producer == ""
