"""TABLE_MAP events: which table the following row events are of, and the layout of their rows.

Source of the formats: MySQL source documentation, "mysql::binlog::event::Table_map_event" (dev.mysql.com), and MariaDB
Knowledge Base, "TABLE_MAP_EVENT" (mariadb.com/kb). The optional metadata is what `binlog_row_metadata` asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from connectors.mysql.wire import Cursor
from engine.errors import DecodeError

TINY, SHORT, LONG, FLOAT, DOUBLE, NULL, TIMESTAMP, LONGLONG, INT24 = 1, 2, 3, 4, 5, 6, 7, 8, 9
DATE, TIME, DATETIME, YEAR, NEWDATE, VARCHAR, BIT, TIMESTAMP2, DATETIME2, TIME2 = 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
BLOB_COMPRESSED, VARCHAR_COMPRESSED = 140, 141
"""MariaDB: columns declared COMPRESSED (the value is a compressed string)."""
VECTOR, TYPED_ARRAY, JSON, NEWDECIMAL, ENUM, SET = 242, 244, 245, 246, 247, 248
TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, VAR_STRING, STRING, GEOMETRY = 249, 250, 251, 252, 253, 254, 255

_METADATA = {
    **dict.fromkeys((TINY, SHORT, LONG, NULL, TIMESTAMP, LONGLONG, INT24, DATE, TIME, DATETIME, YEAR, NEWDATE), 0),
    **dict.fromkeys((FLOAT, DOUBLE, TIMESTAMP2, DATETIME2, TIME2, BLOB_COMPRESSED, VECTOR, JSON), 1),
    **dict.fromkeys((TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, GEOMETRY), 1),
    **dict.fromkeys((VARCHAR, VARCHAR_COMPRESSED, BIT, NEWDECIMAL, ENUM, SET, VAR_STRING, STRING), 2),
}
"""Bytes of metadata per column type."""
_NUMERIC = frozenset((TINY, SHORT, LONG, FLOAT, DOUBLE, LONGLONG, INT24, YEAR, NEWDECIMAL))
_CHARACTER = frozenset((VARCHAR, VAR_STRING, STRING, TINY_BLOB, BLOB, MEDIUM_BLOB, LONG_BLOB))
_MYSQL_CHARACTER = _CHARACTER | {VECTOR}
_MARIADB_CHARACTER = _CHARACTER | {BLOB_COMPRESSED, VARCHAR_COMPRESSED, GEOMETRY}
_MOST_COLUMNS = 4096
"""The most columns that a table of either server can have."""


@dataclass(frozen=True, slots=True)
class WireColumn:
    """One column as a table map describes it.

    `type` is a MYSQL_TYPE_* number, for CHAR, ENUM and SET the real one (254, 247, 248) resolved from the metadata;
    `meta` what is left of the metadata: length in bytes (CHAR, VARCHAR), ``precision << 8 | scale`` (DECIMAL), digits
    of a second (TIME2, DATETIME2, TIMESTAMP2), bytes of the length prefix (BLOB, TEXT, JSON, GEOMETRY, VECTOR),
    ``bytes << 8 | bits`` (BIT), bytes of the value (ENUM, SET, FLOAT, DOUBLE).
    """

    type: int
    meta: int
    nullable: bool
    unsigned: bool | None = None
    """From here on: optional metadata, None when the event does not say or the column's type has no such property."""
    collation: int | None = None
    name: str | None = None
    labels: tuple[str, ...] | None = None
    geometry: int | None = None
    visible: bool | None = None
    dimension: int | None = None


@dataclass(frozen=True, slots=True)
class TableMap:
    """A TABLE_MAP event. `primary_key` holds ordinals of `columns` (None: the event does not say)."""

    table_id: int
    schema: str
    table: str
    columns: tuple[WireColumn, ...]
    primary_key: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TableName:
    """The beginning of a TABLE_MAP event, which is readable also when a column's type is not known."""

    table_id: int
    schema: str
    table: str


def _head(cursor: Cursor) -> TableName:
    table_id = cursor.number(6)
    cursor.take("<H")
    schema = cursor.text(cursor.lenenc())
    cursor.zero()
    table = cursor.text(cursor.lenenc())
    cursor.zero()
    return TableName(table_id, schema, table)


def parse_table_name(body: bytes) -> TableName:
    """Read only which table a TABLE_MAP event is about: enough for a table that nobody follows."""
    return _head(Cursor(body, "a TABLE_MAP event"))


def parse_table_map(
    body: bytes, *, mariadb: bool = False, labels: Callable[[bytes, int], str] | None = None
) -> TableMap:
    """Parse a TABLE_MAP event (behind the event header, without the checksum).

    `mariadb`: the event is of a MariaDB server, which counts GEOMETRY among the columns that have a collation (seen on
    11.8), as MySQL counts VECTOR (seen on 9.7).
    `labels` decodes an ENUM or SET label, given the number of its collation; by default labels are read as UTF-8 and
    left out (None) where they are not. DecodeError for a column type or a layout that is not known.
    """
    cursor = Cursor(body, "a TABLE_MAP event")
    name = _head(cursor)
    count = cursor.lenenc()
    if not 0 < count <= _MOST_COLUMNS:
        raise cursor.malformed()
    types = cursor.raw(count)
    metadata = Cursor(cursor.raw(cursor.lenenc()), "the metadata of a TABLE_MAP event")
    resolved = [_resolve(kind, metadata) for kind in types]
    metadata.finish()
    nullable = _bits_low_first(cursor.raw((count + 7) // 8), count)
    columns = [WireColumn(kind, meta, null) for (kind, meta), null in zip(resolved, nullable, strict=True)]
    extra = _Optional(columns, _MARIADB_CHARACTER if mariadb else _MYSQL_CHARACTER, labels)
    while cursor.left:
        field = cursor.number(1)
        extra.read(field, cursor.raw(cursor.lenenc()))
    return TableMap(name.table_id, name.schema, name.table, tuple(extra.finish()), extra.primary_key)


def _resolve(kind: int, metadata: Cursor) -> tuple[int, int]:
    """The real type and what is left of the metadata, of one column."""
    if kind == TYPED_ARRAY:
        # Multi-valued indexes: not a column's type. The element's type and metadata follow; rows never hold it.
        raise DecodeError("a TABLE_MAP event has a column of type TYPED_ARRAY")
    size = _METADATA.get(kind)
    if size is None:
        raise DecodeError(f"a TABLE_MAP event has a column of unknown type {kind}")
    raw = metadata.raw(size)
    if kind in {STRING, ENUM, SET}:
        real, length = raw
        if real in {ENUM, SET}:
            return real, length
        # Two bits of a length over 255 are hidden, inverted, in the type byte.
        if real | 0x30 not in {STRING, VAR_STRING}:
            raise metadata.malformed()
        return real | 0x30, length | ((real & 0x30) ^ 0x30) << 4
    if kind == NEWDECIMAL:
        precision, scale = raw
        if not (0 < precision <= 65 and scale <= min(precision, 38)):
            raise metadata.malformed()
        return kind, precision << 8 | scale
    return kind, int.from_bytes(raw, "little")


def _bits_low_first(raw: bytes, count: int) -> list[bool]:
    return [bool(raw[i >> 3] >> (i & 7) & 1) for i in range(count)]


def _bits_high_first(cursor: Cursor, count: int) -> list[bool]:
    raw = cursor.raw((count + 7) // 8)
    return [bool(raw[i >> 3] >> (7 - (i & 7)) & 1) for i in range(count)]


class _Optional:
    """The optional metadata, field by field; unknown fields describe the table further and are of no use here."""

    def __init__(
        self, columns: list[WireColumn], character: frozenset[int], decode: Callable[[bytes, int], str] | None
    ) -> None:
        self._columns = columns
        self._decode = decode
        self._labels: dict[int, list[bytes]] = {}
        self._set: list[dict[str, Any]] = [{} for _ in columns]
        self.primary_key: tuple[int, ...] | None = None
        kinds = [c.type for c in columns]
        self._numeric = [i for i, k in enumerate(kinds) if k in _NUMERIC]
        self._character = [i for i, k in enumerate(kinds) if k in character]
        self._listed = [i for i, k in enumerate(kinds) if k in {ENUM, SET}]
        self._all = list(range(len(columns)))
        self._of = {
            kind: [i for i, k in enumerate(kinds) if k == kind] for kind in (ENUM, SET, GEOMETRY, VECTOR)
        }  # fmt: skip

    def read(self, field: int, value: bytes) -> None:
        """Take in one field. Each lists its values for the columns that have such a property, in column order."""
        cursor = Cursor(value, "the optional metadata of a TABLE_MAP event")
        match field:
            case 1:
                self._assign("unsigned", self._numeric, _bits_high_first(cursor, len(self._numeric)))
            case 2 | 10:
                self._default_collations(cursor, self._character if field == 2 else self._listed)
            case 3 | 11:
                where = self._character if field == 3 else self._listed
                self._assign("collation", where, [cursor.lenenc() for _ in where])
            case 4:
                self._assign("name", self._all, [cursor.text(cursor.lenenc()) for _ in self._all])
            case 5 | 6:
                for i in self._of[SET if field == 5 else ENUM]:
                    count = cursor.lenenc()
                    if count > cursor.left:
                        raise cursor.malformed()
                    self._labels[i] = [cursor.raw(cursor.lenenc()) for _ in range(count)]
            case 7:
                self._assign("geometry", self._of[GEOMETRY], [cursor.lenenc() for _ in self._of[GEOMETRY]])
            case 8 | 9:
                key = []
                while cursor.left:
                    key.append(self._ordinal(cursor, self._all))
                    if field == 9:
                        cursor.lenenc()
                self.primary_key = tuple(key)
            case 12:
                self._assign("visible", self._all, _bits_high_first(cursor, len(self._all)))
            case 13:
                self._assign("dimension", self._of[VECTOR], [cursor.lenenc() for _ in self._of[VECTOR]])
            case _:
                return
        cursor.finish()

    def finish(self) -> list[WireColumn]:
        """The columns with all that was said of them."""
        for i, raw in self._labels.items():
            labels = self._decoded(raw, self._set[i].get("collation"))
            if labels is not None:
                self._set[i]["labels"] = labels
        return [
            replace(column, **said) if said else column for column, said in zip(self._columns, self._set, strict=True)
        ]

    def _decoded(self, raw: Sequence[bytes], collation: int | None) -> tuple[str, ...] | None:
        if self._decode is not None and collation is not None:
            return tuple(self._decode(label, collation) for label in raw)
        try:
            return tuple(label.decode() for label in raw)
        except UnicodeDecodeError:
            return None

    def _assign(self, name: str, where: Sequence[int], values: Sequence[object]) -> None:
        for i, value in zip(where, values, strict=True):
            self._set[i][name] = value

    def _default_collations(self, cursor: Cursor, where: Sequence[int]) -> None:
        self._assign("collation", where, [cursor.lenenc()] * len(where))
        while cursor.left:
            i = self._ordinal(cursor, where)
            self._set[i]["collation"] = cursor.lenenc()

    @staticmethod
    def _ordinal(cursor: Cursor, among: Sequence[int]) -> int:
        index = cursor.lenenc()
        if index >= len(among):
            raise cursor.malformed()
        return among[index]
