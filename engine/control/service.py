"""The control API as a process: its parts, how they start, and how they end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from uuid import UUID

import structlog

from engine.config.rules import is_loopback
from engine.control.app import create_app
from engine.control.config import ControlConfig
from engine.control.credentials import Credentials
from engine.control.instances import Instances
from engine.control.launchers import open_launcher
from engine.control.lock import hold
from engine.control.probe import probe
from engine.control.reconciler import Reconciler
from engine.control.secrets import open_secret_store
from engine.control.services import Services
from engine.control.state import open_store
from engine.source import Secret
from engine.supervisor.server import HttpServer

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.2
"""Seconds that a signal may go unnoticed at most: not each of them wakes the main thread."""

Event = str | BaseException | None
"""Why the process ends: a signal's name, or what ended the server."""


def run_control(config: ControlConfig) -> int:
    """Serve the API and reconcile until SIGTERM or SIGINT; returns the exit code.

    Raises ConfigError, and what ends the server unasked.
    """
    events: SimpleQueue[Event] = SimpleQueue()
    with _signals_to(events), ExitStack() as parts:
        tls = config.control.tls
        files = (tls.cert, tls.key) if tls.cert is not None and tls.key is not None else None
        server = HttpServer(config.control.host, config.control.port, section="control", tls=files)
        parts.callback(server.stop)
        store = open_store(config.control.state)
        parts.callback(store.close)
        state = Path(config.control.state)
        parts.enter_context(hold(Path(f"{state}.lock"), "control.state", state))
        secrets = open_secret_store(config)
        credentials = Credentials(store, secrets)
        launcher = open_launcher(config, secrets)
        reconciler = Reconciler(
            store,
            launcher,
            interval=config.control.reconcile_interval,
            tls=config.sources.tls,
            sweep=credentials.sweep,
        )
        parts.callback(reconciler.close)

        def token_of(id: UUID) -> Secret | None:
            return launcher.token(str(id))

        instances = Instances(token_of)
        parts.callback(instances.close)
        services = Services(
            store=store,
            credentials=credentials,
            instances=instances,
            probe=partial(probe, tls=config.sources.tls),
            region=config.control.region,
            wake=reconciler.wake,
        )
        reconciler.start()
        server.start(create_app(services, rate_limit=config.control.rate_limit), events.put)
        # Stopped first: what is asked from here on would find the rest gone.
        parts.callback(server.stop)
        if files is None and not is_loopback(config.control.host):
            log.warning("tokens_in_clear", hint="set control.tls, or let nothing but a TLS proxy reach this address")
        log.info("listening", url=f"{server.url}/v1", launcher=config.launcher.kind, secrets=config.secrets.store)
        ended = _next(events)
        if not isinstance(ended, str):
            raise ended or RuntimeError("the HTTP server ended by itself")
        log.info("stopping", signal=ended)
    log.info("stopped")
    return 0


def _next(events: SimpleQueue[Event]) -> Event:
    while True:
        try:
            return events.get(timeout=LOOK_EVERY)
        except Empty:
            continue


@contextmanager
def _signals_to(events: SimpleQueue[Event]) -> Iterator[None]:
    def handle(number: int, _: object) -> None:
        events.put(signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
