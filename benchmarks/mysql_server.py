"""A MySQL or MariaDB server of the benchmark's own, and the `orders` table on it. Durability settings are as shipped."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from benchmarks.workloads import DIGEST
from tests.support.servers import MySqlDatabase, MySqlPool, MySqlServer
from tests.support.servers.roles import ROOT

SETTINGS: dict[str, object] = {
    "innodb_buffer_pool_size": "1G",
    "innodb_log_file_size": None,
    "max_binlog_size": "1G",
    "max_allowed_packet": "1G",
    "default_time_zone": "+00:00",
    "sql_mode": "",
    "character_set_server": "utf8mb4",
}
DEFINITION = """
    CREATE TABLE orders (
        id bigint PRIMARY KEY,
        customer_id int,
        status varchar(16),
        amount decimal(12,2),
        created_at datetime,
        note varchar(80),
        qty smallint,
        flag boolean
    )
"""
ROW = """
    i, (i * 7919) % 100003, ELT(1 + i % 5, 'new', 'paid', 'packed', 'shipped', 'returned'),
    (i * 31337) % 100000000 / 100, TIMESTAMP('2024-01-01') + INTERVAL FLOOR(i * 1.5) SECOND,
    CONCAT('note ', LEFT(SHA2(i, 256), 32), ' ', i % 100), (i * 17) % 1000, i % 3 = 0
"""
SINGLES = """
    CREATE PROCEDURE singles(steps INT, first BIGINT, last BIGINT, part BIGINT, stride BIGINT)
    BEGIN
        DECLARE t INT DEFAULT 0;
        WHILE t < steps DO
            INSERT INTO orders SELECT {row} FROM (SELECT last + 1 + t AS i) AS s;
            UPDATE orders SET status = 'single', amount = amount + 0.75 WHERE id = first + part + t * stride;
            DELETE FROM orders WHERE id = first + t;
            SET t = t + 1;
        END WHILE;
    END
"""


class BenchServer:
    """A running server with one database. Use as a context manager; leaving it ends and deletes the server."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pool = MySqlPool()
        self._server: MySqlServer | None = None

    def __enter__(self) -> Self:
        self._pool.__enter__()
        missing = self._pool.missing(self.name)
        if missing:
            raise SystemExit(missing)
        self._server = self._pool.private(self.name, fsync=False, settings=SETTINGS)
        self.database: MySqlDatabase = self._server.create_database("shop")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._server is not None:
            self._server.close()
        self._pool.__exit__(kind, error, tb)

    @property
    def server(self) -> MySqlServer:
        assert self._server is not None
        return self._server

    def version(self) -> str:
        return f"{self.server.flavour} {self.server.execute('SELECT version()')[0][0]}"

    def end(self) -> str:
        """The end of the log, as the engine's `after` takes it."""
        return self.server.gtids()

    def place(self) -> tuple[str, int]:
        """File and offset of the end of the log."""
        return self.server.binary_log_position()

    def peer(self) -> dict[str, Any]:
        """How a peer reaches the server."""
        return {"host": self.server.host, "port": self.server.port, "user": ROOT.name, "password": ROOT.password}


@dataclass
class MySqlOrders:
    """The `orders` table: rows `first`..`last` by id, deleted from the low end, added at the high one."""

    bench: BenchServer
    rows: int
    first: int = 1
    last: int = 0

    @classmethod
    def create(cls, bench: BenchServer, rows: int) -> MySqlOrders:
        """Make the table anew with `rows` rows."""
        bench.server.execute(
            "CREATE DATABASE IF NOT EXISTS aside; DROP TABLE IF EXISTS aside.seq;"
            "CREATE TABLE aside.seq (n bigint PRIMARY KEY); INSERT INTO aside.seq VALUES (0)"
        )
        size = 1
        while size < max(rows, 1_000_000):
            bench.server.execute(f"INSERT INTO aside.seq SELECT n + {size} FROM aside.seq")
            size *= 2
        orders = cls(bench, rows)
        orders._run("DROP TABLE IF EXISTS orders", DEFINITION, "DROP PROCEDURE IF EXISTS singles")
        orders._run(SINGLES.format(row=ROW))
        for begin in range(0, rows, 500_000):
            orders._run(orders._insert(begin + 1, min(begin + 500_000, rows)))
        orders._run("ANALYZE TABLE orders")
        orders.last = rows
        return orders

    def digest(self) -> list[str]:
        """`DIGEST` as the source answers it, as text."""
        return [str(value) for value in self.bench.database.superuser(DIGEST.replace("length", "char_length"))[0]]

    def large_transactions(self, changes: int, each: int = 1000) -> int:
        """A third inserts, a third updates, a third deletes, in transactions of `each` rows; returns the row count."""
        part = changes // 3 // each * each
        stride = max(1, (self.last - self.first - part) // part)
        steps = range(part // each)
        self._run(*(self._insert(self.last + t * each + 1, self.last + (t + 1) * each) for t in steps))
        self._run(
            *(
                "UPDATE orders JOIN aside.seq ON id = "
                f"{self.first + part} + ({t * each} + n) * {stride} AND n < {each}"
                " SET status = 'changed', amount = amount + 1.25, qty = (qty + 1) % 1000"
                for t in steps
            )
        )
        first = self.first
        self._run(
            *(f"DELETE FROM orders WHERE id >= {first + t * each} AND id < {first + (t + 1) * each}" for t in steps)
        )
        self.first += part
        self.last += part
        return part * 3

    def single_rows(self, transactions: int) -> int:
        """Transactions of one row each: an insert, an update, a delete in turn; returns the row count."""
        part = transactions // 3
        stride = max(1, (self.last - self.first - part) // part)
        self._run(f"CALL singles({part}, {self.first}, {self.last}, {part}, {stride})")
        self.first += part
        self.last += part
        return part * 3

    @staticmethod
    def _insert(low: int, high: int) -> str:
        return (
            f"INSERT INTO orders SELECT {ROW} FROM (SELECT n + {low} AS i FROM aside.seq WHERE n <= {high - low}) AS s"
        )

    def _run(self, *statements: str) -> None:
        with self.bench.database.connect(ROOT) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
