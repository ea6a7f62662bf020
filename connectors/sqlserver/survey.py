"""What a SQL Server offers to a user: its databases, and about how large they are."""

from __future__ import annotations

from dataclasses import replace

from connectors.sqlserver.connection import Connections
from engine.source import SourceOptions, Survey

_DATABASES = """
SELECT d.name, COALESCE(SUM(CONVERT(bigint, f.size)), 0) * 8192
FROM sys.databases d LEFT JOIN sys.master_files f ON f.database_id = d.database_id
WHERE d.database_id > 4 AND HAS_DBACCESS(d.name) = 1 GROUP BY d.name ORDER BY d.name
"""


def survey(options: SourceOptions) -> Survey:
    """The databases that the user can enter. `options.database` need not be one of them."""
    connections = Connections(replace(options, database=""))
    with connections.session("looking at the server") as connection:
        return Survey({str(name): int(size) for name, size in connection.query(_DATABASES)})
