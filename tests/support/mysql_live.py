"""A MySQL or MariaDB database and the engine that replicates it, as one thing to write to and to compare."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pymysql

from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.position import BinlogPosition
from tests.support.compare_mysql import assert_replica_equals_mysql
from tests.support.engine_process import EngineProcess
from tests.support.servers import MySqlDatabase
from tests.support.servers.roles import ROOT, Role
from tests.support.waiting import wait_until

UNSETTLED = (AssertionError, httpx.TransportError, pymysql.MySQLError)


def rank(position: str) -> int:
    """A number that grows with the position of one server (by its GTIDs, else by file and offset)."""
    parsed = BinlogPosition.parse(position)
    if isinstance(parsed.gtids, GtidSet) and parsed.gtids:
        return parsed.gtids.count()
    if isinstance(parsed.gtids, MariadbGtids):
        return sum(number for _, _, number in parsed.gtids.domains)
    return 0 if not parsed.file else (int(parsed.file.rsplit(".", 1)[1]) << 48) + parsed.offset


class MySqlLive:
    """`database` and the engine on it. What the engine is told of the source is what a user could tell it."""

    def __init__(self, database: MySqlDatabase, engine: EngineProcess) -> None:
        self.database = database
        self.engine = engine

    @classmethod
    @contextlib.contextmanager
    def on(
        cls, database: MySqlDatabase, folder: Path, *, start: bool = True, **sections: Mapping[str, Any]
    ) -> Iterator[MySqlLive]:
        """An engine on this database, started once it is ready; ended with the block."""
        config: dict[str, Any] = {
            "connection": database.connection_config(),
            "instance": {
                "name": f"live-{database.name}",
                "schema": database.name,
                "sync_mode": "binlog",
                "batch_window_ms": 20,
            },
        }
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section}
        live = cls(database, EngineProcess(folder, config))
        try:
            if start:
                live.engine.start()
            yield live
            live.engine.terminate()
            live.engine.assert_no_secret()
        finally:
            live.engine.kill()
            live.engine.http.close()

    def run(self, *statements: str, role: Role | None = None, **session: object) -> None:
        """Run each statement by itself, in one session with these settings (which need root)."""
        with self.database.connect(ROOT if session else role) as connection, connection.cursor() as cursor:
            for name, value in session.items():
                cursor.execute(f"SET SESSION {name} = %s", [value])
            for statement in statements:
                cursor.execute(statement)

    def end(self) -> str:
        """The end of the source's log now, as the server says it."""
        server = self.database.server
        gtids = server.gtids()
        if gtids:
            return gtids
        file, offset = server.binary_log_position()
        return f"{file}:{offset}"

    def wait_caught_up(self, timeout: float = 60.0) -> None:
        """Wait until readers are at least where the source's log ends now."""
        self.engine.wait_position(self.end(), timeout)

    def compare(
        self,
        tables: Sequence[str] | None = None,
        *,
        exclude: Mapping[str, Collection[str]] | None = None,
        as_text: Collection[str] = (),
    ) -> dict[str, int]:
        """Compare row by row now; AssertionError shows the difference."""
        return assert_replica_equals_mysql(self.database, self.engine.query, tables, exclude=exclude, as_text=as_text)

    def wait_equal(self, tables: Sequence[str] | None = None, timeout: float = 60.0, **how: Any) -> dict[str, int]:
        """Compare again and again until source and replica agree; fails with the last difference and the log's end."""
        found: dict[str, int] = {}

        def equal() -> bool:
            found.clear()
            found.update(self.compare(tables, **how))
            return True

        with contextlib.suppress(*UNSETTLED):
            # Comparing costs more than waiting. Not every wait ends: a reload, or an engine that is down.
            self.wait_caught_up(min(timeout, 5))
        wait_until(equal, timeout, interval=0.1, ignore=UNSETTLED, message=self.log_end)
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """The engine's log events of this name."""
        return [event for event in self.engine.log_events() if event.get("event") == name]

    def reloads(self) -> int:
        """How many table reloads the engine's log tells of."""
        return len(self.events("table_reload")) + len(self.events("reload_required"))

    def resyncs(self) -> int:
        """How many times the engine's log tells that everything was loaded anew."""
        return len(self.events("resync"))

    def log_end(self, size: int = 4000) -> str:
        """The end of the engine's log, for a failure's message."""
        return f"the engine's log ends:\n{self.engine.log_text()[-size:]}"


class MySqlPairWriter:
    """Moves amounts in a thread: ``pair_entries`` (one row per movement), ``pair_accounts`` (their sums).

    `question` gives one row whose values are equal in every committed state. A server that goes away is tried again.
    """

    tables = ("pair_entries", "pair_accounts")
    question = (
        "SELECT (SELECT coalesce(sum(amount), 0) FROM pair_entries)::BIGINT,"
        " (SELECT coalesce(sum(total), 0) FROM pair_accounts)::BIGINT"
    )

    def __init__(self, database: MySqlDatabase, *, pause: float = 0.05) -> None:
        self.transactions = 0
        self._database = database
        self._pause = pause
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pair-writer", daemon=True)

    def __enter__(self) -> Self:
        self._database.execute(
            "CREATE TABLE pair_accounts (id int PRIMARY KEY, total bigint NOT NULL);"
            "INSERT INTO pair_accounts VALUES (0,0),(1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0);"
            "CREATE TABLE pair_entries (id bigint PRIMARY KEY AUTO_INCREMENT, account int NOT NULL, amount int NOT NULL)"
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more; raises what went wrong with a statement, if anything did."""
        self._end.set()
        self._thread.join(60)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                with self._database.connect(autocommit=False) as connection, connection.cursor() as cursor:
                    while not self._end.wait(self._pause):
                        self._transact(cursor)
                        connection.commit()
                        self.transactions += 1
            except (pymysql.OperationalError, pymysql.InterfaceError, pymysql.InternalError, OSError):
                self._end.wait(0.1)
            except BaseException as error:
                self._error = error
                return

    def _transact(self, cursor: Any) -> None:
        account, amount = random.randrange(8), random.randint(-1000, 1000)
        if self.transactions % 50 == 49:
            # An entry is taken back, so that deletes take part too.
            cursor.execute("SELECT id, account, amount FROM pair_entries ORDER BY id LIMIT 1 FOR UPDATE")
            row = cursor.fetchone()
            if row is not None:
                cursor.execute("DELETE FROM pair_entries WHERE id = %s", [row[0]])
                cursor.execute("UPDATE pair_accounts SET total = total - %s WHERE id = %s", [row[2], row[1]])
            return
        cursor.execute("INSERT INTO pair_entries (account, amount) VALUES (%s, %s)", [account, amount])
        cursor.execute("UPDATE pair_accounts SET total = total + %s WHERE id = %s", [amount, account])
