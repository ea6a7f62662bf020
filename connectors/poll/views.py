"""An open view that is shared by a snapshot and a round, and what a snapshot is in polling."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from connectors.poll.position import Round
from connectors.poll.reader import View
from engine.errors import EngineError, ResyncRequired, TransientError
from engine.schema import TableId, TableSchema
from engine.source import Part


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells whether a table is still as the replica has it: its view's mark, and how many rows were read."""

    seen: object
    rows: int


class OpenView:
    """A view at its round, open as long as somebody uses it. `asked`: our clock just before it was opened."""

    def __init__(self, manager: AbstractContextManager[View], number: int) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._users = 1
        self.asked = time.time()
        self.view = manager.__enter__()
        try:
            self.position = Round.of(number, self.view.at)
        except BaseException:
            self._leave()
            raise

    def use(self) -> None:
        """One more user."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """One user less; the last one closes the view."""
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._leave()

    def _leave(self) -> None:
        try:
            self._manager.__exit__(None, None, None)
        except EngineError:
            # It was read to the end, or failed before: there is nothing that its end could still tell.
            return


class PollSnapshot:
    """Fills `engine.source.Snapshot` over a view: exact at its round. Counts what is read of each table."""

    def __init__(self, opened: OpenView, wanted: Collection[TableId]) -> None:
        self._opened = opened
        self._tables = [t for t in opened.view.tables if t.id in wanted]
        self._lock = threading.Lock()
        self._open_parts: dict[TableId, int] = {}
        self._rows: dict[TableId, int] = {}

    @property
    def position(self) -> Round:
        return self._opened.position

    @property
    def tables(self) -> Sequence[TableSchema]:
        return self._tables

    def settled(self) -> Round:
        return self.position

    def split(self, table: TableSchema) -> Sequence[Part]:
        parts = self._opened.view.split(table)
        with self._lock:
            self._open_parts[table.id], self._rows[table.id] = len(parts), 0
        return parts

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in self._opened.view.read(part):
            rows += batch.num_rows
            yield batch
        with self._lock:
            self._open_parts[part.table.id] -= 1
            self._rows[part.table.id] += rows

    def marks(self) -> dict[TableId, Mark]:
        """The marks of the tables that were read to the end."""
        found = {}
        for table in self._tables:
            if self._open_parts.get(table.id) == 0:
                seen = self._opened.view.mark(table)
                if seen is not None:
                    found[table.id] = Mark(seen, self._rows[table.id])
        return found


def as_transient(error: EngineError) -> EngineError:
    """A table that changed under a view asks for nothing but the next round: that takes it as it is then."""
    if isinstance(error, ResyncRequired):
        return TransientError(f"the round is given up: {error.reason}")
    return error
