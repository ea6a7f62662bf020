"""What happens at the source: the `orders` table and the changes made to it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection, sql

COLUMNS = ("id", "customer_id", "status", "amount", "created_at", "note", "qty", "flag")
DEFINITION = """
    CREATE TABLE orders (
        id bigint PRIMARY KEY,
        customer_id int,
        status varchar(16),
        amount decimal(12,2),
        created_at timestamp,
        note varchar(80),
        qty smallint,
        flag boolean
    )
"""
ROW = """
    i, ((i * 7919) % 100003)::int, (ARRAY['new', 'paid', 'packed', 'shipped', 'returned'])[1 + i % 5],
    ((i * 31337) % 100000000)::decimal / 100, timestamp '2024-01-01' + i * interval '1.5 seconds',
    'note ' || md5(i::text) || ' ' || i % 100, ((i * 17) % 1000)::smallint, i % 3 = 0
"""
DIGEST = "SELECT count(*), sum(id), sum(amount), sum(qty), sum(length(note)) FROM orders"
"""Cheap to ask of both sides, and different after nearly any mistake."""


@dataclass
class Orders:
    """The `orders` table of one server: rows `first`..`last` by id, deleted from the low end, added at the high one."""

    con: Connection
    rows: int
    first: int = 1
    last: int = 0

    @classmethod
    def create(cls, con: Connection, rows: int) -> Orders:
        """Make the table anew with `rows` rows, vacuumed and analyzed."""
        con.execute("DROP TABLE IF EXISTS orders")
        con.execute(DEFINITION)
        orders = cls(con, rows)
        con.execute(f"INSERT INTO orders SELECT {ROW} FROM generate_series(1::bigint, {int(rows)}) AS s(i)")
        con.execute("VACUUM (ANALYZE, FREEZE) orders")
        con.execute("CHECKPOINT")
        orders.last = rows
        return orders

    def digest(self) -> list[str]:
        """`DIGEST` as the source answers it, as text."""
        row = self.con.execute(DIGEST.encode()).fetchone()
        assert row is not None
        return [str(value) for value in row]

    def large_transactions(self, changes: int, each: int = 1000) -> int:
        """A third inserts, a third updates, a third deletes, in transactions of `each` rows; returns the row count.

        The updates go to rows spread over the whole table, each once.
        """
        part = changes // 3
        stride = max(1, (self.last - self.first - part) // part)
        self._block(
            """
            FOR t IN 0 .. {steps} LOOP
                INSERT INTO orders SELECT {row}
                FROM generate_series({last}::bigint + t * {each} + 1, {last} + (t + 1) * {each}) AS s(i);
                COMMIT;
            END LOOP;
            FOR t IN 0 .. {steps} LOOP
                UPDATE orders SET status = 'changed', amount = amount + 1.25, qty = (qty + 1) % 1000
                WHERE id IN (SELECT {first}::bigint + {part} + (t * {each} + g) * {stride} FROM generate_series(0, {each} - 1) AS g);
                COMMIT;
            END LOOP;
            FOR t IN 0 .. {steps} LOOP
                DELETE FROM orders WHERE id >= {first} + t * {each} AND id < {first} + (t + 1) * {each};
                COMMIT;
            END LOOP;
            """,
            steps=part // each - 1,
            each=each,
            part=part,
            stride=stride,
        )
        part = part // each * each
        self.first += part
        self.last += part
        return part * 3

    def single_rows(self, transactions: int) -> int:
        """Transactions of one row each: an insert, an update, a delete in turn; returns the row count."""
        part = transactions // 3
        stride = max(1, (self.last - self.first - part) // part)
        self._block(
            """
            FOR t IN 0 .. {steps} LOOP
                INSERT INTO orders SELECT {row} FROM (SELECT ({last} + 1 + t)::bigint) AS s(i);
                COMMIT;
                UPDATE orders SET status = 'single', amount = amount + 0.75 WHERE id = {first} + {part} + t * {stride};
                COMMIT;
                DELETE FROM orders WHERE id = {first} + t;
                COMMIT;
            END LOOP;
            """,
            steps=part - 1,
            part=part,
            stride=stride,
        )
        self.first += part
        self.last += part
        return part * 3

    def _block(self, body: str, **numbers: int) -> None:
        values = {name: sql.Literal(value) for name, value in numbers.items()}
        block = sql.SQL("DO $block$ BEGIN {} END $block$").format(
            sql.SQL(body).format(row=sql.SQL(ROW), first=sql.Literal(self.first), last=sql.Literal(self.last), **values)
        )
        self.con.execute("SET synchronous_commit = off")
        self.con.execute(block)
        self.con.execute("RESET synchronous_commit")
