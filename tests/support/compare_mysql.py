"""The oracle for MySQL and MariaDB: the replica equals the source, row by row, by the source server's own text.

The source is asked for every value in a form that is exact and has one spelling (numbers and times as text, bytes in
hex, a FLOAT widened); the replica is brought to the same form. Rows are compared as multisets, so tables without a key
count their duplicates. Nothing here uses the engine's code.

    rows = assert_replica_equals_mysql(database, engine.query, ["orders"])
"""

from __future__ import annotations

import calendar
import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pymysql

from tests.support.compare import Query, replica_columns
from tests.support.servers.mysql_database import MySqlDatabase
from tests.support.servers.roles import ROOT
from tests.support.waiting import wait_until

Cell = str | None


def assert_replica_equals_mysql(
    source: MySqlDatabase,
    query: Query,
    tables: Iterable[str] | None = None,
    *,
    exclude: Mapping[str, Collection[str]] | None = None,
    as_text: Collection[str] = (),
    shown: int = 5,
) -> dict[str, int]:
    """Compare tables of one database row by row; return each one's row count, or raise AssertionError with the difference.

    `tables`: names; None: every base table, and the replica has no others. `exclude`: per table the columns that are
    not replicated. `as_text`: ``table.column`` names that are kept as the server's text although types.md gives them a
    type. All tables are read in one source snapshot.
    """
    counts: dict[str, int] = {}
    failures: list[str] = []
    with source.connect(ROOT) as connection, connection.cursor() as cursor:
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        names = sorted(_base_tables(cursor, source.name) if tables is None else tables)
        if tables is None:
            replica = {str(row[0]) for row in query(_TABLES.format(schema=_literal(source.name)))}
            assert replica == set(names), f"tables differ: source {names}, replica {sorted(replica)}"
        held = replica_columns(query, [(source.name, name) for name in names])
        for name in names:
            table = _Table.look_up(cursor, source, name, set((exclude or {}).get(name, ())), as_text)
            try:
                counts[name] = _compare(cursor, query, table, held.get((source.name, name), {}), shown)
            except AssertionError as error:
                failures.append(str(error))
    assert not failures, "the replica differs from the source\n" + "\n".join(failures)
    return counts


def wait_until_equal_mysql(
    source: MySqlDatabase, query: Query, tables: Iterable[str] | None = None, timeout: float = 30.0
) -> dict[str, int]:
    """Compare again and again until source and replica agree; fails with the last difference."""
    names = None if tables is None else list(tables)
    found: dict[str, int] = {}

    def equal() -> bool:
        found.update(assert_replica_equals_mysql(source, query, names))
        return True

    wait_until(equal, timeout, interval=0.1, ignore=(AssertionError, pymysql.MySQLError))
    return found


_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = {schema} AND table_catalog = current_database()"


def _base_tables(cursor: Any, schema: str) -> list[str]:
    cursor.execute(
        "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
        " AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')",
        (schema,),
    )
    return [str(row[0]) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column on both sides: the replica's type, how each side is asked, and how its answer becomes canonical."""

    name: str
    type: str
    source_sql: str
    replica_sql: str
    from_source: Callable[[str], Cell] = str
    from_replica: Callable[[Any], Cell] = str


@dataclass(frozen=True, slots=True)
class _Table:
    schema: str
    name: str
    columns: tuple[_Column, ...]
    key: tuple[int, ...]

    @classmethod
    def look_up(
        cls, cursor: Any, source: MySqlDatabase, name: str, left_out: set[str], as_text: Collection[str]
    ) -> _Table:
        cursor.execute(
            "SELECT c.COLUMN_NAME, c.DATA_TYPE, c.COLUMN_TYPE, c.NUMERIC_PRECISION, c.NUMERIC_SCALE, c.COLUMN_KEY"
            " FROM information_schema.COLUMNS c WHERE c.TABLE_SCHEMA = %s AND c.TABLE_NAME = %s"
            " ORDER BY c.ORDINAL_POSITION",
            (source.name, name),
        )
        rows = [row for row in cursor.fetchall() if row[0] not in left_out]
        assert rows, f"{name}: the source has no such table"
        checks = _json_columns(cursor, source, name)
        columns = tuple(_column(*row[:5], is_json=row[0] in checks, text=f"{name}.{row[0]}" in as_text) for row in rows)
        return cls(source.name, name, columns, tuple(i for i, row in enumerate(rows) if row[5] == "PRI"))


def _json_columns(cursor: Any, source: MySqlDatabase, name: str) -> set[str]:
    """MariaDB: the columns that are JSON, which is LONGTEXT with a check."""
    if not source.is_mariadb:
        return set()
    cursor.execute(
        "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s",
        (source.name, name),
    )
    found = (re.fullmatch(r"json_valid\(`(.*)`\)", str(row[0]), re.IGNORECASE) for row in cursor.fetchall())
    return {match[1].replace("``", "`") for match in found if match}


_INTEGERS = {"tinyint": "TINYINT", "smallint": "SMALLINT", "mediumint": "INTEGER", "int": "INTEGER", "bigint": "BIGINT"}
_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set", "inet4", "inet6"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_GEOMETRIES = {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"} | {
    "geometrycollection",
    "geomcollection",
}


def _column(
    name: str, kind: str, column_type: str, precision: int | None, scale: int | None, *, is_json: bool, text: bool
) -> _Column:
    source, replica = _backquoted(name), _quoted(name)
    as_char, as_varchar = f"CAST({source} AS CHAR)", f"CAST({replica} AS VARCHAR)"
    kind = kind.lower()
    unsigned = "unsigned" in column_type or "zerofill" in column_type
    if text:
        return _Column(name, "VARCHAR", as_char, replica)
    if kind in _INTEGERS:
        return _Column(name, ("U" if unsigned else "") + _INTEGERS[kind], f"CAST({source} + 0 AS CHAR)", as_varchar)
    if kind == "json" or is_json:
        return _Column(name, "JSON", as_char if kind == "json" else source, as_varchar)
    if kind in _TEXTS:
        return _Column(name, "VARCHAR", source, replica)
    if kind in _BYTES:
        return _Column(name, "BLOB", f"HEX({source})", f"hex({replica})")
    if kind in _GEOMETRIES:
        # The stored form: four bytes of SRID, then WKB.
        return _Column(name, "BLOB", f"HEX({source})", f"hex({replica})", lambda value: value[8:])
    match kind:
        case "decimal":
            assert precision is not None
            assert scale is not None
            if precision > 38:
                return _Column(name, "VARCHAR", as_char, replica)
            return _Column(name, f"DECIMAL({precision},{scale})", as_char, as_varchar, _decimal, _decimal)
        case "float":
            return _Column(name, "FLOAT", f"CAST(CAST({source} AS DOUBLE) AS CHAR)", replica, _bits, _bits)
        case "double":
            return _Column(name, "DOUBLE", as_char, replica, _bits, _bits)
        case "date":
            return _Column(name, "DATE", as_char, as_varchar, _moment, _moment)
        case "datetime":
            return _Column(name, "TIMESTAMP", as_char, as_varchar, _moment, _moment)
        case "timestamp":
            utc = f"CAST({replica} AT TIME ZONE 'UTC' AS VARCHAR)"
            return _Column(name, "TIMESTAMP WITH TIME ZONE", as_char, utc, _moment, _moment)
        case "time":
            return _Column(name, "INTERVAL", as_char, as_varchar, _duration, _duration)
        case "year":
            return _Column(name, "SMALLINT", f"CAST({source} + 0 AS CHAR)", as_varchar)
        case "bit":
            one = column_type in ("bit", "bit(1)")
            number = f"CAST(CAST({replica} AS UTINYINT) AS VARCHAR)" if one else as_varchar
            return _Column(name, "BOOLEAN" if one else "UBIGINT", f"CAST({source} + 0 AS CHAR)", number)
        case "uuid":
            return _Column(name, "UUID", as_char, as_varchar)
        case "vector":
            size = column_type[len("vector(") : -1]
            return _Column(name, f"FLOAT[{size}]", f"HEX({source})", replica, str, _float_bytes)
    return _Column(name, "VARCHAR", as_char, replica)


def _decimal(text: str) -> str:
    """One spelling: no zeros in front (ZEROFILL), but one before a point (DuckDB writes none)."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    digits = digits.lstrip("0")
    return sign + (digits if digits[:1].isdigit() else "0" + digits)


def _bits(value: str | float) -> str:
    return struct.pack(">d", float(value)).hex()


def _float_bytes(values: Sequence[float]) -> str:
    return struct.pack(f"<{len(values)}f", *values).hex().upper()


def _moment(text: str) -> Cell:
    """A date or time of day in one spelling; None for a day that no calendar has."""
    if " (BC)" in text:
        # MySQL's year 0 is the first one before Christ.
        text = "0000" + text.replace(" (BC)", "")[4:]
    year, month, day = (int(part) for part in text[:10].split("-"))
    if not 1 <= month <= 12 or not 1 <= day <= calendar.monthrange(year or 4, month)[1]:
        return None
    return text.rstrip("0").rstrip(".") if "." in text else text


_TIME = re.compile(r"(-?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?")


def _duration(text: str) -> str:
    """A TIME or INTERVAL as a number of microseconds."""
    match = _TIME.fullmatch(text)
    assert match, f"not a time of hours, minutes and seconds: {text}"
    hours, minutes, seconds = int(match[2]), int(match[3]), int(match[4])
    micros = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + int((match[5] or "").ljust(6, "0") or 0)
    return str(-micros if match[1] else micros)


def _compare(cursor: Any, query: Query, table: _Table, types: Mapping[str, str], shown: int) -> int:
    assert types, f"{table.name}: the replica has no such table"
    expected = {column.name: column.type for column in table.columns}
    assert types == expected, f"{table.name}: columns differ: expected {expected}, replica {types}"
    source, replica = Counter(_source_rows(cursor, table)), Counter(_replica_rows(query, table))
    if source != replica:
        raise AssertionError(_difference(table, source, replica, shown))
    return source.total()


def _source_rows(cursor: Any, table: _Table) -> Iterator[tuple[Cell, ...]]:
    selected = ", ".join(column.source_sql for column in table.columns)
    cursor.execute(f"SELECT {selected} FROM {_backquoted(table.schema)}.{_backquoted(table.name)}")
    finish = [column.from_source for column in table.columns]
    for row in cursor.fetchall():
        cells = (value.decode() if isinstance(value, bytes) else value for value in row)
        yield tuple(None if v is None else f(v) for v, f in zip(cells, finish, strict=True))


def _replica_rows(query: Query, table: _Table) -> Iterator[tuple[Cell, ...]]:
    selected = ", ".join(column.replica_sql for column in table.columns)
    finish = [column.from_replica for column in table.columns]
    for row in query(f"SELECT {selected} FROM {_quoted(table.schema)}.{_quoted(table.name)}"):
        yield tuple(None if v is None else f(v) for v, f in zip(row, finish, strict=True))


def _difference(
    table: _Table, source: Counter[tuple[Cell, ...]], replica: Counter[tuple[Cell, ...]], shown: int
) -> str:
    """Say how many rows differ and show the first ones; rows with the same key are shown column by column."""
    only_source, only_replica = source - replica, replica - source
    lines = [
        f"{table.name}: {source.total()} rows at the source, {replica.total()} in the replica;"
        f" {only_source.total()} only at the source, {only_replica.total()} only in the replica"
    ]
    by_key = {tuple(row[i] for i in table.key): row for row in only_replica} if table.key else {}
    for row, times in sorted(only_source.items(), key=str)[:shown]:
        other = by_key.get(tuple(row[i] for i in table.key)) if table.key else None
        if other is None:
            lines.append(f"  missing in the replica ({times} times): {_show(table, row)}")
            continue
        del only_replica[other]
        for column, mine, theirs in zip(table.columns, row, other, strict=True):
            if mine != theirs:
                where = ", ".join(f"{table.columns[i].name}={row[i]!r}" for i in table.key)
                lines.append(f"  at {where}, {column.name}: source {_cell(mine)}, replica {_cell(theirs)}")
    for row, times in sorted(only_replica.items(), key=str)[:shown]:
        lines.append(f"  not at the source ({times} times): {_show(table, row)}")
    return "\n".join(lines)


def _show(table: _Table, row: Sequence[Cell]) -> str:
    return ", ".join(f"{column.name}={_cell(cell)}" for column, cell in zip(table.columns, row, strict=True))


def _cell(cell: Cell) -> str:
    return "NULL" if cell is None else repr(cell if len(cell) <= 120 else f"{cell[:120]}... ({len(cell)} characters)")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _backquoted(name: str) -> str:
    # PyMySQL formats statements that have parameters only; these have none.
    return "`" + name.replace("`", "``") + "`"
