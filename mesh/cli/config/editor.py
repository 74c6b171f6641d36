"""A document in the person's editor."""

from __future__ import annotations

import asyncio
import os
import shlex
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.cli.quiet import environment
from mesh.errors import MeshError, StartError
from mesh.options import editor

if TYPE_CHECKING:
    from mesh.api.config import v1


async def edited(document: v1.Document, put: Callable[[str], Awaitable[v1.PutResponse]]) -> v1.PutResponse | None:
    """Let the person edit the document and put it; None when nothing changed.

    Raises:
        StartError: the editor cannot be started, or gave up. When the change is refused, what was written is kept,
            and the error says where.

    """
    from mesh.api.config import v1

    path = _write(document.text, ".json" if document.format == v1.FORMAT_JSON else ".yaml")
    keep = False
    try:
        await _edit(path)
        text = _read(path)
        if text == document.text:
            return None
        try:
            return await put(text)
        except Exception as error:
            keep = True
            raise StartError(f"{_words(error)}; your text is in {path}") from error
    finally:
        if not keep:
            _remove(path)


def _write(text: str, suffix: str) -> Path:
    fd, name = tempfile.mkstemp(prefix="mesh-config-", suffix=suffix)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    return Path(name)


def _read(path: Path) -> str:
    return path.read_text()


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _edit(path: Path) -> None:
    command = editor()
    try:
        process = await asyncio.create_subprocess_exec(*shlex.split(command), str(path), env=environment())
    except (OSError, ValueError) as error:
        raise StartError(f"the editor '{command}' cannot be started ({error}): set VISUAL or EDITOR") from error
    if code := await process.wait():
        raise StartError(f"the editor '{command}' ended with {code}: nothing was changed")


def _words(error: Exception) -> str:
    import grpc

    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or error.code().name
    return str(error) if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
