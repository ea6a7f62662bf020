"""The seam to a backend that is polled. A backend fills `Reader` and `View` with nothing but SELECT rights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

import pyarrow as pa

from engine.schema import Fill, Identity, TableId, TableSchema
from engine.source import Check, Part


@dataclass(frozen=True, slots=True)
class Found:
    """The tables that are chosen and can be read, as `polled` has them; and what keeps others that are there from it."""

    tables: Sequence[TableSchema]
    left_out: Mapping[TableId, Check] = field(default_factory=dict)


class View(Protocol):
    """All tables of the source as of one committed state. `read` may be called from several threads at once.

    `tables` and `left_out` are those of this state, as in `Found`; `at`: the source's clock, in seconds since the epoch,
    at a moment before the state was taken: whatever had committed by then is in it.
    """

    @property
    def at(self) -> float: ...

    @property
    def tables(self) -> Sequence[TableSchema]: ...

    @property
    def left_out(self) -> Mapping[TableId, Check]: ...

    def split(self, table: TableSchema) -> Sequence[Part]:
        """Cut a table into parts that can be read side by side; together they are the table, each row once."""
        ...

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Read one part; columns as in `TableChanges.rows`.

        Raises ResyncRequired when the table cannot be read as of this state any more.
        """
        ...

    def mark(self, table: TableSchema) -> object | None:
        """What a later view needs to tell whether the table is still as it is here; None where none can tell.

        Answers also when the view is closed.
        """
        ...

    def unchanged(self, table: TableSchema, mark: object, rows: int) -> bool:
        """Whether the table is, value for value, what it was in the view that gave `mark`, where it had so many `rows`.

        Never true without proof. May cost a scan at the source, but transfers nothing.
        """
        ...


class Reader(Protocol):
    """A backend as it is polled. Raises only `engine.errors` errors; any thread may call any method."""

    def check(self) -> Sequence[Check]:
        """Verify every precondition of polling."""
        ...

    def discover(self) -> Found:
        """The tables as they are now."""
        ...

    def view(self) -> AbstractContextManager[View]:
        """Open a view of all tables. It may be left by another thread than the one that entered it."""
        ...

    def ping(self) -> None:
        """Ask the server for a sign of life. Raises TransientError when there is none."""
        ...

    def identity(self) -> str:
        """What is polled, as text to be stored: the same as long as one round may follow another."""
        ...

    def close(self) -> None:
        """Close every connection; whatever is under way fails at once. From any thread, more than once."""
        ...


def polled(table: TableSchema) -> TableSchema:
    """A table as polling sees it: told apart by its name, without the traces that only a stream needs.

    Its content is only ever replaced, so that it needs no key. What it says of columns is what their values depend on.
    """
    columns = tuple(replace(column, id=None, fill=Fill.UNKNOWN) for column in table.columns)
    identity = Identity.KEY if table.key else Identity.INSERTS
    return replace(table, columns=columns, identity=identity, source_id=str(table.id), storage=None)
