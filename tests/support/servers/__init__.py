"""Real database servers as fixtures: found on the machine, in a wheel, under ``.servers/``, or run by Docker."""

from tests.support.servers.database import Database
from tests.support.servers.installation import DEFAULT_VERSIONS, Installation, find_installation
from tests.support.servers.local import LocalPostgres
from tests.support.servers.mysql_database import MySqlDatabase
from tests.support.servers.mysql_local import LocalMySql
from tests.support.servers.mysql_server import DEFAULT_FLAVOURS, MySqlServer
from tests.support.servers.pool import MySqlPool, ServerPool, SqlServerPool
from tests.support.servers.roles import APP, REFLEX, ROOT, SA, SUPERUSER, Role
from tests.support.servers.server import PostgresServer
from tests.support.servers.sqlserver_database import SqlServerDatabase
from tests.support.servers.sqlserver_server import SqlServer

__all__ = [
    "APP",
    "DEFAULT_FLAVOURS",
    "DEFAULT_VERSIONS",
    "REFLEX",
    "ROOT",
    "SA",
    "SUPERUSER",
    "Database",
    "Installation",
    "LocalMySql",
    "LocalPostgres",
    "MySqlDatabase",
    "MySqlPool",
    "MySqlServer",
    "PostgresServer",
    "Role",
    "ServerPool",
    "SqlServer",
    "SqlServerDatabase",
    "SqlServerPool",
    "find_installation",
]
