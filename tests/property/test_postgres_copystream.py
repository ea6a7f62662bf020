"""Messages come out whole and in order, however the network cuts them."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.connection import Connection
from connectors.postgres.copystream import SocketCopy
from engine.errors import DecodeError

COPY_OUT = b"H" + struct.pack(">IbH", 7, 1, 0)
END = b"c\0\0\0\4" + b"C\0\0\0\x0bCOPY 1\0" + b"Z\0\0\0\5T"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def begun(server: socket.socket, client: socket.socket, answer: bytes = COPY_OUT) -> SocketCopy:
    server.sendall(answer)
    connection: Any = SimpleNamespace(pgconn=SimpleNamespace(socket=client.fileno(), ssl_in_use=False))
    copy = SocketCopy(cast("Connection", connection), "COPY t TO STDOUT")
    assert server.recv(1000) == message(b"Q", b"COPY t TO STDOUT\0")
    return copy


@given(
    payloads=st.lists(st.binary(max_size=300) | st.just(b"x" * 70_000), max_size=30),
    cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    noise=st.booleans(),
)
def test_any_cut_gives_the_same_messages(payloads: list[bytes], cuts: list[int], noise: bool) -> None:
    other = message(b"N", b"SNOTICE\0\0") if noise else b""
    stream = b"".join(other + message(b"d", p) for p in payloads) + END
    server, client = socket.socketpair()
    with server, client:
        copy = begun(server, client, other + COPY_OUT)
        found: list[bytes] = []
        at, turn = 0, 0
        while at < len(stream):
            # Never more than a socket pair's buffer holds: nobody reads meanwhile.
            step = min(50_000, cuts[turn % len(cuts)] * (1 + len(stream) // 10_000))
            server.sendall(stream[at : at + step])
            at, turn = at + step, turn + 1
            while copy.fill():
                pass
            found += map(bytes, copy.take())
        assert found == payloads
        assert copy.ended
        assert copy.failure is None
        copy.close()


def test_an_error_ends_it_with_its_state_and_without_its_detail() -> None:
    server, client = socket.socketpair()
    with server, client:
        copy = begun(server, client)
        server.sendall(message(b"d", b"row") + message(b"E", b"SERROR\0C57P01\0Mgoodbye\0Dkey (secret)\0\0"))
        copy.fill()
        assert list(map(bytes, copy.take())) == [b"row"]
        assert (copy.ended, copy.failure) == (True, ("57P01", "goodbye"))
        copy.close()


def test_a_refusal_and_a_lost_connection() -> None:
    server, client = socket.socketpair()
    with server, client:
        copy = begun(server, client, message(b"E", b"C42704\0Mno such slot\0\0") + b"Z\0\0\0\5I")
        assert copy.failure == ("42704", "no such slot")
        copy.close()
    server, client = socket.socketpair()
    with client:
        with server:
            copy = begun(server, client)
            server.sendall(message(b"d", b"row")[:-1])
        while copy.fill():
            pass
        assert copy.take() == []
        assert copy.ended
        assert copy.failure is not None
        assert copy.failure[0] is None
        copy.close()


@pytest.mark.parametrize("junk", [b"d\0\0\0\0", b"d\0\0\0\3abc", message(b"?", b"")])
def test_what_is_no_message_is_refused(junk: bytes) -> None:
    server, client = socket.socketpair()
    with server, client:
        copy = begun(server, client)
        server.sendall(junk)
        copy.fill()
        with pytest.raises(DecodeError):
            copy.take()
        copy.close()
