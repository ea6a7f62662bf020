"""A writer whose transactions keep two tables in agreement, so that any reader can tell half a transaction."""

from __future__ import annotations

import random
import threading
from types import TracebackType
from typing import Self

import psycopg

from tests.support.servers import Database


class PairWriter:
    """Moves amounts in schema `pair` in a thread: ``pair.entries`` (one row per movement), ``pair.accounts`` (their sums).

    `question` gives one row whose values are equal in every committed state. A server that goes away is tried again.
    """

    tables = (("pair", "entries"), ("pair", "accounts"))
    question = (
        "SELECT (SELECT coalesce(sum(amount), 0) FROM pair.entries)::BIGINT,"
        " (SELECT coalesce(sum(total), 0) FROM pair.accounts)::BIGINT,"
        " (SELECT coalesce(sum(total), 0) FROM pair.accounts WHERE id < 5)::BIGINT"
        " + (SELECT coalesce(sum(amount), 0) FROM pair.entries WHERE account >= 5)::BIGINT"
    )

    def __init__(self, database: Database, *, pause: float = 0.05) -> None:
        self.transactions = 0
        self._database = database
        self._pause = pause
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pair-writer", daemon=True)

    def __enter__(self) -> Self:
        with self._database.connect() as connection:
            connection.execute(
                "CREATE SCHEMA pair;"
                "CREATE TABLE pair.accounts (id int PRIMARY KEY, total bigint NOT NULL);"
                "INSERT INTO pair.accounts SELECT g, 0 FROM generate_series(0, 9) g;"
                "CREATE TABLE pair.entries (id bigserial PRIMARY KEY, account int NOT NULL, amount int NOT NULL)"
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
                with self._database.connect(autocommit=False) as connection:
                    while not self._end.wait(self._pause):
                        self._transact(connection)
            except psycopg.OperationalError:
                self._end.wait(0.1)
            except BaseException as error:
                self._error = error
                return

    def _transact(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        account, amount = random.randrange(10), random.randint(-1000, 1000)
        if self.transactions % 50 == 49:
            # An entry is taken back, so that deletes take part too.
            row = connection.execute(
                "DELETE FROM pair.entries WHERE id = (SELECT min(id) FROM pair.entries) RETURNING account, amount"
            ).fetchone()
            if row is not None:
                connection.execute("UPDATE pair.accounts SET total = total - %s WHERE id = %s", (row[1], row[0]))
        else:
            connection.execute("INSERT INTO pair.entries (account, amount) VALUES (%s, %s)", (account, amount))
            connection.execute("UPDATE pair.accounts SET total = total + %s WHERE id = %s", (amount, account))
        connection.commit()
        self.transactions += 1
