"""`mesh config publish|promote|abort|rollback|history|diff`: from draft to release and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mesh.cli import arguments
from mesh.cli.config.asking import (
    TIMEOUT,
    Application,
    Author,
    Comment,
    Labels,
    Percent,
    asking,
    author_of,
    rule_of,
    structure,
)
from mesh.cli.output import print_json, print_line

if TYPE_CHECKING:
    from mesh.api.config import v1
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "publish",
        epilog=arguments.examples(
            'mesh config publish shop -m "longer timeouts"',
            "mesh config publish shop --percent 10",
            "mesh config publish shop --label instance=orders-1",
        ),
    )(publish)
    app.command(
        "promote",
        epilog=arguments.examples("mesh config promote shop --percent 50", "mesh config promote shop"),
    )(promote)
    app.command("abort")(abort)
    app.command("rollback", epilog=arguments.examples('mesh config rollback shop 3 -m "errors since 4"'))(rollback)
    app.command("history")(history)
    app.command(
        "diff",
        epilog=arguments.examples(
            "mesh config diff shop          what publish would bring",
            "mesh config diff shop 3        the draft against release 3",
            "mesh config diff shop 3 5",
        ),
    )(diff)


def publish(
    *,
    application: Application,
    comment: Comment = "",
    percent: Percent = None,
    label: Labels = None,
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Make the draft a release, for all instances or, as a gray release, for some."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    rule = rule_of(percent, label)
    request = v1.PublishRequest(application=application, author=author_of(author), comment=comment, gray_rule=rule)

    async def ask(config: ConfigAsyncStub) -> None:
        reply = await config.Publish(request, timeout=TIMEOUT)
        if as_json:
            print_json(structure(reply))
            return
        changed = ", ".join(map(show.layer, reply.release.changed_layers))
        whom = f" for {show.rule(rule)}: promote or abort it" if rule is not None else ""
        print_line(f"{application}: release {reply.release.number} is out{whom} ({changed})")

    return asking(ask, control, debug=debug)


def promote(
    *,
    application: Application,
    percent: Percent = None,
    label: Labels = None,
    comment: Comment = "",
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Give the gray release to all instances or, with --percent or --label, to these."""
    from mesh.api.config import v1

    rule = rule_of(percent, label)
    request = v1.PromoteRequest(application=application, author=author_of(author), comment=comment, gray_rule=rule)

    async def ask(config: ConfigAsyncStub) -> None:
        _say_application((await config.Promote(request, timeout=TIMEOUT)).application, as_json=as_json)

    return asking(ask, control, debug=debug)


def abort(
    *,
    application: Application,
    comment: Comment = "",
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Take the gray release back; the draft stays as it is."""
    from mesh.api.config import v1

    request = v1.AbortRequest(application=application, author=author_of(author), comment=comment)

    async def ask(config: ConfigAsyncStub) -> None:
        _say_application((await config.Abort(request, timeout=TIMEOUT)).application, as_json=as_json)

    return asking(ask, control, debug=debug)


def rollback(
    *,
    application: Application,
    release: Annotated[int, typer.Argument(metavar="RELEASE", min=1, help="Whose documents shall be out again.")],
    comment: Comment = "",
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Make a release of what an earlier one held, for all instances."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    request = v1.RollbackRequest(application=application, to_release=release, author=author_of(author), comment=comment)

    async def ask(config: ConfigAsyncStub) -> None:
        reply = await config.Rollback(request, timeout=TIMEOUT)
        if as_json:
            print_json(structure(reply))
            return
        print_line(f"{application}: release {reply.release.number} is out, with what release {release} held")
        if reply.aborted_release:
            print_line(f"gray release {reply.aborted_release} is aborted")
        if reply.kept_drafts:
            kept = ", ".join(map(show.layer, reply.kept_drafts))
            print_line(f"the draft keeps its changes ({kept}): look at them before the next publish")

    return asking(ask, control, debug=debug)


def history(
    *,
    application: Application,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100, help="How many.")] = 20,
    before: Annotated[int, typer.Option("--before", metavar="N", min=0, help="Only before this release.")] = 0,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show the releases, newest first."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    async def ask(config: ConfigAsyncStub) -> None:
        request = v1.HistoryRequest(application=application, limit=limit, before=before)
        reply = await config.History(request, timeout=TIMEOUT)
        if as_json:
            print_json(structure(reply))
            return
        known = await config.GetApplication(v1.GetApplicationRequest(application=application), timeout=TIMEOUT)
        print_line("\n".join(show.history(reply, known.application)))
        if reply.more:
            print_line(f"older ones: --before {reply.releases[-1].number}")

    return asking(ask, control, debug=debug)


def diff(
    *,
    application: Application,
    before: Annotated[int | None, typer.Argument(metavar="[FROM]", help="A release; left out, the stable one.")] = None,
    after: Annotated[int | None, typer.Argument(metavar="[TO]", help="A release; left out, the draft.")] = None,
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Show what differs between two releases, or between a release and the draft. Secrets are masked."""
    from mesh.api.config import v1
    from mesh.cli.config import show

    request = v1.DiffRequest(application=application, from_release=before, to_release=after)

    async def ask(config: ConfigAsyncStub) -> None:
        reply = await config.Diff(request, timeout=TIMEOUT)
        if as_json:
            print_json(structure(reply))
        else:
            print_line("\n".join(show.diff(reply)))

    return asking(ask, control, debug=debug)


def _say_application(found: v1.Application, *, as_json: bool) -> None:
    from mesh.cli.config import show

    if as_json:
        print_json(structure(found))
    elif found.gray_release:
        print_line(f"{found.name}: gray release {found.gray_release} is out for {show.rule(found.gray_rule)}")
    else:
        print_line(f"{found.name}: release {found.stable_release} is out for all instances")
