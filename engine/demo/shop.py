"""The demo's source: a small shop, filled at once and then written to without pause.

Its invariant spans two tables: every order is paid in the transaction that makes or changes it, so the orders' totals
and the payments' amounts are equal at every committed moment.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from decimal import Decimal

import psycopg

TABLES = ("customers", "products", "orders", "order_items", "payments")

INVARIANT = "SELECT (SELECT sum(total) FROM orders) = (SELECT sum(amount) FROM payments)"

SAMPLE = """SELECT p.category, count(DISTINCT o.id) AS orders, sum(i.quantity * i.price) AS revenue
FROM orders o JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id
GROUP BY p.category ORDER BY revenue DESC"""

_SCHEMA = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email varchar(120) NOT NULL, city text,
    joined date NOT NULL, active boolean NOT NULL DEFAULT true, preferences jsonb);
CREATE TABLE products (id integer PRIMARY KEY, name text NOT NULL, category varchar(20) NOT NULL,
    price numeric(10,2) NOT NULL, stock integer NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, status varchar(12) NOT NULL,
    total numeric(12,2) NOT NULL, placed_at timestamptz NOT NULL);
CREATE TABLE order_items (order_id bigint, line smallint, product_id integer NOT NULL, quantity smallint NOT NULL,
    price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE payments (id uuid PRIMARY KEY, order_id bigint NOT NULL, amount numeric(12,2) NOT NULL,
    method varchar(10) NOT NULL, paid_at timestamptz NOT NULL);
CREATE INDEX ON payments (order_id);
"""

_FILL = (
    (
        "customers",
        """INSERT INTO customers SELECT i, 'Customer ' || i, 'c' || i || '@example.com',
        (ARRAY['Lisbon', 'Oslo', 'Kyoto', 'Lima', NULL])[1 + i % 5], date '2020-01-01' + (i % 1500),
        i % 17 <> 0, jsonb_build_object('newsletter', i % 2 = 0, 'size', i % 7)
        FROM generate_series(1, %(customers)s) i""",
    ),
    (
        "products",
        """INSERT INTO products SELECT i, 'Product ' || i,
        (ARRAY['books', 'garden', 'kitchen', 'music', 'sports'])[1 + i % 5], round((1 + i % 90)::numeric * 1.37, 2),
        1000 + i % 500
        FROM generate_series(1, %(products)s) i""",
    ),
    (
        "order_items",
        """INSERT INTO order_items SELECT o, l, p.id, 1 + (o + l) % 4, p.price
        FROM generate_series(1, %(orders)s) o, generate_series(1, 2) l
        JOIN products p ON true WHERE p.id = 1 + (o * 7 + l * 13) % %(products)s""",
    ),
    (
        "orders",
        """INSERT INTO orders SELECT o, 1 + (o * 31) % %(customers)s, 'paid', t.total,
        timestamptz '2024-01-01 00:00:00+00' + o * interval '61.234567 seconds'
        FROM generate_series(1, %(orders)s) o
        JOIN (SELECT order_id, sum(quantity * price) AS total FROM order_items GROUP BY order_id) t ON t.order_id = o""",
    ),
    (
        "payments",
        """INSERT INTO payments SELECT md5(id::text)::uuid, id, total, (ARRAY['card', 'transfer', 'cash'])[1 + id % 3],
        placed_at FROM orders""",
    ),
)

CUSTOMERS, PRODUCTS, ORDERS = 20_000, 1_000, 60_000


class Counts:
    """What was written: rows per table, and totals. One writer; readers may see it a little late."""

    def __init__(self) -> None:
        self.rows = dict.fromkeys(TABLES, 0)
        self.transactions = 0
        self.changes = 0

    def add(self, table: str, rows: int, changes: int | None = None) -> None:
        """`rows` more (or fewer) in `table`; `changes` row changes, as many as rows if not said."""
        self.rows[table] += rows
        self.changes += abs(rows) if changes is None else changes


def fill(connection: psycopg.Connection, counts: Counts, orders: int = ORDERS) -> None:
    """Make the tables and their first rows, in one transaction."""
    sizes = {"customers": CUSTOMERS, "products": PRODUCTS, "orders": orders}
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_SCHEMA)
        for table, statement in _FILL:
            cursor.execute(_escaped(statement), sizes)
            counts.rows[table] = cursor.rowcount
    connection.execute("ANALYZE")


def _escaped(statement: str) -> str:
    """Double the percent signs that are SQL's modulo (the parameters are all named)."""
    return statement.replace("%", "%%").replace("%%(", "%(")


class Writer:
    """Writes to the shop at about `rate` transactions per second, in a thread, until stopped.

    `error` is what ended it, if it did not end by `stop`.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection], counts: Counts, *, rate: float = 100.0, orders: int = ORDERS
    ) -> None:
        self._connect = connect
        self._counts = counts
        self._rate = rate
        self._random = random.Random(20240101)
        self._next_order = orders + 1
        self._next_customer = CUSTOMERS + 1
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Complete the transaction under way, and end."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        actions = [self._place] * 3 + [self._ship] * 2 + [self._change, self._cancel, self._restock]
        actions += [self._reprice, self._register]
        try:
            with self._connect() as connection:
                due = time.monotonic()
                while not self._ending.is_set():
                    with connection.transaction(), connection.cursor() as cursor:
                        self._random.choice(actions)(cursor)
                    self._counts.transactions += 1
                    due += 1 / self._rate
                    behind = time.monotonic() - due
                    if behind > 1:
                        due += behind
                    elif behind < 0:
                        self._ending.wait(-behind)
        except psycopg.Error as error:
            self.error = error

    def _order(self) -> int:
        """An order to act upon; it may be cancelled already."""
        return self._random.randrange(1, self._next_order)

    def _place(self, cursor: psycopg.Cursor) -> None:
        order, self._next_order = self._next_order, self._next_order + 1
        lines = self._random.randint(1, 4)
        total = Decimal(0)
        for line, product in enumerate(self._random.sample(range(1, PRODUCTS + 1), lines), 1):
            cursor.execute(
                "UPDATE products SET stock = stock - 1 WHERE id = %s RETURNING price",
                (product,),
            )
            (price,) = cursor.fetchone() or (Decimal(0),)
            quantity = self._random.randint(1, 5)
            total += quantity * price
            cursor.execute(
                "INSERT INTO order_items VALUES (%s, %s, %s, %s, %s)", (order, line, product, quantity, price)
            )
        customer = self._random.randrange(1, self._next_customer)
        cursor.execute("INSERT INTO orders VALUES (%s, %s, 'paid', %s, clock_timestamp())", (order, customer, total))
        cursor.execute(
            "INSERT INTO payments VALUES (gen_random_uuid(), %s, %s, %s, clock_timestamp())",
            (order, total, self._random.choice(("card", "transfer", "cash"))),
        )
        self._counts.add("order_items", lines)
        self._counts.add("orders", 1)
        self._counts.add("payments", 1)
        self._counts.add("products", 0, changes=lines)

    def _ship(self, cursor: psycopg.Cursor) -> None:
        cursor.execute("UPDATE orders SET status = 'shipped' WHERE id = %s", (self._order(),))
        self._counts.add("orders", 0, changes=cursor.rowcount)

    def _change(self, cursor: psycopg.Cursor) -> None:
        """One more of an order's first line, paid for."""
        order = self._order()
        cursor.execute(
            "UPDATE order_items SET quantity = quantity + 1 WHERE order_id = %s AND line = 1 AND quantity < 100 "
            "RETURNING price",
            (order,),
        )
        found = cursor.fetchone()
        if found is None:
            return
        cursor.execute("UPDATE orders SET total = total + %s WHERE id = %s", (found[0], order))
        cursor.execute("UPDATE payments SET amount = amount + %s WHERE order_id = %s", (found[0], order))
        for table in ("order_items", "orders", "payments"):
            self._counts.add(table, 0, changes=1)

    def _cancel(self, cursor: psycopg.Cursor) -> None:
        order = self._order()
        for table, column in (("payments", "order_id"), ("order_items", "order_id"), ("orders", "id")):
            cursor.execute(f"DELETE FROM {table} WHERE {column} = %s", (order,))
            self._counts.add(table, -cursor.rowcount)

    def _restock(self, cursor: psycopg.Cursor) -> None:
        cursor.execute("UPDATE products SET stock = stock + 500 WHERE stock < 900")
        self._counts.add("products", 0, changes=cursor.rowcount)

    def _reprice(self, cursor: psycopg.Cursor) -> None:
        product, factor = self._random.randint(1, PRODUCTS), self._random.choice(("1.02", "0.98"))
        cursor.execute("UPDATE products SET price = round(price * %s::numeric, 2) WHERE id = %s", (factor, product))
        self._counts.add("products", 0, changes=cursor.rowcount)

    def _register(self, cursor: psycopg.Cursor) -> None:
        customer, self._next_customer = self._next_customer, self._next_customer + 1
        cursor.execute(
            "INSERT INTO customers VALUES (%s, %s, %s, %s, current_date, true, NULL)",
            (customer, f"Customer {customer}", f"c{customer}@example.com", "Zürich"),
        )
        self._counts.add("customers", 1)
