"""The catalog of a SQL Server database: its tables, and which of their columns change data capture follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from connectors.sqlserver.connection import Connection
from connectors.sqlserver.instances import Instance, read_instances
from connectors.sqlserver.layouts import Computed, Layout, lay_out
from connectors.sqlserver.types import Definition
from engine.schema import TableId, TableSchema
from engine.source import SourceOptions

_TABLES = """
SELECT s.name, t.name, t.object_id, CONVERT(varchar(23), t.create_date, 121),
    HAS_PERMS_BY_NAME(QUOTENAME(s.name) + '.' + QUOTENAME(t.name), 'OBJECT', 'SELECT')
FROM sys.tables t JOIN sys.schemas s ON s.schema_id = t.schema_id
WHERE t.is_ms_shipped = 0 AND s.name <> 'cdc' ORDER BY s.name, t.name
"""
_ROWS = "SELECT p.object_id, SUM(p.rows) FROM sys.partitions p WHERE p.index_id IN (0, 1) GROUP BY p.object_id"
_PAGES = """
SELECT p.object_id, SUM(a.used_pages) FROM sys.partitions p
JOIN sys.allocation_units a ON a.container_id = p.partition_id WHERE p.index_id IN (0, 1) GROUP BY p.object_id
"""
_COLUMNS = """
SELECT c.object_id, c.column_id, c.name, TYPE_NAME(c.system_type_id), TYPE_NAME(c.user_type_id),
    c.max_length, c.precision, c.scale, c.is_nullable, c.is_computed
FROM sys.columns c JOIN sys.tables t ON t.object_id = c.object_id ORDER BY c.object_id, c.column_id
"""
_COMPUTED = """
SELECT c.object_id, c.column_id, c.definition, COLUMNPROPERTY(c.object_id, c.name, 'IsDeterministic')
FROM sys.computed_columns c
"""
_KEYS = """
SELECT i.object_id, i.index_id, i.is_primary_key, ic.column_id
FROM sys.indexes i JOIN sys.index_columns ic ON ic.object_id = i.object_id AND ic.index_id = i.index_id
WHERE i.is_unique = 1 AND i.has_filter = 0 AND i.is_disabled = 0 AND ic.key_ordinal > 0
ORDER BY i.object_id, i.index_id, ic.key_ordinal
"""
_CLUSTERED = 1
"""The id of an index that a table is clustered by."""
_PAGE_BYTES = 8192
_OWN_NAMES = frozenset({"vector", "json"})
"""Types of their own that are stored as another system type."""


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table with all that the connector needs beside its schema.

    `definitions` are all its columns; `keys` the columns that tell its rows apart, the primary key first; `instances`
    its capture instances, the newest first.
    """

    id: TableId
    object_id: int
    definitions: tuple[Definition, ...]
    computed: Mapping[int, Computed]
    keys: tuple[tuple[int, ...], ...]
    instances: tuple[Instance, ...]
    readable: bool = True
    excluded: frozenset[str] = frozenset()
    as_text: frozenset[str] = frozenset()
    rows: int = 0
    bytes: int = 0
    created: str = ""
    """When it was made, by the server's clock, as text that sorts."""
    clustered: tuple[int, ...] = ()
    """The columns of the unique index that it is clustered by; empty: by none, or by one that is not unique."""

    def layout(self, instance: Instance | None) -> Layout:
        """The table as this capture instance lets it be replicated; None: as it is read without any."""
        return lay_out(self, instance)

    @property
    def newest(self) -> Layout:
        """The table by its newest capture instance. Only for a table that has one."""
        return lay_out(self, self.instances[0])

    @property
    def lost_key(self) -> tuple[str, ...]:
        """Columns of the only key that are excluded by the configuration."""
        if not self.keys or not self.excluded:
            return ()
        names = {d.id: d.name for d in self.definitions}
        lost = [[names[c] for c in key if names[c] in self.excluded] for key in self.keys]
        return tuple(lost[0]) if all(lost) else ()


def wanted(table: TableId, options: SourceOptions) -> bool:
    """Whether the options choose this table. A glob without a dot is matched with the bare name."""

    def matches(glob: str) -> bool:
        return fnmatchcase(str(table) if "." in glob else table.name, glob)

    if options.schema is not None and table.schema != options.schema:
        return False
    return any(map(matches, options.include)) and not any(map(matches, options.exclude))


class Catalog:
    """Reads the catalog over one connection. What it reads is of now, also within a snapshot's transaction."""

    def __init__(self, connection: Connection, options: SourceOptions) -> None:
        self._connection = connection
        self._options = options

    def candidates(self, *, captured: bool = True) -> list[CatalogTable]:
        """Every table that the options choose, by name. `captured`: with their capture instances."""
        facts = self._facts(captured=captured)
        tables = []
        for schema, name, object_id, created, readable in self._connection.query(_TABLES):
            table = TableId(str(schema), str(name))
            if wanted(table, self._options):
                found = self._table(table, int(object_id), bool(readable), facts)
                tables.append(replace(found, created=str(created)))
        return tables

    def _table(self, table: TableId, object_id: int, readable: bool, facts: _Facts) -> CatalogTable:
        as_text = {column for other, column in self._options.as_text if other == table}
        nullable = {d.id for d in facts.columns[object_id] if d.nullable}
        keys = [
            (not key.primary, len(key.columns), index, tuple(key.columns))
            for index, key in facts.keys[object_id].items()
            if key.primary or nullable.isdisjoint(key.columns)
        ]
        return CatalogTable(
            id=table,
            object_id=object_id,
            definitions=tuple(facts.columns[object_id]),
            computed=facts.computed[object_id],
            keys=tuple(columns for *_, columns in sorted(keys)),
            instances=tuple(sorted(facts.instances[object_id], key=lambda i: i.age, reverse=True)),
            readable=readable,
            excluded=frozenset(self._options.exclude_columns.get(str(table), ())),
            as_text=frozenset(as_text),
            rows=facts.rows.get(object_id, 0),
            bytes=facts.bytes.get(object_id, 0),
            clustered=tuple(facts.keys[object_id][_CLUSTERED].columns) if _CLUSTERED in facts.keys[object_id] else (),
        )

    def _facts(self, *, captured: bool) -> _Facts:
        facts = _Facts()
        query = self._connection.query
        for row in query(_COLUMNS):
            facts.columns[int(row[0])].append(_definition(row))
        for object_id, column_id, text, deterministic in query(_COMPUTED):
            facts.computed[int(object_id)][int(column_id)] = Computed(text or "", deterministic == 1)
        for object_id, index_id, primary, column_id in query(_KEYS):
            key = facts.keys[int(object_id)].setdefault(int(index_id), _Key(primary=bool(primary)))
            key.columns.append(int(column_id))
        facts.rows = {int(i): int(n or 0) for i, n in query(_ROWS)}
        facts.bytes = {int(i): int(n or 0) * _PAGE_BYTES for i, n in query(_PAGES)}
        if captured:
            for instance in read_instances(self._connection):
                facts.instances[instance.source_id].append(instance)
        return facts


@dataclass(slots=True)
class _Key:
    primary: bool
    columns: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Facts:
    """What was read about many tables at once, by object id."""

    columns: Mapping[int, list[Definition]] = field(default_factory=lambda: defaultdict(list))
    computed: Mapping[int, dict[int, Computed]] = field(default_factory=lambda: defaultdict(dict))
    keys: Mapping[int, dict[int, _Key]] = field(default_factory=lambda: defaultdict(dict))
    instances: Mapping[int, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    rows: Mapping[int, int] = field(default_factory=dict)
    bytes: Mapping[int, int] = field(default_factory=dict)


def _definition(row: Sequence[object]) -> Definition:
    _, column_id, name, system_type, user_type, length, precision, scale, nullable, computed = row
    return Definition(
        name=str(name),
        id=int(str(column_id)),
        base=_base(system_type, user_type),
        max_length=int(str(length)),
        precision=int(str(precision)),
        scale=int(str(scale)),
        nullable=bool(nullable),
        computed=bool(computed),
    )


def _base(system_type: object, user_type: object) -> str:
    """The type's name. CLR types share one system type, without a name; an alias is what it stands for."""
    own = str(user_type or "").lower()
    return own if system_type is None or own in _OWN_NAMES else str(system_type).lower()


def schemas(tables: Sequence[CatalogTable]) -> list[TableSchema]:
    """The tables' schemas by their newest capture instances."""
    return [t.newest.schema for t in tables]
