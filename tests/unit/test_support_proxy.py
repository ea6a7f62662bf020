"""The proxy fails in the ways it says, and only then."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from tests.support.proxy import TcpProxy
from tests.support.servers import Database
from tests.support.waiting import wait_until


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = client.recv(65536)
        if not piece:
            break
        got += piece
    return got


@pytest.fixture
def proxy(echo: int) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo) as proxy:
        yield proxy


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def test_it_forwards_both_ways_and_counts(proxy: TcpProxy) -> None:
    data = bytes(range(256)) * 10_000
    with connect(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            got += client.recv(65536)
        sender.join()
        assert got == data
    assert proxy.forwarded == {"up": len(data), "down": len(data)}
    wait_until(lambda: proxy.connections == 0, 5)


def test_cut_resets_what_is_open_and_takes_new_connections(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"a") == b"a"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        assert exchange(client, b"b") == b"b"


def test_a_black_hole_keeps_connections_and_gives_everything_later(proxy: TcpProxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"a") == b"a"
        proxy.blackhole()
        client.sendall(b"later")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.resume()
        client.settimeout(5)
        assert client.recv(5) == b"later"


def test_refusing_resets_every_new_connection_until_resumed(proxy: TcpProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    proxy.resume()
    with connect(proxy) as client:
        assert exchange(client, b"c") == b"c"


def test_delay_holds_each_piece_back(proxy: TcpProxy) -> None:
    proxy.delay = 0.15
    with connect(proxy) as client:
        started = time.monotonic()
        assert exchange(client, b"a") == b"a"
        assert time.monotonic() - started >= 0.3


def test_stop_closes_the_port(echo: int) -> None:
    proxy = TcpProxy("127.0.0.1", echo)
    proxy.stop()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)


def test_it_carries_postgresql(postgres: Database) -> None:
    with TcpProxy(postgres.server.host, postgres.server.port) as proxy:
        conninfo = psycopg.conninfo.make_conninfo(postgres.conninfo(), port=proxy.port)
        with psycopg.connect(conninfo) as connection:
            assert connection.execute("SELECT count(*) FROM generate_series(1, 100000)").fetchone() == (100_000,)
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
