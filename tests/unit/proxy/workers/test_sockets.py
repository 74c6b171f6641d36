from __future__ import annotations

import socket

import pytest

from mesh.errors import StartError, UsageError
from proxy.workers.place import Place
from proxy.workers.sockets import keep, share


def dial(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)))


def accepted(listening: socket.socket) -> list[socket.socket]:
    """Take what waits in a queue; connections on the loopback are there when `connect` has returned."""
    listening.settimeout(0)
    found = []
    while True:
        try:
            found.append(listening.accept()[0])
        except BlockingIOError:
            return found


def test_each_worker_gets_a_socket_on_one_address() -> None:
    shared = share("127.0.0.1:0", "public", 3)
    assert len({one.getsockname() for one in shared.sockets}) == 1
    assert shared.address == f"127.0.0.1:{shared.sockets[0].getsockname()[1]}"
    clients = [dial(shared.address) for _ in range(60)]
    served = [accepted(one) for one in shared.sockets]
    assert sum(map(len, served)) == 60
    assert all(served), "the kernel spreads them"
    for one in (*clients, *(each for several in served for each in several)):
        one.close()
    shared.close()


def test_connections_wait_for_the_next_worker_when_one_is_gone() -> None:
    shared = share("127.0.0.1:0", "public", 1)
    first = socket.socket(fileno=socket.dup(shared.sockets[0].fileno()))
    client = dial(shared.address)
    first.close()  # the worker ends without having taken it
    late = dial(shared.address)
    following = socket.socket(fileno=socket.dup(shared.sockets[0].fileno()))
    served = accepted(following)
    assert len(served) == 2
    for one in (client, late, following, *served):
        one.close()
    shared.close()


@pytest.mark.parametrize("other", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_port_that_somebody_listens_on_is_refused(other: int) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, other, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            StartError, match=r"cannot listen on .* \(Address already in use\): free it, or .* --internal"
        ):
            share(address, "internal", 2)
        with pytest.raises(StartError, match="Address already in use"):
            keep(address, "internal")


def test_a_name_that_is_no_address_is_refused() -> None:
    with pytest.raises(StartError, match="Cannot assign requested address"):
        share("203.0.113.1:0", "public", 2)


def test_a_kept_port_takes_no_connection_and_lets_sharers_in() -> None:
    shared = keep("127.0.0.1:0", "public")
    host, _, port = shared.address.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        dial(shared.address)
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind((host, int(port)))
        worker.listen()
        client = dial(shared.address)
        served = accepted(worker)
        assert len(served) == 1
        client.close()
        served[0].close()
    shared.close()


def test_a_place_survives_the_command_line() -> None:
    place = Place(1, {"public": "127.0.0.1:1"}, "/tmp/a.sock", "/tmp/a.last", {"public": 7}, replaces=True)
    assert Place.from_json(place.to_json()) == place
    for wrong in ("", "[]", "1", '{"index": 1}', '{"more": 1}'):
        with pytest.raises(UsageError, match="--worker is for the workers of an edge"):
            Place.from_json(wrong)
