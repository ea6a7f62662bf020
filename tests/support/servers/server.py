"""What every PostgreSQL test server offers, whatever runs it.

The server's defaults are hostile on purpose (time zone, DateStyle, IntervalStyle, float digits, bytea output differ
from what a replication engine wants): who reads its text must set its own session, and is found out when it does not.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import psycopg
from psycopg import sql

from tests.support.servers.database import Database
from tests.support.servers.roles import APP, SUPERUSER, Role, creation
from tests.support.waiting import wait_until

DEFAULTS: Mapping[str, object] = {
    "wal_level": "logical",
    "max_connections": 200,
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_prepared_transactions": 10,
    "max_wal_size": "4GB",
    "shared_buffers": "64MB",
    "jit": "off",
    "log_replication_commands": "on",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "lc_messages": "C",
    # Hostile to who relies on defaults:
    "timezone": "Asia/Kolkata",
    "datestyle": "SQL, DMY",
    "intervalstyle": "postgres_verbose",
    "extra_float_digits": 0,
    "bytea_output": "escape",
}
UNSAFE = {"fsync": "off", "full_page_writes": "off"}
STOP_SIGNALS: Mapping[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class PostgresServer:
    """A PostgreSQL server as tests see it, whatever runs it. The abstract part is at the end."""

    version: int
    host: str = "127.0.0.1"
    port: int
    _databases: int = 0

    def conninfo(self, database: str = "postgres", role: Role = SUPERUSER, **options: str) -> str:
        """A libpq connection string over TCP with password (scram)."""
        return psycopg.conninfo.make_conninfo(
            host=self.host,
            port=self.port,
            dbname=database,
            user=role.name,
            password=role.password,
            connect_timeout=10,
            **options,
        )

    def connect(
        self, database: str = "postgres", role: Role = SUPERUSER, *, autocommit: bool = True
    ) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a connection; the caller closes it."""
        return psycopg.connect(self.conninfo(database, role), autocommit=autocommit)

    def execute(
        self,
        statement: str,
        params: Sequence[object] | None = None,
        *,
        database: str = "postgres",
        role: Role = SUPERUSER,
    ) -> list[tuple[Any, ...]]:
        """Run SQL on a connection of its own, autocommitted; returns the last result's rows, if it has any."""
        with self.connect(database, role) as connection:
            return run(connection, statement, params)

    def create_database(self, name: str | None = None, *, encoding: str = "UTF8") -> Database:
        """Make a database owned by `app`. Without a name: one not used before on this server."""
        if name is None:
            self._databases += 1
            name = f"t{os.getpid()}_{self._databases}"
        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {}").format(
                    sql.Identifier(name), sql.Identifier(APP.name), encoding
                )
            )
        return Database(self, name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its replication slots, ending who uses them."""
        with self.connect() as connection:

            def slots_gone() -> bool:
                connection.execute(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
                    " WHERE database = %s AND active_pid IS NOT NULL",
                    (name,),
                )
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                    " WHERE database = %s AND active_pid IS NULL",
                    (name,),
                )
                left = connection.execute("SELECT count(*) FROM pg_replication_slots WHERE database = %s", (name,))
                return left.fetchall() == [(0,)]

            wait_until(slots_gone, 30, message=f"slots of database {name} dropped", ignore=(psycopg.Error,))
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def configure(self, **settings: object) -> None:
        """ALTER SYSTEM and reload; settings that need it take effect at the next `restart`."""
        with self.connect() as connection:
            for name, value in settings.items():
                connection.execute(
                    sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(str(value)))
                )
            connection.execute("SELECT pg_reload_conf()")

    def has_extension(self, name: str) -> bool:
        """Whether ``CREATE EXTENSION name`` can work here."""
        return self.execute("SELECT count(*) FROM pg_available_extensions WHERE name = %s", (name,)) == [(1,)]

    def answers(self) -> bool:
        """Whether the server accepts a connection now."""
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def create_roles(self) -> None:
        """Make `app` and `reflex`, once, on a new server."""
        with self.connect() as connection:
            for statement in creation():
                connection.execute(statement)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start again on the same port and data."""
        self.stop(mode)
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the postmaster lives."""
        raise NotImplementedError

    def start(self, timeout: float = 60.0) -> None:
        """Start (the first time: create) the server and wait until it accepts connections."""
        raise NotImplementedError

    def stop(self, mode: str = "fast", timeout: float = 60.0) -> None:
        """Shut down: ``fast`` (ends sessions, writes a checkpoint), ``immediate`` (crash), ``smart`` (waits)."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL to the postmaster and every backend, as when the machine fails."""
        raise NotImplementedError

    def frozen(self) -> AbstractContextManager[None]:
        """The whole server is stopped in its tracks: connections stay open and nothing answers."""
        raise NotImplementedError

    def close(self) -> None:
        """End the server and remove its files."""
        raise NotImplementedError

    def log_text(self) -> str:
        """The server's log so far."""
        raise NotImplementedError


def run(
    connection: psycopg.Connection[tuple[Any, ...]], statement: str, params: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    """Run SQL (several statements when there are no parameters); returns the last result's rows, if it has any."""
    cursor = connection.execute(statement.encode(), params)
    while cursor.nextset():
        pass
    return cursor.fetchall() if cursor.description is not None else []
