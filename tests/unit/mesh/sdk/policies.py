"""Releases of configuration, for tests."""

from __future__ import annotations

import json
from typing import Any

from mesh.api.config import v1
from mesh.edge.schema import APPLICATION
from tests.unit.mesh.sdk.helpers import Control, dialled


async def publish(control: Control, document: dict[str, Any], application: str = APPLICATION) -> int:
    """Make a document the release of an application; returns its number."""
    async with dialled(control.address) as channel:
        config: Any = v1.ConfigStub(channel)
        text = json.dumps(document)  # which is YAML as well
        await config.Put(v1.PutRequest(application=application, layer=v1.Layer(), text=text, author="ann"))
        reply = await config.Publish(v1.PublishRequest(application=application, author="ann"))
    return int(reply.release.number)
