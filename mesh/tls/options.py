"""The options of TLS."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.options import require

REQUIRE = "require"
OPTIONAL = "optional"
CLIENT_AUTH = (REQUIRE, OPTIONAL)


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """TLS of one listener; without a certificate it speaks plaintext. Paths of PEM files."""

    # The certificate and, after it, those that lead to what clients trust. Unset is plaintext.
    cert: str = ""
    # Its key.
    key: str = ""
    # Who signs the certificates of clients. Set, a client must show one.
    client_ca: str = ""
    # Whether it must ("require") or may ("optional"; not with `engine = "aio"`).
    client_auth: str = REQUIRE

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(bool(self.cert) == bool(self.key), "TLS needs both files: a certificate and its key")
        require(bool(self.cert) or not self.client_ca, "client_ca makes sense only with a certificate and its key")
        require(
            self.client_auth in CLIENT_AUTH, f"client_auth: '{self.client_auth}' is none of {', '.join(CLIENT_AUTH)}"
        )

    @property
    def enabled(self) -> bool:
        return bool(self.cert)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path)


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS to instances that are registered with the metadata `tls=on`. Paths of PEM files."""

    # Who signs the certificates of instances that are registered with `tls=on`; the system's authorities when left out.
    ca: str = ""
    # The edge's own certificate, for instances that want to know who calls.
    cert: str = ""
    # Its key.
    key: str = ""

    def __post_init__(self) -> None:
        """Check the values; raises UsageError."""
        require(bool(self.cert) == bool(self.key), "TLS to upstreams needs both files: a certificate and its key")

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(path for path in (self.ca, self.cert, self.key) if path)
