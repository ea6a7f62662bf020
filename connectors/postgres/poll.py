"""PostgreSQL as it is polled: with SELECT alone, also on a standby, and through a pooler that keeps sessions apart.

One REPEATABLE READ transaction holds the view of a round; the workers import it where the server can export it, and
share its session where it cannot.

Whether a table is still what it was is told from its own rows, and needs no counter that a crash, a reset or another
role could turn back. With S the older of two views, and X the oldest transaction that was under way in it: whatever S
does not see was written by X or a later transaction (a part of a transaction, too, has a larger number than its whole).
So a table is unchanged if, in the newer view, none of its rows was written by X or later, and there are as many
rows as before: then no row came, hence none went either, and an update is both. Two scans tell; nothing is transferred.

Numbers of transactions come again after 2^32; 2^31 of them between two views end the comparison. It holds for one life
of one server and the same files of the table (TRUNCATE and what rewrites rows give new ones), the same columns and the
same labels of enum types. Tables whose values depend on more than their rows are always read: columns of composite
types, of types that print other objects' names (regclass ...), and columns computed when they are read.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pyarrow as pa

from connectors.kept import Kept
from connectors.leftout import by_table
from connectors.poll import Found, polled
from connectors.postgres import check, selection
from connectors.postgres.catalog import CatalogTable, require_schema
from connectors.postgres.connection import Connection, Connections, fetch
from connectors.postgres.failures import UNDEFINED_TABLE, altered, translate, translated
from connectors.postgres.position import Lsn
from connectors.postgres.selection import Selection
from connectors.postgres.snapshot import PostgresSnapshot
from connectors.postgres.types import quoted
from engine.errors import ConfigError, EngineError, PreconditionError
from engine.schema import TableId, TableSchema
from engine.source import Check, Part, SourceOptions

_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_LIFE = """
SELECT extract(epoch FROM pg_catalog.now())::float8, pg_catalog.pg_postmaster_start_time()::text,
       pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())
"""
"""now() is when the transaction began, which is before its first statement takes the view."""
_EXPORT = "SELECT pg_catalog.pg_export_snapshot()"
_FIRST_XID, _XIDS = 3, 1 << 32
_FAR = 1 << 31

_UNSTABLE = """
WITH RECURSIVE used AS (
    SELECT a.attrelid AS relation, a.atttypid AS type, false AS ranged, a.attgenerated = 'v' AS computed
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid::int8 = ANY(%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
  UNION
    SELECT u.relation, n.type, u.ranged OR n.ranged, u.computed
    FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type CROSS JOIN LATERAL (
        SELECT t.typelem AS type, false AS ranged WHERE t.typelem <> 0
        UNION ALL SELECT t.typbasetype, false WHERE t.typbasetype <> 0
        UNION ALL SELECT r.rngsubtype, true FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid) n)
SELECT DISTINCT u.relation::int8 FROM used u JOIN pg_catalog.pg_type t ON t.oid = u.type
WHERE u.computed OR t.typtype = 'c' OR (t.typtype = 'm' AND t.oid::int8 >= 16384) OR (t.typtype = 'e' AND u.ranged)
   OR (t.oid::int8 < 16384 AND t.typname IN ('aclitem', 'regclass', 'regcollation', 'regconfig', 'regdictionary',
       'regnamespace', 'regoper', 'regoperator', 'regproc', 'regprocedure', 'regrole', 'regtype'))
"""
_NEW = "SELECT FROM ONLY {} WHERE pg_catalog.age(xmin) <= pg_catalog.age(%s::text::xid) LIMIT 1"
_COUNT = "SELECT count(*) FROM ONLY {}"


@dataclass(frozen=True, slots=True)
class Life:
    """One life of one server, and the oldest transaction under way in a view of it (64 bits)."""

    started: str
    oldest: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A table in a view: `traces` of its files, columns and enum labels."""

    life: Life
    traces: str


class PostgresReader:
    """Fills `connectors.poll.Reader`."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._connections = Connections(options, pooled=True)
        self._kept = Kept(self._connections.open, self._connections.release)

    def check(self) -> Sequence[Check]:
        checks: list[Check] = []
        try:
            with self._connections.session("connecting") as connection:
                checks.append(check.connected(connection))
                chosen = self._select(connection)
        except (ConfigError, PreconditionError) as error:
            return [*checks, Check("configuration", ok=False, detail=str(error))]
        except EngineError as error:
            return [*checks, Check("connection", ok=False, detail=str(error))]
        checks += [each.check() for each in chosen.left_out]
        count = len(chosen.tables)
        remedy = "" if count else "Correct `instance.schema` and `tables`, or grant the role SELECT."
        return [*checks, Check("tables", ok=bool(count), detail=f"{count} to replicate", remedy=remedy)]

    def discover(self) -> Found:
        with self._connections.session("discovering tables") as connection:
            chosen = self._select(connection)
        return Found([polled(t.schema) for t in chosen.tables], by_table(chosen.left_out))

    def _select(self, connection: Connection) -> Selection:
        require_schema(connection, self._options.schema)
        return selection.readable(connection, self._options)

    @contextmanager
    def view(self) -> Iterator[PostgresView]:
        doing = "opening a view"
        with self._connections.session(doing) as connection:
            exported = None
            connection.execute(_BEGIN)
            try:
                exported = str(fetch(connection, _EXPORT)[0][0])
            except psycopg.Error as error:
                if error.sqlstate is None:
                    raise
                # A server that exports no view, as a rule or in recovery.
                connection.execute(b"ROLLBACK")
                connection.execute(_BEGIN)
            at, started, oldest = fetch(connection, _LIFE)[0]
            chosen = self._select(connection)
            comparable = _comparable(connection, chosen.tables)
            snapshot = self._shared(connection, exported, chosen.tables)
            try:
                yield PostgresView(snapshot, float(at), Life(str(started), int(oldest)), chosen, comparable)
            finally:
                snapshot.close()
            # A pooler keeps its own connection only when the session was left in order.
            connection.execute(b"COMMIT")

    def _shared(self, connection: Connection, exported: str | None, tables: Sequence[CatalogTable]) -> PostgresSnapshot:
        """The view as several sessions have it, or else the one session."""
        if exported is not None:
            snapshot = PostgresSnapshot(self._connections, self._options, Lsn(0), exported, {})
            try:
                snapshot.hold(tables)
            except EngineError:
                # Behind a pooler, another session may be another server's; this one has the view all the same.
                snapshot.close()
                if self._connections.closed:
                    raise
            else:
                return snapshot
        alone = SingleSession(self._connections, self._options, connection)
        alone.hold(tables)
        return alone

    def ping(self) -> None:
        doing = "asking for a sign of life"
        with self._kept.use(doing) as connection, translated(doing):
            connection.execute(b"SELECT 1")

    def identity(self) -> str:
        return json.dumps({"polled": "postgres", "database": self._options.database}, separators=(",", ":"))

    def close(self) -> None:
        self._connections.close()
        self._kept.close()


class SingleSession(PostgresSnapshot):
    """A view that cannot be exported: one part at a time is read, in the session that has it."""

    def __init__(self, connections: Connections, options: SourceOptions, connection: Connection) -> None:
        super().__init__(connections, options, Lsn(0), "", {})
        self._session = connection
        self._turn = threading.Lock()

    @contextmanager
    def transaction(self, doing: str) -> Iterator[Connection]:
        with self._turn:
            try:
                yield self._session
            except psycopg.Error as error:
                raise translate(error, doing) from None


class PostgresView:
    """Fills `connectors.poll.View`."""

    def __init__(
        self, snapshot: PostgresSnapshot, at: float, life: Life, chosen: Selection, comparable: set[int]
    ) -> None:
        self._snapshot = snapshot
        self._at = at
        self._life = life
        self._catalog = {t.id: t for t in chosen.tables}
        self._tables = [polled(t.schema) for t in chosen.tables]
        self._problems = by_table(chosen.left_out)
        self._comparable = comparable

    @property
    def at(self) -> float:
        return self._at

    @property
    def tables(self) -> Sequence[TableSchema]:
        return self._tables

    @property
    def left_out(self) -> Mapping[TableId, Check]:
        return self._problems

    def split(self, table: TableSchema) -> Sequence[Part]:
        return self._snapshot.split(table)

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        return self._snapshot.read(part)

    def mark(self, table: TableSchema) -> Seen | None:
        entry = self._catalog[table.id]
        if entry.oid not in self._comparable:
            return None
        return Seen(self._life, f"{entry.oid} {entry.storage.to_text()}")

    def unchanged(self, table: TableSchema, mark: object, rows: int) -> bool:
        now = self.mark(table)
        if not isinstance(mark, Seen) or now is None or now.traces != mark.traces:
            return False
        if now.life.started != mark.life.started or not 0 <= now.life.oldest - mark.life.oldest < _FAR:
            return False
        xid = max(mark.life.oldest % _XIDS, _FIRST_XID)
        names = [f"{quoted(each.schema)}.{quoted(each.name)}" for _, each in _relations(self._catalog[table.id])]
        with self._snapshot.transaction(f"looking for changes of {table.id}") as connection:
            try:
                # The first new row ends the search: a table that has changed is not worth the whole scan.
                if any(fetch(connection, _NEW.format(name), [str(xid)]) for name in names):
                    return False
                return sum(int(fetch(connection, _COUNT.format(name))[0][0]) for name in names) == rows
            except psycopg.Error as error:
                if error.sqlstate == UNDEFINED_TABLE:
                    raise altered(table.id, "was dropped or renamed") from None
                raise


def _relations(table: CatalogTable) -> list[tuple[int, TableId]]:
    """The relations that hold the table's rows."""
    return [(leaf.oid, leaf.id) for leaf in table.leaves] if table.partitioned else [(table.oid, table.id)]


def _comparable(connection: Connection, tables: Sequence[CatalogTable]) -> set[int]:
    """The tables whose rows tell whether they have changed, and are to be looked at by this role."""
    unstable = {oid for (oid,) in connection.execute(_UNSTABLE.encode(), {"oids": [t.oid for t in tables]})}
    of_table = {t.oid: {oid for oid, _ in _relations(t)} for t in tables if t.oid not in unstable}
    open_to_us = selection.readable_whole(connection, [oid for oids in of_table.values() for oid in oids])
    return {table for table, oids in of_table.items() if oids <= open_to_us}
