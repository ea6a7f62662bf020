"""What a MySQL or MariaDB server offers to a user: its databases, and about how large they are."""

from __future__ import annotations

from dataclasses import replace

from connectors.mysql.connection import Connections
from engine.source import SourceOptions, Survey

_DATABASES = """
SELECT s.SCHEMA_NAME, CAST(COALESCE(SUM(t.DATA_LENGTH + t.INDEX_LENGTH), 0) AS UNSIGNED)
FROM information_schema.SCHEMATA s LEFT JOIN information_schema.TABLES t ON t.TABLE_SCHEMA = s.SCHEMA_NAME
WHERE s.SCHEMA_NAME NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
GROUP BY s.SCHEMA_NAME ORDER BY s.SCHEMA_NAME
"""


def survey(options: SourceOptions) -> Survey:
    """The databases that the user has any right on. `options.database` need not be one of them."""
    connections = Connections(replace(options, database=""))
    try:
        with connections.session("looking at the server") as connection:
            return Survey({str(name): int(size) for name, size in connection.query(_DATABASES)})
    finally:
        connections.close()
