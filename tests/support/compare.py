"""The oracle: the replica equals the source, row by row, by the source server's own text.

The source writes each row in COPY's text format, under fixed session settings. The replica's rows are brought to the same
line, type by type: in DuckDB SQL where its text is exact, in Python for floats (compared by their bits), intervals and
nested values (parsed on both sides). Rows are compared as multisets, so tables without a key count their duplicates.
Nothing here uses the engine's code.

    rows = assert_replica_equals(database.superuser_conninfo, engine.query, ["public.orders"])
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support import pgtext
from tests.support.pgtypes import SETTINGS, Catalog, DuckType, PgColumn, PgTable, PgType, fits, parse_duck_type, quote
from tests.support.waiting import wait_until

Query = Callable[[str], Iterable[Sequence[Any]]]
"""Runs SQL on the replica and gives all rows. The oracle asks only for strings, floats, lists and structs (dicts) of them.

Floats travel as such since DuckDB's text of a double is not always its value (2.0.0: 8.5e242 reads 'A.07e+242').
"""
TableName = str | tuple[str, str]

NULL = "\\N"
_JOINED = 40
"""Columns joined in one expression: the instance refuses queries that are nested too deeply."""


def duckdb_query(connection: Any) -> Query:
    """The `Query` of a DuckDB connection."""
    return lambda statement: connection.execute(statement).fetchall()


def assert_replica_equals(
    source: str | psycopg.Connection[Any],
    query: Query,
    tables: Iterable[TableName] | None = None,
    *,
    exclude: Mapping[str, Collection[str]] | None = None,
    as_text: Collection[str] = (),
    shown: int = 5,
) -> dict[str, int]:
    """Compare tables row by row; return each one's row count, or raise AssertionError that shows the difference.

    `source`: a connection string, or an idle connection, of a user who may read everything. `tables`:
    ``schema.table`` names (pairs where a name has a dot); None: every user table, and the replica has no others.
    `exclude`: per ``schema.table`` the columns that are not replicated. `as_text`: ``schema.table.column`` names that
    are kept as the server's text although types.md gives them a type. All tables are read in one source snapshot.
    """
    counts: dict[str, int] = {}
    failures: list[str] = []
    with _session(source) as connection:
        catalog = Catalog(connection)
        if tables is None:
            names = catalog.user_tables()
            _assert_same_tables(names, query)
        else:
            names = [_split(name) for name in tables]
        held = replica_columns(query, names)
        for schema, name in names:
            table = catalog.table(schema, name)
            left_out = set((exclude or {}).get(str(table), ()))
            try:
                columns = _columns(held.get((schema, name), {}), table, left_out, as_text)
                counts[str(table)] = _compare(connection, query, table, columns, shown)
            except AssertionError as error:
                failures.append(str(error))
    assert not failures, "the replica differs from the source\n" + "\n".join(failures)
    return counts


def wait_until_equal(
    source: str | psycopg.Connection[Any],
    query: Query,
    tables: Iterable[TableName] | None = None,
    timeout: float = 30.0,
) -> dict[str, int]:
    """Compare again and again until source and replica agree; fails with the last difference."""
    names = None if tables is None else list(tables)
    found: dict[str, int] = {}

    def equal() -> bool:
        found.update(assert_replica_equals(source, query, names))
        return True

    wait_until(equal, timeout, interval=0.1, ignore=(AssertionError,))
    return found


def replica_columns(query: Query, tables: Collection[tuple[str, str]]) -> dict[tuple[str, str], dict[str, str]]:
    """The columns that the replica has in these tables: by schema and table, the type of each by its name."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    if tables:
        wanted = ", ".join(f"({_literal(schema)}, {_literal(name)})" for schema, name in tables)
        rows = query(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
            f" WHERE table_catalog = current_database() AND (table_schema, table_name) IN ({wanted})"
        )
        for schema, table, name, data_type in rows:
            found.setdefault((str(schema), str(table)), {})[str(name)] = str(data_type)
    return found


def _split(name: TableName) -> tuple[str, str]:
    if isinstance(name, tuple):
        return name
    schema, dot, table = name.partition(".")
    return (schema, table) if dot else ("public", name)


@contextlib.contextmanager
def _session(source: str | psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """One repeatable-read transaction on the source with the settings of the oracle."""
    own = psycopg.connect(source) if isinstance(source, str) else None
    connection = own or source
    assert isinstance(connection, psycopg.Connection)
    try:
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            for name, value in SETTINGS.items():
                connection.execute("SELECT set_config(%s, %s, true)", (name, value))
            yield connection
    finally:
        if own is not None:
            own.close()


def _assert_same_tables(names: Sequence[tuple[str, str]], query: Query) -> None:
    rows = query(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_database()"
        " AND table_schema NOT IN ('_reflex', 'main', 'information_schema', 'pg_catalog')"
    )
    replica, source = {(str(s), str(t)) for s, t in rows}, set(names)
    assert replica == source, (
        f"tables differ: only in the source {sorted(source - replica)}, only in the replica {sorted(replica - source)}"
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """A column on both sides: how each side is asked for it, and how its text becomes canonical (None: it is)."""

    name: str
    pg: PgType
    source_sql: str
    replica_sql: str
    from_source: Callable[[str], str] | None
    from_replica: Callable[[Any], str] | None


def _compare(
    connection: psycopg.Connection[Any], query: Query, table: PgTable, columns: Sequence[_Column], shown: int
) -> int:
    source = sorted(_source_rows(connection, table, columns))
    replica = sorted(_replica_rows(query, table, columns))
    if source != replica:
        raise AssertionError(_difference(table, columns, source, replica, shown))
    return len(source)


def _columns(replica: Mapping[str, str], table: PgTable, left_out: set[str], as_text: Collection[str]) -> list[_Column]:
    assert replica, f"{table}: the replica has no such table"
    wanted = [column for column in table.columns if column.name not in left_out]
    names = {column.name for column in wanted}
    assert set(replica) == names, (
        f"{table}: columns differ: only in the source {sorted(names - set(replica))},"
        f" only in the replica {sorted(set(replica) - names)}"
    )
    return [_column(table, column, replica[column.name], f"{table}.{column.name}" in as_text) for column in wanted]


def _column(table: PgTable, column: PgColumn, data_type: str, text_allowed: bool) -> _Column:
    duck, pg, name = parse_duck_type(data_type), column.type, quote(column.name)
    if duck.name == "VARCHAR" and (text_allowed or fits(pg, duck)):
        return _Column(column.name, pg, name, _escaped(name), None, None)
    assert fits(pg, duck), f"{table}.{column.name}: {pg} must not be {data_type} in the replica"
    if pg.nested:
        return _Column(
            column.name,
            pg,
            name,
            _nested(name, duck),
            lambda text: pgtext.canonical_json(pgtext.parse_nested(pgtext.unescape(text), pg)),
            lambda value: pgtext.canonical_json(_nested_from_replica(value, pg, duck)),
        )
    if pg.name in ("float4", "float8"):
        bits = f"encode({pg.name}send({name}), 'hex')"
        return _Column(column.name, pg, bits, _leaf(name, duck), None, lambda value: pgtext.float_bits(value, pg.name))
    if pg.name == "interval":
        return _Column(column.name, pg, name, _leaf(name, duck), None, pgtext.interval_text)
    source_sql = f"{name}::numeric(19,2)" if pg.name == "money" else name
    exact = _escaped(_leaf(name, duck)) if duck.name in ("VARCHAR", "ENUM", "JSON", "BLOB") else _leaf(name, duck)
    return _Column(column.name, pg, source_sql, exact, None, None)


def _nested_from_replica(value: Any, pg: PgType, duck: DuckType) -> Any:
    """Bring a nested value of the replica to the form that `pgtext.parse_nested` gives."""
    if value is None:
        return None
    if duck.name == "LIST":
        # A list deeper than the source's element type is one of its further dimensions.
        inner = duck.inner[0]
        element = pg if inner.name == "LIST" and pg.element is not None and pg.element.kind != "vector" else pg.element
        if pg.kind == "vector":
            return [pgtext.float_bits(item, "float4") for item in value]
        assert element is not None
        return [_nested_from_replica(item, element, inner) for item in value]
    if duck.name == "STRUCT":
        return [
            _nested_from_replica(item, inner, part)
            for item, (_, inner), part in zip(value.values(), pg.fields, duck.inner, strict=True)
        ]
    if duck.name == "MAP":
        return sorted([pair["k"], pair["v"]] for pair in value)
    if duck.name == "VARCHAR" and pg.nested:
        return pgtext.parse_nested(value, pg)
    return pgtext.leaf_from_replica(value, pg, duck.name)


def _leaf(value: str, duck: DuckType) -> str:
    """SQL that gives a scalar as PostgreSQL's text, an interval as DuckDB's, a float as itself."""
    text = f"CAST({value} AS VARCHAR)"
    before_christ = f"contains({text}, '(BC)')"
    match duck.name:
        case "BOOLEAN":
            return f"CASE WHEN {value} THEN 't' WHEN NOT {value} THEN 'f' END"
        case "BLOB":
            return rf"'\x' || lower(hex({value}))"
        case "DATE" | "TIMESTAMP":
            return f"CASE WHEN {before_christ} THEN replace({text}, ' (BC)', '') || ' BC' ELSE {text} END"
        case "TIMESTAMP WITH TIME ZONE":
            text = f"CAST({value} AT TIME ZONE 'UTC' AS VARCHAR)"
            return (
                f"CASE WHEN contains({text}, '(BC)') THEN replace({text}, ' (BC)', '') || '+00 BC'"
                f" WHEN contains({text}, 'infinity') THEN {text} ELSE {text} || '+00' END"
            )
        case "FLOAT" | "DOUBLE":
            return value
        case name if name.startswith("DECIMAL"):
            # Without an integer part DuckDB writes '.5'.
            return f"regexp_replace({text}, '^(-?)[.]', '\\1' || '0.')"
        case _:
            return text


def _nested(value: str, duck: DuckType, depth: int = 0) -> str:
    """SQL that gives a nested value as lists and structs of scalars' texts (floats as they are)."""
    item = f"x{depth}"
    if duck.name == "LIST":
        return f"list_transform({value}, lambda {item}: {_nested(item, duck.inner[0], depth + 1)})"
    if duck.name == "MAP":
        return f"list_transform(map_entries({value}), lambda {item}: {{'k': {item}.key, 'v': {item}.value}})"
    if duck.name == "STRUCT":
        fields = ", ".join(
            f"'f{i}': {_nested(f'struct_extract({value}, {_literal(name)})', inner, depth + 1)}"
            for i, (name, inner) in enumerate(zip(duck.names, duck.inner, strict=True))
        )
        return f"CASE WHEN {value} IS NULL THEN NULL ELSE {{{fields}}} END"
    return _leaf(value, duck)


_ESCAPED = (("chr(8)", "b"), ("chr(9)", "t"), ("chr(10)", "n"), ("chr(11)", "v"), ("chr(12)", "f"), ("chr(13)", "r"))


def _escaped(value: str) -> str:
    """SQL that escapes a text as COPY does."""
    text = f"CAST({value} AS VARCHAR)"
    replaced = rf"replace({text}, '\', '\\')"
    for char, letter in _ESCAPED:
        replaced = rf"replace({replaced}, {char}, '\{letter}')"
    return rf"CASE WHEN regexp_matches({text}, '[\\\x08-\x0d]') THEN {replaced} ELSE {text} END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _source_rows(connection: psycopg.Connection[Any], table: PgTable, columns: Sequence[_Column]) -> Iterator[str]:
    """The rows as the server's COPY writes them, nested columns made canonical."""
    selected = ", ".join(column.source_sql for column in columns)
    only = "" if table.partitioned else "ONLY "
    statement = f"COPY (SELECT {selected} FROM {only}{table.sql}) TO STDOUT"
    finish = [(i, column.from_source) for i, column in enumerate(columns) if column.from_source is not None]
    with connection.cursor().copy(statement.encode()) as copy:
        for data in copy:
            line = bytes(data).decode()[:-1]
            if finish:
                cells = line.split("\t")
                for i, function in finish:
                    if cells[i] != NULL:
                        cells[i] = pgtext.escape(function(cells[i]))
                line = "\t".join(cells)
            yield line


def _replica_rows(query: Query, table: PgTable, columns: Sequence[_Column]) -> Iterator[str]:
    """The rows as lines of the same form. Neighbouring columns that SQL renders exactly come as one string."""
    selected: list[str] = []
    finishers: list[Callable[[Any], str] | None] = []
    joined = 0
    for column in columns:
        if column.from_replica is not None:
            selected.append(column.replica_sql)
            finishers.append(column.from_replica)
            continue
        cell = rf"coalesce({column.replica_sql}, '{NULL}')"
        if finishers and finishers[-1] is None and joined < _JOINED:
            joined += 1
            selected[-1] += f" || chr(9) || {cell}"
        else:
            joined = 1
            selected.append(cell)
            finishers.append(None)
    rows = query(f"SELECT {', '.join(selected) or '1'} FROM {table.sql}")
    if not selected:
        return ("" for _ in rows)
    if finishers == [None]:
        return (row[0] for row in rows)
    return ("\t".join(_cells(row, finishers)) for row in rows)


def _cells(row: Sequence[Any], finishers: Sequence[Callable[[Any], str] | None]) -> Iterator[str]:
    for value, finish in zip(row, finishers, strict=True):
        if finish is None:
            yield value
        else:
            yield NULL if value is None else pgtext.escape(finish(value))


def _difference(
    table: PgTable, columns: Sequence[_Column], source: Sequence[str], replica: Sequence[str], shown: int
) -> str:
    """Say how many rows differ and show the first ones; rows with the same key are shown column by column."""
    only_source, only_replica = Counter(source), Counter(replica)
    common = only_source & only_replica
    only_source, only_replica = only_source - common, only_replica - common
    lines = [
        f"{table}: {len(source)} rows at the source, {len(replica)} in the replica;"
        f" {only_source.total()} only at the source, {only_replica.total()} only in the replica"
    ]
    key = [i for i, column in enumerate(columns) if column.name in table.key]
    by_key = {tuple(row.split("\t")[i] for i in key): row for row in only_replica} if key else {}
    told = 0
    for row, times in sorted(only_source.items()):
        if told == shown:
            break
        told += 1
        cells = row.split("\t")
        other = by_key.pop(tuple(cells[i] for i in key), None) if key else None
        if other is None:
            lines.append(f"  missing in the replica{_times(times)}: {_show(columns, cells)}")
            continue
        del only_replica[other]
        others = other.split("\t")
        differing = [i for i in range(len(cells)) if cells[i] != others[i]]
        where = _show([columns[i] for i in key], [cells[i] for i in key])
        lines += [f"  differs at {where}:"] + [
            f"    {columns[i].name}: source {_cell(columns[i], cells[i])}, replica {_cell(columns[i], others[i])}"
            for i in differing
        ]
    for row, times in sorted(only_replica.items())[:shown]:
        lines.append(f"  not at the source{_times(times)}: {_show(columns, row.split(chr(9)))}")
    return "\n".join(lines)


def _times(times: int) -> str:
    return f" ({times} times)" if times > 1 else ""


def _cell(column: _Column, text: str) -> str:
    if text == NULL:
        return "NULL"
    if column.pg.name in ("float4", "float8") and column.from_replica is not None:
        return pgtext.show_bits(text)
    return repr(text if len(text) <= 120 else f"{text[:120]}... ({len(text)} characters)")


def _show(columns: Sequence[_Column], cells: Sequence[str]) -> str:
    return ", ".join(f"{column.name}={_cell(column, cell)}" for column, cell in zip(columns, cells, strict=True))
