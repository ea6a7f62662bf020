"""Filling the load copy of a table from a snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

import duckdb
import pyarrow as pa

from engine.errors import ReplicaError
from engine.replica.binding import Bound, verify
from engine.replica.catalog import Stored
from engine.replica.compression import compressions
from engine.replica.database import new_cursor
from engine.replica.entries import diagnosed
from engine.replica.faults import translated
from engine.replica.sql import listed, physical_name
from engine.replica.volume import require_room
from engine.replica.writer import Feed, Writer

CHUNK_ROWS = 122_880
"""Rows of a DuckDB row group. An insert of exactly so many is written straight to the file, for good; a checkpoint
merges smaller groups, and so would write a whole load a second time."""


class TableLoader:
    """Fills the load copy `stored`. Each `append` is one transaction on a connection of its own."""

    def __init__(
        self,
        writer: Writer,
        path: Path,
        stored: Stored,
        create: Callable[[TableLoader, Mapping[int, str]], None],
        finished: Callable[[TableLoader, str, str], None],
        dropped: Callable[[TableLoader], None],
    ) -> None:
        self._writer = writer
        self._path = path
        self.stored = stored
        self._create = create
        self._created = False
        self._creating = threading.Lock()
        self._finished = finished
        self._dropped = dropped
        self._bound: dict[pa.Schema, Sequence[Bound]] = {}
        self._gone = threading.Event()

    def append(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows, as they come, in one transaction; returns how many. Holds a bounded number of them in memory.

        Raises UnsupportedValue when one does not fit its column's type, whatever `batches` raises, or ReplicaError.
        """
        chunks = self._chunks(batches)
        first = next(chunks, None)
        self._must_exist()
        if first is None:
            return 0
        self._ensure_created(first)
        with translated(), closing(new_cursor(self._writer.con, None)) as con:
            feed = Feed(con)
            con.execute("BEGIN")
            try:
                count = sum(self._insert(con, feed, chunk) for chunk in chain([first], chunks))
                self._must_exist()
                con.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):
                    con.execute("ROLLBACK")
                raise
        return count

    def finish(self, position: str, settled: str | None = None) -> None:
        """Commit: the load copy is complete as of `position`, and a committed state from `settled` on (None: at once)."""
        self._must_exist()
        self._ensure_created([])
        self._finished(self, position, position if settled is None else settled)

    def abandon(self) -> None:
        """Drop what was loaded so far."""
        self._dropped(self)

    def invalidate(self) -> None:
        """The load copy is dropped: refuse whatever else is asked of this loader."""
        self._gone.set()

    def _must_exist(self) -> None:
        if self._gone.is_set():
            raise ReplicaError(f"the load of {self.stored.layout.id} was given up")

    def _ensure_created(self, sample: list[pa.RecordBatch]) -> None:
        """Create the physical table, once the first rows tell how to store it."""
        with self._creating:
            if not self._created:
                rows, memory = pa.Table.from_batches(sample) if sample else None, self._writer.memory_limit
                self._create(self, {} if rows is None else compressions(self.stored.layout, rows, memory))
                self._created = True

    def _chunks(self, batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
        """Batches of one Arrow schema, gathered until an insert of them pays."""
        limit = self._writer.memory_limit // 16
        chunk: list[pa.RecordBatch] = []
        rows = size = 0
        for batch in batches:
            self._must_exist()
            if chunk and batch.schema != chunk[0].schema:
                yield chunk
                chunk, rows, size = [], 0, 0
            rest = batch
            while rows + rest.num_rows >= CHUNK_ROWS:
                yield [*chunk, rest.slice(0, CHUNK_ROWS - rows)]
                rest = rest.slice(CHUNK_ROWS - rows)
                chunk, rows, size = [], 0, 0
            if rest.num_rows:
                chunk.append(rest)
                rows, size = rows + rest.num_rows, size + rest.nbytes
            if size >= limit:
                yield chunk
                chunk, rows, size = [], 0, 0
        if rows:
            yield chunk

    def _insert(self, con: duckdb.DuckDBPyConnection, feed: Feed, chunk: list[pa.RecordBatch]) -> int:
        layout = self.stored.layout
        bound = self._bind(chunk[0].schema)
        names = [b.source for b in bound]
        rows = pa.Table.from_batches([pa.RecordBatch.from_arrays(b.columns, names=names) for b in chunk])
        verify(layout.id, bound, rows)
        require_room(self._path, int(rows.nbytes))
        columns, values = listed(self.stored.columns), listed(b.expression for b in bound)
        with diagnosed(con, feed, layout.id, rows, bound):
            table = physical_name(self.stored.number)
            con.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {feed.show(rows)}")
        return int(rows.num_rows)

    def _bind(self, schema: pa.Schema) -> Sequence[Bound]:
        if schema not in self._bound:
            with self._writer.lock:
                self._bound[schema] = self._writer.binder.bind(
                    self.stored.layout.id, self.stored.layout.columns, schema.types
                )
        return self._bound[schema]
