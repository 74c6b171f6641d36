from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import UsageError
from services.storage.kv.etcd.options import EtcdOptions, Tls, parse_url
from services.storage.kv.urls import check_url, open_store


def test_a_plain_url() -> None:
    assert parse_url("etcd://10.0.0.1:2379,[::1]:2380") == EtcdOptions(("10.0.0.1:2379", "[::1]:2380"))


def test_everything_at_once(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text("pem")
    query = "&".join(f"{name}={tmp_path}/{name}" for name in ("ca", "cert", "key"))
    options = parse_url(f"etcd://mesh:a%40b%3A@h:1/shops/eu/?{query}&timeout=2&keep=0")
    assert (options.user, options.password, options.namespace) == ("mesh", "a@b:", "shops/eu")
    assert options.tls == Tls(tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    assert (options.timeout, options.attempt_timeout, options.keep) == (2.0, 2.0, 0)
    assert "a@b:" not in repr(options)


def test_a_password_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("p%40ss\n")
    assert parse_url(f"etcd://mesh@h:1?password_file={tmp_path}/password").password == "p%40ss"


def test_tls_with_the_authorities_of_the_system() -> None:
    assert parse_url("etcd://h:1?tls=yes").tls == Tls()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("etcd://", "no member"),
        ("etcd://h", "HOST:PORT"),
        ("etcd://h:0", "port"),
        ("etcd://h:1?color=red", "no option 'color'"),
        ("etcd://h:1?tls=no", "only be 'yes'"),
        ("etcd://:secret@h:1", "no user"),
        ("etcd://h:1?timeout=soon", "not a number"),
        ("etcd://h:1?timeout=0", "longer"),
        ("etcd://h:1?keep=-1", "no number of revisions"),
        ("etcd://h:1?ca=/does/not/exist", "cannot read /does/not/exist: No such file"),
        ("etcd://m:secret@h:1?password_file=/does/not/exist", "cannot read"),
        ("postgres://m:secret@h:1", "'postgres' names no store"),
        ("sqlite://relative/path", "names no store"),
        ("/var/lib/kv.db", "names no store"),
        ("", "names no store"),
    ],
)
def test_what_makes_no_sense_is_said_without_the_password(url: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


def test_cert_and_key_only_come_together(tmp_path: Path) -> None:
    (tmp_path / "cert").write_text("pem")
    with pytest.raises(UsageError, match="together"):
        parse_url(f"etcd://h:1?cert={tmp_path}/cert")


async def test_a_file_is_opened_by_its_url(tmp_path: Path) -> None:
    async with open_store(f"sqlite://{tmp_path}/with%20space.db") as store:
        await store.put("key", b"")
    assert (tmp_path / "with space.db").exists()
