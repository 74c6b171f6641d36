"""`m.config` with a real control plane."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh.api.config import v1
from tests.unit.mesh.sdk.helpers import Control, Lab, add_lab, dialled, until
from tests.unit.mesh.sdk.policies import publish


@dataclass(frozen=True)
class Settings:
    greeting: str
    times: int = 1

    def __post_init__(self) -> None:
        if self.times < 0:
            raise ValueError("times must not be below 0")


async def rejected(control: Control, release: int, instance: str, why: str) -> bool:
    """Tell whether the control plane knows that the instance rejected a release for that reason."""
    async with dialled(control.address) as channel:
        config: Any = v1.ConfigStub(channel)
        reply = await config.ListApplied(v1.ListAppliedRequest(application="labs", release=release))
    found = [one for one in reply.applied if one.instance == instance]
    return any(why in one.error and one.state == v1.APPLIED_STATE_REJECTED for one in found)


async def test_it_is_live_typed_and_reported(control: Control) -> None:
    await publish(control, {"greeting": "hello"}, "labs")
    seen: list[tuple[Settings, Settings | None]] = []
    async with mesh.join("labs", control=control.address, telemetry=False) as m:
        settings = m.config(Settings, on_change=lambda new, old: seen.append((new, old)))
        with pytest.raises(RuntimeError, match="ready"):
            _ = settings.current
        assert await settings.ready() == Settings("hello")
        assert settings.release == 1
        m.add(add_lab, Lab())
        await m.start()
        await m.registered()
        await publish(control, {"greeting": "good day", "times": 2}, "labs")
        await until(lambda: settings.current == Settings("good day", 2))
        assert seen == [(Settings("hello"), None), (Settings("good day", 2), Settings("hello"))]

        def never(new: Settings, _old: Settings | None) -> None:
            if new.times == 7:
                raise RuntimeError("seven is too many")

        settings.on_change(never)
        bad: tuple[tuple[dict[str, Any], str], ...] = (
            ({"greeting": "x", "times": "many"}, "times: must be a whole number"),
            ({"greeting": "x", "times": -1}, "times must not be below 0"),
            ({"greeting": "x", "times": 7}, "seven is too many"),
        )
        for number, (document, why) in enumerate(bad, start=3):
            await publish(control, document, "labs")
            await until(functools.partial(rejected, control, number, m.instance_id, why), why)
            assert why in settings.error
            assert settings.current == Settings("good day", 2)
            assert settings.release == 2


async def test_several_dataclasses_and_applications(control: Control) -> None:
    @dataclass
    class Other:
        size: int

    await publish(control, {"greeting": "hello"}, "labs")
    await publish(control, {"size": 3}, "shared")
    async with mesh.join("labs", control=control.address, telemetry=False) as m:
        mine, shared = m.config(Settings), m.config(Other, "shared")
        assert await mine.ready() == Settings("hello")
        assert await shared.ready() == Other(3)


async def test_it_starts_with_the_last_one_while_the_control_plane_is_away(control: Control, tmp_path: Path) -> None:
    state = tmp_path / "state"
    await publish(control, {"greeting": "hello"}, "labs")
    options: Any = {"state": state, "telemetry": False, "instance_id": "labs-1"}
    async with mesh.join("labs", control=control.address, **options) as m:
        await m.config(Settings).ready()
        await until((state / "config-labs.json").exists)
    async with mesh.join("labs", control="127.0.0.1:9", **options) as m:
        assert await asyncio.wait_for(m.config(Settings).ready(), 30) == Settings("hello")
