"""One database of a test server: what most tests hold in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.servers.roles import APP, REFLEX, SUPERUSER, Role

if TYPE_CHECKING:
    import psycopg

    from tests.support.servers.server import PostgresServer


@dataclass(frozen=True, slots=True)
class Database:
    """A database on a server. SQL runs as its owner `app` unless a role is named."""

    server: PostgresServer
    name: str

    @property
    def version(self) -> int:
        """The server's major version."""
        return self.server.version

    def conninfo(self, role: Role | None = None, **options: str) -> str:
        """A libpq connection string; by default as the owner `app`."""
        return self.server.conninfo(self.name, role or APP, **options)

    @property
    def reflex_conninfo(self) -> str:
        """A libpq connection string as the replication user `reflex`."""
        return self.conninfo(REFLEX)

    @property
    def superuser_conninfo(self) -> str:
        """A libpq connection string as superuser."""
        return self.conninfo(SUPERUSER)

    def connect(self, role: Role | None = None, *, autocommit: bool = True) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection; the caller closes it (it is a context manager)."""
        return self.server.connect(self.name, role or APP, autocommit=autocommit)

    def execute(
        self, statement: str, params: Sequence[object] | None = None, *, role: Role | None = None
    ) -> list[tuple[Any, ...]]:
        """Run SQL, autocommitted (several statements when there are no parameters); returns the last rows, if any."""
        return self.server.execute(statement, params, database=self.name, role=role or APP)

    def superuser(self, statement: str, params: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run SQL as superuser."""
        return self.execute(statement, params, role=SUPERUSER)

    def wal_position(self) -> str:
        """The server's current end of WAL, as text (``0/1A2B3C8``)."""
        return str(self.superuser("SELECT pg_current_wal_lsn()::text")[0][0])

    def connection_config(self, name: str = "shop") -> dict[str, Any]:
        """The ``connection`` section of a reflex.yaml that reaches this database as `reflex`."""
        return {
            "name": name,
            "backend": "postgres",
            "host": self.server.host,
            "port": self.server.port,
            "user": REFLEX.name,
            "password": REFLEX.password,
            "available_schemas": [self.name],
        }

    def drop(self) -> None:
        """Drop the database with its replication slots."""
        self.server.drop_database(self.name)
