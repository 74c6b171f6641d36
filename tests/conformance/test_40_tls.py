"""TLS: towards clients and towards upstreams, with certificates that change while calls are under way."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.errors import StartError, UsageError
from mesh.tls.identity import Identity, Tls
from mesh.tls.options import OPTIONAL, ListenerTls, UpstreamTls
from proxy.engines.engine import PUBLIC
from tests.certificates import Authority, Pair
from tests.conformance import grpc_upstream
from tests.conformance.grpc_upstream import GrpcUpstream
from tests.conformance.h2_peer import HANG_SECONDS
from tests.conformance.harness import connect, run_edge, stream, unary

LOCAL = "127.0.0.1"


@pytest.fixture
def authority() -> Authority:
    return Authority()


def listening(folder: Path, pair: Pair, *, client_ca: Authority | None = None, client_auth: str = "require") -> Tls:
    """Return a public listener's TLS with `pair`, whose clients must be signed by `client_ca` where it is given."""
    cert, key = pair.write(folder, "edge")
    ca = client_ca.write(folder, "clients") if client_ca is not None else ""
    return Tls({PUBLIC: ListenerTls(cert, key, ca, client_auth)}, UpstreamTls())


def calling(folder: Path, ca: Authority | None, pair: Pair | None = None) -> Tls:
    """Return a TLS to upstreams that trusts `ca` and shows `pair`."""
    cert, key = pair.write(folder, "own") if pair is not None else ("", "")
    return Tls({}, UpstreamTls(ca.write(folder, "upstreams") if ca is not None else "", cert, key))


def trusting(ca: Authority, own: Pair | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(ca.pem, own.key if own else None, own.cert if own else None)


def serving(pair: Pair, client_ca: Authority | None = None) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(pair.key, pair.cert)], client_ca.pem if client_ca else None, require_client_auth=client_ca is not None
    )


def renew(identity: Identity) -> None:
    """Look at the files as often as it takes."""
    identity.check()
    identity.check()


async def certificate_at(address: str) -> bytes:
    """Return the certificate that is shown to a new connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown


async def test_unary_calls_and_streams_pass(engine: str, authority: Authority, tmp_path: Path) -> None:
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)))
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address)
        big = bytes(300_000)
        async with connect(edge.public, credentials=trusting(authority)) as channel:
            assert await unary(channel)(b"hello") == b"hello"
            assert await unary(channel)(big) == big
            call = stream(channel)()
            for message in (b"one", big, b"three"):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        records = await edge.settled()
        assert [(one.status, one.peer_identity) for one in records] == [(0, "")] * 3


async def test_many_calls_at_a_time_pass(engine: str, authority: Authority, tmp_path: Path) -> None:
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)))
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address)
        async with connect(edge.public, credentials=trusting(authority)) as channel:
            sent = [b"%d" % number * 2000 for number in range(50)]
            assert await asyncio.gather(*(unary(channel)(message) for message in sent)) == sent


async def test_a_client_must_show_its_certificate(engine: str, authority: Authority, tmp_path: Path) -> None:
    clients = Authority("clients")
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)), client_ca=clients)
    known = clients.sign("orders", uri="spiffe://mesh/orders")
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address)
        for stranger in (None, authority.sign("orders")):
            async with connect(edge.public, credentials=trusting(authority, stranger)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await unary(channel)(b"hello")
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        async with connect(edge.public, credentials=trusting(authority, known)) as channel:
            assert await unary(channel)(b"hello") == b"hello"
        record = await edge.call_record()
        assert record.peer_identity == "spiffe://mesh/orders"


async def test_a_client_may_show_its_certificate(engine: str, authority: Authority, tmp_path: Path) -> None:
    clients = Authority("clients")
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)), client_ca=clients, client_auth=OPTIONAL)
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address)
        for own in (None, clients.sign("orders")):
            async with connect(edge.public, credentials=trusting(authority, own)) as channel:
                assert await unary(channel)(b"hello") == b"hello"
        assert [record.peer_identity for record in await edge.settled()] == ["", "orders"]


async def test_the_aio_engine_refuses_optional_certificates(authority: Authority, tmp_path: Path) -> None:
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)), client_ca=Authority("clients"), client_auth=OPTIONAL)
    with pytest.raises(UsageError, match="choose --engine wire"):
        async with run_edge("aio", tls=tls):
            pass


async def test_plaintext_gets_no_answer(engine: str, authority: Authority, tmp_path: Path) -> None:
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)))
    async with run_edge(engine, tls=tls) as edge, connect(edge.public) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(channel)(b"hello")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("offered", [(), ("http/1.1",)])
async def test_who_does_not_offer_http2_is_left(
    engine: str, authority: Authority, tmp_path: Path, offered: tuple[str, ...]
) -> None:
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)))
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if offered:
        context.set_alpn_protocols(list(offered))
    async with run_edge(engine, tls=tls) as edge, asyncio.timeout(HANG_SECONDS):
        host, _, port = edge.public.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        except (ssl.SSLError, ConnectionError):
            return  # refused in the handshake: as good
        assert await reader.read() == b""
        writer.close()


async def test_tls_before_1_2_is_refused(engine: str, authority: Authority, tmp_path: Path) -> None:
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with run_edge(engine, tls=tls) as edge:
        host, _, port = edge.public.rpartition(":")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(host, int(port), ssl=context)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_running_calls_go_on(
    engine: str, authority: Authority, tmp_path: Path
) -> None:
    old, new = authority.sign(names=(LOCAL,)), authority.sign(names=(LOCAL,), days=9)
    tls = listening(tmp_path, old)
    identity = tls.listeners[PUBLIC]
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address)
        async with connect(edge.public, credentials=trusting(authority)) as channel:
            running = stream(channel)()
            await running.write(b"before")
            assert await running.read() == b"before"
            shown = [await certificate_at(edge.public)]

            new.write(tmp_path, "edge")
            renew(identity)
            assert identity.not_after == new.not_after
            await _turns()
            shown += [await certificate_at(edge.public)]
            async with connect(edge.public, credentials=trusting(authority)) as another:
                assert await unary(another)(b"hello") == b"hello"

            await running.write(b"after")
            assert await running.read() == b"after"
            await running.done_writing()
            assert await running.read() is grpc.aio.EOF
            assert await unary(channel)(b"still") == b"still"
        assert shown == [ssl.PEM_cert_to_DER_cert(pair.cert.decode()) for pair in (old, new)]
        assert all(record.status == 0 for record in await edge.settled())


async def test_a_broken_certificate_changes_nothing(engine: str, authority: Authority, tmp_path: Path) -> None:
    good = authority.sign(names=(LOCAL,))
    tls = listening(tmp_path, good)
    identity = tls.listeners[PUBLIC]
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream:
        logged = pytest.raises(AssertionError, match="stay in force")  # the harness sees what is logged as an error
        with logged:
            async with run_edge(engine, tls=tls) as edge:
                edge.register(upstream.address)
                (tmp_path / "edge.crt").write_bytes(authority.sign().cert)  # of another key
                renew(identity)
                renew(identity)
                assert identity.failures == 1, "told once"
                async with connect(edge.public, credentials=trusting(authority)) as channel:
                    assert await unary(channel)(b"hello") == b"hello"
                good.write(tmp_path, "edge")
                renew(identity)
                assert identity.failures == 1


async def test_clients_follow_a_renewed_authority(engine: str, authority: Authority, tmp_path: Path) -> None:
    before, after = Authority("before"), Authority("after")
    tls = listening(tmp_path, authority.sign(names=(LOCAL,)), client_ca=before)
    async with GrpcUpstream(grpc_upstream.echo).serve() as upstream, run_edge(engine, tls=tls) as edge:
        edge.register(upstream.address)
        async with connect(edge.public, credentials=trusting(authority, before.sign("old"))) as channel:
            assert await unary(channel)(b"hello") == b"hello"
        after.write(tmp_path, "clients")
        renew(tls.listeners[PUBLIC])
        await _turns()
        async with connect(edge.public, credentials=trusting(authority, before.sign("old"))) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await unary(channel)(b"hello")
        async with connect(edge.public, credentials=trusting(authority, after.sign("new"))) as channel:
            assert await unary(channel)(b"hello") == b"hello"
        assert [record.peer_identity for record in await edge.settled()] == ["old", "new"]


ON = {"tls": "on"}


async def test_upstreams_are_called_by_tls(engine: str, authority: Authority, tmp_path: Path) -> None:
    edges = Authority("edges")
    credentials = serving(authority.sign(names=(LOCAL,)), edges)
    tls = calling(tmp_path, authority, edges.sign("the edge"))
    async with (
        GrpcUpstream(grpc_upstream.echo, credentials=credentials).serve() as upstream,
        run_edge(engine, tls=tls) as edge,
    ):
        edge.register(upstream.address, metadata=ON)
        async with connect(edge.public) as channel:
            big = bytes(300_000)
            assert await unary(channel)(big) == big
            call = stream(channel)()
            await call.write(b"one")
            assert await call.read() == b"one"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        assert upstream.calls[0].auth["x509_common_name"] == [b"the edge"]


async def test_upstreams_prove_the_name_that_they_are_registered_with(
    engine: str, authority: Authority, tmp_path: Path
) -> None:
    credentials = serving(authority.sign(names=("orders.mesh",)))
    async with (
        GrpcUpstream(grpc_upstream.echo, credentials=credentials).serve() as upstream,
        run_edge(engine, tls=calling(tmp_path, authority)) as edge,
    ):
        edge.register(upstream.address, metadata={**ON, "tls-server-name": "orders.mesh"})
        async with connect(edge.public) as channel:
            assert await unary(channel)(b"hello") == b"hello"


@pytest.mark.parametrize("wrong", ["authority", "name", "client", "plaintext"])
async def test_an_upstream_that_proves_nothing_is_not_called(
    engine: str, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    other = Authority("another")
    pair = authority.sign(names=("orders.mesh",) if wrong == "name" else (LOCAL,))
    credentials = None if wrong == "plaintext" else serving(pair, other if wrong == "client" else None)
    tls = calling(tmp_path, other if wrong == "authority" else authority)
    async with (
        GrpcUpstream(grpc_upstream.echo, credentials=credentials).serve() as upstream,
        run_edge(engine, tls=tls) as edge,
    ):
        edge.register(upstream.address, metadata=ON)
        async with connect(edge.public) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await unary(channel)(b"hello")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            said = dict(refused.value.trailing_metadata())
            assert said["mesh-reason"] == "upstream_connect_failed"
        assert upstream.calls == []


async def test_an_upstream_without_http2_is_not_called(engine: str, authority: Authority, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign(names=(LOCAL,)).write(tmp_path, "server"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, LOCAL, 0, ssl=context)
    async with server, run_edge(engine, tls=calling(tmp_path, authority)) as edge:
        name: Any = server.sockets[0].getsockname()
        edge.register(f"{LOCAL}:{name[1]}", metadata=ON)
        async with connect(edge.public) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await unary(channel)(b"hello")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_new_connections_to_upstreams_follow_a_renewed_authority(
    engine: str, authority: Authority, tmp_path: Path
) -> None:
    before = Authority("before")
    tls = calling(tmp_path, before)
    async with (
        GrpcUpstream(grpc_upstream.echo, credentials=serving(authority.sign(names=(LOCAL,)))).serve() as upstream,
        run_edge(engine, tls=tls) as edge,
    ):
        authority.write(tmp_path, "upstreams")
        renew(tls.upstream)
        edge.register(upstream.address, metadata=ON)
        async with connect(edge.public) as channel:
            assert await unary(channel)(b"hello") == b"hello"


async def _turns() -> None:
    """Let what a change began in the loop come to its end."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_files_that_do_not_fit_are_told_in_one_line(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.sign().write(tmp_path, "one")
    other, _ = authority.sign().write(tmp_path, "other")
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for options, said in (
        (ListenerTls(str(tmp_path / "none.crt"), key), "cannot read the certificate .*none.crt: No such file"),
        (ListenerTls(cert, str(tmp_path)), "cannot read the key .*: Is a directory"),
        (ListenerTls(other, key), "other.crt and .*one.key are not a certificate and its key .key values mismatch"),
        (ListenerTls(cert, key, str(empty)), "empty.pem has no certificates of an authority"),
        (ListenerTls(str(empty), key), "empty.pem and .* are not a certificate and its key"),
    ):
        with pytest.raises(StartError, match=said):
            Identity(PUBLIC, options)
    for wrong in ({"cert": cert}, {"key": key}, {"client_ca": cert}, {"client_auth": "maybe"}):
        with pytest.raises(UsageError):
            ListenerTls(**wrong)
    with pytest.raises(UsageError):
        UpstreamTls(cert=cert)
