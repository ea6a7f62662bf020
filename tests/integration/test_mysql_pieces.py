"""Big tables are cut into pieces of about the same size, however their keys are spread; together they are the table."""

from __future__ import annotations

import pytest

from connectors.mysql.connection import Connections
from connectors.mysql.pieces import Piece, cut
from tests.support.servers import MySqlDatabase
from tests.support.waiting import wait_until

SPREADS = {
    "even": "n",
    "an old row far below": "IF(n = 0, -9000000000000000000, 1000000 + n)",
    "a new row far above": "IF(n = 0, 9000000000000000000, n)",
    "two heaps": "IF(n % 2, n, 4000000000000000000 + n)",
}


def fill(database: MySqlDatabase, key: str, rows: int = 20_000) -> None:
    digits = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION SELECT 6"
    digits += " UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)"
    numbers = f"SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d n FROM {digits} a, {digits} b, {digits} c"
    numbers += f", {digits} e, (SELECT 0 d UNION SELECT 1) f"
    database.execute("CREATE TABLE t (id bigint PRIMARY KEY, x varchar(100))")
    database.execute(f"INSERT INTO t SELECT {key}, repeat('x', 90) FROM ({numbers}) q WHERE n < {rows}")
    database.execute("ANALYZE TABLE t")


@pytest.mark.parametrize("key", SPREADS.values(), ids=SPREADS.keys())
def test_pieces_are_alike_and_complete(mysql_any: MySqlDatabase, key: str) -> None:
    fill(mysql_any, key)
    with Connections(mysql_any.options()).session("testing") as connection:

        def cut_up() -> list[Piece]:
            """The server's estimates follow the rows a little later."""
            mysql_any.execute("ANALYZE TABLE t")
            found = cut(connection, "t", "id", 20_000, 5)
            return found if len(found) >= 3 else []

        pieces = wait_until(cut_up, 30)
        counts = [int(connection.query(f"SELECT count(*) FROM t{p.condition('id')}")[0][0]) for p in pieces]
    assert sum(counts) == 20_000
    assert len(pieces) <= 15
    assert max(counts) <= 12_000
    assert (pieces[0].first, pieces[-1].end) == (None, None)
    assert [p.end for p in pieces[:-1]] == [p.first for p in pieces[1:]]


def test_small_and_empty_tables_are_one_piece(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id bigint unsigned PRIMARY KEY)")
    with Connections(mysql_any.options()).session("testing") as connection:
        assert cut(connection, "t", "id", 0, 5) == [Piece()]
        mysql_any.execute("INSERT INTO t VALUES (18446744073709551615), (0)")
        pieces = cut(connection, "t", "id", 2, 2)
        found = [int(r[0]) for p in pieces for r in connection.query(f"SELECT id FROM t{p.condition('id')}")]
    assert sorted(found) == [0, 18446744073709551615]
