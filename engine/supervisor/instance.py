"""One running instance: its parts, how they start, what ends it, and how it ends."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import structlog

from engine.config import Config
from engine.errors import CapExceeded, ReplicaError
from engine.status import Phase, Status, StatusBoard, TableState
from engine.supervisor.preflight import effective_mode
from engine.supervisor.restart import Restarts, restart_process
from engine.supervisor.wiring import Wiring

log = structlog.get_logger(__name__)

STOP_WITHIN = 9.5
"""Seconds until a stop that hangs is cut short: everything durable is durable, so nothing is lost by it."""
PIPELINE_STOPS_WITHIN = 6.0
LOOK_EVERY = 0.2
"""Seconds that a signal may go unnoticed at most."""
FRAMEWORK = "fastapi"
UNDER_WAY_WITHIN = 0.5
"""Seconds for which the HTTP server's start waits for the source's at most."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """The operator, or the system, asks the process to end."""

    name: str


@dataclass(frozen=True, slots=True)
class PipelineEnded:
    """The pipeline has returned or failed, unasked."""

    error: BaseException | None


@dataclass(frozen=True, slots=True)
class ServerEnded:
    """The HTTP server has ended, unasked."""

    error: BaseException | None


Event = Signalled | PipelineEnded | ServerEnded


def run_instance(config: Config, wiring: Wiring | None = None) -> int:
    """Run one instance until SIGTERM or SIGINT; returns the exit code.

    Raises ConfigError, PreconditionError (only while there is nothing to serve yet) and ReplicaError. On a fatal
    replica error the process starts itself again from the file, `restart.MOST` times within `restart.WINDOW`.
    """
    mode = effective_mode(config)
    restarts = Restarts.read(os.environ)
    events: SimpleQueue[Event] = SimpleQueue()
    with signals_to(events):
        instance = Instance(config, wiring or Wiring(), restarts.port)
        try:
            try:
                instance.start(events)
            finally:
                gc.freeze()
                gc.enable()
            log.info(
                "started",
                instance=config.instance.name,
                backend=config.connection.backend,
                sync_mode=mode,
                replica=config.replica.path,
                size=config.instance.instance_size,
            )
            log.info("listening", url=instance.url)
            error = wait_for_end(events, instance.board)
        except BaseException:
            instance.stop()
            raise
        if error is None:
            instance.stop(lambda: os._exit(0))
            log.info("stopped")
            return 0
        if isinstance(error, ReplicaError) and error.fatal and not restarts.exhausted:
            log.error("restarting", message=str(error), restarts=len(restarts.at))
            instance.stop(lambda: restart_process(restarts, instance.port))
            restart_process(restarts, instance.port)
        instance.stop()
        raise error


def wait_for_end(events: SimpleQueue[Event], board: StatusBoard) -> BaseException | None:
    """Wait until the instance must end; returns the error that ends it, None for a signal.

    An exceeded cap does not end it: what is there is served on.
    """
    while True:
        match _next(events):
            case Signalled(name):
                log.info("stopping", signal=name)
                return None
            case PipelineEnded(CapExceeded() as error):
                board.publish(cap_exceeded=True)
                log.error("cap_exceeded", message=str(error))
            case PipelineEnded(error):
                return error or RuntimeError("the pipeline ended by itself")
            case ServerEnded(error):
                return error or RuntimeError("the HTTP server ended by itself")


def _next(events: SimpleQueue[Event]) -> Event:
    """The next event. Python runs signal handlers in this thread when it wakes, and a signal that another thread was
    given, or that came just before the wait began, does not wake it: so it wakes by itself."""
    while True:
        try:
            return events.get(timeout=LOOK_EVERY)
        except Empty:
            continue


def is_under_way(status: Status) -> bool:
    """Whether rows have been asked for, or nothing is to be loaded, or nothing can be."""
    if status.phase is Phase.SNAPSHOT:
        return any(table.state is TableState.LOADING for table in status.tables.values())
    return status.phase is not Phase.STARTING


@contextmanager
def signals_to(events: SimpleQueue[Event]) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into events; a second one ends the process at once. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = 0

    def handle(number: int, _frame: object) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(128 + number)
        # SimpleQueue.put may be called from a signal handler; a lock that this very thread may hold may not be taken.
        events.put(Signalled(signal.Signals(number).name))

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Instance:
    """The parts of one instance. `start` and `stop` are called once each, by one thread."""

    def __init__(self, config: Config, wiring: Wiring, port: int | None = None) -> None:
        """Bind the address and open the replica. `port` overrides the configured one (after a restart).

        Raises ConfigError or ReplicaError.
        """
        from engine.supervisor.memory import MemoryWatch
        from engine.supervisor.progress import SnapshotProgress
        from engine.supervisor.server import HttpServer

        self.board = StatusBoard()
        self._config, self._wiring = config, wiring
        self._server = HttpServer(config.http.host, config.http.port if port is None else port)
        try:
            self._replica = wiring.replica(config)
        except BaseException:
            self._server.stop()
            raise
        self._pipeline = wiring.pipeline(config, self._replica, self.board)
        self._memory = MemoryWatch(config.size.memory_bytes, self.board, self._pipeline)
        self._progress = SnapshotProgress(self.board)
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def url(self) -> str:
        """Where the instance answers."""
        return self._server.url

    @property
    def port(self) -> int:
        """The port it answers on, also when the configuration says 0."""
        return self._server.port

    def start(self, events: SimpleQueue[Event]) -> None:
        """Serve, watch, and replicate; what ends unasked is put into `events`."""

        def replicate() -> None:
            error: BaseException | None = None
            try:
                self._pipeline.run()
            except BaseException as failure:  # noqa: BLE001 - handed to the supervisor
                error = failure
            if not self._stopping:
                events.put(PipelineEnded(error))

        self._thread = threading.Thread(target=replicate, name="pipeline", daemon=True)
        self._thread.start()
        if FRAMEWORK not in sys.modules:
            # Its import would take the interpreter from the source's first requests.
            self.board.wait(is_under_way, UNDER_WAY_WITHIN)
        app = self._wiring.app(self._config, self._replica, self.board, self._pipeline)
        self._server.start(app, lambda error: events.put(ServerEnded(error)))
        self._memory.start()
        self._progress.start()

    def stop(self, hanging: Callable[[], object] = lambda: os._exit(1)) -> None:
        """Complete and confirm what is being applied, then close everything.

        `hanging` ends the process when that is not done within `STOP_WITHIN` seconds.
        """
        self._stopping = True
        watchdog = threading.Timer(STOP_WITHIN, hanging)
        watchdog.daemon = True
        watchdog.start()
        self._pipeline.stop()
        if self._thread is not None:
            self._thread.join(PIPELINE_STOPS_WITHIN)
            if self._thread.is_alive():
                log.warning("stop_is_slow", part="pipeline")
        for part, close in (
            ("progress", self._progress.stop),
            ("memory", self._memory.stop),
            ("http", self._server.stop),
            ("replica", self._replica.close),
        ):
            try:
                close()
            except Exception as error:
                log.warning("stop_failed", part=part, exc_info=error)
        watchdog.cancel()
