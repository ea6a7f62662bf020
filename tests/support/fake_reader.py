"""A polled backend that lives in memory: a `Reader` over a `FakeDatabase`, with faults on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from connectors.poll import Found, polled
from engine.errors import TransientError
from engine.schema import TableId, TableSchema
from engine.source import Check, Part
from tests.support.fake_source import FakeDatabase, Rows, to_arrow


@dataclass(slots=True)
class Behaviour:
    """What a test sees of the readers of one database, and does to them."""

    views: int = 0
    open_views: int = 0
    began: list[float] = field(default_factory=list)
    """When each view was opened (monotonic)."""
    reads: list[TableId] = field(default_factory=list)
    on_read: Callable[[TableId, int], None] = lambda _table, _batch: None
    """Called before each batch of a table is given; may raise."""
    left_out: dict[TableId, Check] = field(default_factory=dict)
    batch_rows: int = 4


class FakeReader:
    """Fills `connectors.poll.Reader`."""

    def __init__(self, database: FakeDatabase, behaviour: Behaviour) -> None:
        self.database = database
        self.behaviour = behaviour
        self._closed = threading.Event()

    def check(self) -> Sequence[Check]:
        return [Check("fake", ok=True, detail="always there")]

    def discover(self) -> Found:
        tables = [polled(t) for t in self.database.schemas.values() if t.id not in self.behaviour.left_out]
        return Found(tables, dict(self.behaviour.left_out))

    @contextmanager
    def view(self) -> Iterator[FakeView]:
        if self._closed.is_set():
            raise TransientError("closed")
        self.behaviour.views += 1
        self.behaviour.open_views += 1
        self.behaviour.began.append(time.monotonic())
        try:
            yield FakeView(self)
        finally:
            self.behaviour.open_views -= 1

    def ping(self) -> None:
        if self._closed.is_set():
            raise TransientError("closed")

    def identity(self) -> str:
        return "fake"

    def close(self) -> None:
        self._closed.set()


class FakeView:
    """Fills `connectors.poll.View`: the rows as they are when it is made. Its marks are the rows themselves."""

    def __init__(self, reader: FakeReader) -> None:
        self.at = time.time()
        self._behaviour = reader.behaviour
        found = reader.discover()
        self.left_out: Mapping[TableId, Check] = found.left_out
        with reader.database.changed:
            self.tables: Sequence[TableSchema] = reader.discover().tables
            self._rows: dict[TableId, Rows] = {t.id: dict(reader.database.rows[t.id]) for t in self.tables}

    def split(self, table: TableSchema) -> Sequence[Part]:
        return [Part(table, 0), Part(table, 1)]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        self._behaviour.reads.append(part.table.id)
        rows = [row for key, row in sorted(self._rows[part.table.id].items()) if key % 2 == part.token]
        for number, first in enumerate(range(0, len(rows), self._behaviour.batch_rows)):
            self._behaviour.on_read(part.table.id, number)
            yield to_arrow(part.table, rows[first : first + self._behaviour.batch_rows])

    def mark(self, table: TableSchema) -> object:
        return (table.columns, self._rows[table.id])

    def unchanged(self, table: TableSchema, mark: object, rows: int) -> bool:
        assert rows == len(mark[1])  # type: ignore[index]
        return mark == self.mark(table)
