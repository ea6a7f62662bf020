"""Row images on their way into SQL: columns named by position, in one sequence, bound to the replica's types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.changes import TableChanges
from engine.errors import ReplicaError, UnsupportedValue
from engine.replica.binding import Binder, Bound, unfit_columns, verify
from engine.replica.writer import Feed, Writer
from engine.schema import TableId, TableSchema


@dataclass(frozen=True, slots=True)
class Entry:
    """Consecutive changes of one table, as an Arrow table with ``seq`` (int64), ``op`` (int8), ``c0``, ``c1``, ...

    `unchanged`: per column index, which events lack the value. `base`: the key columns of the rows that those values
    are kept from, bound as ``b0``, ``b1``, ...
    """

    table: TableSchema
    rows: pa.Table
    bound: tuple[Bound, ...]
    unchanged: Mapping[int, npt.NDArray[np.bool_]] = field(default_factory=dict)
    base: tuple[pa.Array, ...] = ()
    base_bound: tuple[Bound, ...] = ()

    @classmethod
    def of(cls, binder: Binder, changes: Sequence[TableChanges], seq: int) -> Entry:
        """Make one entry of changes with one Arrow layout, numbered from `seq`. Only a single one may lack values.

        Raises ReplicaError when a column arrives in a type that is not the replica's, UnsupportedValue when a value has
        more digits than its column keeps.
        """
        first = changes[0]
        table = first.table
        bound = binder.bind(table.id, table.columns, first.rows.schema.types)
        for change in changes:
            verify(table.id, bound, change.rows)
        names = [f"c{i}" for i in range(len(bound))]
        images = pa.Table.from_batches(
            [pa.RecordBatch.from_arrays(c.rows.columns, names=names) for c in changes],
            schema=pa.schema(list(zip(names, first.rows.schema.types, strict=True))),
        )
        ops = pa.chunked_array([c.ops for c in changes], pa.int8())
        order = pa.array(np.arange(seq, seq + len(ops), dtype=np.int64))
        rows = pa.table([order, ops, *images.columns], names=["seq", "op", *names])
        unchanged = _unchanged(first)
        if not unchanged:
            return cls(table, rows, bound)
        if len(changes) > 1:
            raise ReplicaError("changes that lack values are entries of their own")
        base = first.base.columns if first.base is not None else [first.rows.column(i) for i in key_indexes(table)]
        keys = [table.column(name) for name in table.key]
        base_bound = binder.bind(table.id, keys, [a.type for a in base], "b")
        return cls(table, rows, bound, unchanged, tuple(base), base_bound)

    @contextmanager
    def diagnosed(self, writer: Writer) -> Iterator[None]:
        """Turn a failed cast of these rows into UnsupportedValue with the columns at fault."""
        with diagnosed(writer.con, writer.feed, self.table.id, self.rows, self.bound, "op <> 3"):
            yield


@contextmanager
def diagnosed(
    con: duckdb.DuckDBPyConnection,
    feed: Feed,
    table: TableId,
    rows: pa.Table,
    bound: Sequence[Bound],
    where: str = "TRUE",
) -> Iterator[None]:
    """Turn a failed cast of `bound` columns of `rows` into UnsupportedValue with the columns at fault.

    Within a transaction, which is lost with the failure: another is left in its place for the caller to roll back.
    """
    try:
        yield
    except (duckdb.DataError, duckdb.InvalidInputException) as error:
        con.execute("ROLLBACK")
        con.execute("BEGIN")
        columns = unfit_columns(con, feed.show(rows), bound, where)
        if not columns:
            raise
        raise UnsupportedValue(table, columns, "a value does not fit the replica's type") from error


def _unchanged(change: TableChanges) -> dict[int, npt.NDArray[np.bool_]]:
    """Which events lack which columns, without the columns that none lacks."""
    found: dict[int, npt.NDArray[np.bool_]] = {}
    for i, name in enumerate(change.table.column_names):
        flags = change.unchanged.get(name)
        if flags is None:
            continue
        array = flags.fill_null(False).to_numpy(zero_copy_only=False).astype(np.bool_)
        if array.any():
            found[i] = array
    return found


def key_indexes(table: TableSchema) -> tuple[int, ...]:
    """The places of the key columns among the table's columns."""
    names = table.column_names
    return tuple(names.index(name) for name in table.key)


def same_layout(one: TableSchema, other: TableSchema) -> bool:
    """Whether row images of one are row images of the other: same columns, types, key and identity."""
    return (
        [(c.name, c.type) for c in one.columns] == [(c.name, c.type) for c in other.columns]
        and one.key == other.key
        and one.identity == other.identity
    )
