"""The loop of sessions around one source and one replica: retries, resyncs, commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from engine.changes import Position
from engine.destination import Replica, StoredState
from engine.errors import (
    Action,
    DecodeError,
    EngineError,
    PreconditionError,
    ResyncRequired,
    UnsupportedValue,
    directive,
)
from engine.pipeline.backoff import Backoff
from engine.pipeline.control import Control, Pace, Replan, Stopped
from engine.pipeline.feed import FeedEnded
from engine.pipeline.halt import Halt, Holder
from engine.pipeline.session import Session
from engine.schema import TableId
from engine.source import Source
from engine.status import Failure, Phase, StatusBoard, TableState

log = structlog.get_logger(__name__)

Connect = Callable[[frozenset[tuple[TableId, str]]], Source]

CALM = 10.0
"""A session that lasted this many seconds ends a series of quick new plans."""

CLOSE_AFTER = 2.0
"""Seconds that a stop waits for the session before it closes the source's connections under it."""

UNDECODABLE_ATTEMPTS = 3
"""After so many attempts that fail to decode at one place, everything is loaded anew behind it."""


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """How the pipeline behaves. Times in seconds."""

    pace: Pace = field(default_factory=Pace)
    reload_on_reconnect: bool = False
    """`cdc_reconnect_mode: full`: load everything anew after a lost connection."""
    backoff_first: float = 0.25
    backoff_most: float = 30.0


class Pipeline:
    """Keeps `replica` equal to the source that `connect` opens. `run` blocks in one thread; the commands
    (`engine.status.Commands`) and `stop` may come from any other.

    `run` returns after `stop`. It raises what only an operator can mend: ConfigError; PreconditionError while
    there is no data to serve yet; ReplicaError.
    """

    def __init__(
        self, connect: Connect, replica: Replica, board: StatusBoard, settings: PipelineSettings | None = None
    ) -> None:
        self._connect = connect
        self._replica = replica
        self._board = board
        self._settings = settings or PipelineSettings()
        self._backoff = Backoff(self._settings.backoff_first, self._settings.backoff_most)
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._halt = Halt(board)
        self._requests: list[TableId | None] = []
        self._requests_lock = threading.Lock()
        self._source: Source | None = None
        self._start_over: str | None = None
        self._undecodable = 0
        self._replans = Backoff(0.01, 5.0)

    def run(self) -> None:
        """Run sessions until `stop`."""
        control = Control(
            stopping=self._stopping.is_set,
            wait_while_paused=self._halt.wait,
            reload_requests=self._take_requests,
            advanced=self._advanced,
        )
        try:
            while not self._stopping.is_set():
                self._session(control)
        finally:
            self._board.publish(phase=Phase.STOPPED)

    def stop(self) -> None:
        """End the current session soon: what is being applied is completed and confirmed first."""
        self._stopping.set()
        self._wake.set()
        self._halt.end()
        source = self._source
        if source is not None:
            timer = threading.Timer(CLOSE_AFTER, source.close)
            timer.daemon = True
            timer.start()

    # Commands

    def pause(self) -> None:
        self._halt.add(Holder.OPERATOR)

    def resume(self) -> None:
        """Whatever holds replication: it may be held again, if the reason lasts."""
        self._halt.clear()

    def hold(self) -> None:
        """Pause for want of memory."""
        self._halt.add(Holder.MEMORY)

    def release(self) -> None:
        """There is memory again; a pause by the operator lasts."""
        self._halt.remove(Holder.MEMORY)

    def reload(self, table: TableId | None) -> None:
        if table is not None and table not in self._board.current.tables:
            raise KeyError(str(table))
        with self._requests_lock:
            if table not in self._requests:
                self._requests.append(table)

    def parse_position(self, text: str) -> Position:
        source = self._source
        if source is None:
            raise ValueError("the source has not been opened yet")
        return source.parse_position(text)

    # Sessions

    def _session(self, control: Control) -> None:
        began = time.monotonic()
        try:
            state = self._replica.state()
            source = self._source = self._connect(state.as_text)
            if state.position is not None:
                self._show(state)
                self._board.publish(ready=True, position=_parsed(source, state.position))
            try:
                start_over, self._start_over = self._start_over, None
                if state.stream_position is not None and _parsed(source, state.stream_position) is None:
                    start_over = start_over or "what is stored belongs to another sync mode"
                Session(source, self._replica, self._board, control, self._settings.pace).run(start_over=start_over)
            finally:
                source.close()
        except Replan:
            self._settle(time.monotonic() - began)
        except (Stopped, FeedEnded):
            if not self._stopping.is_set():
                self._pause_before_retry(self._backoff.next())
        except Exception as error:  # noqa: BLE001 (directive decides; what it does not know is retried, loudly)
            self._handle(error)

    def _show(self, state: StoredState) -> None:
        """Tables that readers see already are known before the first session has planned anything."""
        for table, stored in state.tables.items():
            if stored.live is not None and table not in self._board.current.tables:
                self._board.set_table(table, state=TableState.LIVE)

    def _settle(self, seconds: float) -> None:
        """Plans that follow each other closely are spread out, so that no disagreement turns into a busy loop."""
        if seconds > CALM:
            self._replans.reset()
        self._wake.wait(self._replans.next())

    def _handle(self, error: Exception) -> None:
        if self._stopping.is_set():
            log.info("stopped_with_error", error=getattr(error, "word", "internal"))
            return
        answer = directive(error)
        if not isinstance(error, DecodeError):
            self._undecodable = 0
        self._publish_failure(error, answer.remedy)
        match error:
            case PreconditionError() if not self._board.current.ready:
                raise error
            case UnsupportedValue():
                self._replica.keep_as_text(error.table, error.columns)
                self._replica.mark_reload([error.table], str(error), blocking=True)
                self._board.count(reloads=1)
                log.warning("column_kept_as_text", table=str(error.table), columns=list(error.columns))
                return
            case ResyncRequired(tables=None):
                self._start_over = error.reason
                log.warning("resync_required", reason=error.reason)
            case ResyncRequired():
                self._replica.mark_reload(error.tables, error.reason, blocking=True)
                self._board.count(reloads=len(error.tables or ()))
                log.warning("reload_required", tables=[str(t) for t in error.tables or ()], reason=error.reason)
            case DecodeError():
                self._undecodable += 1
                if self._undecodable >= UNDECODABLE_ATTEMPTS:
                    self._undecodable = 0
                    self._start_over = f"the stream cannot be decoded: {error}"
            case _ if answer.action in (Action.STOP, Action.RESTART):
                raise error
        if answer.action is Action.RETRY and self._settings.reload_on_reconnect:
            self._start_over = "cdc_reconnect_mode is full"
        pause = self._backoff.next()
        known = isinstance(error, EngineError)
        log.warning(
            "session_failed",
            error=getattr(error, "word", "internal"),
            message=str(error) if known else type(error).__name__,
            retry_in=round(pause, 2),
            exc_info=None if known else error,
        )
        self._pause_before_retry(pause)

    def _publish_failure(self, error: Exception, remedy: str) -> None:
        word = error.word if isinstance(error, EngineError) else "internal"
        message = str(error) if isinstance(error, EngineError) else f"unexpected {type(error).__name__}"
        self._board.publish(last_error=Failure(word, message, remedy, time.time()))
        if not isinstance(error, (ResyncRequired, UnsupportedValue)):
            self._board.set_check("source", "degraded", message)

    def _pause_before_retry(self, seconds: float) -> None:
        self._board.count(retries=1)
        self._board.publish(phase=Phase.RETRYING)
        self._wake.wait(seconds)

    def _advanced(self) -> None:
        self._backoff.reset()
        self._undecodable = 0

    def _take_requests(self) -> Sequence[TableId | None]:
        with self._requests_lock:
            taken, self._requests = self._requests, []
        return taken


def _parsed(source: Source, text: str) -> Position | None:
    """A stored position; None when it is none of this source: another sync mode, or another backend, has stored it."""
    try:
        return source.parse_position(text)
    except ValueError:
        return None
