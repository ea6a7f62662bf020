"""The seam to a source database. Protocols only: connectors fill them, the pipeline uses them.

Threads: `stream` is iterated by one thread; `confirm` may be called from any thread while it runs; `snapshot`,
`inspect` and `discover` use connections of their own and may run beside a stream. A snapshot's `read` may be called
from several threads at once, for different parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from engine.changes import ChangeBatch, Position, SchemaChange
from engine.schema import TableId, TableSchema


class Secret:
    """A string that shows itself to nobody: `reveal` gives it, `repr`, `str` and formatting do not."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, for the one place that hands it to a driver."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the connection to the source is secured. Modes as libpq's, less ``allow``."""

    mode: str = "prefer"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """All a connector needs to know. Sizes in bytes, times in seconds."""

    host: str
    port: int
    user: str
    password: Secret
    database: str
    schema: str | None = None
    """Restrict to one schema of the database (PostgreSQL, SQL Server)."""
    tls: Tls = Tls()
    instance: str = "reflex"
    """The instance's name; what the engine makes at the source is named after it."""
    include: tuple[str, ...] = ("*",)
    """Globs on ``schema.table``, or on the bare table name when the glob has no dot."""
    exclude: tuple[str, ...] = ()
    exclude_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Per ``schema.table``: columns that are never read."""
    as_text: frozenset[tuple[TableId, str]] = frozenset()
    """Columns kept as the source's text (VARCHAR) because a value did not fit their type."""
    server_id: int | None = None
    batch_window: float = 0.2
    """Longest time that a change waits for company."""
    batch_bytes: int = 16 << 20
    """Source bytes after which a batch is closed early, and a larger transaction is sent in fragments."""
    snapshot_workers: int = 2
    poll_interval: float = 30.0
    """Time from one reload to the next, where the source is polled."""
    connect_timeout: float = 10.0


@dataclass(frozen=True, slots=True)
class Check:
    """One precondition of the source: what was looked at, whether it holds, and the statement that mends it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    warning: bool = False
    """Worth saying, but replication works without it (does not fail `check`)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of one table that a snapshot worker reads at a time. `token` is the connector's own."""

    table: TableSchema
    token: object = None
    estimated_rows: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a server offers to a user before anything is chosen of it: databases, and their sizes in bytes (estimates)."""

    databases: Mapping[str, int]
    """By name, in the server's order; those that the user may see, without the server's own."""


class Snapshot(Protocol):
    """A view of the source for loading tables. Held open by its context manager.

    Where the source can give one (PostgreSQL), it is the state at exactly `position`. Elsewhere (MySQL) rows of tables
    with a key may be of somewhat later states: together with the stream they become one by `settled`.
    """

    @property
    def position(self) -> Position:
        """Streaming continues here: what committed later is in the stream, what committed before is in the rows."""
        ...

    @property
    def tables(self) -> Sequence[TableSchema]:
        """The tables as they are within this view (their layout may be newer than what `discover` said)."""
        ...

    def settled(self) -> Position:
        """Asked when a table's last `read` is done: from here on its rows, brought up to date by the stream from
        `position` on, are a committed state; no reader sees them before. `position` itself where the view is exact.

        Until then inserts are applied as upserts, and deletes of rows that are not there do nothing: only tables with
        `Identity.KEY` may have rows later than `position`.
        """
        ...

    def split(self, table: TableSchema) -> Sequence[Part]:
        """Cut a table into parts that can be read side by side; together they are the table, each row once."""
        ...

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Read one part; columns as in `TableChanges.rows`.

        Raises ResyncRequired when the table was rewritten or altered after the view was taken, so that it no longer
        can be read as of `position`: the caller takes a new snapshot.
        """
        ...


@dataclass(frozen=True, slots=True)
class Follow:
    """A table to stream. Its transactions at or before `since` are already in the data and are passed over unseen."""

    table: TableSchema
    since: Position | None = None


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Where the source itself is: its current end of log, and how many bytes the stream is behind, if it can tell."""

    position: Position | None
    lag_bytes: int | None = None
    problems: Sequence[Check] = ()
    """What an operator has to mend while the rest goes on, such as tables that are chosen and cannot be replicated."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What `resume` found out about continuing at a position."""

    position: Position | None
    """Where streaming continues: the given position, or None if everything must be loaded again."""
    reason: str = ""


class Source(Protocol):
    """A source database as the pipeline sees it. Every method raises only `engine.errors` errors."""

    def check(self) -> Sequence[Check]:
        """Verify every precondition; nothing is changed at the source."""
        ...

    def discover(self, known: Sequence[TableSchema] = ()) -> Sequence[TableSchema]:
        """The tables to replicate, as they are now, by the options' include and exclude rules.

        `known`: those that the replica has. Where only one of two names can be replicated, and the source's catalog does
        not tell which of them came first, it is the known one.
        """
        ...

    def prepare(self, tables: Sequence[TableSchema], after: Position | None, identity: str | None) -> StreamState:
        """Make or adopt what streaming needs at the source (publication, slot) for exactly these tables.

        `after` is the durable position (None: nothing is there yet) and `identity` what `identity()` said when it was
        stored. Says whether the stream can continue exactly at `after`; when not (slot lost, recreated, advanced by
        someone else, another server, a restore), the state's position is None and its reason says why.
        """
        ...

    def identity(self) -> str:
        """What tells this server's history from another's (system id, timeline, slot), as text to be stored."""
        ...

    def snapshot(self, tables: Sequence[TableSchema], *, start: bool) -> AbstractContextManager[Snapshot]:
        """Open a consistent view for loading these tables.

        `start`: streaming will begin at this very view (what `prepare` set up is made anew to start here);
        otherwise the existing stream stays as it is and the view lies at or after every position streamed so far.
        It may be closed by another thread than the one that opened it, while the stream is being read.
        """
        ...

    def stream(
        self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position] = ()
    ) -> Iterator[ChangeBatch | SchemaChange]:
        """Follow the log from just behind `after`; ends when `close` is called.

        Batches come in commit order, each within about `batch_window` of its first change; an idle source gives
        empty positioned batches as its log moves (at least every second while it does). No batch crosses a `since`
        or a cut: one batch ends exactly there, i.e. its position covers the cut and the next batch begins behind
        it. Delivery repeats nothing and skips nothing after `after`.
        """
        ...

    def confirm(self, position: Position) -> None:
        """Everything up to `position` is durable in the replica: the source may forget it. Does not block."""
        ...

    def inspect(self, known: Sequence[TableSchema]) -> Sequence[SchemaChange]:
        """Compare the catalog of now with `known`, and what the engine made at the source with what it should be.

        Catches what the stream does not say: tables created, dropped, altered without a row change, rewritten,
        changed in ways that are not logged row by row. Each finding holds from its `position` on.
        """
        ...

    def status(self) -> SourceStatus:
        """Ask the source where its log ends now. Raises TransientError when it cannot be reached."""
        ...

    def parse_position(self, text: str) -> Position:
        """Read a position back from its text. Raises ValueError on anything that is not one."""
        ...

    def teardown(self) -> Sequence[str]:
        """Drop what the engine made at the source; returns one line for each thing dropped."""
        ...

    def close(self) -> None:
        """End the stream and close every connection. May be called from any thread, more than once."""
        ...
