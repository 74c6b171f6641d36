"""etcd behind TLS with client certificates, and behind users."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import StartError
from services.storage.kv.base import Grant, StorageError
from services.storage.kv.etcd.options import parse_url
from services.storage.kv.etcd.store import EtcdStore
from tests.conformance_kv.bench import LONG, EtcdBench, Watcher, new_lease
from tests.conformance_kv.etcd_server import EtcdMember, running_etcd, url_of


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def make_certificates(folder: Path) -> None:
    """Make an authority, and a certificate for the server and for a client."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(folder, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(folder, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            *(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "names", "-out", f"{name}.pem"),
        )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")
async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    server = ("--cert-file", f"{tmp_path}/server.pem", "--key-file", f"{tmp_path}/server.key")
    clients = ("--client-cert-auth", "--trusted-ca-file", f"{tmp_path}/ca.pem")
    with running_etcd(tmp_path, extra=(*server, *clients), scheme="https") as members:
        ca = f"ca={tmp_path}/ca.pem&timeout=2"
        url = url_of(members, "tls", f"{ca}&cert={tmp_path}/client.pem&key={tmp_path}/client.key")
        async with EtcdStore(parse_url(url)) as store:
            await store.put("key", b"value")
        for query in (ca, "tls=yes&timeout=2", "timeout=2"):
            with pytest.raises(StartError):
                await EtcdStore(parse_url(url_of(members, "tls", query))).__aenter__()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdMember]:
    """An etcd with a user `mesh` that may use the namespace `ns`, and nothing else."""
    with running_etcd(tmp_path_factory.mktemp("auth")) as (member,):
        for command in (
            "user add root:root",
            "user grant-role root root",
            "user add mesh:s3cret/",
            "role add mesh",
            "role grant-permission mesh --prefix=true readwrite ns/",
            "user grant-role mesh mesh",
            "auth enable",
        ):
            member.etcdctl(*command.split())
        yield member


async def test_a_user_gets_in_and_its_token_is_renewed(guarded: EtcdMember) -> None:
    bench = EtcdBench(guarded)
    url = url_of([guarded], "ns", user="mesh:s3cret%2F@")
    async with EtcdStore(parse_url(url)) as store:
        bench.store = store
        lease_id = new_lease()
        await store.grant(Grant(lease_id, LONG))
        store._members._token = "out of date"
        await store.put("key", b"value", lease=lease_id)
        store._members._token = "out of date"
        watcher = Watcher(bench, "", store.header.revision)
        await watcher.reach(store.header.revision)
        await watcher.stop()
        store._members._token = "out of date"
        assert (await store.keepalive(lease_id)).ttl == LONG
        await store.revoke(lease_id)
        await store.compact(store.header.revision)


async def test_who_is_not_let_in_is_told_why(guarded: EtcdMember, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret/\n")
    for user, query, reason in (
        ("mesh:wrong@", "", "does not take user 'mesh'"),
        ("", "", "wants to know who asks"),
        ("mesh@", f"password_file={tmp_path}/password", None),
    ):
        store = EtcdStore(parse_url(url_of([guarded], "ns", query, user)))
        if reason is not None:
            with pytest.raises(StartError, match=reason):
                await store.__aenter__()
            continue
        async with store:
            await store.put("key", b"value")
    with pytest.raises(StartError, match="denies its user"):
        await EtcdStore(parse_url(url_of([guarded], "other", user="mesh:s3cret%2F@"))).__aenter__()


async def test_a_watch_that_is_not_permitted_says_so(guarded: EtcdMember) -> None:
    async with EtcdStore(parse_url(url_of([guarded], "ns", user="mesh:s3cret%2F@"))) as store:
        guarded.etcdctl("--user", "root:root", "role", "revoke-permission", "mesh", "--prefix=true", "ns/")
        try:
            with pytest.raises(StorageError, match="does not let us watch"):
                await anext(store.watch("", 1))
        finally:
            grant = ("role", "grant-permission", "mesh", "--prefix=true", "readwrite", "ns/")
            guarded.etcdctl("--user", "root:root", *grant)
