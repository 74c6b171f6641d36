"""The schema of `mesh.edge` is there from the start, once, and does not replace what somebody else put."""

from __future__ import annotations

import json
from pathlib import Path

from mesh.api.config import v1
from mesh.edge import schema
from tests.unit.services.config.helpers import ME, Control, refused, serving


async def _schema(control: Control) -> v1.GetSchemaResponse:
    found: v1.GetSchemaResponse = await control.config.GetSchema(v1.GetSchemaRequest(application="mesh.edge"))
    return found


async def _put(control: Control, text: str, author: str) -> None:
    await control.config.PutSchema(v1.PutSchemaRequest(application="mesh.edge", schema=text, author=author))


async def test_it_is_registered_once_and_drafts_must_satisfy_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as control:
        first = await _schema(control)
        assert (first.schema, first.author) == (schema.text(), "mesh-control")
        await control.put("services: {orders: {retry: {attempts: 9}}}", "mesh.edge")
        refusal = await refused(control.publish("mesh.edge"))
        assert refusal.kinds == {"SCHEMA"}
        assert refusal.violations == {"services.orders.retry.attempts": "must be at most 5 (layer defaults)"}
    async with serving(tmp_path) as control:
        assert (await _schema(control)).mod_revision == first.mod_revision, "a restart writes nothing"


async def test_a_newer_one_and_one_of_a_person_stay_and_an_older_one_does_not(tmp_path: Path) -> None:
    newer = json.dumps({**schema.document(), "version": 10**6})
    for text, author, stays in ((newer, "mesh-control", True), ("{}", "mesh-control", False), ("{}", ME, True)):
        async with serving(tmp_path) as control:
            await _put(control, text, author)
        async with serving(tmp_path) as control:
            assert ((await _schema(control)).schema == text) is stays
