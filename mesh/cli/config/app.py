"""The commands of `mesh config`."""

from __future__ import annotations

import typer

from mesh.cli.config import documents, keys, releases, schema, status


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    config = typer.Typer(
        name="config",
        help=(
            "Central configuration: documents in layers, releases, and what every instance runs.\n\n"
            "Layers, each over those before: defaults, environment (-e), service (-s), service in environment "
            "(-s -e), instance (-s -i). Changes go to the draft; [bold]mesh config publish[/] brings them to the "
            "instances."
        ),
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for part in (documents, releases, status, schema, keys):
        part.add_to(config)
    app.add_typer(config)
