"""A TCP proxy on loopback that fails on demand: delayed, cut, black-holed, closed to new connections, stopped.

with TcpProxy("127.0.0.1", server.port) as proxy:
    connect to proxy.port; proxy.cut(); proxy.blackhole(); proxy.resume()
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections import deque
from typing import Self

CHUNK = 1 << 16
BUFFERED = 1 << 20


class _Pipe:
    """One direction of one connection: what was read from `source` waits for `sink`, each piece until its time."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.waiting: deque[tuple[float, memoryview]] = deque()
        self.size = 0
        self.ended = False
        self.closed = False


class TcpProxy:
    """Forwards connections from its own `port` to `host`:`target`. One thread; every method may be called from any.

    `delay` (seconds) holds back each piece of data in both directions. `forwarded` counts bytes by direction
    (``"up"`` to the target, ``"down"`` from it).
    """

    def __init__(self, host: str, target: int, *, delay: float = 0.0) -> None:
        self.delay = delay
        self.forwarded = {"up": 0, "down": 0}
        self.accepted = 0
        self._target = (host, target)
        self._flowing = True
        self._refusing = False
        self._cut = False
        self._end = False
        self._lock = threading.Lock()
        self._pairs: list[tuple[_Pipe, _Pipe]] = []
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="tcp-proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset every open connection (RST to both sides); new ones are accepted."""
        with self._lock:
            self._cut = True
        self._wake()
        while self._cut and self._thread.is_alive():
            time.sleep(0.002)

    def blackhole(self) -> None:
        """Pass on nothing any more while every connection stays open, new ones too."""
        self._flowing = False
        self._wake()

    def refuse(self) -> None:
        """Reset open connections, and every new one at once, as when nothing listens."""
        self._refusing = True
        self.cut()

    def resume(self) -> None:
        """Forward again; what was held back by `blackhole` goes on."""
        self._flowing = True
        self._refusing = False
        self._wake()

    def stop(self) -> None:
        """Reset everything and close the port."""
        self._end = True
        self._wake()
        self._thread.join(10)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_write.send(b"x")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            while not self._end:
                if self._cut:
                    self._reset_all()
                    self._cut = False
                timeout = self._watch(selector)
                for key, _ in selector.select(timeout):
                    if key.fileobj is self._wake_read:
                        with contextlib.suppress(BlockingIOError):
                            self._wake_read.recv(4096)
                    elif key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._receive(key.data)
                self._send()
                self._sweep()
            self._reset_all()
            for end in (self._listener, self._wake_read, self._wake_write):
                end.close()

    def _watch(self, selector: selectors.BaseSelector) -> float | None:
        """Register what to wait for anew; returns how long to wait for the next held-back piece."""
        for registered in list(selector.get_map().values()):
            selector.unregister(registered.fileobj)
        selector.register(self._wake_read, selectors.EVENT_READ)
        selector.register(self._listener, selectors.EVENT_READ)
        timeout: float | None = None
        if not self._flowing:
            return timeout
        now = time.monotonic()
        for pair in self._pairs:
            for pipe in pair:
                if not pipe.ended and pipe.size < BUFFERED:
                    selector.register(pipe.source, selectors.EVENT_READ, pipe)
                if pipe.waiting:
                    # A full sink is tried again after a moment; a delayed piece when its time has come.
                    wait = max(pipe.waiting[0][0] - now, 0.001)
                    timeout = wait if timeout is None else min(timeout, wait)
        return timeout

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            self.accepted += 1
            if self._refusing:
                _reset(client)
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(client)
                return
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs.append((_Pipe(client, server), _Pipe(server, client)))

    def _receive(self, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            pipe.closed = True
            return
        if data:
            pipe.waiting.append((time.monotonic() + self.delay, memoryview(data)))
            pipe.size += len(data)
        else:
            pipe.ended = True

    def _send(self) -> None:
        if not self._flowing:
            return
        now = time.monotonic()
        for up, down in self._pairs:
            for name, pipe in (("up", up), ("down", down)):
                try:
                    while pipe.waiting and pipe.waiting[0][0] <= now:
                        due, data = pipe.waiting.popleft()
                        try:
                            sent = pipe.sink.send(data)
                        except BlockingIOError:
                            sent = 0
                        self.forwarded[name] += sent
                        pipe.size -= sent
                        if sent < len(data):
                            pipe.waiting.appendleft((due, data[sent:]))
                            break
                    if pipe.ended and not pipe.waiting:
                        pipe.sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pipe.closed = True

    def _sweep(self) -> None:
        for pair in list(self._pairs):
            if any(pipe.closed for pipe in pair) or all(pipe.ended and not pipe.waiting for pipe in pair):
                self._pairs.remove(pair)
                for pipe in pair:
                    pipe.source.close()

    def _reset_all(self) -> None:
        pairs, self._pairs = self._pairs, []
        for up, down in pairs:
            _reset(up.source)
            _reset(down.source)


def _reset(end: socket.socket) -> None:
    """Close with RST instead of FIN."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
