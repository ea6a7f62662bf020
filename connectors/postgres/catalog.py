"""What the server's catalog says about the tables to replicate.

Plain SELECTs on pg_catalog only, and of what decides nothing but columns of it: within a snapshot's transaction they
give the catalog as the snapshot sees it (the `pg_get_*` functions would give the one of now).

Replicated: ordinary and partitioned tables of user schemas, not an extension's; nothing unlogged, foreign or a view.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from connectors.postgres.connection import Connection, fetch
from connectors.postgres.identity import IndexKey, Marking, identity_of
from connectors.postgres.storage import Labels, Leaf, Storage
from connectors.postgres.types import TYPES_QUERY, TypeCatalog
from engine.errors import ConfigError, Problem
from engine.schema import Column, Fill, TableId, TableSchema
from engine.source import SourceOptions

_USER_SCHEMA = r"n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\_%%'"

_TABLES = rf"""
SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       c.relfilenode::int8, greatest(c.reltuples, 0)::int8, c.relpages::int8 * current_setting('block_size')::int8,
       c.relrowsecurity, pg_catalog.pg_get_userbyid(c.relowner), c.relnatts::int4
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't' AND {_USER_SCHEMA}
  AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s) AND (%(oid)s::int8 IS NULL OR c.oid::int8 = %(oid)s)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                  AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""

_LEAVES = """
WITH RECURSIVE tree AS (
    SELECT i.inhparent AS root, i.inhrelid AS oid, i.xmin::text AS attached
    FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class r ON r.oid = i.inhparent
    WHERE r.relkind = 'p' AND NOT r.relispartition AND (%(oid)s::int8 IS NULL OR r.oid::int8 = %(oid)s)
  UNION ALL
    SELECT t.root, i.inhrelid, t.attached || '.' || i.xmin::text
    FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
SELECT t.root::int8, c.oid::int8, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       c.relfilenode::int8, t.attached, greatest(c.reltuples, 0)::int8,
       c.relpages::int8 * current_setting('block_size')::int8,
       CASE WHEN c.relkind = 'r' AND c.relpages = 0 THEN pg_catalog.pg_relation_size(c.oid) = 0 ELSE false END
FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind <> 'p'
ORDER BY 1, 2
"""

_COLUMNS = """
SELECT a.attrelid::int8, a.attnum::int4, a.attname, a.atttypid::int8, a.atttypmod, a.attndims::int4, a.attnotnull,
       a.atthasdef, a.atthasmissing, a.attidentity::text, a.attgenerated::text, a.xmin::text,
       pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute a
WHERE a.attrelid::int8 = ANY(%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_INDEXES = """
SELECT i.indrelid::int8, i.indisprimary, i.indisreplident, i.indimmediate, i.indnkeyatts::int4, i.indkey::text,
       (SELECT c.oid::int8 FROM pg_catalog.pg_constraint c WHERE c.conrelid = i.indrelid AND c.contype = 'p')
FROM pg_catalog.pg_index i
WHERE i.indrelid::int8 = ANY(%(oids)s) AND i.indisunique AND i.indisvalid AND (i.indisprimary OR i.indisreplident)
ORDER BY i.indexrelid
"""

_LABELS = "SELECT enumtypid::int8::text, oid::int8, enumlabel FROM pg_catalog.pg_enum ORDER BY 1, 2"

_TOUCHED = """
SELECT relation, pg_catalog.pg_stat_get_tuples_updated(relation::oid)
       + pg_catalog.pg_stat_get_tuples_deleted(relation::oid)
FROM pg_catalog.unnest(%(oids)s::int8[]) AS relation
"""
_COUNTERS_SINCE = """
SELECT pg_catalog.pg_postmaster_start_time()::text || '/' || coalesce(s.stats_reset::text, '')
FROM pg_catalog.pg_stat_database s WHERE s.datname = pg_catalog.current_database()
"""

_PUBLISHED = """
SELECT r.prrelid::int8, p.oid::text || '.' || p.xmin::text || '/' || r.oid::text || '.' || r.xmin::text
FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
WHERE p.pubname = ANY(%(names)s) AND NOT p.puballtables
"""
_PUBLISHED_WHOLE = """
SELECT p.oid::text || '.' || p.xmin::text FROM pg_catalog.pg_publication p
WHERE p.pubname = ANY(%(names)s) AND p.puballtables
"""
_PUBLISHED_SCHEMAS = """
SELECT c.oid::int8, p.oid::text || '.' || p.xmin::text || '/' || s.oid::text
FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid AND c.oid::int8 = ANY(%(oids)s)
WHERE p.pubname = ANY(%(names)s)
"""


@dataclass(frozen=True, slots=True)
class LeafTable:
    """A partition that holds rows of a partitioned table."""

    oid: int
    id: TableId
    kind: str
    persistence: str


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table with all that the connector needs beside its schema.

    `layout` is name, type oid and typmod of every live column, replicated or not, and `numbers` their attnums;
    `dropped` the attnums of the columns that are no more.
    `publishes_updates`: UPDATE and DELETE keep working at the source when they are published. `hindrance` says why it
    cannot be followed at all; `lost_key` are key columns that are excluded, which is one reason. `labels` are the enum labels that its columns refer to, by type oid.
    """

    oid: int
    schema: TableSchema
    kind: str
    storage: Storage
    layout: tuple[tuple[str, int, int], ...]
    numbers: Mapping[str, int]
    dropped: frozenset[int]
    marking: Marking
    publishes_updates: bool
    row_security: bool
    owner: str
    unstreamed: tuple[str, ...] = ()
    leaves: tuple[LeafTable, ...] = ()
    labels: Mapping[str, Sequence[tuple[int, str]]] = field(default_factory=dict)
    lost_key: tuple[str, ...] = ()
    hindrance: str = ""

    @property
    def id(self) -> TableId:
        return self.schema.id

    @property
    def partitioned(self) -> bool:
        return self.kind == "p"


def wanted(table: TableId, options: SourceOptions) -> bool:
    """Whether the include and exclude globs choose this table. A glob without a dot is matched with the bare name."""

    def matches(glob: str) -> bool:
        return fnmatchcase(str(table) if "." in glob else table.name, glob)

    return any(map(matches, options.include)) and not any(map(matches, options.exclude))


def require_schema(connection: Connection, schema: str | None) -> None:
    """Raise ConfigError when the one schema that is to be replicated is not there."""
    query = "SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s"
    if schema is not None and not fetch(connection, query, [schema]):
        raise ConfigError([Problem("instance.schema", f"the database has no schema {schema!r}")])


class Catalog:
    """Reads the catalog over one connection, in whatever transaction that is in."""

    def __init__(self, connection: Connection, options: SourceOptions, publications: Sequence[str] = ()) -> None:
        self._connection = connection
        self._options = options
        self._publications = list(publications)
        self._version = connection.info.server_version

    def tables(self) -> list[CatalogTable]:
        """Every table that the options choose and that can be followed, by name."""
        return [t for t in self.candidates() if not t.hindrance]

    def candidates(self, oid: int | None = None) -> list[CatalogTable]:
        """Every table that the options choose (or the one with this oid), with those that cannot be followed."""
        params = {"schema": self._options.schema, "oid": oid}
        rows = [r for r in self._fetch(_TABLES, params) if wanted(TableId(r[1], r[2]), self._options)]
        roots = {r[0] for r in rows if r[3] == "p"}
        leaves: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for leaf in self._fetch(_LEAVES, params) if roots else ():
            if leaf[0] in roots:
                leaves[leaf[0]].append(leaf)
        facts = self._facts([r[0] for r in rows], [leaf[1] for of_root in leaves.values() for leaf in of_root])
        return [self._table(row, leaves.get(row[0], []), facts) for row in rows]

    def _fetch(self, query: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        return self._connection.execute(query.encode(), params).fetchall()

    def _facts(self, roots: list[int], leaves: list[int]) -> _Facts:
        facts = _Facts()
        everything = {"oids": roots + leaves, "names": self._publications}
        names: dict[int, dict[int, str]] = defaultdict(dict)
        for relation, *column in self._fetch(_COLUMNS, everything):
            facts.columns[relation].append(_Attribute(*column))
            names[relation][column[0]] = column[1]
        for relation, primary, replica, immediate, count, numbers, constraint in self._fetch(_INDEXES, everything):
            key = tuple(names[relation][int(n)] for n in numbers.split()[:count])
            facts.indexes[relation].append(IndexKey(key, primary, replica, immediate))
            facts.primary[relation] = constraint or 0
        for enum, oid, label in self._fetch(_LABELS, {}):
            facts.labels[enum].append((oid, label))
        facts.published = published(self._connection, self._publications, roots)
        facts.types = TypeCatalog.from_rows(self._connection.execute(TYPES_QUERY.encode()).fetchall())
        return facts

    def _table(self, row: tuple[Any, ...], leaves: list[tuple[Any, ...]], facts: _Facts) -> CatalogTable:
        oid, schema, name, kind, persistence, replident, file, rows, size, row_security, owner, width = row
        table_id = TableId(schema, name)
        excluded = self._excluded(table_id)
        attributes = [a for a in facts.columns[oid] if a.name not in excluded]
        unstreamed = tuple(a.name for a in attributes if self._unstreamed(a))
        marking = Marking(replident, tuple(facts.indexes[oid]))
        how = identity_of(
            marking,
            [Marking(leaf[6], tuple(facts.indexes[leaf[1]])) for leaf in leaves],
            incomplete=bool(unstreamed),
        )
        lost_key = tuple(name for name in how.key if name in excluded)
        # A partitioned table has no rows of its own: what a new column holds in them is in its partitions' definitions.
        filled = {a.name for leaf in leaves for a in facts.columns[leaf[1]] if a.has_missing}
        columns = tuple(self._column(table_id, a, facts, filled=a.name in filled) for a in attributes)
        numbers = {a.name: a.number for a in facts.columns[oid]}
        labels = {e: facts.labels[e] for e in facts.types.enums(a.type_oid for a in attributes)}
        storage = Storage(
            file=file,
            leaves={str(leaf[1]): Leaf(leaf[7], leaf[8], leaf[11]) for leaf in leaves},
            attributes={a.number: a.xmin for a in attributes},
            labels={e: Labels.of(pairs) for e, pairs in labels.items()},
            primary=facts.primary.get(oid, 0),
            composites=facts.types.composites(a.type_oid for a in attributes),
            published=facts.published.get(oid),
        )
        return CatalogTable(
            oid=oid,
            schema=TableSchema(
                id=table_id,
                columns=columns,
                key=how.key,
                identity=how.identity,
                source_id=str(oid),
                storage=storage.to_text(),
                estimated_rows=rows or sum(leaf[9] for leaf in leaves),
                estimated_bytes=size or sum(leaf[10] for leaf in leaves),
            ),
            kind=kind,
            storage=storage,
            layout=tuple((a.name, a.type_oid, a.typmod) for a in facts.columns[oid]),
            numbers=numbers,
            dropped=frozenset(range(1, width + 1)) - frozenset(numbers.values()),
            marking=marking,
            publishes_updates=how.publishes_updates,
            row_security=row_security,
            owner=owner,
            unstreamed=unstreamed,
            leaves=tuple(LeafTable(leaf[1], TableId(leaf[2], leaf[3]), leaf[4], leaf[5]) for leaf in leaves),
            labels=labels,
            lost_key=lost_key,
            hindrance=self._hindrance(kind, persistence, leaves, lost_key)
            if columns
            else "it has no column to replicate",
        )

    def _unstreamed(self, attribute: _Attribute) -> bool:
        """Generated columns are in the stream from PostgreSQL 18 on, and only the stored ones."""
        return attribute.generated == "v" or (attribute.generated == "s" and self._version < 180000)

    def _hindrance(
        self, kind: str, persistence: str, leaves: Sequence[tuple[Any, ...]], lost_key: Sequence[str]
    ) -> str:
        if kind == "f":
            return "it is a foreign table"
        if persistence == "u":
            return "it is unlogged"
        if kind == "p" and self._version < 130000:
            return "PostgreSQL 12 cannot publish a partitioned table"
        for leaf in leaves:
            if leaf[4] == "f" or leaf[5] == "u":
                why = "a foreign table" if leaf[4] == "f" else "unlogged"
                return f"its partition {leaf[2]}.{leaf[3]} is {why}"
        if lost_key:
            return f"{', '.join(lost_key)} identifies its rows and cannot be excluded"
        return ""

    def _excluded(self, table: TableId) -> frozenset[str]:
        return frozenset(self._options.exclude_columns.get(str(table), ()))

    def _column(self, table: TableId, attribute: _Attribute, facts: _Facts, *, filled: bool) -> Column:
        as_text = (table, attribute.name) in self._options.as_text
        kind = facts.types.replica_type(attribute.type_oid, attribute.typmod, attribute.dimensions, as_text=as_text)
        known = filled or attribute.has_default or attribute.has_missing or attribute.identity or attribute.generated
        return Column(
            name=attribute.name,
            type=kind.type,
            source_type=attribute.source_type,
            nullable=not attribute.not_null,
            id=attribute.number,
            fill=Fill.UNKNOWN if known or attribute.not_null else Fill.NULL,
            rule=kind.rule,
        )


class _Attribute(NamedTuple):
    number: int
    name: str
    type_oid: int
    typmod: int
    dimensions: int
    not_null: bool
    has_default: bool
    has_missing: bool
    identity: str
    generated: str
    xmin: str
    source_type: str


@dataclass(slots=True)
class _Facts:
    """What was read about many relations at once, by relation oid (labels: by enum type oid)."""

    columns: dict[int, list[_Attribute]] = field(default_factory=lambda: defaultdict(list))
    indexes: dict[int, list[IndexKey]] = field(default_factory=lambda: defaultdict(list))
    primary: dict[int, int] = field(default_factory=dict)
    """The primary key's constraint (pg_constraint.oid), 0 for none."""
    labels: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    published: Mapping[int, str] = field(default_factory=dict)
    types: TypeCatalog = field(default_factory=TypeCatalog)


def published(connection: Connection, publications: Sequence[str], oids: Sequence[int]) -> dict[int, str]:
    """Per table: oid and xmin of each of these publications that holds it, and of its place in it."""
    found: dict[int, list[str]] = defaultdict(list)
    params = {"names": list(publications), "oids": list(oids)}
    if not publications:
        return {}
    queries = [_PUBLISHED] + ([_PUBLISHED_SCHEMAS] if connection.info.server_version >= 150000 else [])
    for query in queries:
        for oid, mark in connection.execute(query.encode(), params):
            found[oid].append(mark)
    for (mark,) in connection.execute(_PUBLISHED_WHOLE.encode(), params):
        for oid in oids:
            found[oid].append(mark)
    return {oid: " ".join(sorted(marks)) for oid, marks in found.items()}


def touched(connection: Connection, tables: Sequence[CatalogTable]) -> dict[int, str]:
    """Per table whose updates are not streamed: how many rows were updated or deleted, and since when that is counted.

    Sessions report their counts with up to a second's delay while they are busy, and up to 10 s (before PostgreSQL 15:
    until their next statement) once they are idle.
    """
    unseen = [t for t in tables if not t.publishes_updates]
    if not unseen:
        return {}
    since = fetch(connection, _COUNTERS_SINCE)[0][0]
    parts = {t.oid: [leaf.oid for leaf in t.leaves] or [t.oid] for t in unseen}
    oids = [oid for of_table in parts.values() for oid in of_table]
    counts: dict[int, int] = dict(connection.execute(_TOUCHED.encode(), {"oids": oids}).fetchall())
    return {oid: f"{sum(counts.get(p) or 0 for p in of_table)}@{since}" for oid, of_table in parts.items()}


def with_touched(tables: Sequence[CatalogTable], counts: Mapping[int, str]) -> list[CatalogTable]:
    """The tables with these counts in their storage."""
    out = []
    for table in tables:
        storage = replace(table.storage, touched=counts.get(table.oid))
        schema = replace(table.schema, storage=storage.to_text())
        out.append(replace(table, storage=storage, schema=schema))
    return out
