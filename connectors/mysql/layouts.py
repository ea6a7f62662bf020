"""Which tables of the stream are followed, in which layout their rows come, and what to do when that changes.

The binary log says which columns a row event has, not what they mean; that is in the catalog, which is the catalog of
now. Both are compared when a table map comes that was not seen before, and whenever a statement may have altered the
table. What does not fit is left to a reload: a table is never decoded by a definition that its rows may not have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from connectors.mysql import tablemap
from connectors.mysql.position import BinlogPosition
from connectors.mysql.rows import Layout
from connectors.mysql.tablemap import TableMap, WireColumn, parse_table_map, parse_table_name
from connectors.mysql.types import Definition
from engine.schema import Identity, TableId, TableSchema
from engine.source import Follow

IGNORED = -1
"""Rows under this table map are passed over."""
UNCHECKED = -2
"""The table map must be compared with the catalog before the next row."""

_TABLE_ID_AND_FLAGS = 8


@dataclass(frozen=True, slots=True)
class Described:
    """A table as the catalog has it now: what of it is replicated, and all its columns in the server's order."""

    table: TableSchema
    definitions: tuple[Definition, ...]


Describe = Callable[[TableId], Described | None]
"""Look a table up in the catalog of now: None when it is not there, is no base table, or is not to be replicated."""


class Change(NamedTuple):
    """What became of a table; see `engine.changes.SchemaChange`."""

    old: TableSchema | None
    new: TableSchema | None
    reload: bool
    reason: str


@dataclass(slots=True)
class _Followed:
    table: TableSchema
    since: BinlogPosition | None
    """Followed once the stream has covered this; None: now."""
    closed: bool = False


class Tables:
    """The followed tables by name. `layouts` only grows; a state is an index into it, IGNORED or UNCHECKED."""

    def __init__(self, follow: Sequence[Follow], describe: Describe, start: BinlogPosition) -> None:
        self._describe = describe
        self._states: dict[bytes, int] = {}
        self._known: dict[TableId, dict[bytes, int]] = {}
        self._announced: set[TableId] = set()
        self.layouts: list[Layout] = []
        self._followed = {f.table.id: _Followed(f.table, _since(f, start)) for f in follow}

    @property
    def sinces(self) -> list[BinlogPosition]:
        """Where tables begin to be followed later than the stream begins."""
        return [f.since for f in self._followed.values() if f.since is not None]

    def advance(self, reached: BinlogPosition) -> None:
        """Tables whose `since` is covered by `reached` are followed from here on."""
        for followed in self._followed.values():
            if followed.since is not None and reached.covers(followed.since):
                followed.since = None
        self._states.clear()

    def states(self, bodies: Sequence[bytes]) -> list[int]:
        """What to do with the rows under each of these TABLE_MAP events (bodies)."""
        get = self._states.get
        return [get(body, UNCHECKED) for body in bodies]

    def open_tables(self, touched: Callable[[TableId], bool]) -> list[TableSchema]:
        """The tables that are followed here and now, of those whose name `touched` picks."""
        return [f.table for name, f in self._followed.items() if not f.closed and f.since is None and touched(name)]

    def is_followed(self, name: TableId) -> bool:
        """Whether the table is followed, now or later, or was until its definition changed."""
        return name in self._followed

    def check(self, body: bytes, *, touched: Callable[[TableId], bool]) -> Change | None:
        """Find out what a TABLE_MAP event's rows are. None: its state is known from here on, nothing has changed.

        `touched`: whether the transaction at hand changed the table's rows before, in another layout.
        """
        name = parse_table_name(body)
        table_id = TableId(name.schema, name.table)
        followed = self._followed.get(table_id)
        self._states[body] = IGNORED
        if followed is None or followed.closed or followed.since is not None:
            return None
        known = self._known.setdefault(table_id, {})
        layout = known.get(body[_TABLE_ID_AND_FLAGS:])
        if layout is None:
            described = self._describe(table_id)
            if described is None:
                return self._close(followed, None, "the table is gone, or is replicated no more")
            table_map = parse_table_map(body, mariadb=any(d.mariadb for d in described.definitions))
            problem = _mismatch(table_map, followed.table, described)
            if not problem and known and touched(table_id):
                problem = "the table's definition changed within a transaction that had changed its rows"
            if problem:
                return self._close(followed, described.table, problem)
            layout = known[body[_TABLE_ID_AND_FLAGS:]] = len(self.layouts)
            self.layouts.append(_layout(table_map, described))
        self._states[body] = layout
        return None

    def redefined(self, table: TableSchema, *, harmless: bool, reason: str) -> Change | None:
        """A statement may have altered the table: what became of it. `harmless`: it cannot have altered rows."""
        followed = self._followed[table.id]
        self._forget(table.id)
        described = self._describe(table.id)
        if described is None:
            return self._close(followed, None, "the table is gone, or is replicated no more")
        if harmless and described.table == followed.table:
            return None
        return self._close(followed, described.table, reason)

    def refuse(self, table: TableSchema, reason: str) -> Change:
        """Follow the table no further: it needs a reload."""
        return self._close(self._followed[table.id], table, reason)

    def appeared(self, name: TableId) -> Change | None:
        """A statement may have made a table of this name: whether there is a new one to replicate."""
        if name in self._followed or name in self._announced:
            return None
        described = self._describe(name)
        if described is None:
            return None
        self._announced.add(described.table.id)
        return Change(None, described.table, False, "a table that was not replicated before")

    def _close(self, followed: _Followed, new: TableSchema | None, reason: str) -> Change:
        followed.closed = True
        self._forget(followed.table.id)
        return Change(followed.table, new, new is not None, reason)

    def _forget(self, table: TableId) -> None:
        self._known.pop(table, None)
        self._states.clear()


def _since(follow: Follow, start: BinlogPosition) -> BinlogPosition | None:
    if follow.since is None:
        return None
    if not isinstance(follow.since, BinlogPosition):
        raise TypeError("a MySQL table is followed from a position in the binary log")
    return None if start.covers(follow.since) else follow.since


def _layout(table_map: TableMap, described: Described) -> Layout:
    names = [d.name for d in described.definitions]
    places = tuple(names.index(c.name) for c in described.table.columns)
    return Layout(table_map, described.table, places, described.definitions)


def _mismatch(table_map: TableMap, followed: TableSchema, described: Described) -> str:
    """Why rows under this table map cannot be decoded as the table that is followed, or nothing."""
    if described.table != followed:
        return "the table's definition changed"
    if followed.identity is Identity.RELOAD:
        return "the stream cannot give this table's content"
    columns, definitions = table_map.columns, described.definitions
    if len(columns) != len(definitions) or not all(map(fits, columns, definitions)):
        if len(columns) > len(definitions):
            return "the log has columns that are gone again, or that the engine's user may not read (`check` tells)"
        return "the table's definition changed again before its rows were read"
    return ""


_INTEGERS = {
    "tinyint": tablemap.TINY,
    "smallint": tablemap.SHORT,
    "mediumint": tablemap.INT24,
    "int": tablemap.LONG,
    "bigint": tablemap.LONGLONG,
}
_STRINGS = {tablemap.VARCHAR, tablemap.VAR_STRING, tablemap.VARCHAR_COMPRESSED}
_BLOBS = {tablemap.BLOB, tablemap.TINY_BLOB, tablemap.MEDIUM_BLOB, tablemap.LONG_BLOB, tablemap.BLOB_COMPRESSED}
_TYPES: dict[str, set[int]] = {
    **{name: {kind} for name, kind in _INTEGERS.items()},
    "float": {tablemap.FLOAT},
    "double": {tablemap.DOUBLE},
    "decimal": {tablemap.NEWDECIMAL},
    "bit": {tablemap.BIT},
    "year": {tablemap.YEAR},
    "date": {tablemap.DATE, tablemap.NEWDATE},
    "time": {tablemap.TIME, tablemap.TIME2},
    "datetime": {tablemap.DATETIME, tablemap.DATETIME2},
    "timestamp": {tablemap.TIMESTAMP, tablemap.TIMESTAMP2},
    "char": {tablemap.STRING, tablemap.VAR_STRING},
    "binary": {tablemap.STRING, tablemap.VAR_STRING},
    "varchar": _STRINGS,
    "varbinary": _STRINGS,
    **dict.fromkeys(("tinytext", "text", "mediumtext", "longtext"), _BLOBS),
    **dict.fromkeys(("tinyblob", "blob", "mediumblob", "longblob"), _BLOBS),
    "enum": {tablemap.ENUM},
    "set": {tablemap.SET},
    "json": {tablemap.JSON},
    **{name: {tablemap.STRING} for name in ("uuid", "inet4", "inet6")},
}
"""The wire types of the catalog's; what is not here (geometries, vectors) is left to the decoder to verify."""
_LENGTH_BYTES = {
    name + kind: size for kind in ("text", "blob") for name, size in {"tiny": 1, "": 2, "medium": 3, "long": 4}.items()
}
_FRACTIONS = {tablemap.TIME2, tablemap.DATETIME2, tablemap.TIMESTAMP2}


def fits(column: WireColumn, definition: Definition) -> bool:
    """Whether a column of a table map can be one that the catalog defines so."""
    if column.name is not None and column.name != definition.name:
        return False
    kind = definition.data_type
    expected = _TYPES.get(kind)
    if expected is not None and column.type not in expected:
        return False
    if column.type == tablemap.NEWDECIMAL:
        precision = 10 if definition.precision is None else definition.precision
        return column.meta == precision << 8 | (definition.scale or 0)
    if column.type in _FRACTIONS:
        return column.meta == definition.fsp
    if kind in _INTEGERS and column.unsigned is not None:
        return column.unsigned == definition.unsigned
    if kind in _LENGTH_BYTES and column.type != tablemap.BLOB_COMPRESSED:
        return column.meta == _LENGTH_BYTES[kind]
    if kind in {"enum", "set"} and column.labels is not None:
        plain = all(label.isascii() for label in column.labels)
        return len(column.labels) == len(definition.labels) and (not plain or column.labels == definition.labels)
    return True
