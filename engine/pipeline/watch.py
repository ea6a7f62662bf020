"""A thread that looks at the source from the side: where its log ends, and what its catalog says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from engine.changes import SchemaChange
from engine.errors import EngineError
from engine.schema import TableSchema
from engine.source import Check, Source
from engine.status import StatusBoard

log = structlog.get_logger(__name__)


def once(findings: Iterable[SchemaChange]) -> list[SchemaChange]:
    """Each finding as it was told first: inspection finds again what nobody has carried out yet."""
    first: dict[tuple[object, ...], SchemaChange] = {}
    for finding in findings:
        first.setdefault((finding.old, finding.new, finding.reload, finding.reason), finding)
    return list(first.values())


class Watch:
    """Asks `source.status` every `status_every` and `source.inspect` every `inspect_every` seconds.

    What inspection finds is kept until `findings` takes it. Failures go to the board as the check ``source``; the
    stream has its own connection and reports its own errors. What someone should mend at the source while replication
    goes on without it (`SourceStatus.problems`) is the check ``setup``.
    """

    def __init__(
        self,
        source: Source,
        board: StatusBoard,
        known: Callable[[], Sequence[TableSchema]],
        *,
        status_every: float,
        inspect_every: float,
    ) -> None:
        self._source = source
        self._board = board
        self._known = known
        self._status_every = status_every
        self._inspect_every = inspect_every
        self._found: list[SchemaChange] = []
        self._found_lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def findings(self) -> list[SchemaChange]:
        """What inspection has found since the last call, each thing once."""
        with self._found_lock:
            found, self._found = self._found, []
        return found

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=5.0)

    def _report(self, problems: Sequence[Check]) -> None:
        detail = " ".join(f"{each.detail}. {each.remedy}".strip() for each in problems) or None
        known = self._board.current.checks.get("setup")
        if detail == (None if known is None else known.detail):
            return
        if detail is not None:
            log.warning("setup_incomplete", message=detail)
        self._board.set_check("setup", "ok" if detail is None else "degraded", detail)

    def _run(self) -> None:
        # Once soon after the start: sessions that follow each other quickly must not keep quiet changes from being seen.
        inspect_at = time.monotonic()
        while not self._closing.wait(self._status_every):
            try:
                asked = time.time()
                status = self._source.status()
                self._board.publish(
                    source_position=status.position,
                    source_position_at=asked,
                    lag_bytes=status.lag_bytes,
                    source_seen_at=time.time(),
                )
                self._report(status.problems)
                if time.monotonic() >= inspect_at:
                    found = self._source.inspect(self._known())
                    with self._found_lock:
                        self._found = once([*self._found, *found])
                    inspect_at = time.monotonic() + self._inspect_every
                self._board.set_check("source", "ok")
            except EngineError as error:
                if self._closing.is_set():
                    return
                self._board.set_check("source", "degraded", str(error))
                log.warning("source_watch_failed", error=error.word, message=str(error))
            except Exception as error:
                self._board.set_check("source", "degraded", f"unexpected {type(error).__name__}")
                log.exception("source_watch_failed", error="internal")
