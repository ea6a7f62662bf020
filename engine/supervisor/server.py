"""An HTTP server in a thread of the same process: uvicorn, on a socket bound beforehand."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from engine.errors import ConfigError, Problem

GRACE = 2
"""Seconds that answers under way get when the server stops."""


class HttpServer:
    """Serves `app` until stopped. The port is known, and connections queue, from construction on.

    `section` is the part of the configuration that names the address; `tls` are the paths of a certificate and its key.
    Raises ConfigError when the address cannot be bound, or the certificate cannot be used.
    """

    def __init__(self, host: str, port: int, *, section: str = "http", tls: tuple[str, str] | None = None) -> None:
        self._tls = tls
        if tls is not None:
            _check_certificate(tls, section)
        self._socket = bind(host, port, section)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://{_shown(host)}:{self.port}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, app: Any, ended: Callable[[BaseException | None], None]) -> None:
        """Serve in a thread, and return once requests are answered; `ended` is told if serving ends by itself."""
        cert, key = self._tls or (None, None)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACE,
            lifespan="auto",
            ssl_certfile=cert,
            ssl_keyfile=key,
        )
        server = self._server = uvicorn.Server(config)

        def serve() -> None:
            error: BaseException | None = None
            try:
                server.run(sockets=[self._socket])
            except (Exception, SystemExit) as failure:  # noqa: BLE001 - handed to the supervisor
                error = failure
            if not server.should_exit:
                ended(error)

        self._thread = threading.Thread(target=serve, name="http", daemon=True)
        self._thread.start()
        while not server.started and self._thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Let answers under way finish for a moment, then close."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=GRACE + 1)
        self._socket.close()


def _check_certificate(tls: tuple[str, str], section: str) -> None:
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*tls)
    except (OSError, ValueError) as error:
        message = f"{tls[0]} and its key cannot be used together ({getattr(error, 'reason', None) or error.args[0]})"
        raise ConfigError([Problem(f"{section}.tls.cert", message)]) from None


def bind(host: str, port: int, section: str = "http") -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError naming the field that is wrong."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise ConfigError([Problem(f"{section}.host", f"{host} is no address of this machine")]) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError([Problem(f"{section}.port", f"{host}:{port} cannot be used: {error.strerror}")]) from None
    return listener


def _shown(host: str) -> str:
    """The host part of the URL: a wildcard address is reached by loopback."""
    plain = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{plain}]" if ":" in plain else plain
