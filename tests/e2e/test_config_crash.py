"""The control process under kill -9 while the configuration is written: what it acknowledged is there."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from mesh.api.config import v1
from mesh.config.model import Subject, View
from mesh.config.watcher import ConfigWatcher
from tests.e2e.registry_harness import PATIENCE, control_process, running

APPLICATIONS = ("shop", "shop.web", "batch")
KILLS = 4


@dataclass
class Written:
    """What was acknowledged for one application."""

    # By layer: the last number that was acknowledged, and the last that was sent.
    acknowledged: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    # Releases by number: what layer "s0" had.
    releases: dict[int, int] = field(default_factory=dict)


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    written = {name: Written() for name in APPLICATIONS}
    seen: list[View] = []
    done = 0
    enough = asyncio.Event()

    async def write(name: str) -> None:
        """Put into three layers in turn, and publish after each round."""
        nonlocal done
        mine = written[name]
        for number in itertools.count(1):
            for service in ("s0", "s1", "s2"):
                mine.sent[service] = number
                layer = v1.Layer(service=service)
                put = v1.PutRequest(application=name, layer=layer, text=f"n: {number}", author="test")
                if await _acknowledged(config.Put(put, timeout=PATIENCE)):
                    mine.acknowledged[service] = number
            before = mine.acknowledged.get("s0", 0)
            request = v1.PublishRequest(application=name, author="test", comment=str(number))
            reply = await _acknowledged(config.Publish(request, timeout=PATIENCE))
            if reply is not None:
                mine.releases[reply.release.number] = before
            done += 1
            if done >= wanted:
                enough.set()

    async with control_process(tmp_path) as control, control.channel() as channel:
        config = v1.ConfigStub(channel)
        subject = Subject("shop", "s0", "s0-1")
        wanted = 0
        watcher = ConfigWatcher(control.address, subject, lambda new, _: seen.append(new))
        async with running(watcher.run(), *map(write, APPLICATIONS)) as tasks:
            for _ in range(KILLS):
                wanted = done + 20
                enough.clear()
                await asyncio.wait_for(enough.wait(), PATIENCE)
                await control.kill()
                await control.start()
            # One that has ended has failed, and says how.
            assert [task.result() for task in tasks if task.done()] == []
        for name, mine in written.items():
            await _check(config, name, mine)
        final = await config.GetEffective(v1.GetEffectiveRequest(application="shop", service="s0"), wait_for_ready=True)

        # The watcher saw releases in their order, none twice, and comes to the last one.
        after = ConfigWatcher(control.address, subject)
        async with running(after.run()):
            await asyncio.wait_for(after.ready(), PATIENCE)
        assert after.current.checksum == final.effective.checksum
    releases = [view.release for view in seen]
    assert releases == sorted(set(releases))
    assert len(releases) > KILLS
    numbers = [view.get("n", int, 0) for view in seen]
    assert numbers == sorted(numbers)


async def _check(config: v1.ConfigStub, name: str, mine: Written) -> None:
    """Compare what there is with what was acknowledged."""
    for service, number in mine.acknowledged.items():
        request = v1.GetRequest(application=name, layer=v1.Layer(service=service))
        text = (await config.Get(request, wait_for_ready=True)).document.text  # type: ignore[misc] # an async stub
        # What was sent and not acknowledged may be there or not.
        assert number <= int(text.removeprefix("n: ")) <= mine.sent[service]
    assert len(mine.releases) > KILLS
    for number, at_least in mine.releases.items():
        effective = await config.GetEffective(  # type: ignore[misc] # an async stub
            v1.GetEffectiveRequest(application=name, service="s0", release=number)
        )
        assert json.loads(effective.effective.content_json)["n"] >= at_least
    page = await config.History(v1.HistoryRequest(application=name, limit=100))  # type: ignore[misc] # an async stub
    numbers = [release.number for release in page.releases]
    assert numbers == list(range(numbers[0], numbers[0] - len(numbers), -1))
    assert numbers[0] >= max(mine.releases)
    # Every change is in the audit exactly once: its numbers have no gaps, so neither have the changes.
    audit = await config.ListAudit(  # type: ignore[misc] # an async stub
        v1.ListAuditRequest(application=name, limit=1000)
    )
    published = [entry.release for entry in audit.entries if entry.action == v1.ACTION_PUBLISH]
    assert published == list(range(numbers[0], numbers[0] - len(published), -1))


async def _acknowledged(call: object) -> v1.PublishResponse | None:
    try:
        reply: v1.PublishResponse = await call  # type: ignore[misc] # grpc's stubs know no async stub here
    except grpc.aio.AioRpcError as error:
        # A publish that was made and not acknowledged leaves nothing to publish.
        if error.code() is not grpc.StatusCode.UNAVAILABLE and "nothing to publish" not in (error.details() or ""):
            raise
        await asyncio.sleep(0.02)
        return None
    return reply
