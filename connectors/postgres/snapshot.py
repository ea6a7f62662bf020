"""A consistent view of the database, exported with a replication slot, and its tables read through COPY BINARY.

Every part is read in a transaction of its own that imports the view, so a table is locked (ACCESS SHARE) only while a
part of it is read. In between it can be altered or rewritten in ways that no view protects from; each part therefore
first compares the table of now with the one that the view sees, under the lock.
"""

from __future__ import annotations

import itertools
import select
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import pq

from connectors.postgres.catalog import Catalog, CatalogTable, with_touched
from connectors.postgres.connection import Connection, Connections, fetch_one
from connectors.postgres.copybinary import CopyDecoder, snapshot_select
from connectors.postgres.copystream import Payloads, begin_copy
from connectors.postgres.failures import (
    UNDEFINED_COLUMN,
    UNDEFINED_TABLE,
    altered,
    result_fields,
    sqlstate_error,
    translate,
)
from connectors.postgres.position import Lsn
from connectors.postgres.types import quoted
from engine.errors import EngineError, TransientError
from engine.schema import TableId, TableSchema
from engine.source import Part, SourceOptions

PART_BYTES = 16 << 20
"""Size of the parts that a big table is cut into."""
BATCH_BYTES = 4 << 20
"""Bytes after which a record batch is made."""
_WAIT = 0.2
_BLOCK_QUERY = """
SELECT pg_catalog.pg_relation_size(%s::int8::oid::regclass) / pg_catalog.current_setting('block_size')::int8,
       pg_catalog.current_setting('block_size')::int8, pg_catalog.has_table_privilege(%s::int8::oid, 'SELECT')
"""
_GUARD_QUERY = """
SELECT c.relfilenode::int8 = pg_catalog.pg_relation_filenode(c.oid)::int8 FROM pg_catalog.pg_class c
WHERE c.oid::int8 = %s
"""
_ATTRIBUTES_QUERY = """
WITH RECURSIVE typed AS (
    SELECT a.attname, a.attnum, t.oid, t.typtype, t.typbasetype
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid::int8 = %s AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT d.attname, d.attnum, t.oid, t.typtype, t.typbasetype
    FROM typed d JOIN pg_catalog.pg_type t ON t.oid = d.typbasetype WHERE d.typtype = 'd'
)
SELECT attname, attnum::int4, oid::int8 FROM typed WHERE typtype <> 'd'
"""
"""Of a domain the base type: that is what a RowDescription names."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one part reads: a relation (a table, or one partition of it), or a range of its blocks.

    `files` are the relations whose files must still be those that the view sees.
    """

    relation: TableId
    oid: int
    files: tuple[int, ...]
    only: bool = True
    first: int | None = None
    end: int | None = None

    @property
    def condition(self) -> str:
        """The WHERE clause that chooses the blocks."""
        bounds = []
        if self.first is not None:
            bounds.append(f"ctid >= '({self.first},0)'::tid")
        if self.end is not None:
            bounds.append(f"ctid < '({self.end},0)'::tid")
        return f" WHERE {' AND '.join(bounds)}" if bounds else ""


class PostgresSnapshot:
    """The view at `position`. Connections are kept from part to part; several threads may read at once."""

    def __init__(
        self, connections: Connections, options: SourceOptions, position: Lsn, name: str, counts: dict[int, str]
    ) -> None:
        self._connections = connections
        self._options = options
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._counts = counts
        self._catalog: dict[TableId, CatalogTable] = {}
        self._position = position

    @property
    def position(self) -> Lsn:
        return self._position

    def settled(self) -> Lsn:
        return self._position

    @property
    def tables(self) -> Sequence[TableSchema]:
        return [t.schema for t in self._catalog.values()]

    def look(self, wanted: Sequence[TableId], publications: Sequence[str], traces: Mapping[int, str]) -> None:
        """Read the layouts of these tables as the view sees them; those that it does not hold are left out.

        `traces`: what publishing them whole had left when that was last looked at, by oid. Raises TransientError when
        the view has others: it would make what the publications have become since then look right.
        """
        chosen = set(wanted)
        with self.transaction("reading the catalog of the snapshot") as connection:
            tables = Catalog(connection, self._options, publications).tables()
        tables = [t for t in tables if t.id in chosen]
        if any(t.storage.published != traces.get(t.oid) for t in tables if t.oid in traces):
            raise TransientError("preparing a snapshot: someone altered the publications meanwhile.")
        self._catalog = {t.id: t for t in with_touched(tables, self._counts)}

    def hold(self, tables: Sequence[CatalogTable]) -> None:
        """Take the layouts of these tables, which were read within the view, and try the view on a connection."""
        self._catalog = {t.id: t for t in tables}
        with self.transaction("trying the view"):
            pass

    def split(self, table: TableSchema) -> Sequence[Part]:
        """Cut a big table into ranges of blocks (from PostgreSQL 14 on), and a partitioned one into its partitions."""
        entry = self._catalog[table.id]
        with self.transaction("measuring a table") as connection:
            pieces = self._pieces(connection, entry)
        rows = table.estimated_rows // max(1, len(pieces))
        return [Part(table, piece, rows) for piece in pieces]

    def _pieces(self, connection: Connection, entry: CatalogTable) -> list[Piece]:
        if not entry.partitioned:
            return self._ranges(connection, entry.id, entry.oid) or [Piece(entry.id, entry.oid, (entry.oid,))]
        pieces: list[Piece] = []
        for leaf in entry.leaves:
            ranges = self._ranges(connection, leaf.id, leaf.oid)
            if not ranges:
                # Rights on the root are enough to read through it, and are all that some roles have.
                files = tuple(each.oid for each in entry.leaves)
                return [Piece(entry.id, entry.oid, files, only=False)]
            pieces += ranges
        return pieces

    def _ranges(self, connection: Connection, relation: TableId, oid: int) -> list[Piece]:
        """The ranges of one relation; none when it cannot be read by itself."""
        row = fetch_one(connection, _BLOCK_QUERY, [oid, oid])
        if row is None or row[0] is None or not row[2]:
            return []
        blocks, block_size, _ = row
        whole = Piece(relation, oid, (oid,))
        step = max(1, PART_BYTES // block_size)
        if connection.info.server_version < 140000 or blocks < 2 * step:
            return [whole]
        bounds: list[int | None] = [None, *range(step, blocks - step // 2, step), None]
        return [Piece(relation, oid, (oid,), first=first, end=end) for first, end in itertools.pairwise(bounds)]

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """Read one part. Raises ResyncRequired when the table is no longer the one that the view holds."""
        piece = part.token
        if not isinstance(piece, Piece):
            raise TypeError("not a part of this snapshot")
        doing = f"reading {part.table.id}"
        with self.transaction(doing) as connection:
            self._guard(connection, part.table, piece)
            yield from self._copy(connection, part.table, piece)

    def _guard(self, connection: Connection, table: TableSchema, piece: Piece) -> None:
        """Lock the relation and verify that it is the one that the view sees: same files, same columns."""
        result = connection.pgconn.exec_(f"SELECT {_names(table)} FROM {_from(piece)} LIMIT 0".encode())
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise _read_error(result_fields(result), table.id)
        seen = {
            name: (number, type_oid)
            for name, number, type_oid in connection.execute(_ATTRIBUTES_QUERY.encode(), [piece.oid])
        }
        now = [(result.ftablecol(i), result.ftype(i)) for i in range(len(table.columns))]
        if now != [seen.get(c.name) for c in table.columns]:
            raise altered(table.id, "was altered")
        for oid in piece.files:
            same = fetch_one(connection, _GUARD_QUERY, [oid])
            if same is None or not same[0]:
                raise altered(table.id, "was rewritten, truncated or dropped")

    def _copy(self, connection: Connection, table: TableSchema, piece: Piece) -> Iterator[pa.RecordBatch]:
        expressions = ", ".join(snapshot_select(c) for c in table.columns) or ""
        query = f"COPY (SELECT {expressions} FROM {_from(piece)}{piece.condition}) TO STDOUT (FORMAT binary)"
        decoder = CopyDecoder(table)
        for rows in _copy_rows(connection, query, table.id):
            batch = decoder.decode(rows)
            if batch.num_rows:
                yield batch
        if not decoder.complete:
            raise TransientError(f"reading {table.id}: the data ended too early")

    @contextmanager
    def transaction(self, doing: str) -> Iterator[Connection]:
        """A read-only transaction on the view. After an error the connection is not used again."""
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._connections.open(doing)
        done = False
        try:
            connection.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT '{self._name}'".encode())
            yield connection
            connection.execute(b"COMMIT")
            done = True
        except psycopg.Error as error:
            raise translate(error, doing) from None
        finally:
            if done:
                with self._lock:
                    self._idle.append(connection)
            else:
                self._abandon(connection)

    def _abandon(self, connection: Connection) -> None:
        if connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=0.5)
        self._connections.release(connection)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            self._connections.release(connection)


def _copy_rows(connection: Connection, query: str, table: TableId) -> Iterator[Payloads]:
    """Run a COPY TO STDOUT and give its CopyData payloads (one per row, the first with the header), many at a time."""
    copy = begin_copy(connection, query)
    try:
        poll = select.poll()
        poll.register(copy.fileno(), select.POLLIN)
        wanted = BATCH_BYTES
        while not copy.ended:
            while not copy.ended and copy.pending < wanted:
                if not copy.fill():
                    if copy.may_be_complete:
                        break
                    poll.poll(_WAIT * 1000)
            rows = copy.take_together()
            # Nothing: the row that has begun is longer than that.
            wanted = BATCH_BYTES if len(rows) else 2 * wanted
            if len(rows):
                yield rows
        if copy.failure is not None:
            raise _read_error(copy.failure, table)
    finally:
        copy.close()


def _read_error(failure: tuple[str | None, str], table: TableId) -> EngineError:
    state, primary = failure
    if state in {UNDEFINED_TABLE, UNDEFINED_COLUMN}:
        return altered(table, "was altered")
    return sqlstate_error(state, primary, f"reading {table}", _RLS_REMEDY if state == "42501" else "")


_RLS_REMEDY = "Grant SELECT on it to the engine's role; under row-level security also: ALTER ROLE ... BYPASSRLS;"


def _names(table: TableSchema) -> str:
    return ", ".join(quoted(c.name) for c in table.columns)


def _from(piece: Piece) -> str:
    name = f"{quoted(piece.relation.schema)}.{quoted(piece.relation.name)}"
    return f"ONLY {name}" if piece.only else name
