"""A canary as an operator rolls it out: applied, seen to move calls, and rolled back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import RunningMesh, eventually, grpcurl, running_mesh

CANARY = """
routes:
  - name: canary
    match: {methods: [shop.v1.Orders/*]}
    to:
      - {service: orders, weight: 9, labels: {version: 1.0.0}}
      - {service: orders, weight: 1, labels: {version: 1.1.0}}
"""


def place(mesh: RunningMesh, orders: int) -> Counter[str]:
    """Place orders; returns by which instance each was taken."""
    taken: Counter[str] = Counter()
    for number in range(orders):
        order = json.dumps({"sku": "tea", "quantity": 1, "order_id": f"o{number}"})
        done = grpcurl("-d", order, mesh.public, "shop.v1.Storefront/PlaceOrder")
        assert done.returncode == 0, done.stderr
        taken[json.loads(done.stdout)["taken_by"]] += 1
    return taken


def ok(mesh: RunningMesh, *arguments: str) -> str:
    done = mesh.mesh(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def applied(mesh: RunningMesh, release: int) -> Any:
    """Wait until the edge, and the storefront, which calls orders directly, have said what they made of a release.

    Returns what the edge said.
    """

    def look() -> Any:
        found = json.loads(ok(mesh, "config", "status", "mesh.edge", "--json"))["instances"]
        said = {one["service"]: one for one in found if int(one["release"]) == release}
        return said["mesh-edge"] if {"mesh-edge", "storefront"} <= said.keys() else None

    return eventually(look, f"release {release} at the edge and the storefront")


def explained(mesh: RunningMesh, cid: str) -> tuple[str, str, str, int]:
    """Call orders through the edge; return what `mesh explain` says of the way there: route, name, why, release."""
    order = json.dumps({"sku": "tea", "quantity": 1, "order_id": cid})
    done = grpcurl("-H", f"x-correlation-id: {cid}", "-d", order, mesh.internal, "shop.v1.Orders/CreateOrder")
    assert done.returncode == 0, done.stderr

    def look() -> Any:
        shown = mesh.mesh("explain", cid, "--json")
        hops = json.loads(shown.stdout)["edge"] if shown.returncode == 0 else []
        return next((hop for hop in hops if hop["service"] == "orders" and hop["release"] is not None), None)

    hop = eventually(look, "the story of an order")
    return hop["route"], hop["route_name"], hop["matched"], hop["release"]


@pytest.mark.timeout(240)
def test_a_canary_is_applied_moves_calls_and_is_rolled_back(tmp_path: Path) -> None:
    file = tmp_path / "canary.yaml"
    with running_mesh(tmp_path, demo=True) as mesh:
        assert place(mesh, 10) == {"orders-1": 5, "orders-2": 5}

        file.write_text(CANARY)
        ok(mesh, "config", "apply", "mesh.edge", "-f", str(file))
        ok(mesh, "config", "publish", "mesh.edge", "-m", "a canary")
        assert applied(mesh, 1)["state"] == "APPLIED_STATE_APPLIED"
        assert explained(mesh, "order-with-a-canary") == ("routes[0]", "canary", "the method is shop.v1.Orders/*", 1)
        assert place(mesh, 10) == {"orders-1": 9, "orders-2": 1}
        shown = [line.split() for line in ok(mesh, "routes", "shop.v1.Orders").splitlines()]
        assert [line[2] for line in shown if line and line[0] == "internal"] == ["canary", "canary"]

        file.write_text("services: {orders: {retry: {attempts: 50}}}")
        ok(mesh, "config", "apply", "mesh.edge", "-f", str(file))
        refused = mesh.mesh("config", "publish", "mesh.edge")
        assert refused.returncode == 1
        assert "services.orders.retry.attempts: must be at most 5" in refused.stderr

        file.write_text("routes: [{match: {}, to: [{service: orders, weight: 0}]}]")
        ok(mesh, "config", "apply", "mesh.edge", "-f", str(file))
        ok(mesh, "config", "publish", "mesh.edge")
        rejected = applied(mesh, 2)
        assert rejected["state"] == "APPLIED_STATE_REJECTED"
        assert rejected["error"].startswith("routes[0].to: the weights add up to 0")
        assert "release 2 is rejected: routes[0].to" in ok(mesh, "routes")
        assert place(mesh, 10) == {"orders-1": 9, "orders-2": 1}, "the last good one stays in force"

        file.write_text("{}")
        ok(mesh, "config", "apply", "mesh.edge", "-f", str(file))
        ok(mesh, "config", "publish", "mesh.edge")
        applied(mesh, 3)
        assert place(mesh, 10) == {"orders-1": 5, "orders-2": 5}
        ok(mesh, "config", "rollback", "mesh.edge", "1")
        applied(mesh, 4)
        assert place(mesh, 10) == {"orders-1": 9, "orders-2": 1}
