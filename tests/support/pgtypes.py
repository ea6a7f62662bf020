"""The types of a PostgreSQL table as its catalog describes them, and DuckDB's type names, for the oracle.

Independent of the engine: nothing here is shared with the code under test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import psycopg

SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "lc_monetary": "C",
    "row_security": "off",
}
"""Session settings under which the server's own text is the truth."""


@dataclass(frozen=True, slots=True)
class PgType:
    """A source type with domains resolved. `kind`: base, array, composite, enum, range, hstore or vector."""

    name: str
    kind: str
    modifier: int = -1
    element: PgType | None = None
    fields: tuple[tuple[str, PgType], ...] = ()
    delimiter: str = ","

    @property
    def nested(self) -> bool:
        """Whether values have an inner structure that DuckDB stores as LIST, STRUCT or MAP."""
        return self.kind in ("array", "composite", "hstore", "vector")

    def __str__(self) -> str:
        return f"{self.element}[]" if self.element is not None else self.name


@dataclass(frozen=True, slots=True)
class PgColumn:
    """A column of a source table."""

    name: str
    type: PgType


@dataclass(frozen=True, slots=True)
class PgTable:
    """A source table; `key` are its primary key's columns, empty when it has none. `partitioned`: read with children."""

    schema: str
    name: str
    columns: tuple[PgColumn, ...]
    key: tuple[str, ...] = ()
    partitioned: bool = False

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """The quoted name."""
        return f"{quote(self.schema)}.{quote(self.name)}"


def quote(name: str) -> str:
    """An identifier in double quotes, as PostgreSQL and DuckDB both read it."""
    return '"' + name.replace('"', '""') + '"'


class Catalog:
    """Reads tables and types from a source's catalog, on one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._types: dict[tuple[int, int], PgType] = {}

    def user_tables(self) -> list[tuple[str, str]]:
        """Every table of a user: (schema, name); partitions count with their root."""
        return self._connection.execute(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind IN ('r', 'p') AND NOT relispartition AND relpersistence = 'p'"
            r" AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%' ORDER BY 1, 2"
        ).fetchall()

    def table(self, schema: str, name: str) -> PgTable:
        """One table's columns and key. AssertionError when the source has no such table."""
        found = self._connection.execute(
            "SELECT c.oid, relkind FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname = %s AND relname = %s AND relkind IN ('r', 'p', 'v', 'm')",
            (schema, name),
        ).fetchone()
        assert found is not None, f"the source has no table {schema}.{name}"
        oid, relkind = found
        columns = self._connection.execute(
            "SELECT attname, atttypid, atttypmod FROM pg_attribute"
            " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (oid,),
        ).fetchall()
        key = self._connection.execute(
            "SELECT attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)"
            " JOIN pg_attribute a ON a.attnum = k.attnum"
            " WHERE i.indrelid = %s AND a.attrelid = %s AND i.indisprimary ORDER BY place",
            (oid, oid),
        ).fetchall()
        return PgTable(
            schema,
            name,
            tuple(PgColumn(attname, self.type(type_oid, modifier)) for attname, type_oid, modifier in columns),
            tuple(attname for (attname,) in key),
            relkind in ("p", b"p"),
        )

    def type(self, oid: int, modifier: int = -1) -> PgType:
        """Describe a type; domains become their base type with the domain's modifier."""
        if (oid, modifier) not in self._types:
            self._types[oid, modifier] = self._read(oid, modifier)
        return self._types[oid, modifier]

    def _read(self, oid: int, modifier: int) -> PgType:
        row = self._connection.execute(
            "SELECT typname, typtype::text, typcategory::text, typelem, typbasetype, typtypmod, typrelid, typlen,"
            " typdelim::text FROM pg_type WHERE oid = %s",
            (oid,),
        ).fetchone()
        assert row is not None, f"type {oid} is not in the catalog"
        name, typtype, category, element, base, base_modifier, relation, length, _ = row
        if typtype == "d":
            return self.type(base, base_modifier)
        if category == "A" and element and length == -1 and name not in ("int2vector", "oidvector"):
            inner = self.type(element, modifier)
            delimiter = self._connection.execute("SELECT typdelim::text FROM pg_type WHERE oid = %s", (element,))
            return PgType(name, "array", modifier, inner, delimiter=str(delimiter.fetchall()[0][0]))
        if typtype == "c":
            attributes = self._connection.execute(
                "SELECT attname, atttypid, atttypmod FROM pg_attribute"
                " WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                (relation,),
            ).fetchall()
            fields = tuple((field_name, self.type(inner, mod)) for field_name, inner, mod in attributes)
            return PgType(name, "composite", modifier, fields=fields)
        if name in ("hstore", "vector"):
            return PgType(name, name, modifier)
        kinds = {"e": "enum", "r": "range", "m": "range"}
        return PgType(name, kinds.get(typtype, "base"), modifier)


@dataclass(frozen=True, slots=True)
class DuckType:
    """A DuckDB type by name; LIST and ARRAY have one `inner`, MAP two, STRUCT one for each of `names`."""

    name: str
    inner: tuple[DuckType, ...] = ()
    names: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        if self.name == "LIST":
            return f"{self.inner[0]}[]"
        return self.name + (f"({', '.join(map(str, self.inner))})" if self.inner else "")


_TOKEN = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|\w+|[(),\[\]])""")


def parse_duck_type(text: str) -> DuckType:
    """Read a DuckDB type name as `information_schema` prints it. ValueError when it cannot be understood."""
    tokens = _TOKEN.findall(text)
    tokens.append("")
    duck, rest = _parse_type(tokens)
    if rest != [""]:
        raise ValueError(f"cannot read DuckDB type {text!r}")
    return duck


def _parse_type(tokens: list[str]) -> tuple[DuckType, list[str]]:
    words: list[str] = []
    while re.fullmatch(r"\w+", tokens[0]) and not (words and words[-1] in ("STRUCT", "MAP")):
        words.append(tokens[0])
        tokens = tokens[1:]
    name = " ".join(words)
    duck = DuckType(name)
    if tokens[0] == "(":
        duck, tokens = _parse_arguments(name, tokens[1:])
    while tokens[0] == "[":
        size = tokens[1] if tokens[1] != "]" else ""
        tokens = tokens[3 if size else 2 :]
        duck = DuckType("LIST", (duck,))
    return duck, tokens


def _parse_arguments(name: str, tokens: list[str]) -> tuple[DuckType, list[str]]:
    inner: list[DuckType] = []
    names: list[str] = []
    plain: list[str] = []
    while tokens[0] != ")":
        if name == "STRUCT":
            names.append(tokens[0][1:-1].replace('""', '"') if tokens[0].startswith('"') else tokens[0])
            tokens = tokens[1:]
        if name in ("STRUCT", "MAP"):
            duck, tokens = _parse_type(tokens)
            inner.append(duck)
        else:
            plain.append(tokens[0])
            tokens = tokens[1:]
        if tokens[0] == ",":
            tokens = tokens[1:]
    if name == "DECIMAL":
        name = f"DECIMAL({','.join(plain)})"
    return DuckType(name, tuple(inner), tuple(names)), tokens[1:]


def fits(pg: PgType, duck: DuckType) -> bool:
    """Whether types.md allows this replica type for this source type (text by exception is the caller's to allow)."""
    if pg.kind == "array":
        assert pg.element is not None
        inner = duck
        while inner.name == "LIST":
            inner = inner.inner[0]
        return duck.name == "LIST" and (fits(pg.element, inner) or inner.name == "VARCHAR")
    if pg.kind == "composite":
        # While a change of the type is on its way to the replica, there may be more attributes on one side.
        if duck.name != "STRUCT" or len(pg.fields) != len(duck.inner):
            return False
        return all(
            fits(inner, part) or part.name == "VARCHAR" for (_, inner), part in zip(pg.fields, duck.inner, strict=True)
        )
    if pg.kind == "enum":
        return duck.name in ("VARCHAR", "ENUM")
    if pg.name == "numeric":
        if pg.modifier < 0:
            return duck.name == "VARCHAR"
        precision, scale = (pg.modifier - 4) >> 16 & 0xFFFF, (pg.modifier - 4) & 0x7FF
        return duck.name in (f"DECIMAL({precision},{scale})", "VARCHAR")
    return duck.name in _REPLICA_TYPES.get(pg.name, ("VARCHAR",))


_REPLICA_TYPES = {
    "int2": ("SMALLINT",),
    "int4": ("INTEGER",),
    "int8": ("BIGINT",),
    "oid": ("UINTEGER",),
    "float4": ("FLOAT",),
    "float8": ("DOUBLE",),
    "bool": ("BOOLEAN",),
    "uuid": ("UUID",),
    "bytea": ("BLOB",),
    "date": ("DATE",),
    "timestamp": ("TIMESTAMP",),
    "timestamptz": ("TIMESTAMP WITH TIME ZONE",),
    "time": ("TIME",),
    "timetz": ("VARCHAR", "TIME WITH TIME ZONE"),
    "interval": ("INTERVAL",),
    "json": ("JSON",),
    "jsonb": ("JSON",),
    "money": ("DECIMAL(19,2)",),
    "bit": ("BIT",),
    "varbit": ("BIT",),
    "hstore": ("MAP",),
    "vector": ("LIST",),
}
