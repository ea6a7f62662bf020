"""The seam to the replica. Protocols only: `engine.replica` fills them, the pipeline uses them.

A table may have two copies: the `live` one that readers see, and a `load` copy that is being filled or waits to be
swapped in. Everything a method says it commits is durable when it returns. One thread writes at a time, except that
`Loader`s of different tables may run beside each other and beside `apply` and `stage`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from engine.changes import ChangeBatch
from engine.schema import ColumnChange, TableId, TableSchema


class Copy(enum.StrEnum):
    """Which copy of a table changes go to."""

    LIVE = "live"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table as the replica remembers it, across restarts. Positions are the connector's text."""

    id: TableId
    live: TableSchema | None
    """Layout of what readers see; None before the first swap."""
    load: TableSchema | None = None
    """Layout of a complete load copy that is not swapped in yet."""
    loaded_at: str | None = None
    """The snapshot position of that load copy: from there on the stream's changes belong to it."""
    settled_at: str | None = None
    """The position from which on it is a committed state (`Snapshot.settled`), at or after `loaded_at`."""
    reload_reason: str | None = None
    """Why the table must be loaded again; None when the live copy is followed."""
    blocking: bool = False
    """The live copy cannot be followed past the checkpoint: nothing may advance until the reload is in."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """All that the pipeline needs to continue after a restart."""

    position: str | None
    """The position that readers see; None before the first snapshot is in."""
    stream_position: str | None
    """Where the stream must continue for the copies that are kept; differs from `position` only during a resync."""
    identity: str | None
    """The source's identity when `stream_position` was stored."""
    tables: Mapping[TableId, StoredTable] = field(default_factory=dict)
    as_text: frozenset[tuple[TableId, str]] = frozenset()


class Loader(Protocol):
    """Fills the load copy of one table. `append` may be called from several threads."""

    def append(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows; returns how many. Raises UnsupportedValue when one does not fit its column's type."""
        ...

    def finish(self, position: str, settled: str | None = None) -> None:
        """Commit: the load copy is complete as of `position`, and a committed state from `settled` on (None: at once)."""
        ...

    def abandon(self) -> None:
        """Drop what was loaded so far."""
        ...


class Replica(Protocol):
    """The DuckDB replica as the pipeline sees it. Raises ReplicaError, CapExceeded or UnsupportedValue."""

    def state(self) -> StoredState: ...

    def start_over(self, stream_position: str, identity: str) -> None:
        """A new stream begins at `stream_position`: every load copy and staged change is dropped; live copies stay
        readable, all marked for a blocking reload."""
        ...

    def mark_reload(self, tables: Sequence[TableId] | None, reason: str, *, blocking: bool) -> None:
        """Remember that these tables (None: all) must be loaded again. Load copies of them are dropped."""
        ...

    def keep_as_text(self, table: TableId, columns: Sequence[str]) -> None:
        """Remember that these columns are kept as text from their next load on."""
        ...

    def load(self, table: TableSchema) -> Loader:
        """Begin an empty load copy (a previous one is dropped)."""
        ...

    def stage(self, batch: ChangeBatch, targets: Mapping[TableId, Copy]) -> None:
        """Commit the batch's changes where no reader sees them, for the named copies (tables not named: ignored).

        Changes staged for LIVE copies join the next `apply` or `swap`; those for a LOAD copy its `swap`.
        """
        ...

    def discard_staged(self) -> None:
        """Forget every staged change (after a restart the stream delivers them again)."""
        ...

    def apply(self, batch: ChangeBatch) -> None:
        """One transaction: staged changes of live copies, this batch's changes, and its position as checkpoint (with the
        batch's `identity`, where it has one)."""
        ...

    def swap(
        self, tables: Sequence[TableId], position: str, identity: str | None = None, gone: Sequence[TableId] = ()
    ) -> None:
        """One transaction: all staged changes (live copies' and these load copies'), the load copies made live in place
        of the old ones, their reload marks cleared, `gone` removed as by `drop`, and `position` as checkpoint (and
        stream position)."""
        ...

    def alter(self, old: TableSchema, new: TableSchema, changes: Sequence[ColumnChange]) -> None:
        """Change a live copy's layout (and name) in place, in one transaction."""
        ...

    def drop(self, table: TableId) -> None:
        """Remove a table and all that is remembered of it."""
        ...

    def maintain(self) -> None:
        """Keep file and WAL bounded (a DuckDB checkpoint when it is due); cheap when there is nothing to do."""
        ...

    def close(self) -> None: ...
