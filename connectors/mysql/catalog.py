"""What the server's catalog says about the tables to replicate.

Replicated: base tables of the one database that `SourceOptions.database` names. Not views, sequences and temporary
tables, and no table whose rows are elsewhere (FEDERATED, SPIDER, MERGE ...) or nowhere (BLACKHOLE).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from connectors.mysql.connection import Connection
from connectors.mysql.types import COLUMN_FIELDS, Definition, replica_column, streamable
from engine.errors import PreconditionError
from engine.schema import Identity, TableId, TableSchema
from engine.source import SourceOptions

_TABLES = """
SELECT t.TABLE_SCHEMA, t.TABLE_NAME, t.TABLE_TYPE, coalesce(t.ENGINE, ''), coalesce(e.TRANSACTIONS, 'NO') = 'YES',
       coalesce(t.TABLE_ROWS, 0), coalesce(t.DATA_LENGTH, 0), coalesce(t.CREATE_TIME, '')
FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE
WHERE t.TABLE_SCHEMA = %(schema)s AND t.TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED') {only}
ORDER BY t.TABLE_NAME
"""
_COLUMNS = """
SELECT t.TABLE_NAME AS TABLE_NAME, {fields}
FROM information_schema.COLUMNS t WHERE t.TABLE_SCHEMA = %(schema)s {only}
ORDER BY t.TABLE_NAME, t.ORDINAL_POSITION
"""
_INDEXES = """
SELECT t.TABLE_NAME, t.INDEX_NAME, t.COLUMN_NAME
FROM information_schema.STATISTICS t WHERE t.TABLE_SCHEMA = %(schema)s AND t.NON_UNIQUE = 0 {only}
ORDER BY t.TABLE_NAME, t.INDEX_NAME, t.SEQ_IN_INDEX
"""
_JSON_CHECKS = """
SELECT t.TABLE_NAME, t.CHECK_CLAUSE
FROM information_schema.CHECK_CONSTRAINTS t WHERE t.CONSTRAINT_SCHEMA = %(schema)s {only}
"""
_ELSEWHERE = frozenset(
    ("blackhole", "federated", "connect", "spider", "mrg_myisam", "mrg_isam", "s3", "mroonga", "sphinx", "oqgraph")
)
"""Storage engines whose rows are elsewhere, nowhere, or change without the server."""


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table with all that the connector needs beside its schema.

    `definitions` are all its columns in the server's order, replicated or not. `hindrance` says why it cannot be
    followed at all, `unstreamed` why a change to it asks for a reload. `lost_key` are excluded columns of its key.
    """

    schema: TableSchema
    definitions: tuple[Definition, ...]
    engine: str
    transactional: bool
    unstreamed: str = ""
    hindrance: str = ""
    lost_key: tuple[str, ...] = ()
    created: str = field(default="", compare=False)
    """When it was made, or altered last by a copy: sorts by age."""

    @property
    def id(self) -> TableId:
        return self.schema.id

    def definition(self, name: str) -> Definition:
        """The column called `name`; KeyError if there is none."""
        for definition in self.definitions:
            if definition.name == name:
                return definition
        raise KeyError(name)

    @property
    def replicated(self) -> tuple[Definition, ...]:
        """The definitions of the replicated columns, in the schema's order."""
        return tuple(map(self.definition, self.schema.column_names))


def wanted(table: TableId, options: SourceOptions) -> bool:
    """Whether the include and exclude globs choose this table. A glob without a dot is matched with the bare name."""

    def matches(glob: str) -> bool:
        return fnmatchcase(str(table) if "." in glob else table.name, glob)

    return any(map(matches, options.include)) and not any(map(matches, options.exclude))


class Catalog:
    """Reads the catalog over one connection. What it reads is of now, also within a snapshot's transaction."""

    def __init__(self, connection: Connection, options: SourceOptions) -> None:
        self._connection = connection
        self._options = options

    def tables(self) -> list[CatalogTable]:
        """Every table that the options choose and that can be followed, by name."""
        return [t for t in self.candidates() if not t.hindrance]

    def table(self, table: TableId) -> CatalogTable | None:
        """One table; None when it is not there, is no base table, is not chosen, or cannot be followed."""
        if not wanted(table, self._options):
            return None
        return next((t for t in self.candidates(table.name) if t.id == table and not t.hindrance), None)

    def candidates(self, name: str | None = None) -> list[CatalogTable]:
        """Every table that the options choose (or the one of this name), with those that cannot be followed.

        Raises PreconditionError when the database is not there.
        """
        schema = self._schema()
        rows = [r for r in self._fetch(_TABLES, schema, name) if wanted(TableId(r[0], r[1]), self._options)]
        if not rows:
            return []
        facts = self._facts(schema, name)
        return [self._table(_Row(*row), facts) for row in rows]

    def _schema(self) -> str:
        """The database as the server spells it: where it ignores case, not always as the options do."""
        found = self._connection.query_one("SELECT database()")
        if found is None or found[0] is None:
            raise PreconditionError(f"no database {self._options.database}", "Correct `instance.schema`.")
        return str(found[0])

    def _fetch(self, query: str, schema: str, name: str | None, **parts: str) -> list[tuple[Any, ...]]:
        only = "" if name is None else "AND t.TABLE_NAME = %(name)s"
        params = {"schema": schema, "name": name}
        return self._connection.query(query.format(only=only, **parts), params)

    def _facts(self, schema: str, name: str | None) -> _Facts:
        facts = _Facts()
        mariadb = self._connection.server.mariadb
        if mariadb:
            for table, clause in self._fetch(_JSON_CHECKS, schema, name):
                facts.json_checks.add((table, "".join(str(clause).lower().split())))
        names = COLUMN_FIELDS if mariadb else (*COLUMN_FIELDS, "SRS_ID")
        fields = ", ".join(f"t.{f} AS {f}" for f in names)
        for table, *values in self._fetch(_COLUMNS, schema, name, fields=fields):
            row = dict(zip(names, values, strict=True))
            json = row["DATA_TYPE"] == "longtext" and facts.is_json(table, row["COLUMN_NAME"])
            facts.columns[table].append(Definition.from_row(row, json=json, mariadb=mariadb))
        for table, index, column in self._fetch(_INDEXES, schema, name):
            facts.indexes[table].setdefault(index, []).append(column)
        return facts

    def _table(self, row: _Row, facts: _Facts) -> CatalogTable:
        table_id = TableId(row.schema, row.name)
        definitions = tuple(facts.columns[row.name])
        excluded = frozenset(self._options.exclude_columns.get(str(table_id), ()))
        chosen = [d for d in definitions if d.name not in excluded]
        key = _key(definitions, facts.indexes[row.name])
        lost = tuple(name for name in key if name in excluded)
        unstreamed = _unstreamed(row, chosen, key)
        identity = Identity.KEY if key else Identity.ROW
        return CatalogTable(
            schema=TableSchema(
                id=table_id,
                columns=tuple(replica_column(d, as_text=(table_id, d.name) in self._options.as_text) for d in chosen),
                key=key,
                identity=Identity.RELOAD if unstreamed else identity,
                source_id=str(table_id),
                storage=_fingerprint(definitions),
                estimated_rows=int(row.rows),
                estimated_bytes=int(row.bytes),
            ),
            definitions=definitions,
            engine=row.engine,
            transactional=bool(row.transactional),
            unstreamed=unstreamed,
            hindrance=f"{', '.join(lost)} identifies its rows and is excluded" if lost else _hindrance(row, chosen),
            lost_key=lost,
            created=str(row.created),
        )


class _Row(NamedTuple):
    schema: str
    name: str
    kind: str
    engine: str
    transactional: int
    rows: int
    bytes: int
    created: str


@dataclass(slots=True)
class _Facts:
    """What was read about many tables at once, by table name."""

    columns: Mapping[str, list[Definition]] = field(default_factory=lambda: defaultdict(list))
    indexes: Mapping[str, dict[str, list[str | None]]] = field(default_factory=lambda: defaultdict(dict))
    json_checks: set[tuple[str, str]] = field(default_factory=set)

    def is_json(self, table: str, column: str) -> bool:
        """Whether a column has the check that MariaDB gives to its JSON columns."""
        quoted = column.replace("`", "``").lower()
        return (table, "".join(f"json_valid(`{quoted}`)".split())) in self.json_checks


def _key(definitions: Sequence[Definition], indexes: Mapping[str, Sequence[str | None]]) -> tuple[str, ...]:
    """The columns that tell rows apart: the primary key, else the shortest unique index that holds no NULL.

    An index on prefixes will do: what differs in them differs as a whole. One on expressions (no column) will not.
    """
    if "PRIMARY" in indexes:
        return tuple(str(c) for c in indexes["PRIMARY"])
    filled = {d.name for d in definitions if not d.nullable}
    unique = sorted((len(columns), name) for name, columns in indexes.items() if filled.issuperset(columns))
    return tuple(str(c) for c in indexes[unique[0][1]]) if unique else ()


def _unstreamed(row: _Row, columns: Sequence[Definition], key: Sequence[str]) -> str:
    """Why the stream cannot give the table's content, or nothing."""
    if row.kind == "SYSTEM VERSIONED":
        return "it is system-versioned"
    if not key and not row.transactional:
        return "it has no key, and its storage engine no transactions"
    unknown = [d for d in columns if not streamable(d)]
    return f"the binary log's {unknown[0].data_type} values are not known" if unknown else ""


def _fingerprint(definitions: Sequence[Definition]) -> str:
    """A number of all that decides what a row in the log means and that a schema does not say: places, character sets,
    defaults (of which rows leave out the columns), and the columns that are not replicated."""
    facts = [(d.name, d.column_type, d.character_set, d.default, d.extra, d.expression) for d in definitions]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()


def _hindrance(row: _Row, columns: Sequence[Definition]) -> str:
    if row.engine.lower() in _ELSEWHERE:
        return f"its storage engine is {row.engine}"
    if not row.engine:
        return "its storage engine is not there, or it is broken"
    return "" if columns else "it has no column to replicate"
