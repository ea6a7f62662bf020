"""The one writing connection: its transactions, and Arrow tables as inputs of its statements."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import duckdb
import pyarrow as pa

from engine.replica.binding import Binder
from engine.replica.faults import translated
from engine.replica.sql import physical_name


class Feed:
    """Arrow rows as one named relation of a connection, registered once, with contents that change.

    To register each input by itself would cost a catalog entry each time, and DuckDB keeps what was registered in a
    transaction, rows and all, until its end.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.rows: pa.Table | None = None
        self._empty = pa.table({"seq": pa.array([], pa.int64())})
        con.register("reflex_in", self)

    def show(self, rows: pa.Table) -> str:
        """Put these rows in; returns the qualified name of the relation."""
        self.rows = rows
        return "temp.main.reflex_in"

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The Arrow PyCapsule protocol: a stream of the present rows, for each scan anew."""
        rows = self._empty if self.rows is None else self.rows
        return rows.__arrow_c_stream__(requested_schema)


class Writer:
    """A connection, the lock that makes it one thread's at a time, and what is remembered along with it."""

    def __init__(self, con: duckdb.DuckDBPyConnection, memory_limit: int) -> None:
        self.con = con
        self.lock = threading.RLock()
        self.binder = Binder(con)
        self.memory_limit = memory_limit
        self._names = count(1)
        self.feed = Feed(con)
        self.deleted: Counter[int] = Counter()
        """Rows deleted from each physical table since `maintain` last looked at it."""

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Hold the lock and a transaction; commit at the end, roll back on any exception (and raise it)."""
        with self.lock, translated():
            self.con.execute("BEGIN")
            try:
                yield self.con
                self.con.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):
                    # A failed COMMIT, or an error that ended the transaction, has rolled back already.
                    self.con.execute("ROLLBACK")
                raise
            finally:
                self.feed.rows = None

    def input(self, rows: pa.Table) -> str:
        """Make Arrow rows readable in SQL under the returned name, until the next input or the transaction's end."""
        return self.feed.show(rows)

    def delete(self, number: int, rest: str) -> int:
        """Delete from physical table `number` (alias t) by the rest of a DELETE statement; how many rows went."""
        count = self.changed(f"DELETE FROM {physical_name(number)} t {rest}")
        self.deleted[number] += count
        return count

    def temporary(self) -> str:
        """A new qualified name for a temporary table of this connection."""
        return f"temp.main.reflex_{next(self._names)}"

    # Results are always fetched whole: DuckDB registers nothing on a connection with an unfinished one.

    def scalar(self, query: str) -> int:
        """The single integer that a query gives; 0 for NULL or no row."""
        rows = self.con.execute(query).fetchall()
        return int(rows[0][0]) if rows and rows[0][0] is not None else 0

    def changed(self, statement: str, parameters: list[Any] | None = None) -> int:
        """Run INSERT, UPDATE or DELETE; how many rows it changed."""
        rows = self.con.execute(statement, parameters).fetchall()
        return int(rows[0][0]) if rows else 0
