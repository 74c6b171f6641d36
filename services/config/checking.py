"""Schemas beside the event loop: what checks them takes a while to load, and large documents a while to check."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.config.layers import Layer
    from services.config.schema import Schema, SchemaViolation
    from services.config.tree import Document


async def load(text: str) -> Schema:
    """Return a schema that has been checked.

    Raises:
        InvalidError: it is none.

    """

    def loaded() -> Schema:
        from services.config.schema import Schema

        return Schema(text)

    return await asyncio.to_thread(loaded)


async def check(schema: Schema, documents: Mapping[Layer, Document]) -> list[SchemaViolation]:
    """Return what is wrong with the configuration of anybody that the layers are for, each thing once."""
    from services.config.schema import check_all

    return await asyncio.to_thread(check_all, schema, documents)
