"""The options of `mesh edge` that name TLS files; what else there is to say about TLS is in the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

_BETWEEN = "_tls_"
_PANEL = "TLS (PEM files, read anew when they change)"


def _file(option: str, help_text: str) -> Any:
    return typer.Option(
        option, metavar="FILE", help=help_text, rich_help_panel="TLS (PEM files, read anew when they change)"
    )


PublicCert = Annotated[Path | None, _file("--public-tls-cert", "The public listener's certificate chain.")]
PublicKey = Annotated[Path | None, _file("--public-tls-key", "Its key.")]
PublicClientCa = Annotated[
    Path | None, _file("--public-tls-client-ca", "Who signs the certificates that its clients must show.")
]
InternalCert = Annotated[Path | None, _file("--internal-tls-cert", "The internal listener's certificate chain.")]
InternalKey = Annotated[Path | None, _file("--internal-tls-key", "Its key.")]
InternalClientCa = Annotated[
    Path | None, _file("--internal-tls-client-ca", "Who signs the certificates that its clients must show.")
]
ControlCert = Annotated[Path | None, _file("--tls-cert", "Its certificate chain; without one it speaks plaintext.")]
ControlKey = Annotated[Path | None, _file("--tls-key", "The certificate's key.")]
ControlClientCa = Annotated[
    Path | None, _file("--tls-client-ca", "Who signs the certificates that its clients must show.")
]
UpstreamCa = Annotated[
    Path | None,
    _file("--upstream-tls-ca", "Who signs those of instances with tls=on.  [dim]\\[default: the system's][/]"),
]
UpstreamCert = Annotated[Path | None, _file("--upstream-tls-cert", "The edge's own certificate, shown to them.")]
UpstreamKey = Annotated[Path | None, _file("--upstream-tls-key", "Its key.")]


def with_tables(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of EdgeOptions with what is given over them, "public_tls_cert" as `cert` of `public_tls`.

    None is not given. Raises UsageError.
    """
    result = dict(fields)
    tables: dict[str, dict[str, str]] = {}
    for name, value in given.items():
        if value is None:
            continue
        listener, between, key = name.partition(_BETWEEN)
        if between:
            tables.setdefault(f"{listener}_tls", {})[key] = str(value)
        else:
            result[name] = value
    for table, values in tables.items():
        result[table] = replace(result.get(table) or _default(table), **values)
    return result


def _default(table: str) -> Any:
    from mesh.tls.options import ListenerTls, UpstreamTls

    return UpstreamTls() if table == "upstream_tls" else ListenerTls()
