"""What the replica remembers of itself, in schema `_reflex`: whose it is, how far it is, and its tables.

`_reflex.meta`        key, value: format, engine, duckdb, instance
`_reflex.checkpoint`  one row: position, stream_position, identity
`_reflex.tables`      one row per table: layouts and physical copies, load position, reload mark
`_reflex.as_text`     columns kept as the source's text
`_reflex.t<N>`        physical tables; readers see views over them. N is never used twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from engine.destination import StoredState, StoredTable
from engine.errors import ReplicaError
from engine.replica.sql import CATALOG, INTERNAL
from engine.schema import TableId, TableSchema

FORMAT = 1
"""Version of the replica's own layout; a file of a higher one is refused."""

POSITION_QUERY = f"SELECT position FROM {INTERNAL}.checkpoint"
"""Gives the committed position of the transaction that runs it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One physical copy of a table: its layout, the number of its physical table, the physical column of each column."""

    layout: TableSchema
    number: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is remembered of one table."""

    id: TableId
    live: Stored | None = None
    load: Stored | None = None
    loaded_at: str | None = None
    settled_at: str | None = None
    reload_reason: str | None = None
    blocking: bool = False

    @property
    def forgettable(self) -> bool:
        """Nothing is known of the table any more."""
        return self.live is None and self.load is None and self.reload_reason is None


def fresh(layout: TableSchema, number: int) -> Stored:
    """A new physical copy of `layout`: its columns are called c0, c1, ... so that no source name can disturb them."""
    return Stored(layout, number, tuple(f"c{i}" for i in range(len(layout.columns))))


class Catalog:
    """The registry in memory, written through to `_reflex` within the caller's transaction.

    A caller that rolls back calls `reload` afterwards.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self.entries: dict[TableId, Entry] = {}
        self.as_text: frozenset[tuple[TableId, str]] = frozenset()
        self.position: str | None = None
        self.stream_position: str | None = None
        self.identity: str | None = None
        self._next = 1

    # -- opening -----------------------------------------------------------------------------------------------

    def prepare(self, instance: str, engine_version: str, path: str) -> None:
        """Create the registry in an empty file, or verify that the file is this instance's replica; then read it."""
        con = self._con
        found = con.execute(
            f"SELECT count(*) FILTER (schema_name = '{INTERNAL}' AND table_name = 'meta'), count(*) "
            f"FROM duckdb_tables() WHERE database_name = '{CATALOG}'"
        ).fetchone()
        ours, tables = found if found is not None else (0, 0)
        if not ours:
            if tables:
                raise ReplicaError(
                    f"{path} is a DuckDB file that no reflex-engine made: choose another replica.path (it is not touched)"
                )
            self._create(instance, engine_version)
        meta = dict(con.execute(f"SELECT key, value FROM {INTERNAL}.meta").fetchall())
        if int(meta.get("format", "0")) > FORMAT:
            raise ReplicaError(
                f"{path} was written by a newer reflex-engine ({meta.get('engine')}): upgrade this one, "
                "or delete the file to rebuild the replica"
            )
        if meta.get("instance") != instance:
            raise ReplicaError(
                f"{path} is the replica of instance {meta.get('instance')!r}, not of {instance!r}: "
                "choose another replica.path or instance.name, or delete the file to rebuild the replica"
            )
        versions = [("engine", engine_version), ("duckdb", duckdb.__version__)]
        if any(meta.get(key) != value for key, value in versions):
            con.executemany(f"UPDATE {INTERNAL}.meta SET value = $2 WHERE key = $1", versions)
        self.reload()

    def _create(self, instance: str, engine_version: str) -> None:
        con = self._con
        con.execute("BEGIN")
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {INTERNAL}")
        con.execute(f"CREATE TABLE {INTERNAL}.meta (key VARCHAR, value VARCHAR)")
        con.execute(f"CREATE TABLE {INTERNAL}.checkpoint (position VARCHAR, stream_position VARCHAR, identity VARCHAR)")
        con.execute(
            f"CREATE TABLE {INTERNAL}.tables (schema VARCHAR, name VARCHAR, "
            "live VARCHAR, live_number BIGINT, live_columns VARCHAR, "
            "load VARCHAR, load_number BIGINT, load_columns VARCHAR, "
            "loaded_at VARCHAR, settled_at VARCHAR, reload_reason VARCHAR, blocking BOOLEAN)"
        )
        con.execute(f"CREATE TABLE {INTERNAL}.as_text (schema VARCHAR, name VARCHAR, column_name VARCHAR)")
        con.execute(f"CREATE SEQUENCE {INTERNAL}.table_numbers")
        con.execute(f"INSERT INTO {INTERNAL}.checkpoint VALUES (NULL, NULL, NULL)")
        con.executemany(
            f"INSERT INTO {INTERNAL}.meta VALUES ($1, $2)",
            [
                ("format", str(FORMAT)),
                ("engine", engine_version),
                ("duckdb", duckdb.__version__),
                ("instance", instance),
            ],
        )
        con.execute("COMMIT")

    def reload(self) -> None:
        """Read everything again from the file."""
        con = self._con
        row = con.execute(f"SELECT position, stream_position, identity FROM {INTERNAL}.checkpoint").fetchone()
        self.position, self.stream_position, self.identity = row if row is not None else (None, None, None)
        rows = con.execute(f"SELECT * FROM {INTERNAL}.tables ORDER BY schema, name").fetchall()
        self.entries = {entry.id: entry for entry in map(_entry, rows)}
        texts = con.execute(f"SELECT schema, name, column_name FROM {INTERNAL}.as_text").fetchall()
        self.as_text = frozenset((TableId(schema, name), column) for schema, name, column in texts)

    def orphans(self) -> list[int]:
        """The numbers of physical tables that nothing refers to: loads that a crash cut short."""
        known = {copy.number for e in self.entries.values() for copy in (e.live, e.load) if copy is not None}
        rows = self._con.execute(
            "SELECT table_name FROM duckdb_tables() "
            f"WHERE database_name = '{CATALOG}' AND schema_name = '{INTERNAL}' AND regexp_full_match(table_name, 't[0-9]+')"
        ).fetchall()
        return [number for number in (int(name[1:]) for (name,) in rows) if number not in known]

    # -- within a transaction ----------------------------------------------------------------------------------

    def number(self) -> int:
        """A number for a new physical table."""
        # All of the result: DuckDB registers nothing on a connection with an unfinished one.
        rows = self._con.execute(f"SELECT nextval('{INTERNAL}.table_numbers')").fetchall()
        return int(rows[0][0])

    def get(self, table: TableId) -> Entry:
        """What is remembered of `table`; an empty entry when nothing is."""
        return self.entries.get(table) or Entry(table)

    def put(self, entry: Entry) -> None:
        """Store an entry; one without content is removed."""
        self.remove(entry.id)
        if entry.forgettable:
            return
        live, load = _columns_of(entry.live), _columns_of(entry.load)
        self._con.execute(
            f"INSERT INTO {INTERNAL}.tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                *(entry.id.schema, entry.id.name, *live, *load),
                *(entry.loaded_at, entry.settled_at, entry.reload_reason, entry.blocking),
            ],
        )
        self.entries[entry.id] = entry

    def change(self, table: TableId, edit: Callable[[Entry], Entry]) -> None:
        """Replace a table's entry by what `edit` makes of it."""
        self.put(edit(self.get(table)))

    def exchange(self, entry: Entry, old: Stored, new: Stored) -> None:
        """Store that a copy is in another physical table now."""
        self.put(replace(entry, live=new) if entry.live == old else replace(entry, load=new))

    def remove(self, table: TableId) -> None:
        """Forget a table's entry."""
        if self.entries.pop(table, None) is not None:
            self._con.execute(
                f"DELETE FROM {INTERNAL}.tables WHERE schema = ? AND name = ?", [table.schema, table.name]
            )

    def checkpoint(self, position: str | None, stream_position: str, identity: str | None) -> None:
        """Store the positions. `identity` None keeps the stored one."""
        self.identity = self.identity if identity is None else identity
        self.position, self.stream_position = position, stream_position
        # Not an UPDATE: while a reader needs the row's old version, DuckDB could not checkpoint at all.
        self._con.execute(f"DELETE FROM {INTERNAL}.checkpoint")
        self._con.execute(
            f"INSERT INTO {INTERNAL}.checkpoint VALUES (?, ?, ?)", [position, stream_position, self.identity]
        )

    def keep_as_text(self, columns: frozenset[tuple[TableId, str]]) -> None:
        """Store the whole set of columns kept as text."""
        for table, column in columns - self.as_text:
            self._con.execute(f"INSERT INTO {INTERNAL}.as_text VALUES (?, ?, ?)", [table.schema, table.name, column])
        for table, column in self.as_text - columns:
            self._con.execute(
                f"DELETE FROM {INTERNAL}.as_text WHERE schema = ? AND name = ? AND column_name = ?",
                [table.schema, table.name, column],
            )
        self.as_text = columns

    # -- answers -----------------------------------------------------------------------------------------------

    def state(self) -> StoredState:
        """The stored state as the pipeline sees it."""
        tables: Mapping[TableId, StoredTable] = {
            e.id: StoredTable(
                e.id,
                e.live.layout if e.live else None,
                e.load.layout if e.load else None,
                e.loaded_at,
                e.settled_at,
                e.reload_reason,
                e.blocking,
            )
            for e in self.entries.values()
        }
        return StoredState(self.position, self.stream_position, self.identity, tables, self.as_text)


def without_load(entry: Entry) -> Entry:
    """The entry without its load copy."""
    return replace(entry, load=None, loaded_at=None, settled_at=None)


def _columns_of(copy: Stored | None) -> tuple[str | None, int | None, str | None]:
    if copy is None:
        return None, None, None
    return copy.layout.to_json(), copy.number, json.dumps(copy.columns)


def _stored(layout: str | None, number: int | None, columns: str | None) -> Stored | None:
    if layout is None or number is None or columns is None:
        return None
    return Stored(TableSchema.from_json(layout), number, tuple(json.loads(columns)))


def _entry(row: tuple[Any, ...]) -> Entry:
    schema, name, live, live_number, live_columns, load, load_number, load_columns = row[:8]
    loaded_at, settled_at, reason, blocking = row[8:]
    return Entry(
        TableId(schema, name),
        _stored(live, live_number, live_columns),
        _stored(load, load_number, load_columns),
        loaded_at,
        settled_at,
        reason,
        bool(blocking),
    )
