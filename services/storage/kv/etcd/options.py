"""How etcd is reached: the options of the driver, and the URL that says them. Pure, but for the files that it names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from mesh.errors import UsageError
from mesh.options import parse_address, require

SCHEME = "etcd"
DEFAULT_NAMESPACE = "meshplane"
EXAMPLE = "etcd://10.0.0.1:2379,10.0.0.2:2379"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. Without `ca` the system's authorities are trusted; `cert` and `key` only come together."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """Which etcd, what part of it, and how patiently."""

    # "HOST:PORT" each.
    members: tuple[str, ...]
    # All keys are below it, so that several meshes, and others, can share one etcd.
    namespace: str = DEFAULT_NAMESPACE
    user: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None
    # Seconds that a request may take with all its attempts, and one attempt at one member.
    timeout: float = 10.0
    attempt_timeout: float = 3.0
    # How many revisions of history are kept; 0 leaves compaction to etcd.
    keep: int = 10_000

    def __post_init__(self) -> None:
        require(bool(self.members), f"--store: no member is named, as in {EXAMPLE}")
        require(bool(self.namespace.strip("/")), "--store: the namespace is empty")
        require(bool(self.user) or not self.password, "--store: there is a password, but no user")
        require(0 < self.attempt_timeout <= self.timeout, "--store: timeout must be longer than an attempt takes")
        require(self.keep >= 0, f"--store: keep={self.keep} is no number of revisions")
        tls = self.tls or Tls()
        require((tls.cert is None) is (tls.key is None), "--store: cert and key only come together")


def parse_url(url: str) -> EtcdOptions:
    """Return what a URL says: `etcd://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT][/NAMESPACE][?NAME=VALUE&...]`.

    Names: `ca`, `cert`, `key` (PEM files; each turns TLS on), `tls=yes` (with the system's authorities),
    `password_file`, `timeout` (seconds), `keep` (revisions).

    Raises:
        UsageError: it makes no sense, or names a file that cannot be read. No message holds the password.

    """
    parts = urlsplit(url)
    who, _, where = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = given.keys() - {"ca", "cert", "key", "tls", "password_file", "timeout", "keep"}
    require(not unknown, f"--store: etcd has no option '{', '.join(sorted(unknown))}'")
    require(given.get("tls", "yes") == "yes", "--store: tls can only be 'yes'")
    if "password_file" in given:
        password = _read(Path(given["password_file"])).strip()
    files = {name: Path(given[name]) for name in ("ca", "cert", "key") if name in given}
    for path in files.values():
        _read(path)
    timeout = _number(given, "timeout", 10.0)
    return EtcdOptions(
        members=tuple(parse_address(member, "--store") for member in where.split(",") if member),
        namespace=unquote(parts.path).strip("/") or DEFAULT_NAMESPACE,
        user=unquote(user),
        password=unquote(password) if "password_file" not in given else password,
        tls=Tls(**files) if files or "tls" in given else None,
        timeout=timeout,
        attempt_timeout=min(3.0, timeout),
        keep=int(_number(given, "keep", 10_000)),
    )


def _number(given: dict[str, str], name: str, default: float) -> float:
    try:
        return float(given.get(name, default))
    except ValueError:
        raise UsageError(f"--store: {name}='{given[name]}' is not a number") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--store: cannot read {path}: {reason}") from error
