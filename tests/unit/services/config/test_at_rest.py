"""Secrets at rest and on the wire: whatever the document, no plaintext is in the file or in any masked reply."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.api.config import v1
from services.config import text as texts
from services.config.text import Format
from tests.unit.services.config.documents import SCALARS, documents
from tests.unit.services.config.helpers import ME, serving

MARK = "s3cr3t"
SECRETS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=12).map(
    lambda text: {"$secret": f"{MARK}{text}"}
)
FORMATS = {Format.YAML: v1.FORMAT_YAML, Format.JSON: v1.FORMAT_JSON}


@settings(max_examples=15)
@given(documents(SCALARS | SECRETS), documents(SECRETS), st.sampled_from(Format))
def test_no_plaintext_is_anywhere_but_with_the_instance(
    lower: dict[str, Any], upper: dict[str, Any], form: Format
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_check(Path(folder), lower, upper, form))


async def _check(folder: Path, lower: dict[str, Any], upper: dict[str, Any], form: Format) -> None:
    upper = {**upper, "always": {"$secret": MARK}}
    async with serving(folder) as control:
        replies: list[object] = [
            await control.put(texts.write(lower, form), format=FORMATS[form]),
            await control.put(texts.write(upper, form), format=FORMATS[form], service="orders"),
            await control.publish(),
        ]
        lease = await control.register("orders", "orders-1")
        schema = json.dumps({"additionalProperties": {"type": "integer"}})
        config = control.config
        replies += [
            await config.PutSchema(v1.PutSchemaRequest(application="shop", schema=schema, author=ME)),
            await config.Get(v1.GetRequest(application="shop", layer=v1.Layer(service="orders"))),
            await config.Get(v1.GetRequest(application="shop", release=1)),
            await config.GetApplication(v1.GetApplicationRequest(application="shop")),
            await config.History(v1.HistoryRequest(application="shop")),
            await config.Diff(v1.DiffRequest(application="shop", from_release=0, to_release=1)),
            await config.Diff(v1.DiffRequest(application="shop", from_release=0)),
            await config.ListAudit(v1.ListAuditRequest()),
            await control.effective(service="orders"),
        ]
        assert not any(MARK in str(reply) for reply in replies)
        clear = await control.effective(service="orders", instance="orders-1", lease_id=lease)
        assert json.loads(clear.effective.content_json)["always"] == MARK
        files = [path for path in folder.iterdir() if path.is_file() and path.name != "keys"]
        assert {"kv.db", "kv.db-wal"} <= {path.name for path in files}
        assert not any(MARK.encode() in path.read_bytes() for path in files)
