"""What a SQL Server for tests offers, whether Microsoft's image runs it or the emulator in `tests.support.sqlserver`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import pymssql
import pytest

from tests.support.servers.roles import APP, REFLEX, SA, Role
from tests.support.servers.sqlserver_database import SqlServerDatabase
from tests.support.waiting import wait_until


class SqlServer:
    """A server as tests see it. The abstract part is at the end."""

    name = "sqlserver"
    host: str = "127.0.0.1"
    port: int
    emulated: bool
    """Whether this is the emulator."""
    _databases: int = 0

    def connect(
        self, database: str = "master", role: Role = SA, *, autocommit: bool = True, **options: Any
    ) -> pymssql.Connection:
        """Open a connection; the caller closes it (it is a context manager)."""
        arguments = {
            "server": self.host,
            "port": self.port,
            "user": role.name,
            "password": role.password,
            "database": database,
            "autocommit": autocommit,
            "login_timeout": 10,
            "timeout": 60,
            "charset": "UTF-8",
            "tds_version": "7.4",
            **options,
        }
        return pymssql.connect(**arguments)

    def execute(
        self,
        statement: str,
        params: Sequence[object] | None = None,
        *,
        database: str = "master",
        role: Role = SA,
    ) -> list[tuple[Any, ...]]:
        """Run a batch on a connection of its own, autocommitted; returns the last rows."""
        with self.connect(database, role) as connection:
            return run(connection, statement, params)

    def create_database(
        self, name: str | None = None, *, snapshot_isolation: bool = True, collation: str = ""
    ) -> SqlServerDatabase:
        """Make a database that `app` owns and `reflex` may read. Without a name: a new one.

        Without `snapshot_isolation` there are no row versions at all: readers wait for writers. `collation`: by default
        the server's, which does not tell names apart by case.
        """
        if name is None:
            self._databases += 1
            name = f"t{os.getpid()}_{self._databases}"
        self.execute(f"CREATE DATABASE {quote(name)}" + (f" COLLATE {collation}" if collation else ""))
        database = SqlServerDatabase(self, name)
        if snapshot_isolation:
            database.superuser(f"ALTER DATABASE {quote(name)} SET ALLOW_SNAPSHOT_ISOLATION ON")
            # Tests read while others write: without row versions they would wait.
            database.superuser(f"ALTER DATABASE {quote(name)} SET READ_COMMITTED_SNAPSHOT ON WITH ROLLBACK IMMEDIATE")
        for role in (APP, REFLEX):
            database.superuser(f"CREATE USER {role.name} FOR LOGIN {role.name}")
        database.superuser(f"ALTER ROLE db_owner ADD MEMBER {APP.name}")
        database.superuser(f"ALTER ROLE db_datareader ADD MEMBER {REFLEX.name}")
        database.superuser(f"GRANT VIEW DATABASE STATE TO {REFLEX.name}")
        return database

    def create_logins(self) -> None:
        """Make `app` and `reflex`, once, on a new server."""
        for role in (APP, REFLEX):
            self.execute(f"CREATE LOGIN {role.name} WITH PASSWORD = '{role.password}', CHECK_POLICY = OFF")

    def answers(self) -> bool:
        """Whether the server accepts a connection now."""
        try:
            self.execute("SELECT 1")
        except pymssql.Error:
            return False
        return True

    def wait_captured(self, database: str, timeout: float) -> None:
        """Wait until the capture job has passed everything that was committed before."""
        wait_until(lambda: self.has_captured(database), timeout, message="the capture job has passed every commit")

    def kill_connections(self, role: Role | None = None) -> None:
        """End the connections of a role, or everybody's."""
        for (spid,) in self.execute(
            "SELECT session_id FROM sys.dm_exec_sessions WHERE is_user_process = 1 AND session_id <> @@SPID"
            + (f" AND login_name = '{role.name}'" if role else "")
        ):
            try:
                self.execute(f"KILL {spid}")
            except pymssql.Error as error:
                if error.args[0] not in (6104, 6106):  # it is gone already
                    raise

    def restart(self) -> None:
        """Stop and start again on the same port and data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def unknown(self) -> list[str]:
        """What the emulator was asked for and does not know, since the last call; nothing on a real server."""
        return []

    @property
    def running(self) -> bool:
        """Whether the server runs."""
        raise NotImplementedError

    def has_captured(self, database: str) -> bool:
        """Whether the capture job has passed everything that was committed before the call that `wait_captured` made."""
        raise NotImplementedError

    def run_capture_job(self, database: str, *, run: bool) -> None:
        """Start or stop the capture job of a database."""
        raise NotImplementedError

    def drop_database(self, name: str) -> None:
        """Drop a database, ending who uses it."""
        raise NotImplementedError

    def start(self, timeout: float = 120.0) -> None:
        """Start the server and wait until it accepts connections."""
        raise NotImplementedError

    def stop(self, timeout: float = 120.0) -> None:
        """End all connections and the server; the data stay."""
        raise NotImplementedError

    def frozen(self) -> AbstractContextManager[None]:
        """The whole server is stopped in its tracks: connections stay open and nothing answers."""
        raise NotImplementedError

    def close(self) -> None:
        """End the server and remove its data."""
        raise NotImplementedError

    def log_text(self) -> str:
        """The server's log so far."""
        raise NotImplementedError


def require_known(server: SqlServer) -> None:
    """Fail the test when the emulator was asked for what it does not know: its client may have taken the error."""
    unknown = server.unknown()
    if unknown:
        pytest.fail("the emulator was asked for what it does not know:\n" + "\n".join(unknown), pytrace=False)


def run(
    connection: pymssql.Connection, statement: str, params: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    """Run a batch; returns the last result's rows, if it has any."""
    with connection.cursor() as cursor:
        if params is None:
            cursor.execute(statement)
        else:
            values: Any = tuple(params)
            cursor.execute(statement, values)
        rows: list[tuple[Any, ...]] = []
        while True:
            if cursor.description:
                rows = list(cursor.fetchall())
            if not cursor.nextset():
                return rows


def quote(identifier: str) -> str:
    """An identifier in brackets."""
    return "[" + identifier.replace("]", "]]") + "]"
