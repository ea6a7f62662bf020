"""Tables whose updates the server refuses because they are published: found quickly, and taken out of the publication.

When a table loses its replica identity (its primary key is dropped, a partition without one is attached), the server
refuses its UPDATE and DELETE for as long as they are published. Nothing that a role without superuser rights can set up
prevents that, and no message tells of it; so the catalog is asked often, with one query, and the table is taken out at
once. Inspection then finds it another place. The stream sees that the publication was altered and asks for a reload.
"""

from __future__ import annotations

from psycopg import sql

from connectors.postgres import publication
from connectors.postgres.connection import Connection, fetch

_LOCK_TIMEOUT = "1s"

_EXPOSED = """
SELECT DISTINCT r.prrelid::int8
FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
CROSS JOIN LATERAL (
    SELECT c.oid WHERE c.relkind <> 'p'
    UNION ALL
    SELECT t.relid FROM pg_catalog.pg_partition_tree(c.oid) AS t WHERE c.relkind = 'p'
) AS leaf (oid)
JOIN pg_catalog.pg_class l ON l.oid = leaf.oid
WHERE p.pubname = %s AND (p.pubupdate OR p.pubdelete) AND pg_catalog.pg_has_role(p.pubowner, 'USAGE')
  AND NOT pg_catalog.pg_is_in_recovery() AND l.relkind = 'r' AND l.relreplident <> 'f'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index i
    WHERE i.indrelid = l.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND CASE l.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
"""


def release(connection: Connection, base: str) -> int:
    """Take the tables whose updates are refused out of the instance's publication of updates; returns how many.

    Does nothing on a standby, and nothing to a publication of someone else. psycopg's LockNotAvailable when a table is
    locked for longer than a moment.
    """
    name = publication.publication_names(base)[0]
    exposed = {oid for (oid,) in fetch(connection, _EXPOSED, [name])}
    if not exposed:
        return 0
    found = publication.read_publication(connection, name)
    members = [m for m in found.members if m.oid in exposed] if found is not None else []
    if members:
        tables = sql.SQL(", ").join(publication.only(m.id, partitioned=m.partitioned) for m in members)
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            connection.execute(sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(sql.Identifier(name), tables))
    return len(members)
