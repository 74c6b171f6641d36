"""The `mesh` command: which commands there are, and how their errors and exit codes look."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

import typer

from mesh.cli import collect, instances, parts, register, routes, services, up, version
from mesh.cli.config import app as config
from mesh.cli.explain import command as explain
from mesh.cli.logs import command as logs
from mesh.cli.metrics import alerts, query
from mesh.cli.quiet import quieten
from mesh.cli.top import command as top
from mesh.cli.traces import command as traces


def _empty() -> typer.Typer:
    return typer.Typer(
        name="mesh",
        help=(
            "A gRPC service mesh.\n\n"
            "[bold]mesh up --demo[/] starts everything on this machine with a small shop to try it on; "
            "each command's --help shows how it is used."
        ),
        epilog=(
            "Exit codes: 0 done, 1 failed, 2 bad usage. MESH_CONTROL says where the control services are, for the "
            "commands that ask them; 127.0.0.1:7711, where 'mesh up' puts them, is the default."
        ),
        rich_markup_mode="rich",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        # Makes it one that has commands, whatever number of them.
        callback=lambda: None,
    )


app = _empty()

# What a wrong command line raises; typer has this class from click or from its own copy of it, as its version goes.
_BadCommandLine = cast("type[Exception]", typer.BadParameter.__base__)

# As mesh.runtime has them, which is not imported here: with it comes asyncio, and `mesh --help` shall be fast.
_FAILED, _USAGE = 1, 2

for command in (
    up,
    parts,
    register,
    services,
    instances,
    routes,
    logs,
    collect,
    traces,
    explain,
    top,
    query,
    alerts,
    config,
    version,
):
    command.add_to(app)


def _asked(arguments: Sequence[str]) -> typer.Typer:
    """Return what has the command that is asked for, or all where none of ours is.

    Typer makes every command that it is given, and for all of them that takes longer than most commands do.
    """
    for name in arguments[:1]:
        found = _empty()
        found.registered_commands = [one for one in app.registered_commands if one.name == name]
        groups = ((one, one.typer_instance) for one in app.registered_groups)
        found.registered_groups = [one for one, group in groups if group is not None and group.info.name == name]
        if found.registered_commands or found.registered_groups:
            return found
    return app


def _flowing(commands: typer.Typer) -> None:
    """Let paragraphs of help fill a terminal of any width: the lines of a docstring are those of its source."""
    for one in commands.registered_commands:
        text = one.help or (one.callback.__doc__ if one.callback else None) or ""
        one.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")).strip()
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _flowing(group.typer_instance)


_flowing(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv` by default; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    if not debug:
        quieten()
    try:
        code = _asked(arguments)(args=arguments, prog_name="mesh", standalone_mode=False)
    except _BadCommandLine as error:
        return _complain(error)
    except (typer.Abort, KeyboardInterrupt):
        return _FAILED
    except Exception as error:  # noqa: BLE001 - the rim of the process: everything becomes a line and a code
        from mesh.runtime import report

        return report(error, debug=debug)
    return code if isinstance(code, int) else 0


def _complain(error: BaseException) -> int:
    """Say in one line what is wrong with the command line and where to read how it is right."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "mesh"
    message = getattr(error, "format_message", lambda: str(error))().strip()
    if not message:  # `mesh` alone: the help was shown
        return _USAGE
    sentence = " ".join(message.split()).rstrip(".")
    print(f"mesh: {sentence}; see {command} --help", file=sys.stderr)  # noqa: T201 - the command's voice
    return _USAGE
