"""SQL Server's types and what they are in the replica. The one table that snapshot, stream and poll share.

The rule per type is in the project's type table; where the replica's type is a representation rather than the same
type, `Column.rule` states it. Values are read by an expression (`expression`) that leaves nothing to the driver or to
code pages: characters as UTF-16, times as ISO text, decimals as text (the driver makes it faster than numbers), whatever
else is exact as it is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from engine.schema import Column

TEXT_RULE = "the server's text"
INSTANT_RULE = "the instant, to the microsecond; the offset is not kept"
OFFSET_RULE = "the instant; the offset is not kept"
WKB_RULE = "well-known binary, without the SRID"
FLOOR_RULE = "to the microsecond, rounded down: the column holds values outside of 1677 to 2262"
VARIANT_RULE = "the value's text, without its type"

MAX = -1
"""`Definition.max_length` of ``(max)`` types."""
_MAX_CHARACTERS = 4000
_INTEGERS = {"tinyint": "UTINYINT", "smallint": "SMALLINT", "int": "INTEGER", "bigint": "BIGINT"}
_CHARACTERS = frozenset({"char", "varchar", "nchar", "nvarchar", "text", "ntext", "sysname"})
_BINARIES = frozenset({"binary", "varbinary", "image"})
_ROWVERSIONS = frozenset({"timestamp", "rowversion"})
_LONG = frozenset({"text", "ntext", "image", "xml", "geometry", "geography", "json"})
_FINEST = 7
"""Fractional digits of a second: one more than a microsecond has."""


class Kind(enum.Enum):
    """How values come from the driver, and what they become."""

    INTEGER = enum.auto()
    BOOLEAN = enum.auto()
    DECIMAL = enum.auto()
    FLOAT = enum.auto()
    TEXT = enum.auto()
    BYTES = enum.auto()
    DATE = enum.auto()
    TIME = enum.auto()
    TIMESTAMP = enum.auto()
    TIMESTAMP_NS = enum.auto()
    TIMESTAMP_TZ = enum.auto()


@dataclass(frozen=True, slots=True)
class Definition:
    """One column as sys.columns describes it; alias types are given by the type that they stand for."""

    name: str
    id: int
    base: str
    max_length: int = 0
    """Bytes; `MAX` for ``(max)``."""
    precision: int = 0
    scale: int = 0
    nullable: bool = True
    computed: bool = False

    @property
    def long(self) -> bool:
        """Whether it is a large object: a change row does not carry it when an update left it as it was."""
        return self.base in _LONG or self.max_length == MAX

    @property
    def told_when_deleted(self) -> bool:
        """Whether the change row of a delete has the value: of text, ntext and image it has not, and of xml nobody says."""
        return self.base not in _LONG

    @property
    def declared(self) -> str:
        """The type with its length, precision or scale, as it is written in CREATE TABLE."""
        match self.base:
            case "decimal" | "numeric":
                return f"{self.base}({self.precision},{self.scale})"
            case "datetime2" | "time" | "datetimeoffset":
                return f"{self.base}({self.scale})"
            case "nchar" | "nvarchar":
                return f"{self.base}({self._length(2)})"
            case "char" | "varchar" | "binary" | "varbinary":
                return f"{self.base}({self._length(1)})"
            case "timestamp":
                return "rowversion"
            case _:
                return self.base

    def _length(self, width: int) -> str:
        return "max" if self.max_length == MAX else str(self.max_length // width)

    @property
    def _characters(self) -> str:
        """The length of an nvarchar that holds every value."""
        length = self.max_length // 2 if self.base.startswith("n") else self.max_length
        if self.long or self.base not in _CHARACTERS or not 0 < length <= _MAX_CHARACTERS:
            return "max"
        return str(length)

    def expression(self, inner: str, *, as_text: bool = False) -> str:
        """The T-SQL that reads a value of this type, which the T-SQL `inner` gives."""
        if as_text and self.kind(as_text=True) is Kind.TEXT:
            return f"CONVERT(nvarchar(max), {inner})"
        match self.base:
            case "decimal" | "numeric":
                return f"CONVERT(varchar(41), {inner})"
            case "money" | "smallmoney":
                return f"CONVERT(varchar(41), CONVERT(decimal({self._decimal[0]},{self._decimal[1]}), {inner}))"
            case "datetime" | "smalldatetime" | "datetime2":
                return f"CONVERT(varchar(27), {inner}, 121)"
            case "date":
                return f"CONVERT(varchar(10), {inner}, 23)"
            case "time":
                return f"CONVERT(varchar(16), {inner}, 121)"
            case "datetimeoffset":
                return f"CONVERT(varchar(27), CONVERT(datetime2(7), SWITCHOFFSET({inner}, 0)), 121)"
            case "uniqueidentifier":
                return f"CONVERT(char(36), {inner})"
            case "image":
                return f"CONVERT(varbinary(max), {inner})"
            case "hierarchyid":
                return f"CAST({inner} AS hierarchyid).ToString()"
            case "geometry" | "geography":
                return f"CAST({inner} AS {self.base}).AsBinaryZM()"
            case "sql_variant":
                return _variant(inner)
            case base if base in _ROWVERSIONS:
                return f"CONVERT(binary(8), {inner})"
            case _ if self.kind() is Kind.TEXT:
                return f"CONVERT(nvarchar({self._characters}), {inner})"
            case _:
                return inner

    def kind(self, *, as_text: bool = False) -> Kind:
        """How values of this type are read."""
        if as_text:
            return Kind.TIMESTAMP if self._by_nanosecond else Kind.TEXT
        match self.base:
            case "bit":
                return Kind.BOOLEAN
            case "decimal" | "numeric" | "money" | "smallmoney":
                return Kind.DECIMAL
            case "real" | "float":
                return Kind.FLOAT
            case "date":
                return Kind.DATE
            case "time":
                return Kind.TIME
            case "datetimeoffset":
                return Kind.TIMESTAMP_TZ
            case "datetime" | "smalldatetime" | "datetime2":
                return Kind.TIMESTAMP_NS if self._by_nanosecond else Kind.TIMESTAMP
            case base if base in _INTEGERS:
                return Kind.INTEGER
            case base if base in _BINARIES or base in _ROWVERSIONS or base in {"geometry", "geography"}:
                return Kind.BYTES
            case _:
                return Kind.TEXT

    @property
    def _by_nanosecond(self) -> bool:
        return self.base == "datetime2" and self.scale == _FINEST

    @property
    def _decimal(self) -> tuple[int, int]:
        return {"money": (19, 4), "smallmoney": (10, 4)}.get(self.base, (self.precision, self.scale))

    def type(self, *, as_text: bool = False) -> str:
        """The replica's type."""
        match self.kind(as_text=as_text):
            case Kind.INTEGER:
                return _INTEGERS[self.base]
            case Kind.BOOLEAN:
                return "BOOLEAN"
            case Kind.DECIMAL:
                return "DECIMAL({},{})".format(*self._decimal)
            case Kind.FLOAT:
                return "FLOAT" if self.base == "real" or 0 < self.precision <= 24 else "DOUBLE"
            case Kind.BYTES:
                return "BLOB"
            case Kind.DATE:
                return "DATE"
            case Kind.TIME:
                return "TIME_NS" if self.scale == _FINEST else "TIME"
            case Kind.TIMESTAMP:
                return "TIMESTAMP"
            case Kind.TIMESTAMP_NS:
                return "TIMESTAMP_NS"
            case Kind.TIMESTAMP_TZ:
                return "TIMESTAMPTZ"
            case Kind.TEXT if self.base == "uniqueidentifier" and not as_text:
                return "UUID"
            case Kind.TEXT if self.base == "json" and not as_text:
                return "JSON"
            case Kind.TEXT:
                return "VARCHAR"

    def rule(self, *, as_text: bool = False) -> str | None:
        """The stated rule where the replica's type is a representation."""
        if as_text:
            return FLOOR_RULE if self._by_nanosecond else TEXT_RULE
        if self.base == "datetimeoffset":
            return INSTANT_RULE if self.scale == _FINEST else OFFSET_RULE
        if self.base in {"geometry", "geography"}:
            return WKB_RULE
        if self.base == "sql_variant":
            return VARIANT_RULE
        known = self.base in _CHARACTERS or self.base in {"uniqueidentifier", "json"}
        return TEXT_RULE if self.kind() is Kind.TEXT and not known else None

    def column(self, *, as_text: bool = False) -> Column:
        """The column of the replica."""
        return Column(
            name=self.name,
            type=self.type(as_text=as_text),
            source_type=self.declared,
            nullable=self.nullable,
            id=self.id,
            rule=self.rule(as_text=as_text),
        )


def quoted(name: str) -> str:
    """An identifier in brackets."""
    return f"[{name.replace(']', ']]')}]"


def _variant(inner: str) -> str:
    """A sql_variant's text without loss: what plain CONVERT would round or abbreviate is converted by its own type."""
    exact = {
        "float": f"CONVERT(nvarchar(4000), CONVERT(float, {inner}), 3)",
        "real": f"CONVERT(nvarchar(4000), CONVERT(real, {inner}), 3)",
        "money": f"CONVERT(nvarchar(4000), CONVERT(money, {inner}), 2)",
        "smallmoney": f"CONVERT(nvarchar(4000), CONVERT(smallmoney, {inner}), 2)",
        "datetime": f"CONVERT(nvarchar(4000), CONVERT(datetime, {inner}), 121)",
        "smalldatetime": f"CONVERT(nvarchar(4000), CONVERT(smalldatetime, {inner}), 121)",
        "binary": f"CONVERT(nvarchar(max), CONVERT(varbinary(8000), {inner}), 1)",
        "varbinary": f"CONVERT(nvarchar(max), CONVERT(varbinary(8000), {inner}), 1)",
    }
    cases = " ".join(f"WHEN '{base}' THEN {sql}" for base, sql in exact.items())
    kind = f"CONVERT(varchar(128), SQL_VARIANT_PROPERTY({inner}, 'BaseType'))"
    return f"CASE {kind} {cases} ELSE CONVERT(nvarchar(4000), {inner}) END"
