"""`mesh config keygen|rotate`: the keys that secrets are encrypted with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mesh.cli import arguments
from mesh.cli.config.asking import Author, asking, author_of, structure
from mesh.cli.output import print_json, print_line

if TYPE_CHECKING:
    from mesh.api.config.v1.config_pb2_grpc import ConfigAsyncStub


def add_to(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("keygen", epilog=arguments.examples("mesh config keygen > keys && chmod 600 keys"))(keygen)
    app.command("rotate")(rotate)


def keygen() -> int:
    """Print a new key for secrets, as MESH_CONFIG_KEY and --config-key-file of `mesh control` take it."""
    from services.config.keys import make_key

    print_line(make_key())
    return 0


def rotate(
    *,
    author: Author = "",
    control: arguments.Control = None,
    as_json: arguments.Json = False,
    debug: arguments.Debug = False,
) -> int:
    """Encrypt all secrets under the first key of the control process; the others are no longer needed then.

    To change the key: add the new one as the second, restart the control processes; make it the first, restart;
    rotate; take the old one out.
    """
    from mesh.api.config import v1

    async def ask(config: ConfigAsyncStub) -> None:
        reply = await config.RotateSecrets(v1.RotateSecretsRequest(author=author_of(author)), timeout=60)
        if as_json:
            print_json(structure(reply))
        else:
            print_line(f"{reply.rotated} of {reply.total} secrets were encrypted anew")

    return asking(ask, control, debug=debug)
