"""The receiver over a socket whose other end the test plays: what comes, and when, is up to the test."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from connectors.postgres.connection import Connections
from connectors.postgres.position import Lsn
from connectors.postgres.receiver import Frames, Item, Keepalive, Receiver
from engine.errors import EngineError, ResyncRequired, TransientError
from tests.support.waiting import wait_until

COPY_BOTH = b"W" + struct.pack(">IbH", 7, 0, 0)
READY = b"Z\0\0\0\5I"


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def failure(state: bytes) -> bytes:
    return message(b"E", b"SERROR\0C" + state + b"\0Mwhy it ended\0\0") + READY


def frame(content: bytes) -> bytes:
    return message(b"d", b"w" + struct.pack(">QQq", 1, 1, 0) + content)


def keepalive(end: int, *, reply: bool = False) -> bytes:
    return message(b"d", struct.pack(">cQqB", b"k", end, 0, reply))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def server(pair: tuple[socket.socket, socket.socket]) -> socket.socket:
    return pair[0]


@pytest.fixture
def receive(pair: tuple[socket.socket, socket.socket]) -> Iterator[Callable[..., Receiver]]:
    """Start a receiver to which the server has sent `answer` at once."""
    made: list[Receiver] = []
    server, client = pair

    def start(answer: bytes, capacity: int = 1 << 20) -> Receiver:
        pgconn = SimpleNamespace(socket=client.fileno(), ssl_in_use=False, backend_pid=1)
        connection: Any = SimpleNamespace(pgconn=pgconn)
        connections: Any = SimpleNamespace(
            closed=False, open=lambda *_args, **_options: connection, release=lambda _connection: None
        )
        server.sendall(answer)
        receiver = Receiver(cast("Connections", connections), "slot", ["publication"], Lsn(1), capacity)
        made.append(receiver)
        return receiver

    yield start
    for receiver in made:
        receiver.close()


def ended(receiver: Receiver) -> EngineError:
    """The error that ends the inbox, soon."""
    found: list[EngineError] = []

    def look() -> bool:
        try:
            receiver.inbox.take(0.1)
        except EngineError as error:
            found.append(error)
        return bool(found)

    wait_until(look, 10)
    return found[0]


def taken(receiver: Receiver, count: int) -> list[Item]:
    """The first `count` items to come."""
    items: list[Item] = []

    def enough() -> bool:
        items.extend(receiver.inbox.take(0.1) or [])
        return len(items) >= count

    wait_until(enough, 10)
    return items


@pytest.mark.parametrize(("state", "kind"), [(b"42704", ResyncRequired), (b"57P01", TransientError)])
def test_an_error_that_comes_with_the_answer_ends_the_stream(
    receive: Callable[..., Receiver], state: bytes, kind: type[EngineError]
) -> None:
    assert isinstance(ended(receive(COPY_BOTH + failure(state))), kind)


def test_what_comes_with_the_answer_is_not_kept_back(receive: Callable[..., Receiver]) -> None:
    receiver = receive(COPY_BOTH + frame(b"first") + keepalive(9))
    frames, end = taken(receiver, 2)
    assert isinstance(frames, Frames)
    assert [bytes(f)[25:] for f in frames.frames] == [b"first"]
    assert end == Keepalive(Lsn(9))


def test_an_error_after_a_while_ends_the_stream(server: socket.socket, receive: Callable[..., Receiver]) -> None:
    receiver = receive(COPY_BOTH)
    server.sendall(frame(b"x"))
    taken(receiver, 1)
    server.sendall(failure(b"57P01"))
    assert isinstance(ended(receiver), TransientError)


def test_feedback_goes_on_while_the_inbox_is_full(server: socket.socket, receive: Callable[..., Receiver]) -> None:
    receiver = receive(COPY_BOTH, capacity=10)
    server.sendall(frame(b"fills it"))
    wait_until(lambda: receiver.inbox.full, 10)
    received = b""
    while received.count(b"d\0\0\0\x26r") < 4:
        received += server.recv(4096)
    receiver.inbox.take(0.0)
    receiver.resume()
    server.sendall(frame(b"more"))
    taken(receiver, 1)
