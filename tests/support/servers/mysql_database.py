"""One database of a MySQL or MariaDB test server: what most tests hold in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.source import Secret, SourceOptions
from tests.support.servers.roles import APP, REFLEX, ROOT, Role

if TYPE_CHECKING:
    import pymysql

    from tests.support.servers.mysql_server import MySqlServer


@dataclass(frozen=True, slots=True)
class MySqlDatabase:
    """A database on a server. SQL runs as its owner `app` unless a role is named."""

    server: MySqlServer
    name: str

    @property
    def flavour(self) -> str:
        """``mysql`` or ``mariadb``."""
        return self.server.flavour

    @property
    def is_mariadb(self) -> bool:
        return self.server.is_mariadb

    def connect(self, role: Role | None = None, *, autocommit: bool = True, **options: Any) -> pymysql.Connection[Any]:
        """Open a connection with the tests' session settings; the caller closes it (it is a context manager)."""
        return self.server.connect(self.name, role or APP, autocommit=autocommit, **options)

    def execute(
        self, statement: str, params: Sequence[object] | None = None, *, role: Role | None = None
    ) -> list[tuple[Any, ...]]:
        """Run SQL (several statements, if wanted), autocommitted; returns the last rows."""
        return self.server.execute(statement, params, database=self.name, role=role or APP)

    def superuser(self, statement: str, params: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run SQL as root."""
        return self.execute(statement, params, role=ROOT)

    def options(self, **changes: Any) -> SourceOptions:
        """What the connector needs to reach this database as `reflex`, with changes."""
        options = SourceOptions(
            self.server.host, self.server.port, REFLEX.name, Secret(REFLEX.password), self.name, connect_timeout=5
        )
        return replace(options, **changes)

    def connection_config(self, name: str = "shop") -> dict[str, Any]:
        """The ``connection`` section of a reflex.yaml that reaches this database as `reflex`."""
        return {
            "name": name,
            "backend": "mysql",
            "host": self.server.host,
            "port": self.server.port,
            "user": REFLEX.name,
            "password": REFLEX.password,
            "available_schemas": [self.name],
        }

    def drop(self) -> None:
        """Drop the database, ending who uses it."""
        self.server.drop_database(self.name)
