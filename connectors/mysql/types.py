"""MySQL and MariaDB types and what they are in the replica. The one table that snapshot and stream share.

The rule per type is in the project's type table; where the replica's type is a representation rather than the same
type, `ReplicaType.rule` states it. A `Definition` is a row of information_schema.COLUMNS, which both servers spell
almost alike (MariaDB: JSON is LONGTEXT with a check, and compressed columns carry a version comment).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from engine.schema import Column

COLUMN_FIELDS = (
    "COLUMN_NAME",
    "DATA_TYPE",
    "COLUMN_TYPE",
    "IS_NULLABLE",
    "CHARACTER_SET_NAME",
    "CHARACTER_OCTET_LENGTH",
    "NUMERIC_PRECISION",
    "NUMERIC_SCALE",
    "DATETIME_PRECISION",
    "COLUMN_DEFAULT",
    "EXTRA",
    "GENERATION_EXPRESSION",
)
"""The columns of information_schema.COLUMNS that `Definition.from_row` reads; MySQL's SRS_ID besides, where it is."""

ZERO_DATE_RULE = "zero dates, partial dates and days that no calendar has are NULL"
TEXT_RULE = "the server's text"
NO_SUCH_DAY = "a key holds a zero or partial date, or a day that no calendar has"

_UNSIGNED = re.compile(r"\b(unsigned|zerofill)\b")
_LABEL = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPES = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
_DIMENSION = re.compile(r"\((\d+)\)")
_MAX_PRECISION = 38
_DEFAULT_PRECISION, _DEFAULT_DIMENSION = 10, 2048


@dataclass(frozen=True, slots=True)
class Definition:
    """One column as the catalog describes it. Types and character sets in lower case, as the server spells them."""

    name: str
    data_type: str
    """The bare type: ``int``, ``varchar``, ``enum``, ``point``, ``uuid`` ..."""
    column_type: str
    """With length, sign and labels: ``int(10) unsigned``, ``enum('a','b')``."""
    nullable: bool = True
    character_set: str | None = None
    octets: int | None = None
    """The longest value in bytes, of character and binary types."""
    precision: int | None = None
    scale: int | None = None
    fsp: int = 0
    """Fractional digits of a second."""
    default: str | None = None
    """COLUMN_DEFAULT as the server says it (the two servers quote differently)."""
    extra: str = ""
    srid: int | None = None
    json: bool = False
    """MariaDB: LONGTEXT with a ``json_valid`` check on itself, which is what JSON is there."""
    expression: str = ""
    """What a generated column is computed by, as the server prints it."""
    mariadb: bool = False
    """MariaDB spells defaults as expressions, and leaves generated columns out of the images of updates."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any], *, json: bool = False, mariadb: bool = False) -> Self:
        """Read a row of information_schema.COLUMNS, given by upper-case column names.

        `json`: a check constraint ``json_valid(<this column>)`` is on the column. `mariadb`: whose catalog it is.
        """
        return cls(
            name=row["COLUMN_NAME"],
            data_type=str(row["DATA_TYPE"]).lower(),
            column_type=row["COLUMN_TYPE"],
            nullable=row["IS_NULLABLE"] == "YES",
            character_set=row["CHARACTER_SET_NAME"],
            octets=row["CHARACTER_OCTET_LENGTH"],
            precision=row["NUMERIC_PRECISION"],
            scale=row["NUMERIC_SCALE"],
            fsp=row["DATETIME_PRECISION"] or 0,
            default=row["COLUMN_DEFAULT"],
            extra=row["EXTRA"] or "",
            expression=row["GENERATION_EXPRESSION"] or "",
            srid=row.get("SRS_ID"),
            json=json,
            mariadb=mariadb,
        )

    @property
    def unsigned(self) -> bool:
        """Whether the number has no sign (ZEROFILL implies it)."""
        return not self.labels and _UNSIGNED.search(self.column_type.lower()) is not None

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of an ENUM or SET in order; empty for other types."""
        if self.data_type not in {"enum", "set"}:
            return ()
        return tuple(_unescaped(label) for label in _LABEL.findall(self.column_type))

    @property
    def dimension(self) -> int:
        """The number in parentheses behind the type: the elements of a VECTOR, the bits of a BIT."""
        found = _DIMENSION.search(self.column_type)
        if found is None:
            return 1 if self.data_type == "bit" else _DEFAULT_DIMENSION
        return int(found[1])

    @property
    def generated(self) -> bool:
        """Whether the column is computed from others. (DEFAULT_GENERATED says that its default is an expression.)"""
        return re.search(r"\b(VIRTUAL|STORED|PERSISTENT) GENERATED\b", self.extra.upper()) is not None

    @property
    def is_json(self) -> bool:
        """Whether the values are JSON texts, of either server."""
        return self.data_type == "json" or self.json


def _unescaped(label: str) -> str:
    plain = label.replace("''", "'")
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), plain, flags=re.DOTALL)


@dataclass(frozen=True, slots=True)
class ReplicaType:
    """A column's type in the replica as DuckDB SQL text, and the stated rule if it is a representation."""

    type: str
    rule: str | None = None


_INTEGERS = {"tinyint": "TINYINT", "smallint": "SMALLINT", "mediumint": "INTEGER", "int": "INTEGER", "bigint": "BIGINT"}
_TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
_BYTES = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_GEOMETRIES = frozenset(
    {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"}
    | {"geometrycollection", "geomcollection"}
)
_PLAIN = {
    "float": ReplicaType("FLOAT"),
    "double": ReplicaType("DOUBLE"),
    "date": ReplicaType("DATE", ZERO_DATE_RULE),
    "datetime": ReplicaType("TIMESTAMP", ZERO_DATE_RULE),
    "timestamp": ReplicaType("TIMESTAMPTZ", "the zero timestamp is NULL"),
    "time": ReplicaType("INTERVAL", "hours may exceed a day"),
    "year": ReplicaType("SMALLINT", "the year; 0000 is 0"),
    "enum": ReplicaType("VARCHAR", "the label; the empty label of index 0 is ''"),
    "set": ReplicaType("VARCHAR", "the labels, separated by commas"),
    "json": ReplicaType("JSON"),
    "uuid": ReplicaType("UUID"),
    "inet4": ReplicaType("VARCHAR", TEXT_RULE),
    "inet6": ReplicaType("VARCHAR", TEXT_RULE),
}


def replica_type(definition: Definition, *, as_text: bool = False) -> ReplicaType:
    """The replica type of a column. A type that is not known here (a plugin's) is the server's text; see `streamable`.

    `as_text`: the column holds values that its type's own replica type cannot (see `engine.errors.UnsupportedValue`).
    JSON and VECTOR can, and dates and times of a day that stand in a key: NULL would name other rows. Every other type
    here holds whatever the server can store.
    """
    kind = definition.data_type
    if as_text and (definition.is_json or kind in {"vector", "date", "datetime", "timestamp"}):
        return ReplicaType("VARCHAR", f"{TEXT_RULE}: it held a value that its own type cannot")
    if definition.json:
        return ReplicaType("JSON")
    if kind in _INTEGERS:
        return ReplicaType(("U" if definition.unsigned else "") + _INTEGERS[kind])
    if kind in _TEXTS:
        return ReplicaType("VARCHAR")
    if kind in _BYTES:
        return ReplicaType("BLOB")
    if kind in _GEOMETRIES:
        srid = "the SRID is not kept" if definition.srid is None else f"SRID {definition.srid}"
        return ReplicaType("BLOB", f"WKB as stored, longitude first; {srid}")
    if kind == "decimal":
        return _decimal(definition)
    if kind == "bit":
        return ReplicaType("BOOLEAN") if definition.dimension == 1 else ReplicaType("UBIGINT", "the bits as a number")
    if kind == "vector":
        return ReplicaType(f"FLOAT[{definition.dimension}]")
    return _PLAIN.get(kind, ReplicaType("VARCHAR", TEXT_RULE))


def streamable(definition: Definition) -> bool:
    """Whether the binary log's values of the column can be decoded. If not, its table can only be reloaded."""
    kind = definition.data_type
    return kind in _PLAIN or kind in _INTEGERS or kind in _TEXTS | _BYTES | _GEOMETRIES | {"decimal", "bit", "vector"}


def _decimal(definition: Definition) -> ReplicaType:
    precision = _DEFAULT_PRECISION if definition.precision is None else definition.precision
    scale = definition.scale or 0
    if precision > _MAX_PRECISION:
        return ReplicaType("VARCHAR", f"exact text, since DECIMAL cannot be decimal({precision},{scale})")
    return ReplicaType(f"DECIMAL({precision},{scale})")


def replica_column(definition: Definition, *, as_text: bool = False) -> Column:
    """The engine's column for a catalog column."""
    found = replica_type(definition, as_text=as_text)
    return Column(definition.name, found.type, definition.column_type, nullable=definition.nullable, rule=found.rule)


def quoted(identifier: str) -> str:
    """An identifier in backticks."""
    return "`" + identifier.replace("`", "``") + "`"


def database_pattern(name: str) -> str:
    """A database as GRANT ... ON names it, where ``_`` and ``%`` are wildcards unless escaped."""
    return quoted(re.sub(r"([\\_%])", r"\\\1", name))
