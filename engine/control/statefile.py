"""The file under the state: SQLite in WAL mode, its transactions, and records in and out of its tables.

Threads and processes: one `StateFile` may be used by any number of threads; several processes may have the file open
(the command line makes keys while the API runs). Writers take turns (``BEGIN IMMEDIATE``), so that a rule checked in a
transaction holds when it commits. What was written is durable when the transaction ends. Readers wait for no writer:
they have a connection of their own, which sees what was committed last.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from engine.control import rows
from engine.control.failures import StateUnusable
from engine.control.migrations import migrate
from engine.control.records import Account, Connection, Database, Key

BUSY_TIMEOUT: Final = 30.0
"""Seconds that a writer waits for another process's transaction."""


class StateFile:
    """An open state file, brought up to date. Raises StateUnusable when it cannot be opened, read or written."""

    def __init__(self, path: str | Path) -> None:
        self._writing, self._looking = threading.Lock(), threading.Lock()
        self._using = threading.local()
        """Its `db` is the connection of this thread's transaction, while it has one."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Made before SQLite does, which would let the umask decide who may read it.
            Path(path).touch(mode=0o600)
            self._db, self._reader = (
                sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
                for _ in range(2)
            )
        except (OSError, sqlite3.Error) as error:
            raise StateUnusable(f"{path} cannot be opened ({_kind(error)})") from error
        self._db.row_factory = self._reader.row_factory = sqlite3.Row
        try:
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                self._db.execute(f"PRAGMA {pragma}")
            migrate(self._db)
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            self.close()
            raise StateUnusable(f"{path} is no usable state file ({_kind(error)})") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._writing, self._looking:
            self._reader.close()
            self._db.close()

    def _insert(self, table: str, record: Account | Key | Connection | Database) -> None:
        values = rows.values(record)
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))

    def _update(self, table: str, record: Connection | Database) -> None:
        values = rows.values(record)
        id = values.pop("id")
        columns = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE {table} SET {columns} WHERE id = ?", (*values.values(), id))

    def _one(self, query: str, *params: Any) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self._using.db.execute(query, params).fetchone()
        return found

    def _all(self, query: str, *params: Any) -> list[sqlite3.Row]:
        found: list[sqlite3.Row] = self._using.db.execute(query, params).fetchall()
        return found

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._looking, self._on(self._reader), _translated():
            yield

    @contextmanager
    def _on(self, db: sqlite3.Connection) -> Iterator[None]:
        self._using.db = db
        try:
            yield
        finally:
            del self._using.db

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._writing, self._on(self._db), _translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # SQLite's messages name constraints and files, but the rule is: no foreign message.
        raise StateUnusable(f"the state file cannot be used ({_kind(error)})") from error


def _kind(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", None) or getattr(error, "strerror", None) or type(error).__name__
