"""Whether what is published is still what it was when the followed tables were loaded.

Someone who takes a table out of our publication, or has it publish less, makes the server leave out parts of
transactions without a word. The server decodes with the publications of the place in the log it decodes, so a look at
them after a batch has arrived tells whether that batch is whole: unchanged then means unchanged before.

A transaction's commit is in the log a moment before others see its effects. Within that moment its mark (xmax) is on
the rows that it replaces or removes, so a row that a running transaction has marked is not unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from psycopg import sql

from connectors.postgres.catalog import published
from connectors.postgres.connection import Connection, fetch
from connectors.postgres.failures import translated
from connectors.postgres.storage import Storage
from engine.errors import ResyncRequired, TransientError
from engine.schema import TableSchema

PATIENCE = 1.0
"""Seconds for which a transaction that alters the publications may go on before the stream is given up for now."""
_DOING = "comparing the publications"

_DIGEST = """
PREPARE reflex_published AS
SELECT sum(pg_catalog.hashtextextended(seen.line, 0))::text FROM (
    SELECT p.oid::text || '.' || p.xmin::text || '.' || p.xmax::text
    FROM pg_catalog.pg_publication p WHERE p.pubname IN ({names})
    UNION ALL
    SELECT p.oid::text || '/' || r.oid::text || '.' || r.xmin::text || '.' || r.xmax::text
    FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
    WHERE p.pubname IN ({names}){schemas}
) AS seen (line)
"""
_DIGEST_SCHEMAS = """
    UNION ALL
    SELECT p.oid::text || '//' || s.oid::text || '.' || s.xmin::text || '.' || s.xmax::text || '/' || c.oid::text
    FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
    JOIN pg_catalog.pg_class c ON c.relnamespace = s.pnnspid
    WHERE p.pubname IN ({names})
"""

# A table that is being dropped leaves its publication with its own catalog row: nothing of it is left out before that.
_MARKED = """
SELECT p.xmax FROM pg_catalog.pg_publication p WHERE p.pubname = ANY(%(names)s)
UNION ALL
SELECT r.xmax FROM pg_catalog.pg_publication_rel r
JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
WHERE p.pubname = ANY(%(names)s) AND r.prrelid::int8 = ANY(%(oids)s) AND r.xmax <> c.xmax
"""
_MARKED_SCHEMAS = """
UNION ALL
SELECT s.xmax FROM pg_catalog.pg_publication_namespace s JOIN pg_catalog.pg_publication p ON p.oid = s.pnpubid
WHERE p.pubname = ANY(%(names)s)
"""
# A mark has 32 bits, the status of a transaction is asked with 64: the nearest to the newest transaction is meant.
_RUNNING = """
SELECT count(*) FROM (
    SELECT newest.id + ((mark.xmax::text::int8 - newest.id %% 4294967296 + 6442450944) %% 4294967296) - 2147483648
    FROM ({marked}) AS mark (xmax),
         (SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())) AS newest (id)
    WHERE mark.xmax::text <> '0'
) AS marker (id) WHERE marker.id > 0 AND pg_catalog.txid_status(marker.id) = 'in progress'
"""
_EXISTING = "SELECT oid::int8 FROM pg_catalog.pg_class WHERE oid::int8 = ANY(%s)"


class Published:
    """Compares the publications with what the followed tables were loaded with. One thread.

    `verified` holds the traces that were seen when the publications were last found right, by table oid: they stand in
    for the traces of a table that has none of its own. `connect` gives the connection to ask over.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        publications: Sequence[str],
        followed: Sequence[TableSchema],
        verified: Mapping[int, str],
    ) -> None:
        self._connect = connect
        self._publications = list(publications)
        self._tables = {int(t.source_id): t.id for t in followed if t.source_id is not None}
        self._expected: dict[int, str] = {}
        for table in followed:
            storage = Storage.parse(table.storage)
            oid = int(table.source_id or 0)
            trace = (storage.published if storage is not None else None) or verified.get(oid)
            if trace is not None:
                self._expected[oid] = trace
        self._prepared = False
        self._digest: str | None = None

    def verify(self) -> None:
        """Raise ResyncRequired for the tables whose changes may be missing from what has arrived until now.

        Raises TransientError when a transaction that alters the publications does not end soon.
        """
        connection = self._connect()
        with translated(_DOING):
            digest = self._read_digest(connection)
            if digest == self._digest:
                return
            deadline = time.monotonic() + PATIENCE
            while self._being_altered(connection):
                if time.monotonic() > deadline:
                    raise TransientError("a transaction that is still open at the source alters the publications.")
                time.sleep(0.02)
            self._compare(connection)
        # Read before the comparison: what has changed since shows as a difference.
        self._digest = digest

    def _read_digest(self, connection: Connection) -> str | None:
        if not self._prepared:
            names = sql.SQL(", ").join(map(sql.Literal, self._publications))
            later = connection.info.server_version >= 150000
            schemas = sql.SQL(_DIGEST_SCHEMAS).format(names=names) if later else sql.SQL("")
            connection.execute(sql.SQL(_DIGEST).format(names=names, schemas=schemas))
            self._prepared = True
        row = connection.execute(b"EXECUTE reflex_published").fetchone()
        return "" if row is None or row[0] is None else str(row[0])

    def _being_altered(self, connection: Connection) -> bool:
        marked = _MARKED + (_MARKED_SCHEMAS if connection.info.server_version >= 150000 else "")
        params = {"names": self._publications, "oids": list(self._tables)}
        row = connection.execute(_RUNNING.format(marked=marked).encode(), params).fetchone()
        return row is not None and row[0] > 0

    def _compare(self, connection: Connection) -> None:
        oids = list(self._expected)
        with connection.transaction():
            connection.execute(b"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            found = published(connection, self._publications, oids)
            existing = {oid for (oid,) in fetch(connection, _EXISTING, [oids])}
        altered = [self._tables[o] for o in oids if o in existing and found.get(o) != self._expected[o]]
        if altered:
            raise ResyncRequired("the publication was altered", sorted(altered))
