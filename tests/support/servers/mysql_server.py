"""What every MySQL or MariaDB test server offers, whatever runs it.

The server's defaults are hostile on purpose (time zone, character set, sql_mode, isolation): who reads its text must set
its own session, and is found out when it does not. The tests' own connections set theirs.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import pymysql
from pymysql.constants import CLIENT

from tests.support.servers.mysql_database import MySqlDatabase
from tests.support.servers.roles import APP, REFLEX, ROOT, Role
from tests.support.waiting import wait_until

DEFAULT_FLAVOURS = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")

DEFAULTS: Mapping[str, object] = {
    "server_id": 4711,
    "log_bin": "binlog",
    "binlog_format": "ROW",
    "max_connections": 200,
    "max_allowed_packet": "64M",
    "skip_name_resolve": "ON",
    "innodb_buffer_pool_size": "128M",
    # Hostile to who relies on defaults:
    "default_time_zone": "+05:30",
    "character_set_server": "latin1",
    "sql_mode": "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE,IGNORE_SPACE,NO_ZERO_IN_DATE",
    "transaction_isolation": "READ-COMMITTED",
    "lc_time_names": "de_DE",
    "div_precision_increment": 0,
    "group_concat_max_len": 4,
}
FLAVOUR_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "mysql": {"gtid_mode": "ON", "enforce_gtid_consistency": "ON", "mysqlx": "OFF"},
    "mariadb": {"gtid_domain_id": 3},
}
# What a killed process leaves behind survives (it is the operating system's), a power cut is not tested.
UNSAFE = {"innodb_flush_log_at_trx_commit": 2, "sync_binlog": 0, "innodb_doublewrite": 0}
SESSION = "SET NAMES utf8mb4, time_zone = '+00:00', sql_mode = 'NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout = 20"


class MySqlServer:
    """A server as tests see it, whatever runs it. The abstract part is at the end.

    `name` says flavour and version as the fixtures spell them, like ``mysql-9.7`` or ``mariadb-10.11``.
    """

    name: str
    host: str = "127.0.0.1"
    port: int
    tls: bool | None = None
    """Whether the tests' own connections are encrypted; None: as caching_sha2_password wants it, on MySQL."""
    _databases: int = 0

    @property
    def flavour(self) -> str:
        """``mysql`` or ``mariadb``."""
        return self.name.partition("-")[0]

    @property
    def version(self) -> tuple[int, ...]:
        """The version as numbers, as far as the name says it: ``(9, 7)``."""
        return tuple(int(part) for part in self.name.partition("-")[2].split("."))

    @property
    def is_mariadb(self) -> bool:
        return self.flavour == "mariadb"

    def connect(
        self, database: str | None = None, role: Role = ROOT, *, autocommit: bool = True, **options: Any
    ) -> pymysql.Connection[Any]:
        """Open a connection with the tests' session settings; the caller closes it (it is a context manager)."""
        encrypted = not self.is_mariadb if self.tls is None else self.tls
        encryption: dict[str, Any] = {"ssl": _unverified()} if encrypted else {"ssl_disabled": True}
        arguments = {
            "host": self.host,
            "port": self.port,
            "user": role.name,
            "password": role.password,
            "database": database,
            "autocommit": autocommit,
            "connect_timeout": 10,
            "charset": "utf8mb4",
            "init_command": SESSION,
            "client_flag": CLIENT.MULTI_STATEMENTS,
            **encryption,
            **options,
        }
        return pymysql.connect(**arguments)

    def execute(
        self,
        statement: str,
        params: Sequence[object] | None = None,
        *,
        database: str | None = None,
        role: Role = ROOT,
    ) -> list[tuple[Any, ...]]:
        """Run SQL (several statements, if wanted) on a connection of its own, autocommitted; returns the last rows."""
        with self.connect(database, role) as connection:
            return run(connection, statement, params)

    def create_database(self, name: str | None = None, *, charset: str = "utf8mb4") -> MySqlDatabase:
        """Make a database that `app` may do everything in and `reflex` may read. Without a name: a new one."""
        if name is None:
            self._databases += 1
            name = f"t{os.getpid()}_{self._databases}"
        with self.connect() as connection:
            run(connection, f"CREATE DATABASE {quote(name)} CHARACTER SET {charset}")
            # In a GRANT the name is a pattern.
            pattern = quote(name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))
            run(connection, f"GRANT ALL ON {pattern}.* TO {APP.name}")
            run(connection, f"GRANT SELECT, LOCK TABLES ON {pattern}.* TO {REFLEX.name}")
        return MySqlDatabase(self, name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending who uses it (an open transaction would hold the DROP back) or streams."""
        with self.connect() as connection:
            for (thread,) in run(
                connection,
                "SELECT id FROM information_schema.processlist WHERE id <> connection_id()"
                f" AND (db = %s OR user = '{REFLEX.name}')",
                (name,),
            ):
                try:
                    run(connection, f"KILL {thread}")
                except pymysql.MySQLError as error:
                    if error.args[0] != 1094:  # it is gone already
                        raise
            run(connection, f"DROP DATABASE IF EXISTS {quote(name)}")
            for who in (APP, REFLEX):
                for _, database in self._grants(connection, who):
                    if database == name:
                        pattern = quote(name.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%"))
                        run(connection, f"REVOKE ALL ON {pattern}.* FROM {who.name}")

    @staticmethod
    def _grants(connection: pymysql.Connection[Any], role: Role) -> list[tuple[Any, ...]]:
        return [
            (user, database.replace("\\", ""))
            for user, database in run(connection, "SELECT user, db FROM mysql.db WHERE user = %s", (role.name,))
        ]

    def configure(self, **settings: object) -> None:
        """SET GLOBAL what can be set so, and keep it for the next `restart`, when everything takes effect."""
        self.set_options(settings)
        with self.connect() as connection:
            for name, value in settings.items():
                try:
                    run(connection, f"SET GLOBAL {name} = %s", (value,))
                except pymysql.MySQLError as error:
                    if error.args[0] != 1238:  # read only
                        raise

    def setting(self, name: str) -> Any:
        """The value of a global system variable."""
        return self.execute(f"SELECT @@GLOBAL.{name}")[0][0]

    def answers(self) -> bool:
        """Whether the server accepts a connection now."""
        try:
            self.execute("SELECT 1")
        except (pymysql.MySQLError, OSError):
            return False
        return True

    def flush_binary_logs(self) -> None:
        """Begin a new binary log file."""
        self.execute("FLUSH BINARY LOGS")

    def binary_logs(self) -> list[str]:
        """The names of the binary log files that the server has, oldest first."""
        return [str(row[0]) for row in self.execute("SHOW BINARY LOGS")]

    def binary_log_position(self) -> tuple[str, int]:
        """File and offset where the next event will be written."""
        modern = self.is_mariadb or self.version >= (8, 4)
        row = self.execute("SHOW BINLOG STATUS" if self.is_mariadb else
                           "SHOW BINARY LOG STATUS" if modern else "SHOW MASTER STATUS")[0]  # fmt: skip
        return str(row[0]), int(row[1])

    def gtids(self) -> str:
        """MySQL: the executed GTID set; MariaDB: the binary log's GTID position."""
        return str(self.setting("gtid_binlog_pos" if self.is_mariadb else "gtid_executed")).replace("\n", "")

    def create_roles(self) -> None:
        """Make `app` and `reflex`, once, on a new server."""
        with self.connect() as connection:
            for role in (APP, REFLEX):
                run(connection, f"CREATE USER {role.name}@'%%' IDENTIFIED BY %s", (role.password,))
            run(connection, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {REFLEX.name}")

    def restart(self, mode: str = "fast") -> None:
        """Stop and start again on the same port and data."""
        self.stop(mode)
        self.start()

    def wait_until_ends(self, timeout: float = 30.0) -> None:
        """Wait until the server has ended by itself (after SHUTDOWN, say)."""
        wait_until(lambda: not self.running, timeout, message=f"{self.name} has ended")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        raise NotImplementedError

    def set_options(self, settings: Mapping[str, object]) -> None:
        """Change start options (None: the server's default again); they take effect at the next start."""
        raise NotImplementedError

    def start(self, timeout: float = 120.0) -> None:
        """Start (the first time: create) the server and wait until it accepts connections."""
        raise NotImplementedError

    def stop(self, mode: str = "fast", timeout: float = 120.0) -> None:
        """Shut down: ``fast`` (ends sessions, writes everything), ``immediate`` (crash: as `kill`)."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL, as when the machine fails."""
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
    connection: pymysql.Connection[Any], statement: str, params: Sequence[object] | None = None
) -> list[tuple[Any, ...]]:
    """Run SQL (several statements, if wanted); returns the last result's rows, if it has any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, params)
        rows = list(cursor.fetchall()) if cursor.description else []
        while cursor.nextset():
            rows = list(cursor.fetchall()) if cursor.description else []
    return rows


def quote(identifier: str) -> str:
    """An identifier in backquotes."""
    return "`" + identifier.replace("`", "``") + "`"


def _unverified() -> ssl.SSLContext:
    """TLS with the certificate that the server made for itself: caching_sha2_password asks for a secure connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
