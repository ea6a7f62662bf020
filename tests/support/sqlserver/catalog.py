"""What a database consists of: schemas, tables, columns, indexes, principals and their rights."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from tests.support.sqlserver.types import SqlType


@dataclass
class Column:
    """A column; `stored` is its name in the embedded engine (a computed one has none)."""

    id: int
    name: str
    kind: SqlType
    nullable: bool = True
    default: Any = None
    computed: Any = None
    computed_text: str = ""
    persisted: bool = False
    identity: tuple[int, int] | None = None
    stored: str = ""
    dropped_at: int | None = None


@dataclass
class Index:
    """A primary key, a unique constraint or an index; `columns` are column ids."""

    id: int
    name: str
    columns: list[int]
    unique: bool = False
    primary: bool = False
    clustered: bool = False
    constraint: bool = False
    filtered: bool = False
    object_id: int = 0


@dataclass
class Table:
    """A table. `system` ones are CDC's, whose rows the capture job writes."""

    object_id: int
    schema: str
    name: str
    columns: list[Column]
    indexes: list[Index] = field(default_factory=list)
    system: bool = False
    created: dt.datetime = field(default_factory=dt.datetime.now)
    next_identity: int | None = None
    next_column: int = 1
    next_index: int = 2
    dropped: bool = False
    altered_at: int = 0

    @property
    def stored(self) -> str:
        return f"t{self.object_id}"

    @property
    def physical(self) -> list[Column]:
        """The columns that are stored."""
        return [column for column in self.columns if column.computed is None]

    @property
    def identity(self) -> Column | None:
        return next((column for column in self.columns if column.identity), None)

    @property
    def primary_key(self) -> Index | None:
        return next((index for index in self.indexes if index.primary), None)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name.lower() == name.lower()), None)

    def by_id(self, number: int) -> Column:
        return next(column for column in self.columns if column.id == number)


@dataclass
class Principal:
    """A database user: the roles it is in, and what was granted or denied to it."""

    name: str
    id: int
    login: str
    roles: set[str] = field(default_factory=set)
    grants: set[tuple[str, str]] = field(default_factory=set)
    denials: set[tuple[str, str]] = field(default_factory=set)
    is_role: bool = False
