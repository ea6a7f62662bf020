"""The new content of a copy that was truncated: a physical table of its own, filled by the inserts that follow.

So a table that is emptied and filled again in one transaction, or replaced as a whole by a poll, is written once, and
swapped in. Rows are held back until they fill a row group; see `engine.replica.loads`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from engine.replica import ddl
from engine.replica.catalog import Stored
from engine.replica.compression import compressions
from engine.replica.entries import Entry
from engine.replica.loads import CHUNK_ROWS
from engine.replica.sql import listed, physical_name
from engine.replica.writer import Writer


@dataclass(frozen=True, slots=True)
class Replacement:
    """`stored` does not exist before `created`. `waiting` are entries whose rows are not written yet."""

    stored: Stored
    created: bool = False
    waiting: tuple[Entry, ...] = ()

    @property
    def waiting_bytes(self) -> int:
        """The size in Arrow of the rows that are not written yet."""
        return sum(int(entry.rows.nbytes) for entry in self.waiting)

    def add(self, writer: Writer, entry: Entry) -> Replacement:
        """Take complete images of new rows, in the caller's transaction. Raises UnsupportedValue."""
        same = not self.waiting or self.waiting[0].rows.schema == entry.rows.schema
        found = self if same else self.flush(writer)
        before = sum(e.rows.num_rows for e in found.waiting)
        whole = (before + entry.rows.num_rows) // CHUNK_ROWS * CHUNK_ROWS
        if not whole:
            return replace(found, waiting=(*found.waiting, entry))
        head = replace(entry, rows=entry.rows.slice(0, whole - before))
        rest = replace(entry, rows=entry.rows.slice(whole - before))
        written = replace(found, waiting=(*found.waiting, head)).flush(writer)
        return replace(written, waiting=(rest,) if rest.rows.num_rows else ())

    def flush(self, writer: Writer) -> Replacement:
        """Write what waits, a row group at a time, and make the table before the first time."""
        rows = pa.concat_tables([e.rows for e in self.waiting]) if self.waiting else None
        if not self.created:
            layout = self.stored.layout
            memory = writer.memory_limit
            found = {} if rows is None else compressions(layout, rows.drop(["seq", "op"]), memory)
            ddl.create_table(writer.con, self.stored, found)
        if rows is not None:
            first = self.waiting[0]
            columns, values = listed(self.stored.columns), listed(b.expression for b in first.bound)
            for start in range(0, rows.num_rows, CHUNK_ROWS):
                piece = replace(first, rows=rows.slice(start, CHUNK_ROWS))
                with piece.diagnosed(writer):
                    table, name = physical_name(self.stored.number), writer.input(piece.rows)
                    writer.con.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {name}")
        return replace(self, created=True, waiting=())
