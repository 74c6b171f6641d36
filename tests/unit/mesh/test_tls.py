from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from mesh.cli.tls import with_tables
from mesh.discovery.model import Instance
from mesh.errors import UsageError
from mesh.resilience.breaker import Breaker, BreakerOptions
from mesh.tls.options import ListenerTls, UpstreamTls
from mesh.tls.validity import not_after
from proxy.options import EdgeOptions, load_config
from proxy.tls.peer import identity_in, identity_of
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.tls import server_name
from tests.certificates import Authority


@pytest.mark.parametrize("days", [1, 365, 40_000])  # the last one is written as GeneralizedTime
def test_the_end_of_a_certificate_is_read(days: int) -> None:
    pair = Authority().sign("somebody", names=("a.example",), days=days)
    assert not_after(pair.cert) == pair.not_after
    assert not_after(b"# a comment\n" + pair.cert + Authority().pem) == pair.not_after, "the first one counts"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_has_no_end(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        not_after(text)


def test_an_identity_is_the_best_name_of_a_certificate() -> None:
    subject = ((("commonName", "orders"),),)
    names = (("DNS", "orders.example"), ("URI", "spiffe://mesh/orders"))
    assert identity_of({"subject": subject, "subjectAltName": names}) == "spiffe://mesh/orders"
    assert identity_of({"subject": subject, "subjectAltName": names[:1]}) == "orders.example"
    assert identity_of({"subject": subject}) == "orders"
    assert identity_of({}) == identity_of(None) == identity_of({"subject": ()}) == ""
    assert identity_in({"x509_common_name": [b"orders"], "peer_dns": [b"orders.example"]}) == "orders.example"
    assert identity_in({"x509_common_name": [b"orders"]}) == "orders"
    assert identity_in({"transport_security_type": [b"ssl"]}) == ""


@pytest.mark.parametrize(
    ("address", "metadata", "name"),
    [
        ("10.0.0.1:50051", {}, None),
        ("10.0.0.1:50051", {"tls": "off"}, None),
        ("10.0.0.1:50051", {"tls": "on"}, "10.0.0.1"),
        ("[::1]:50051", {"tls": "On"}, "::1"),
        ("orders:50051", {"tls": "on", "tls-server-name": "orders.mesh"}, "orders.mesh"),
        ("unix:/run/orders.sock", {"tls": "on"}, "localhost"),
    ],
)
def test_the_registration_says_whether_an_endpoint_speaks_tls(
    address: str, metadata: dict[str, str], name: str | None
) -> None:
    instance = Instance("orders", "orders-1", (address,), metadata=metadata)
    assert server_name(Endpoint(instance, address, Breaker(BreakerOptions()))) == name


def test_options_go_before_the_file_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(
        '[public_tls]\ncert = "a"\nkey = "b"\nclient_ca = "c"\nclient_auth = "optional"\n[upstream_tls]\nca = "u"\n'
    )
    fields = with_tables(load_config(path), {"control": "h:1", "public_tls_cert": Path("z"), "internal_tls_key": None})
    options = EdgeOptions(**fields)
    assert options.public_tls == ListenerTls("z", "b", "c", "optional")
    assert options.internal_tls == ListenerTls()
    assert options.upstream_tls == UpstreamTls("u")
    with pytest.raises(UsageError, match="a certificate and its key"):
        with_tables({}, {"internal_tls_cert": Path("z")})


def test_a_listener_resumes_no_session(tmp_path: Path) -> None:
    from mesh.tls.material import load_listener

    context = load_listener(ListenerTls(*Authority().sign().write(tmp_path, "edge"))).context
    assert context.num_tickets == 0
    assert context.options & ssl.OP_NO_TICKET
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
