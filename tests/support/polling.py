"""A polled source, the pipeline and a real replica in this process: rounds as fast as a test wants them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from connectors.poll import Round
from engine.pipeline import Pipeline, PipelineSettings
from engine.pipeline.control import Pace
from engine.replica.store import DuckDBReplica
from engine.schema import TableId
from engine.source import Source
from engine.status import Status, StatusBoard
from tests.support.waiting import wait_until

FAST = PipelineSettings(
    Pace(status_every=0.2, inspect_every=1.0, maintain_every=0.5), backoff_first=0.05, backoff_most=0.5
)
Open = Callable[[frozenset[tuple[TableId, str]]], Source]


class Polled:
    """Runs within `Polled.on`. `error`: what ended the pipeline, if anything did."""

    def __init__(self, replica: DuckDBReplica, open_source: Open) -> None:
        self.replica = replica
        self.board = StatusBoard()
        self.board.publish(sync_mode="poll")
        self.pipeline = Pipeline(open_source, replica, self.board, FAST)
        self.error: list[BaseException] = []

    @classmethod
    @contextlib.contextmanager
    def on(cls, folder: Path, open_source: Open, *, ready: bool = True) -> Iterator[Polled]:
        """A pipeline on a replica in `folder`, running once its first snapshot is in; stopped with the block."""
        file = folder / "polled.duckdb"
        replica = DuckDBReplica.open(file, instance="polled", memory_limit_bytes=200 << 20, threads=2)
        it = cls(replica, open_source)
        thread = threading.Thread(target=it._run, name="polled", daemon=True)
        thread.start()
        try:
            if ready:
                it.wait(lambda status: status.ready)
            yield it
        finally:
            it.pipeline.stop()
            thread.join(20)
            assert not thread.is_alive(), "the pipeline did not end"
            replica.close()
        assert not it.error, it.error

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.error.append(error)

    def wait(self, condition: Callable[[Status], object], timeout: float = 60.0) -> None:
        """Wait until the status satisfies this."""

        def holds() -> object:
            if self.error:
                raise self.error[0]
            return condition(self.board.current)

        wait_until(holds, timeout, message=lambda: str(self.board.current))

    @property
    def round(self) -> int:
        """The round that readers see."""
        position = self.board.current.position
        return position.number if isinstance(position, Round) else 0

    def wait_rounds(self, count: int, timeout: float = 60.0) -> None:
        """Wait until readers see a state that was read after now: `count` rounds later than the one that follows."""
        target = self.round + 1 + count
        self.wait(lambda _: self.round >= target, timeout)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """What a reader sees."""
        with contextlib.closing(self.replica.cursor()) as cursor:
            return list(cursor.execute(sql).fetchall())
