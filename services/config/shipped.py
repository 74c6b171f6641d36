"""The applications that the mesh itself brings, each with its schema."""

from __future__ import annotations

import contextlib
import logging

from mesh.edge import CONTROL_SERVICE, schema
from services.config.domain import Config
from services.config.errors import ConfigError, UnknownError
from services.storage.kv.base import KvError

_log = logging.getLogger(__name__)


async def register(config: Config) -> None:
    """See to it that the application of the edges has its schema.

    A schema that a person has put there stays, and so does that of a newer control process. A store that cannot be
    written now is no reason not to start: the next start may do.
    """
    try:
        known, revision = "", 0
        with contextlib.suppress(UnknownError):
            stored = await config.reader.schema((await config.repository.app(schema.APPLICATION)).value)
            if stored.author != CONTROL_SERVICE:
                return
            known, revision = stored.text, stored.revision
        if known == schema.text() or schema.version(known) > schema.version(schema.text()):
            return
        await config.editor.put_schema(schema.APPLICATION, schema.text(), CONTROL_SERVICE, revision)
    except (ConfigError, KvError) as error:
        _log.warning("the schema of %s cannot be registered now: %s", schema.APPLICATION, error)
