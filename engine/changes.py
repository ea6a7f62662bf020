"""Changes on their way from a source to the replica: Arrow row images with their operation, in source order.

A leaf module. The unit is the `ChangeBatch`: whole committed transactions, or a fragment of one large transaction.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import pyarrow as pa

from engine.schema import TableId, TableSchema

_NULLED = b"nulled"


@runtime_checkable
class Position(Protocol):
    """A place in a source's log, minted and parsed by its connector only. Its ``str`` is what is stored and shown."""

    def __str__(self) -> str: ...

    def covers(self, other: Position) -> bool:
        """Whether everything committed up to `other` is also within this position."""
        ...


class Op(enum.IntEnum):
    """The operation of a row image."""

    INSERT = 1
    """A row that did not exist. The replica does not hold its key before."""
    UPDATE = 2
    """The row with this key now has this image, whether or not the replica held it (an upsert)."""
    DELETE = 3
    """The row is gone. With `Identity.KEY` only the key columns of the image count; with `ROW` all of them."""


@dataclass(frozen=True, slots=True)
class TableChanges:
    """The changes of one table within a batch, oldest first, all in one layout.

    `rows` has exactly the columns of `table`, in that order; a column is either of an Arrow type that DuckDB reads as
    the column's replica type, or a string to be CAST to it. `ops` is int8, one `Op` per row.

    - `Identity.KEY`: an update that changes the key is a DELETE of the old key followed by an UPDATE with the new
      image. `ROW`: an update is a DELETE of the old row followed by an INSERT of the new one.
    - `truncate`: the table is emptied before the first of these rows.
    - `nulled` may be asked of `rows`: values that are NULL by the rule of their column.
    - `unchanged`: per column name a boolean array, true where the source did not send the value because the UPDATE left
      it as it was (PostgreSQL TOAST). The value to keep is the one that the row with the key in `base` had before
      this image; `base` holds the key columns (in `table.key` order), None when every row keeps its own key.
      Only with `Identity.KEY`.
    """

    table: TableSchema
    ops: pa.Int8Array
    rows: pa.RecordBatch
    truncate: bool = False
    unchanged: Mapping[str, pa.BooleanArray] = field(default_factory=dict)
    base: pa.RecordBatch | None = None

    @property
    def inserts_only(self) -> bool:
        """Whether every row is an INSERT, so that the replica need not look for old rows."""
        return bool((self.ops.to_numpy(zero_copy_only=False) == Op.INSERT).all())


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Whole transactions up to and including `position`, or a fragment of one.

    `changes` holds, in order, the changes per table; a table may appear more than once (its later entry follows its
    earlier one). `complete` is False for a fragment of a transaction whose commit has not come yet: `position` is
    then still the position before that transaction. An empty complete batch moves the position (an idle source).
    `commit_time` is the source's clock at the last commit in the batch, in seconds since the epoch, None if unknown.
    `size` is roughly how many bytes the source sent for it. `identity` is what `Source.identity` says as of `position`,
    where that tells more than before: it is stored together with the position. `skipped` are tables that a poll found
    to be as they were, so that the batch holds nothing of them.
    """

    position: Position
    changes: tuple[TableChanges, ...] = ()
    commit_time: float | None = None
    transactions: int = 0
    complete: bool = True
    size: int = 0
    identity: str | None = None
    skipped: tuple[TableId, ...] = ()

    @property
    def row_count(self) -> int:
        return sum(len(c.ops) for c in self.changes)

    @property
    def row_bytes(self) -> int:
        """What its rows take in memory, as Arrow."""
        return sum(int(change.rows.nbytes) for change in self.changes)


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A table's definition changed at the source.

    In a stream, every batch before it belongs to the old layout and every one after it to the new. From
    `Source.inspect`, it holds once the stream has covered `position`.
    `old` None: a table that was not there (or not replicated); `new` None: dropped, or replicated no more.
    `reload` with its `reason`: the stream cannot give the exact content from here on; otherwise `schema.evolve` tells.
    """

    position: Position
    old: TableSchema | None
    new: TableSchema | None
    reload: bool = False
    reason: str = ""


def with_nulled(rows: pa.RecordBatch, counts: Mapping[str, int]) -> pa.RecordBatch:
    """The same rows, saying of how many values per column the source's own value is none that the replica can hold.

    That is where the rule of a column's type makes such values NULL (zero dates). Columns without any are not named.
    """
    return rows.replace_schema_metadata({_NULLED: json.dumps(counts).encode()}) if counts else rows


def nulled(rows: pa.RecordBatch) -> dict[str, int]:
    """What `with_nulled` said of these rows; empty where nothing was said."""
    metadata = rows.schema.metadata
    if not metadata or _NULLED not in metadata:
        return {}
    counts: dict[str, int] = json.loads(metadata[_NULLED])
    return counts
