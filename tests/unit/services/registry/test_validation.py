from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.api.registry.v1 import EXPOSURE_INTERNAL, EXPOSURE_PUBLIC, HEALTH_DRAINING, HEALTH_SERVING, Instance
from services.registry import paging, validation
from services.registry.validation import InvalidError

GOOD: dict[str, Any] = {"service": "orders", "instance_id": "a", "endpoints": ["127.0.0.1:80"]}


def check(**fields: Any) -> Instance:
    return validation.instance(Instance(**{**GOOD, **fields}), make_id="made")


def test_what_is_left_out_has_a_meaning() -> None:
    assert check(instance_id="") == Instance(
        service="orders",
        instance_id="made",
        endpoints=["127.0.0.1:80"],
        weight=100,
        exposure=EXPOSURE_INTERNAL,
        health=HEALTH_SERVING,
    )


def test_what_the_registry_sets_is_ignored() -> None:
    assert check(ttl_seconds=9, create_revision=9, mod_revision=9) == check()


@pytest.mark.parametrize(
    "fields",
    [
        {"service": "a"},
        {"service": "a" + "-9" * 31},
        {"instance_id": "Az09._:-"},
        {"instance_id": "x" * 128},
        {"endpoints": ["[::1]:80", "unix:/run/x.sock", "host.example:65535"]},
        {"endpoints": [f"h:{port}" for port in range(1, 17)]},
        {"endpoints": ["unix:/" + "x" * 106]},
        {"version": "v" * 128, "zone": "z" * 128},
        {"weight": 0},
        {"weight": 1000},
        {"metadata": {f"k{number}": "v" * 1024 for number in range(64)}},
        {"metadata": {"k" * 128: ""}},
        {"grpc_services": [f"a.B{number}" for number in range(256)]},
        {"grpc_services": ["Bare", "a." + "b" * 253]},
        {"exposure": EXPOSURE_PUBLIC, "health": HEALTH_DRAINING},
    ],
)
def test_what_is_allowed_is_kept(fields: dict[str, Any]) -> None:
    found = check(**fields)
    assert found == Instance(
        **{"weight": 100, "exposure": EXPOSURE_INTERNAL, "health": HEALTH_SERVING, **GOOD, **fields}
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"service": ""}, "instance.service: '' must be 1-63 characters of a-z 0-9 and -, beginning with a letter"),
        ({"service": "Orders"}, "instance.service: 'Orders' must be"),
        ({"service": "9orders"}, "instance.service: '9orders' must be"),
        ({"service": "a" * 64}, f"instance.service: '{'a' * 60}...' must be"),
        ({"service": "orders\n"}, r"instance.service: 'orders\n' must be"),
        ({"service": "a/b"}, "instance.service: 'a/b' must be"),
        ({"instance_id": "a/b"}, "instance.instance_id: 'a/b' must be 1-128 characters of"),
        ({"instance_id": "x" * 129}, "instance.instance_id: 'xxx"),
        ({"endpoints": []}, "instance.endpoints: there are 0, it must be 1 to 16 of them"),
        ({"endpoints": [f"h:{port}" for port in range(1, 18)]}, "instance.endpoints: there are 17"),
        ({"endpoints": ["h:1", "h"]}, "instance.endpoints[1]: 'h' must be HOST:PORT, [IPV6]:PORT or unix:/PATH"),
        ({"endpoints": ["h:0"]}, "instance.endpoints[0]: 'h:0' must be"),
        ({"endpoints": ["h:65536"]}, "instance.endpoints[0]: 'h:65536' must be"),
        ({"endpoints": ["::1:80"]}, "instance.endpoints[0]: '::1:80' must be"),
        ({"endpoints": ["unix:run/x"]}, "instance.endpoints[0]: 'unix:run/x' must be unix: and an absolute path"),
        ({"endpoints": ["unix:/" + "x" * 107]}, "instance.endpoints[0]: 'unix:/xxx"),
        ({"endpoints": ["unix:/a\0b"]}, r"instance.endpoints[0]: 'unix:/a\x00b' must be"),
        ({"version": "v" * 129}, f"instance.version: '{'v' * 60}...' must be at most 128 characters"),
        ({"zone": "z" * 129}, "instance.zone: 'zzz"),
        ({"weight": 1001}, "instance.weight: '1001' must be 0 to 1000"),
        ({"metadata": {f"k{number}": "" for number in range(65)}}, "instance.metadata: there are 65 entries"),
        ({"metadata": {"": "v"}}, "instance.metadata: the key: '' must be 1-128 characters"),
        ({"metadata": {"k" * 129: "v"}}, "instance.metadata: the key: 'kkk"),
        ({"metadata": {"k": "v" * 1025}}, "instance.metadata['k']: 'vvv"),
        ({"grpc_services": [f"a.B{number}" for number in range(257)]}, "instance.grpc_services: there are 257"),
        ({"grpc_services": ["/a.B/C"]}, "instance.grpc_services: '/a.B/C' must be the full name of a gRPC service"),
        ({"grpc_services": [""]}, "instance.grpc_services: '' must be"),
        ({"grpc_services": ["a..B"]}, "instance.grpc_services: 'a..B' must be"),
        ({"grpc_services": ["b" * 256]}, "instance.grpc_services: 'bbb"),
        ({"exposure": 7}, "instance.exposure: '7' must be one of EXPOSURE_INTERNAL, EXPOSURE_PUBLIC"),
        ({"health": 9}, "instance.health: '9' must be one of HEALTH_STARTING, HEALTH_SERVING"),
    ],
)
def test_what_is_not_allowed_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check(**fields)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_what_every_server_has_is_dropped_and_nothing_counts_twice() -> None:
    found = check(
        endpoints=["h:1", "h:01", "h:1"],
        grpc_services=["a.B", "grpc.health.v1.Health", "a.B", "grpc.reflection.v1alpha.ServerReflection", "a.A"],
    )
    assert list(found.endpoints) == ["h:1"]
    assert list(found.grpc_services) == ["a.B", "a.A"]


@pytest.mark.parametrize(("given_ttl", "granted"), [(0, 15), (1, 1), (3600, 3600), (2.5, 2.5)])
def test_a_ttl_that_is_allowed(given_ttl: float, granted: float) -> None:
    assert validation.ttl(given_ttl) == granted


@pytest.mark.parametrize("bad", [0.99, 3600.1, -1, float("nan"), float("inf"), float("-inf")])
def test_a_ttl_that_is_not(bad: float) -> None:
    with pytest.raises(InvalidError, match=r"ttl_seconds: .* must be 1 to 3600 seconds"):
        validation.ttl(bad)


def test_page_sizes() -> None:
    assert [validation.page_size(limit) for limit in (0, 1, 5000)] == [1000, 1, 5000]
    with pytest.raises(InvalidError, match="limit: '5001' must be 1 to 5000"):
        validation.page_size(5001)


TEXT = st.text(max_size=20)


@given(TEXT, TEXT, TEXT)
def test_a_page_token_comes_back_as_it_was(service: str, after: str, instance: str) -> None:
    assert paging.decode(paging.encode(service, (after, instance)), service) == (after, instance)


@given(st.text(max_size=40))
def test_any_other_page_token_is_refused(token: str) -> None:
    if token:
        with pytest.raises(InvalidError, match="page_token"):
            paging.decode(token, "")


def test_a_page_token_of_another_listing_is_refused() -> None:
    token = paging.encode("orders", ("orders", "a"))
    with pytest.raises(InvalidError, match="belongs to a listing of 'orders'"):
        paging.decode(token, "")
    with pytest.raises(InvalidError, match="unchanged"):
        paging.decode(token[:-4], "orders")
