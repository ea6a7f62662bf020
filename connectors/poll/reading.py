"""Reading the tables of a round with a few workers, into a bounded queue."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from connectors.poll.reader import View
from engine.changes import Op, TableChanges, nulled, with_nulled
from engine.errors import TransientError
from engine.schema import TableId, TableSchema
from engine.source import Part

STALLED: Final = 120.0
"""Seconds for which rows wait to be taken (replication is paused) before the view is given up, for the source's sake."""
_ENDED: Final = None

Rows = tuple[TableSchema, pa.RecordBatch]


class Reading:
    """Reads `tables` from `view`, at most `capacity` bytes ahead of whoever iterates. Used once, then closed.

    `done` is called as soon as nothing more is read from the view. `rows` says how many were read of each table.
    """

    def __init__(
        self, view: View, tables: Sequence[TableSchema], *, workers: int, capacity: int, done: Callable[[], None]
    ) -> None:
        self._view = view
        self._capacity = capacity
        self._done = done
        self._changed = threading.Condition()
        self._rows: list[Rows] = []
        self._bytes = 0
        self._closed = False
        self._error: BaseException | None = None
        self.rows: dict[TableId, int] = {t.id: 0 for t in tables}
        self._work: queue.SimpleQueue[tuple[TableSchema, Part]] = queue.SimpleQueue()
        try:
            largest_first = sorted(tables, key=lambda t: t.estimated_bytes, reverse=True)
            for table in largest_first:
                for part in view.split(table):
                    self._work.put((table, part))
        except BaseException:
            done()
            raise
        self._threads = [
            threading.Thread(target=self._run, name=f"poll-{n}", daemon=True)
            for n in range(max(1, min(workers, self._work.qsize())))
        ]
        self._running = len(self._threads)
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[list[Rows]]:
        """What has been read since the last time, table by table in the order of arrival. Raises what reading raised."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._error is not None or not self._running)
                if self._error is not None:
                    raise self._error
                taken, self._rows, self._bytes = self._rows, [], 0
                self._changed.notify_all()
            if not taken:
                return
            yield taken

    def close(self) -> None:
        """Stop reading, and wait for the workers. What they wait for at the source must be ended by someone else."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                table, part = work
                for batch in self._view.read(part):
                    if not self._put(table, batch):
                        return
        except BaseException as error:  # noqa: BLE001 (raised to whoever iterates)
            self._fail(error)
        finally:
            with self._changed:
                self._running -= 1
                last = self._running == 0
            if last:
                # Before the iteration can end, so that the view is left by then.
                self._done()
            with self._changed:
                self._changed.notify_all()

    def _next(self) -> tuple[TableSchema, Part] | None:
        with self._changed:
            if self._closed or self._error is not None:
                return None
        try:
            return self._work.get_nowait()
        except queue.Empty:
            return None

    def _put(self, table: TableSchema, batch: pa.RecordBatch) -> bool:
        """Hand one batch over; False when nobody wants it any more."""
        size = batch.nbytes
        with self._changed:
            room = self._changed.wait_for(
                lambda: (
                    self._closed or self._error is not None or not self._rows or self._bytes + size <= self._capacity
                ),
                STALLED,
            )
            if self._closed or self._error is not None:
                return False
            if not room:
                raise TransientError("the round is given up: its rows were not taken for long (replication is paused)")
            self._rows.append((table, batch))
            self._bytes += size
            self.rows[table.id] += batch.num_rows
            self._changed.notify_all()
        return True

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


def as_changes(taken: Sequence[Rows], first: set[TableId]) -> list[TableChanges]:
    """Rows as inserts, one entry for each table and Arrow layout; the first entry of a table empties it.

    `first`: the tables of which nothing was handed on yet; those that are now are taken out of it.
    """
    together: dict[tuple[TableId, pa.Schema], list[pa.RecordBatch]] = {}
    tables: Mapping[TableId, TableSchema] = {table.id: table for table, _ in taken}
    for table, batch in taken:
        together.setdefault((table.id, batch.schema), []).append(batch)
    changes = []
    for (name, _), batches in together.items():
        rows = batches[0] if len(batches) == 1 else _together(batches)
        ops = pa.array(np.full(rows.num_rows, Op.INSERT, np.int8))
        changes.append(TableChanges(tables[name], ops, rows, truncate=name in first))
        first.discard(name)
    return changes


def _together(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    counts = sum((Counter(nulled(batch)) for batch in batches), Counter[str]())
    return with_nulled(pa.concat_batches(batches).replace_schema_metadata(None), counts)


def emptied(table: TableSchema) -> TableChanges:
    """A table without a row."""
    columns = [pa.array([], pa.string()) for _ in table.columns]
    rows = pa.RecordBatch.from_arrays(columns, names=list(table.column_names))
    return TableChanges(table, pa.array([], pa.int8()), rows, truncate=True)
