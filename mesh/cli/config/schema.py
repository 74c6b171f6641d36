"""`mesh config schema`: what an application's configuration must look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import arguments
from mesh.cli.config.asking import TIMEOUT, Application, Author, asking, author_of, structure
from mesh.cli.output import print_json, print_line
from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "schema", epilog=arguments.examples("mesh config schema shop", "mesh config schema shop -f schema.json")
    )(schema)


def schema(
    *,
    application: Application,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Set it: JSON Schema, in JSON or YAML.")
    ] = None,
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show or set the schema that a draft must satisfy to be published."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    try:
        text = None if file is None else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({error})") from error

    async def ask(config: ConfigAsyncStub) -> None:
        if text is None:
            found = await config.GetSchema(v1.GetSchemaRequest(application=application), timeout=TIMEOUT)
            if as_json:
                print_json(structure(found))
            else:
                print_line(found.schema.rstrip("\n"))
            return
        request = v1.PutSchemaRequest(application=application, schema=text, author=author_of(author))
        reply = await config.PutSchema(request, timeout=TIMEOUT)
        if as_json:
            print_json(structure(reply))
            return
        print_line(f"{application}: the schema is set, at {reply.mod_revision}")
        for one in reply.draft_violations:
            print_line(f"the draft does not satisfy it: {one.path} {one.description} ({show.layer(one.layer)})")

    return asking(ask, control, debug=debug)
