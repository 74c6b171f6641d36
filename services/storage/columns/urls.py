"""A columnar store by its URL."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from mesh.clock import Clock
from mesh.errors import UsageError
from mesh.options import require

if TYPE_CHECKING:
    from services.storage.columns.base import ColumnStore, Options, TableSchema

DUCKDB = "duckdb"
POSTGRES = "postgresql"
DEFAULT_SCHEMA = "mesh"


def open_columns(
    url: str, schemas: Iterable[TableSchema], options: Options | None = None, clock: Clock | None = None
) -> ColumnStore:
    """Return the store that `url` names, for use in `async with`, which raises `StartError` when it cannot be used.

    `duckdb:///PATH` is a file on this machine. `postgresql://USER@HOST:PORT/DATABASE` is a server, and may have all
    that libpq takes; `mesh_schema=NAME` says in which schema the tables are ("mesh").

    Raises:
        UsageError: there is no such store.

    """
    from services.storage.columns.base import Options
    from services.storage.columns.store import ThreadedStore

    check_columns_url(url)
    options = options or Options()
    tables = {schema.name: schema for schema in schemas}
    if urlsplit(url).scheme == DUCKDB:
        from services.storage.columns.duckdb import DuckDbDriver

        return ThreadedStore(DuckDbDriver(Path(unquote(urlsplit(url).path)), tables, options), options, clock)
    from services.storage.columns.postgres import PostgresDriver

    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    schema = dict(query).get("mesh_schema", DEFAULT_SCHEMA)
    kept = "&".join(pair for pair in parts.query.split("&") if not pair.startswith("mesh_schema="))
    conninfo = urlunsplit(parts._replace(query=kept))
    return ThreadedStore(PostgresDriver(conninfo, schema, tables, options), options, clock)


def check_columns_url(url: str) -> None:
    """Raise `UsageError` unless `url` names a store."""
    parts = urlsplit(url)
    # Without what stands after the scheme: there may be a password in it.
    wrong = (
        f"--telemetry-store: the URL with scheme '{parts.scheme}' names no store: give duckdb:///ABSOLUTE/PATH or, for "
        "example, postgresql://mesh@db.example:5432/telemetry, or off"
    )
    if parts.scheme == DUCKDB:
        path = Path(unquote(parts.path))
        require(not parts.netloc and not parts.query and path.is_absolute() and path != Path("/"), wrong)
    elif parts.scheme == POSTGRES:
        schema = dict(parse_qsl(parts.query)).get("mesh_schema", DEFAULT_SCHEMA)
        require(schema.isascii() and schema.isidentifier(), f"--telemetry-store: '{schema}' cannot name a schema")
    else:
        raise UsageError(wrong)
