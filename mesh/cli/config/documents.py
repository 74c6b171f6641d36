"""`mesh config get|set|edit|rm`: the documents of the draft."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mesh.cli import arguments
from mesh.cli.config import apply
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
    from mesh.config.paths import Path as Place


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "get",
        epilog=arguments.examples(
            "mesh config get shop",
            "mesh config get shop -e prod --release 3",
            "mesh config get shop --effective -s orders -e prod",
            "mesh config get shop http.port --effective -s orders",
        ),
    )(get)
    app.command(
        "set",
        epilog=arguments.examples(
            "mesh config set shop http.port=8080 log.level=debug -e dev",
            "mesh config set shop --secret db.password -e prod   asks for it, or stdin",
            "mesh config set shop --unset http.port -e dev",
        ),
    )(set_)
    app.command("edit", epilog=arguments.examples("mesh config edit shop -e prod"))(edit)
    apply.add_to(app)
    app.command("rm", epilog=arguments.examples("mesh config rm shop -s orders -e dev"))(rm)


def get(
    *,
    application: Application,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Only what is there, such as http.port.")] = "",
    environment: Environment = "",
    service: Service = "",
    instance: Instance = "",
    effective: Annotated[
        bool, typer.Option("--effective", help="All layers merged, with the origin of every value.")
    ] = False,
    release: Annotated[int, typer.Option("--release", metavar="N", min=0, help="Of this release.")] = 0,
    at_revision: Annotated[int, typer.Option("--at-revision", metavar="N", min=0, help="The draft as it was.")] = 0,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show a document of the draft, of a release, or what an instance gets. Secrets are masked."""
    from mesh.api.config import v1
    from mesh.config.paths import parse_path

    place = parse_path(path)

    async def ask(config: ConfigAsyncStub) -> None:
        if effective:
            whole = v1.GetEffectiveRequest(
                application=application, environment=environment, service=service, instance=instance, release=release
            )
            _show_effective(await config.GetEffective(whole, timeout=TIMEOUT), place, as_json=as_json)
            return
        request = v1.GetRequest(application=application, layer=layer_of(environment, service, instance))
        if release:
            request.release = release
        elif at_revision:
            request.at_revision = at_revision
        document = (await config.Get(request, timeout=TIMEOUT)).document
        if place:
            print_line(json.dumps(_at(_data(document), place), ensure_ascii=False, indent=2))
        elif as_json:
            print_json({**structure(document), "content": _data(document)})
        else:
            print_line(document.text.rstrip("\n"))

    return asking(ask, control, debug=debug)


def set_(
    *,
    application: Application,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="PATH=VALUE...", help="VALUE is read as YAML: 80, true, [a, b], text.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="PATH", help="A secret: asked for, or read from standard input. Repeatable."),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="PATH", help="Take a value out. Repeatable.")
    ] = None,
    environment: Environment = "",
    service: Service = "",
    instance: Instance = "",
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Change values of the draft; the rest of the document stays as it is."""
    from mesh.cli.config.text_edit import parse_value, set_value, unset_value
    from mesh.config.paths import parse_path

    wanted: list[tuple[Place, Any]] = []
    for pair in values or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"'{pair}' is not PATH=VALUE")
        wanted.append((parse_path(name), parse_value(value)))
    wanted += [(parse_path(name), {"$secret": _ask_secret(name)}) for name in secret or ()]
    gone = [parse_path(name) for name in unset or ()]
    if not wanted and not gone:
        raise UsageError("nothing to set: give PATH=VALUE, --secret PATH or --unset PATH")

    async def ask(config: ConfigAsyncStub) -> None:
        layer = layer_of(environment, service, instance)
        document = await apply.find(config, application, layer)
        text, form = document.text, apply.form_of(document.format)
        for place, value in wanted:
            text = set_value(text, form, place, value)
        for place in gone:
            text = unset_value(text, form, place)
        reply = await apply.put(config, application, document, text, author_of(author))
        apply.say_put(application, reply, as_json=as_json)

    return asking(ask, control, debug=debug)


def edit(
    *,
    application: Application,
    environment: Environment = "",
    service: Service = "",
    instance: Instance = "",
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Edit a document of the draft in $VISUAL or $EDITOR. Secrets are masked; leave them so, and they stay."""
    from mesh.cli.config.editor import edited

    async def ask(config: ConfigAsyncStub) -> None:
        document = await apply.find(config, application, layer_of(environment, service, instance))

        async def put(text: str) -> v1.PutResponse:
            return await apply.put(config, application, document, text, author_of(author))

        reply = await edited(document, put)
        if reply is None:
            print_line("nothing changed")
        else:
            apply.say_put(application, reply, as_json=as_json)

    return asking(ask, control, debug=debug)


def rm(
    *,
    application: Application,
    environment: Environment = "",
    service: Service = "",
    instance: Instance = "",
    author: Author = "",
    control: arguments.Control = None,
    debug: arguments.Debug = False,
) -> int:
    """Take a document out of the draft."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    async def ask(config: ConfigAsyncStub) -> None:
        layer = layer_of(environment, service, instance)
        request = v1.RemoveRequest(application=application, layer=layer, author=author_of(author))
        await config.Remove(request, timeout=TIMEOUT)
        print_line(f"{application}: {show.layer(layer)} removed from the draft")

    return asking(ask, control, debug=debug)


def _ask_secret(name: str) -> str:
    """Return a secret that is not on the command line, where every process of the machine could read it."""
    import getpass

    text = getpass.getpass(f"{name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    if not text:
        raise UsageError(f"--secret {name}: nothing was given")
    return text


def _show_effective(reply: v1.GetEffectiveResponse, place: Place, *, as_json: bool) -> None:
    from mesh.cli.config import show

    content = json.loads(reply.effective.content_json)
    if place:
        print_line(json.dumps(_at(content, place), ensure_ascii=False, indent=2))
    elif as_json:
        found = structure(reply)
        found["effective"]["content"] = content
        del found["effective"]["content_json"]
        print_json(found)
    else:
        print_line("\n".join(show.effective(reply)))


def _data(document: v1.Document) -> Any:
    from services.config import text as texts

    return texts.read(document.text, apply.form_of(document.format)).data()


def _at(content: Any, place: Place) -> Any:
    from mesh.cli.config.text_edit import find_value

    return find_value(content, place)
