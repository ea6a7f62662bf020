"""The parsed form of the T-SQL that the emulator knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.sqlserver.types import SqlType

Name = tuple[str, ...]


@dataclass
class Literal:
    kind: str  # int, num, float, str, nstr, bin, null
    value: str


@dataclass
class Column:
    name: Name


@dataclass
class Star:
    qualifier: Name


@dataclass
class Variable:
    name: str


@dataclass
class Unary:
    op: str
    operand: Any


@dataclass
class Binary:
    op: str
    left: Any
    right: Any


@dataclass
class Call:
    name: Name
    args: list[Any]
    distinct: bool = False
    over: tuple[list[Any], list[Any]] | None = None


@dataclass
class Method:
    operand: Any
    name: str
    args: list[Any]


@dataclass
class Cast:
    operand: Any
    kind: SqlType
    style: Any = None
    attempt: bool = False


@dataclass
class Case:
    operand: Any
    whens: list[tuple[Any, Any]]
    otherwise: Any


@dataclass
class In:
    operand: Any
    options: Any  # a list or a query
    negated: bool


@dataclass
class Like:
    operand: Any
    pattern: Any
    escape: Any
    negated: bool


@dataclass
class IsNull:
    operand: Any
    negated: bool


@dataclass
class Exists:
    query: Any


@dataclass
class Scalar:
    query: Any


@dataclass
class Collate:
    operand: Any
    name: str


@dataclass
class Item:
    value: Any
    alias: str | None = None
    variable: str | None = None


@dataclass
class Table:
    name: Name
    alias: str | None = None
    hints: list[str] = field(default_factory=list)


@dataclass
class Derived:
    query: Any
    alias: str
    names: list[str]


@dataclass
class Rows:
    rows: list[list[Any]]
    alias: str
    names: list[str]


@dataclass
class Routine:
    name: Name
    args: list[Any]
    alias: str | None


@dataclass
class Join:
    kind: str
    left: Any
    right: Any
    on: Any


@dataclass
class Select:
    items: list[Item]
    source: Any = None
    where: Any = None
    group: list[Any] = field(default_factory=list)
    having: Any = None
    distinct: bool = False
    top: Any = None
    into: Name | None = None
    order: list[tuple[Any, bool]] = field(default_factory=list)
    offset: Any = None
    fetch: Any = None
    ctes: list[tuple[str, list[str], Any]] = field(default_factory=list)


@dataclass
class SetOperation:
    op: str
    left: Any
    right: Any
    order: list[tuple[Any, bool]] = field(default_factory=list)
    offset: Any = None
    fetch: Any = None
    ctes: list[tuple[str, list[str], Any]] = field(default_factory=list)
    into: Name | None = None
    top: Any = None


@dataclass
class Insert:
    table: Name
    columns: list[str] | None
    source: Any  # a query, a list of rows (None: DEFAULT), or None for DEFAULT VALUES
    output: list[Item]


@dataclass
class Update:
    table: Name
    assignments: list[tuple[str, Any]]
    source: Any
    where: Any
    top: Any
    output: list[Item]


@dataclass
class Delete:
    table: Name
    source: Any
    where: Any
    top: Any
    output: list[Item]


@dataclass
class ColumnDefinition:
    name: str
    kind: SqlType | None
    nullable: bool | None = None
    default: Any = None
    computed: Any = None
    computed_text: str = ""
    persisted: bool = False
    identity: tuple[int, int] | None = None


@dataclass
class Constraint:
    kind: str  # primary, unique
    name: str | None
    columns: list[str]


@dataclass
class Statement:
    """Any other statement: its verb and what it carries."""

    verb: str
    line: int = 1
    values: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None
