"""One database: row versions in DuckDB, transactions over them, and the log of commits that the capture job reads.

Every stored table has the hidden columns `rid` (the row), `f` and `u` (from which commit until which commit this version
holds; negative: written or ended by the unfinished transaction of that number), `fw` and `uw` (the statements that wrote
and ended it: each the LSN of its first change). A reader at commit S sees the versions with ``f <= S < u`` and its own; that gives SNAPSHOT transactions
one state and READ COMMITTED statements the last one, while writers wait for a row that another transaction has ended.
A commit turns its negative numbers into the next commit's. The versions are the log, too: what commit C did to a table
are the rows with ``f = C`` or ``u = C``.
"""

from __future__ import annotations

import datetime as dt
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tests.support.sqlserver import udf
from tests.support.sqlserver.catalog import Column, Principal, Table
from tests.support.sqlserver.errors import SqlError

LIVE = 2**63 - 1
HIDDEN = "rid BIGINT, f BIGINT, u BIGINT, fw BIGINT, uw BIGINT"


@dataclass
class Savepoint:
    name: str
    number: int


@dataclass(eq=False)
class Transaction:
    """An open transaction. `numbers` are its negative ids: the first, and one more after each savepoint."""

    numbers: list[int]
    began: dt.datetime
    explicit: bool = False
    first_lsn: int = 0
    snapshot: int | None = None
    savepoints: list[Savepoint] = field(default_factory=list)
    touched: dict[int, int] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)
    undo: list[Callable[[], None]] = field(default_factory=list)
    ddl: list[tuple[Table, str, bool]] = field(default_factory=list)
    doomed: bool = False
    waits_for: Transaction | None = None
    ended: bool = False


@dataclass
class Commit:
    """One entry of the log."""

    number: int
    lsn: int
    first: int
    began: dt.datetime
    time: dt.datetime
    tables: list[int]
    ddl: list[tuple[Table, str, bool]]


class WaitFor(Exception):
    """A row or a table is locked by another transaction."""

    def __init__(self, transaction: Transaction) -> None:
        super().__init__()
        self.transaction = transaction


class Database:
    """The state of one database. `mutex` guards every write and the catalogue."""

    def __init__(self, name: str, number: int, clock: Callable[[], dt.datetime]) -> None:
        self.name = name
        self.id = number
        self.clock = clock
        self.guid = uuid.uuid4()
        self.recovery_fork = uuid.uuid4()
        self.snapshot_allowed = False
        self.read_committed_snapshot = False
        self.recovery_simple = True
        self.dropped = False
        self.command_ids = True
        self.merges = False
        """Whether a transaction is captured as one MERGE on a heap may be: what it deletes comes last."""
        self.case_sensitive = False
        """Whether names of schemas and tables are told apart by case (those of columns never are)."""
        self.created = clock()
        self.schemas: dict[str, int] = {"dbo": 1, "guest": 2, "INFORMATION_SCHEMA": 3, "sys": 4}
        self.users: dict[str, Principal] = {"dbo": Principal("dbo", 1, "sa", {"db_owner"})}
        self.tables: dict[int, Table] = {}
        self.mutex = threading.RLock()
        self.changed = threading.Condition(self.mutex)
        self.committed = 1
        self.commits: list[Commit] = []
        self.active: set[Transaction] = set()
        self.cdc: Any = None
        self._numbers = 0
        self._objects = 901578250
        self._rows = 0
        self._versions = 2000
        self._lsn = (0x25 << 48) + (0x10 << 16) + 1
        self._duck = duckdb.connect(":memory:", config={"threads": 2, "python_enable_replacements": False})
        udf.register(self._duck)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of the embedded engine of a session's own."""
        return self._duck.cursor()

    def close(self) -> None:
        self._duck.close()

    # Numbers

    def next_object(self) -> int:
        self._objects += 16
        return self._objects

    def next_statement(self) -> int:
        """The LSN of a statement's first change."""
        return self._lsn + 1

    def spend(self, changes: int) -> None:
        """Give that many changes the LSNs from `next_statement` on."""
        self._lsn += changes

    def next_rows(self, count: int) -> int:
        """The first of `count` new row numbers."""
        first = self._rows + 1
        self._rows += count
        return first

    def next_versions(self, count: int) -> int:
        """The first of `count` new rowversion values."""
        first = self._versions + 1
        self._versions += count
        return first

    def last_lsn(self) -> int:
        """The log's end."""
        return self._lsn

    def advance_lsn(self) -> int:
        """The next LSN."""
        self._lsn += 1
        return self._lsn

    # Names

    def fold(self, name: str) -> str:
        """What two names of one schema or table have in common, by the database's collation."""
        return name if self.case_sensitive else name.lower()

    def find(self, schema: str, name: str) -> Table | None:
        for table in self.tables.values():
            if self.fold(table.name) == self.fold(name) and self.fold(table.schema) == self.fold(schema):
                return table
        return None

    def create_physical(self, table: Table) -> None:
        """Make the stored form of a table whose columns are set."""
        columns = "".join(f"{column.stored} {column.kind.storage}, " for column in table.physical)
        with self.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {table.stored} ({columns}{HIDDEN})")

    def add_physical(self, table: Table, column: Column) -> None:
        with self.cursor() as cursor:
            cursor.execute(f"ALTER TABLE {table.stored} ADD COLUMN {column.stored} {column.kind.storage}")

    # Transactions

    def begin(self, *, explicit: bool) -> Transaction:
        with self.mutex:
            transaction = Transaction([self._number()], self.clock(), explicit)
            self.active.add(transaction)
            return transaction

    def _number(self) -> int:
        self._numbers += 1
        return -self._numbers

    def savepoint(self, transaction: Transaction, name: str) -> None:
        """SAVE TRANSACTION."""
        with self.mutex:
            number = self._number()
            transaction.savepoints.append(Savepoint(name, number))
            transaction.numbers.append(number)

    def visible(self, transaction: Transaction | None, snapshot: int, *, dirty: bool = False) -> str:
        """The condition for the versions that a reader sees."""
        if dirty:
            return f"u = {LIVE}"
        if transaction is None or not transaction.touched:
            return f"f >= 0 AND f <= {snapshot} AND (u > {snapshot} OR u < 0)"
        own = ", ".join(map(str, transaction.numbers))
        return f"((f >= 0 AND f <= {snapshot}) OR f IN ({own})) AND (u > {snapshot} OR (u < 0 AND u NOT IN ({own})))"

    @contextmanager
    def writing(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """One atomic change of the stored rows, alone."""
        with self.mutex:
            cursor.execute("BEGIN TRANSACTION")
            try:
                yield
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    def owner(self, number: int) -> Transaction:
        """The unfinished transaction of a negative number."""
        return next(transaction for transaction in self.active if number in transaction.numbers)

    def commit(self, transaction: Transaction, cursor: duckdb.DuckDBPyConnection) -> None:
        """Make the transaction's changes the next commit."""
        with self.mutex:
            if transaction.touched or transaction.ddl:
                number = self.committed + 1
                own = ", ".join(map(str, transaction.numbers))
                with self.writing(cursor):
                    for table in transaction.touched:
                        cursor.execute(f"UPDATE t{table} SET f = {number} WHERE f IN ({own})")
                        cursor.execute(f"UPDATE t{table} SET u = {number} WHERE u IN ({own})")
                touched = list(transaction.touched)
                entry = Commit(
                    number,
                    self.advance_lsn(),
                    transaction.first_lsn,
                    transaction.began,
                    self.clock(),
                    touched,
                    transaction.ddl,
                )
                self.commits.append(entry)
                self.committed = number
            self._end(transaction)

    def rollback(self, transaction: Transaction, cursor: duckdb.DuckDBPyConnection, name: str | None = None) -> None:
        """ROLLBACK, whole or to a savepoint (error 6401 for one that there is not)."""
        with self.mutex:
            numbers = transaction.numbers
            if name is not None:
                places = [i for i, save in enumerate(transaction.savepoints) if save.name.lower() == name.lower()]
                if not places:
                    raise SqlError(
                        6401, f"Cannot roll back {name}. No transaction or savepoint of that name was found."
                    )
                since = numbers.index(transaction.savepoints[places[-1]].number)
                numbers = numbers[since:]
            own = ", ".join(map(str, numbers))
            with self.writing(cursor):
                for table in transaction.touched:
                    cursor.execute(f"DELETE FROM t{table} WHERE f IN ({own})")
                    cursor.execute(f"UPDATE t{table} SET u = {LIVE}, uw = 0 WHERE u IN ({own})")
            if name is None:
                for undo in reversed(transaction.undo):
                    undo()
                self._end(transaction)
            else:
                del transaction.savepoints[places[-1] + 1 :]
                # The savepoint stays: what comes after it is its number's again.
                del transaction.numbers[since + 1 :]
                self.changed.notify_all()

    def _end(self, transaction: Transaction) -> None:
        transaction.ended = True
        self.active.discard(transaction)
        self.changed.notify_all()

    def wait(self, mine: Transaction, other: Transaction, check: Callable[[], None], timeout: float | None) -> None:
        """Wait until another transaction ends. Errors: 1205 for a deadlock, 1222 after the lock timeout."""
        waited = 0.0
        with self.mutex:
            mine.waits_for = other
            try:
                while not other.ended:
                    chain: Transaction | None = other
                    while chain is not None:
                        chain = chain.waits_for
                        if chain is mine:
                            raise SqlError(
                                1205, "The transaction was deadlocked and has been chosen as the victim.", 13, 45
                            )
                    if timeout is not None and waited >= timeout:
                        raise SqlError(1222, "Lock request time out period exceeded.", 16, 45)
                    self.changed.wait(0.05)
                    waited += 0.05
                    check()
            finally:
                mine.waits_for = None

    def share(self, transaction: Transaction, table: Table) -> None:
        """A shared lock of a table until the transaction ends; raises WaitFor while another one has written it."""
        with self.mutex:
            for other in self.active:
                if other is not transaction and table.object_id in other.touched:
                    raise WaitFor(other)
            transaction.shared.add(table.object_id)

    def intend(self, transaction: Transaction, table: Table) -> None:
        """Before a write: raises WaitFor while another transaction holds a shared lock of the table."""
        for other in self.active:
            if other is not transaction and table.object_id in other.shared:
                raise WaitFor(other)
