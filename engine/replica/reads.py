"""Read access to the replica: one cursor and one read-only transaction per request, sandboxed, bounded, cancellable.

Readers never wait for the writer (DuckDB's MVCC): a transaction sees the replica at one committed source position, and
the position of an answer is read in that same transaction.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from engine.errors import EngineError, ReplicaError
from engine.replica import sandbox
from engine.replica.catalog import POSITION_QUERY
from engine.replica.rendering import Form, select_rows, text_rows
from engine.replica.sandbox import QueryRefused
from engine.replica.sql import INTERNAL, view_name
from engine.schema import TableId, TableSchema

__all__ = [
    "Answer",
    "Form",
    "QueryCancelled",
    "QueryFailed",
    "QueryRefused",
    "ReadSession",
    "ReplicaReads",
    "ResultColumn",
]

Parameters = Sequence[Any] | Mapping[str, Any] | None


_LAYOUTS = f"SELECT live FROM {INTERNAL}.tables WHERE live IS NOT NULL ORDER BY schema, name"


class QueryFailed(EngineError):
    """DuckDB refused or could not finish the query. The message is DuckDB's own: it may quote the query's text."""

    word = "query_error"


class QueryCancelled(EngineError):
    """The query was interrupted: its time was up, its client left, or the instance is stopping."""

    word = "query_cancelled"


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of a result: its name and DuckDB type."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A started query. `rows` yields record batches of at most the asked size, in order, read as they are consumed.

    `Form.ARROW`: batches of `schema`. Otherwise one string column, each value a row as a JSON array or CSV record.
    `position` is the source position the whole answer belongs to, None before the first snapshot.
    """

    columns: tuple[ResultColumn, ...]
    position: str | None
    schema: pa.Schema
    rows: Iterator[pa.RecordBatch]


class ReadSession:
    """One cursor with one read-only transaction. Used by one thread; `interrupt` may be called from any other."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._cursor = cursor
        self._reader: pa.RecordBatchReader | None = None
        self._lock = threading.Lock()
        self._cancelled = False
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def query(
        self,
        sql: str,
        params: Parameters = None,
        form: Form = Form.ARROW,
        *,
        limit: int | None = None,
        batch_rows: int = 16384,
    ) -> Answer:
        """Check and start one query; `limit`: more rows than this are not wanted (EXPLAIN may give more all the same).

        Raises QueryRefused, QueryFailed, QueryCancelled or ReplicaError.
        """
        with self._translated():
            checked = sandbox.check(self._cursor, sql)
            position = self._begin()
            relation = self._relation(checked.text, params)
            columns = tuple(
                ResultColumn(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)
            )
            if checked.wrappable:
                wrapped = select_rows(checked.text, relation.columns, relation.types, form, limit)
                if wrapped is not None:
                    self._cancel_point()
                    sandbox.check(self._cursor, wrapped)
                    relation = self._relation(wrapped, params)
            self._cancel_point()
            reader = relation.to_arrow_reader(batch_rows)
            self._reader = reader
            plain = not checked.wrappable and form is not Form.ARROW
            return Answer(columns, position, reader.schema, self._batches(reader, form if plain else None))

    def layouts(self) -> dict[TableId, TableSchema]:
        """The layouts of the tables that readers see, in the order of their names."""
        with self._translated():
            self._begin()
            rows = self._cursor.execute(_LAYOUTS).fetchall()
            self._cursor.execute("ROLLBACK")
        return {layout.id: layout for layout in (TableSchema.from_json(text) for (text,) in rows)}

    def row_counts(self) -> dict[TableId, int]:
        """How many rows each table has, all at one position. DuckDB answers from metadata, without reading the rows."""
        with self._translated():
            self._begin()
            tables = [TableSchema.from_json(text).id for (text,) in self._cursor.execute(_LAYOUTS).fetchall()]
            counts: dict[TableId, int] = {}
            for table in tables:
                self._cancel_point()
                count = f"SELECT count(*) FROM {view_name(table)}"
                counts[table] = int(self._cursor.execute(count).fetchall()[0][0])
            self._cursor.execute("ROLLBACK")
        return counts

    def interrupt(self) -> None:
        """Cancel whatever the session does now and will be asked to do later. Safe to call again and after close."""
        with self._lock:
            self._cancelled = True
            if not self._closed:
                self._cursor.interrupt()

    def close(self) -> None:
        """End the transaction and give the cursor back."""
        with contextlib.suppress(duckdb.Error, pa.ArrowException):
            if self._reader is not None:
                self._reader.close()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._cursor.close()

    def _begin(self) -> str | None:
        self._cancel_point()
        self._cursor.execute("BEGIN TRANSACTION READ ONLY")
        rows = self._cursor.execute(POSITION_QUERY).fetchall()
        return None if not rows or rows[0][0] is None else str(rows[0][0])

    def _relation(self, sql: str, params: Parameters) -> Any:
        relation = self._cursor.sql(sql, params=params)
        if relation is None:
            raise QueryRefused("The statement returns no rows: it is not a query.")
        return relation

    def _batches(self, reader: pa.RecordBatchReader, render: Form | None) -> Iterator[pa.RecordBatch]:
        while True:
            with self._translated():
                self._cancel_point()
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch if render is None else text_rows(batch, render)

    def _cancel_point(self) -> None:
        if self._cancelled:
            raise QueryCancelled("The query was cancelled.")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn DuckDB's and Arrow's errors into the engine's."""
        try:
            yield
        except (duckdb.FatalException, duckdb.InternalException) as error:
            raise ReplicaError(f"DuckDB failed: {type(error).__name__}", fatal=True) from error
        except (duckdb.Error, pa.ArrowException, OSError, RuntimeError, TypeError, ValueError) as error:
            if self._cancelled:
                raise QueryCancelled("The query was cancelled.") from error
            raise QueryFailed(str(error)) from error


class ReplicaReads:
    """Gives out read sessions. `cursor` makes a new connection to the replica, with its search path set."""

    def __init__(self, cursor: Callable[[], duckdb.DuckDBPyConnection]) -> None:
        self._cursor = cursor

    def session(self) -> ReadSession:
        """A new session, to be closed by the caller. Raises ReplicaError when the replica is broken or closed."""
        try:
            return ReadSession(self._cursor())
        except duckdb.Error as error:
            fatal = isinstance(error, duckdb.FatalException | duckdb.InternalException)
            raise ReplicaError(f"The replica cannot be read: {type(error).__name__}", fatal=fatal) from error
