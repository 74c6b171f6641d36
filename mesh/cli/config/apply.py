"""`mesh config apply`: a file, or a whole folder, becomes the draft; and how all commands read and put documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.config.asking import (
    TIMEOUT,
    Application,
    Author,
    Environment,
    Instance,
    Service,
    asking,
    author_of,
    layer_of,
    structure,
)
from mesh.cli.output import print_json, print_line
from mesh.errors import UsageError

if TYPE_CHECKING:
    from mesh.api.config import v1
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub
    from services.config.text import Format

_SUFFIXES = (".yaml", ".yml", ".json")
_LAYOUT = (
    "defaults.yaml, environments/ENV.yaml, services/SERVICE.yaml, services/SERVICE/ENV.yaml, "
    "instances/SERVICE/ID.yaml, schema.json"
)


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "apply",
        epilog=arguments.examples(
            "mesh config apply shop -f prod.yaml -e prod",
            "generate | mesh config apply shop -f - -s orders",
            "mesh config apply shop -f config/ --prune   a folder, as git has it",
        ),
    )(apply)


def apply(
    *,
    application: Application,
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE|FOLDER", help=f"- is standard input. A folder has {_LAYOUT}.")
    ],
    environment: Environment = "",
    service: Service = "",
    instance: Instance = "",
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove the documents of the draft that the folder does not have.")
    ] = False,
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Put a document, or a folder of them, into the draft. The same again changes nothing."""
    path = Path(file)
    layer = layer_of(environment, service, instance)
    if file != "-" and path.is_dir():
        if environment or service or instance:
            raise UsageError("-e, -s and -i are for one file: in a folder the names of the files say the layers")
        sources = list(_folder(path))
    else:
        sources = [_Source(layer, _read(file), _suffix_format(file))]
        if prune:
            raise UsageError("--prune is for a folder")
    who = author_of(author)

    async def ask(config: ConfigAsyncStub) -> None:
        done = [await _put_source(config, application, source, who) for source in sources]
        if prune:
            done += await _prune(config, application, [one.layer for one in sources if not one.schema], who)
        if as_json:
            print_json(done)
        else:
            for one in done:
                print_line(f"{application}: {one['what']} {one['did']}")

    return asking(ask, control, debug=debug)


async def find(config: ConfigAsyncStub, application: str, layer: v1.Layer) -> v1.Document:
    """Return the draft's document, an empty one when there is none."""
    import grpc

    from mesh.api.config import v1

    try:
        return (await config.Get(v1.GetRequest(application=application, layer=layer), timeout=TIMEOUT)).document
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return v1.Document(layer=layer, format=v1.FORMAT_YAML)


async def put(config: ConfigAsyncStub, application: str, before: v1.Document, text: str, author: str) -> v1.PutResponse:
    """Put a document in the place of the one that was read, if that is still there."""
    from mesh.api.config import v1

    request = v1.PutRequest(
        application=application,
        layer=before.layer,
        format=before.format,
        text=text,
        author=author,
        expect_mod_revision=before.mod_revision,
    )
    return await config.Put(request, timeout=TIMEOUT)


def say_put(application: str, reply: v1.PutResponse, *, as_json: bool) -> None:
    from mesh.cli.config import show

    if as_json:
        print_json(structure(reply))
        return
    what = ", ".join(reply.changed_paths) or "no value changed"
    print_line(f"{application}: {show.layer(reply.document.layer)} at {reply.document.mod_revision}: {what}")


def form_of(given: v1.Format.ValueType) -> Format:
    from mesh.api.config import v1
    from services.config.text import Format

    return Format.JSON if given == v1.FORMAT_JSON else Format.YAML


@dataclass(frozen=True)
class _Source:
    """A text and what it is for."""

    layer: v1.Layer
    text: str
    format: v1.Format.ValueType
    schema: bool = False


async def _put_source(config: ConfigAsyncStub, application: str, source: _Source, author: str) -> dict[str, Any]:
    from mesh.api.config import v1
    from mesh.cli.config import show

    if source.schema:
        request = v1.PutSchemaRequest(application=application, schema=source.text, author=author)
        await config.PutSchema(request, timeout=TIMEOUT)
        return {"what": "schema", "did": "put"}
    # What was in the draft is replaced, whoever put it: the files are the truth.
    before = await find(config, application, source.layer)
    before.format = source.format
    reply = await put(config, application, before, source.text, author)
    same = reply.document.mod_revision == before.mod_revision
    return {"what": show.layer(source.layer), "did": "unchanged" if same else "put", "paths": list(reply.changed_paths)}


async def _prune(config: ConfigAsyncStub, application: str, kept: list[v1.Layer], author: str) -> list[dict[str, Any]]:
    from mesh.api.config import v1
    from mesh.cli.config import show

    found = await config.GetApplication(v1.GetApplicationRequest(application=application), timeout=TIMEOUT)
    gone = [one.layer for one in found.application.layers if one.mod_revision and one.layer not in kept]
    for layer in gone:
        request = v1.RemoveRequest(application=application, layer=layer, author=author)
        await config.Remove(request, timeout=TIMEOUT)
    return [{"what": show.layer(layer), "did": "removed"} for layer in gone]


def _folder(root: Path) -> Iterator[_Source]:
    """Yield what a folder holds, the schema first."""
    files = sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    if not files:
        raise UsageError(f"{root}: the folder has no {', '.join(_SUFFIXES)} file; it may have {_LAYOUT}")
    for path in sorted(files, key=lambda path: _rank(path.relative_to(root))):
        match path.relative_to(root).with_suffix("").parts:
            case ("schema",):
                layer, schema = layer_of("", "", ""), True
            case ("defaults",):
                layer, schema = layer_of("", "", ""), False
            case ("environments", environment):
                layer, schema = layer_of(environment, "", ""), False
            case ("services", service):
                layer, schema = layer_of("", service, ""), False
            case ("services", service, environment):
                layer, schema = layer_of(environment, service, ""), False
            case ("instances", service, instance):
                layer, schema = layer_of("", service, instance), False
            case _:
                raise UsageError(f"{path}: the folder may have {_LAYOUT}, and not this")
        yield _Source(layer, _read(str(path)), _suffix_format(path.name), schema)


def _rank(path: Path) -> tuple[bool, int, str]:
    """Sort the schema first, then as the layers lie upon each other, more or less."""
    return path.stem != "schema", len(path.parts), str(path)


def _read(file: str) -> str:
    import sys

    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: is not UTF-8 text") from error


def _suffix_format(name: str) -> v1.Format.ValueType:
    from mesh.api.config import v1

    return v1.FORMAT_JSON if name.endswith(".json") else v1.FORMAT_YAML
