"""What a table looks like, at the source and in the replica, and how one layout becomes the next.

A leaf module: it imports nothing of the project. A `TableSchema` is what a connector
discovers, what the replica stores beside its data, and what the two are compared by.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True, order=True)
class TableId:
    """A table's qualified name: the schema (MySQL: database) and the name, exactly as the source spells them."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Identity(enum.StrEnum):
    """What a change event of the table says about the row it changes; it decides how changes are applied."""

    KEY = "key"
    """Updates and deletes name the row by `TableSchema.key`, which is unique and never NULL."""

    ROW = "row"
    """No usable key: updates and deletes carry the whole old row; the table is kept as a multiset of rows."""

    INSERTS = "inserts"
    """No usable key and no old rows: only inserts and TRUNCATE are followed. The connector notices updates and
    deletes by other means and then asks for a reload."""

    RELOAD = "reload"
    """The stream cannot give this table's content: any change to it asks for a reload."""


class Fill(enum.StrEnum):
    """What the rows that existed before a column was added hold in it."""

    NULL = "null"
    """NULL, proven by the connector: the column can be added to the replica in place."""

    UNKNOWN = "unknown"
    """Not known from here (a default, a rewrite, an original column): needs a reload to tell."""


@dataclass(frozen=True, slots=True)
class Column:
    """One replicated column.

    `type` is the replica's type as DuckDB SQL text (``DECIMAL(12,2)``, ``BIGINT[]``); `source_type` the source's
    own spelling of its type, for people and for comparison; `id` a number that a rename keeps (attnum).
    """

    name: str
    type: str
    source_type: str
    nullable: bool = True
    id: int | None = None
    fill: Fill = Fill.UNKNOWN
    rule: str | None = None
    """The stated rule where `type` is a representation rather than the same type (shown in `/tables`)."""


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table as it is replicated: columns in source order, how changes address rows, and what identifies it.

    `source_id` stays through renames and differs after DROP and CREATE (PostgreSQL: the oid). `storage` changes when
    the source rewrites the table's rows without saying so row by row (PostgreSQL: relfilenodes).
    The estimates are for planning a snapshot and take no part in comparisons.
    """

    id: TableId
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    identity: Identity = Identity.ROW
    source_id: str | None = None
    storage: str | None = None
    estimated_rows: int = field(default=0, compare=False)
    estimated_bytes: int = field(default=0, compare=False)

    def column(self, name: str) -> Column:
        """Return the column called `name`; KeyError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def to_json(self) -> str:
        """The schema as JSON text, as the replica stores it; `from_json` reads it back."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild a schema from `to_json`'s text."""
        raw: dict[str, Any] = json.loads(text)
        columns = tuple(Column(**{**c, "fill": Fill(c["fill"])}) for c in raw.pop("columns"))
        return cls(
            id=TableId(**raw.pop("id")),
            columns=columns,
            key=tuple(raw.pop("key")),
            identity=Identity(raw.pop("identity")),
            **raw,
        )


@dataclass(frozen=True, slots=True)
class AddColumn:
    """Add `column`; every existing row holds NULL in it."""

    column: Column


@dataclass(frozen=True, slots=True)
class DropColumn:
    """Drop the column called `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """Rename column `old` to `new`."""

    old: str
    new: str


ColumnChange = AddColumn | DropColumn | RenameColumn


def evolve(old: TableSchema, new: TableSchema) -> tuple[ColumnChange, ...] | None:
    """Say how a replica of `old` becomes one of `new` in place, exactly, or None when only a reload can tell.

    The steps are in an order that can be executed one after another: drops, then renames (through no temporary name;
    a swap of names is left to a reload), then additions. A table rename alone gives an empty tuple.
    """
    if old.source_id is None or old.source_id != new.source_id:
        return None
    if old.identity != new.identity or Identity.RELOAD in (old.identity, new.identity):
        return None
    before = {c.id: c for c in old.columns}
    after = {c.id: c for c in new.columns}
    if None in before or None in after or len(before) != len(old.columns) or len(after) != len(new.columns):
        return None
    drops = [DropColumn(c.name) for c in old.columns if c.id not in after]
    renames = []
    for column in new.columns:
        was = before.get(column.id)
        if was is None:
            continue
        if (was.type, was.source_type) != (column.type, column.source_type):
            return None
        if was.name != column.name:
            renames.append(RenameColumn(was.name, column.name))
    kept = {c.name.casefold() for c in old.columns if c.id in after}
    if any(r.new.casefold() in kept for r in renames):
        return None
    additions = [c for c in new.columns if c.id not in before]
    if additions and (old.storage != new.storage or any(c.fill is not Fill.NULL for c in additions)):
        return None
    if [c.id for c in new.columns] != [c.id for c in old.columns if c.id in after] + [c.id for c in additions]:
        return None
    if tuple(column_id(old, k) for k in old.key) != tuple(column_id(new, k) for k in new.key):
        return None
    return (*drops, *renames, *(AddColumn(c) for c in additions))


def column_id(table: TableSchema, column: str) -> int | None:
    """The stable id of one of the table's columns."""
    return table.column(column).id
