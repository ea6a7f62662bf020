"""The engine on MySQL and MariaDB, end to end: in whatever form the source writes its log, the replica equals it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from tests.support.mysql_live import MySqlLive, MySqlPairWriter, rank
from tests.support.servers import MySqlDatabase, MySqlServer
from tests.support.servers.roles import ROOT
from tests.support.waiting import wait_until
from tests.support.witness import Witness

ITEMS = """CREATE TABLE items (
    id int PRIMARY KEY, name varchar(40), note longtext, data json, body longblob, amount decimal(12,2),
    UNIQUE KEY by_name (name)
)"""


def items(live: MySqlLive, ids: range) -> None:
    rows = ", ".join(
        f"""({i}, 'name {i}', repeat('é{i} ', 200), '{{"a": {i}, "b": [1, 2, "x"]}}', repeat(unhex('00ff{i:04x}'), 99), {i}.25)"""
        for i in ids
    )
    live.run(f"INSERT INTO items VALUES {rows}")


def test_a_pair_of_tables_always_agrees(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    with MySqlLive.on(mysql_any, tmp_path, start=False) as live, MySqlPairWriter(mysql_any) as pair:
        live.engine.start()
        with Witness(live.engine.url, pair.question, rank=rank):
            live.engine.restart(kill=True)
            live.engine.restart()
            live.wait_caught_up()
        pair.stop()
        live.wait_caught_up()
        live.compare(pair.tables)
        assert live.reloads() == 0
        assert live.resyncs() == 0


def test_every_row_image(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(f"{ITEMS}; CREATE TABLE bag (a int, b varchar(10))")
    with MySqlLive.on(mysql_any, tmp_path) as live:
        items(live, range(40))
        for number, image in enumerate(("FULL", "MINIMAL", "NOBLOB")):
            first = number * 10
            live.run(
                *(f"UPDATE items SET amount = amount + 1 WHERE id = {first}",),
                *(f"UPDATE items SET name = NULL WHERE id = {first + 1}",),
                *(f"UPDATE items SET note = 'short' WHERE id = {first + 2}",),
                *(f"UPDATE items SET id = id + 1000 WHERE id = {first + 3}",),
                *(f"UPDATE items SET id = id + 1000, body = 'moved' WHERE id = {first + 4}",),
                *(f"DELETE FROM items WHERE id = {first + 5}", f"INSERT INTO items (id) VALUES ({first + 500})"),
                *(f"UPDATE items SET name = 'twice' WHERE id = {first + 500}", "COMMIT"),
                *("BEGIN", f"UPDATE items SET amount = 7 WHERE id = {first + 6}"),
                *(f"UPDATE items SET note = 'later' WHERE id = {first + 6}",),
                *(f"UPDATE items SET id = id + 2000 WHERE id = {first + 6}", "UPDATE items SET name = NULL", "COMMIT"),
                binlog_row_image=image,
            )
            live.wait_caught_up()
            live.compare(["items"])
        assert live.reloads() == 0
        live.run("INSERT INTO bag VALUES (1, 'x'), (1, 'x'), (2, NULL)", "DELETE FROM bag WHERE a = 1 LIMIT 1")
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == 0
        # Without a key, a row must be whole to be found again.
        live.run("UPDATE bag SET b = 'new'", binlog_row_image="MINIMAL")
        live.wait_equal()
        assert live.resyncs() == 0


def test_what_only_mysql_writes(mysql: MySqlDatabase, tmp_path: Path) -> None:
    mysql.execute(ITEMS)
    with MySqlLive.on(mysql, tmp_path) as live:
        items(live, range(20))
        live.run(
            "UPDATE items SET data = JSON_SET(data, '$.a', 'changed', '$.c', 1.5) WHERE id < 5",
            "UPDATE items SET data = JSON_REMOVE(data, '$.b[1]') WHERE id < 7",
            "UPDATE items SET data = JSON_REPLACE(data, '$.b[0]', JSON_OBJECT('deep', NULL)), amount = 3 WHERE id < 7",
            binlog_row_value_options="PARTIAL_JSON",
            binlog_row_image="FULL",
        )
        live.wait_caught_up()
        live.compare()
        live.run(
            *(
                "INSERT INTO items (id, note) SELECT 100 + id, repeat('z', 5000) FROM items",
                "DELETE FROM items WHERE id < 3",
            ),
            binlog_transaction_compression=1,
        )
        live.run(
            *(
                "BEGIN",
                "UPDATE items SET note = concat(note, 'more')",
                "UPDATE items SET data = JSON_SET(data, '$.a', 2)",
            ),
            "COMMIT",
            binlog_transaction_compression=1,
            binlog_row_value_options="PARTIAL_JSON",
        )
        live.wait_caught_up()
        live.compare()
        live.run(
            "INSERT INTO items (id) VALUES (900)", "DELETE FROM items WHERE id = 10", gtid_next="AUTOMATIC:shop_tag"
        )
        live.wait_caught_up()
        live.compare()
        assert "shop_tag" in live.engine.health()["position"]
        live.engine.restart()
        live.run("INSERT INTO items (id) VALUES (901)", gtid_next="AUTOMATIC:shop_tag")
        live.run("INSERT INTO items (id) VALUES (902)")
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == live.resyncs() == 0


def test_a_vector_anywhere(mysql: MySqlDatabase, tmp_path: Path) -> None:
    other = mysql.server.create_database()
    mysql.execute(ITEMS)
    try:
        with MySqlLive.on(mysql, tmp_path) as live:
            other.execute("CREATE TABLE v (id int PRIMARY KEY, e vector(3))")
            other.execute("INSERT INTO v VALUES (1, to_vector('[1,2,3]'))")
            items(live, range(3))
            live.wait_caught_up()
            live.compare()
            live.run("CREATE TABLE own (id int PRIMARY KEY, e vector(3))")
            live.wait_equal()
            live.run("INSERT INTO own VALUES (1, to_vector('[1.5,-2,3e10]')), (2, NULL)")
            live.wait_caught_up()
            live.compare()
    finally:
        other.drop()


def test_statement_format_reloads_what_it_may_have_touched(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(f"{ITEMS}; CREATE TABLE log (n int PRIMARY KEY)")
    with MySqlLive.on(mysql_any, tmp_path) as live:
        items(live, range(5))
        live.run(
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "UPDATE items SET amount = 99 WHERE id < 3",
            "INSERT INTO log VALUES (1)",
            binlog_format="STATEMENT",
        )
        live.wait_equal()
        assert live.reloads() >= 1
        items(live, range(10, 12))
        live.wait_caught_up()
        live.compare()


def end_xa(live: MySqlLive, statement: str) -> None:
    """End a prepared transaction from another session; it can be found once the server has ended the one that made it."""

    def ended() -> bool:
        live.run(statement, role=ROOT)
        return True

    wait_until(ended, 30, ignore=(pymysql.err.OperationalError,))


def test_xa_transactions(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(ITEMS)
    with MySqlLive.on(mysql_any, tmp_path) as live:
        live.run(
            "XA START 'one', 'x'", "INSERT INTO items (id) VALUES (1)", "XA END 'one', 'x'", "XA PREPARE 'one', 'x'"
        )
        live.run("INSERT INTO items (id) VALUES (2)")
        live.wait_caught_up()
        live.compare()
        end_xa(live, "XA COMMIT 'one', 'x'")
        live.wait_caught_up()
        live.compare()
        live.run("XA START 'two'", "INSERT INTO items (id) VALUES (3)", "XA END 'two'", "XA COMMIT 'two' ONE PHASE")
        live.run("XA START 'three'", "INSERT INTO items (id) VALUES (4)", "XA END 'three'", "XA PREPARE 'three'")
        end_xa(live, "XA ROLLBACK 'three'")
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == live.resyncs() == 0
        live.run("XA START 'four'", "INSERT INTO items (id) VALUES (5)", "XA END 'four'", "XA PREPARE 'four'")
        live.wait_caught_up()
        live.engine.restart()
        end_xa(live, "XA COMMIT 'four'")
        live.wait_equal()


def test_foreign_keys_that_cascade(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(
        "CREATE TABLE parent (id int PRIMARY KEY, v int);"
        "CREATE TABLE child (id int PRIMARY KEY, parent int, FOREIGN KEY (parent) REFERENCES parent (id)"
        " ON DELETE CASCADE ON UPDATE CASCADE);"
        "CREATE TABLE grandchild (id int PRIMARY KEY, child int, FOREIGN KEY (child) REFERENCES child (id)"
        " ON DELETE SET NULL);"
        "INSERT INTO parent VALUES (1, 1), (2, 2), (3, 3); INSERT INTO child VALUES (10, 1), (20, 2), (30, 3);"
        "INSERT INTO grandchild VALUES (100, 10), (200, 20), (300, 30)"
    )
    with MySqlLive.on(mysql_any, tmp_path) as live:
        live.run("UPDATE parent SET v = v + 1", "INSERT INTO parent VALUES (4, 4)")
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == 0
        live.run("DELETE FROM parent WHERE id = 1")
        live.wait_equal()
        live.run("UPDATE parent SET id = 12 WHERE id = 2")
        live.wait_equal()
        live.run("ALTER TABLE child ADD COLUMN w int", "DELETE FROM parent WHERE id = 3")
        live.wait_equal()


def test_large_transactions_and_packets(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(f"{ITEMS}; CREATE TABLE many (id int PRIMARY KEY, a int, b varchar(100))")
    with MySqlLive.on(mysql_any, tmp_path) as live:
        live.run(
            *("INSERT INTO items (id, body) VALUES (1, repeat('x', 20000000)), (2, repeat('y', 17000000))",),
            *("INSERT INTO items (id, body) VALUES (3, repeat('z', 16777215))", "DELETE FROM items WHERE id = 2"),
            *("UPDATE items SET amount = 5 WHERE id = 1", "UPDATE items SET note = repeat('é', 9000000) WHERE id = 3"),
        )
        live.wait_caught_up()
        live.compare()
        live.run(
            *("BEGIN", "INSERT INTO many SELECT 0, 0, 'first'"),
            *(f"INSERT INTO many SELECT id + {1 << n}, {n}, repeat('many', 20) FROM many" for n in range(17)),
            *("UPDATE many SET a = a + id", "DELETE FROM many WHERE id % 3 = 0", "COMMIT"),
        )
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == live.resyncs() == 0


def test_columns_that_count_as_text_on_one_server_only(
    make_mysql: Callable[..., MySqlServer], mysql_flavour: str, tmp_path: Path
) -> None:
    """Which columns the collations in a table map are of differs: a column too few, and texts get their neighbour's."""
    database = make_mysql(mysql_flavour, settings={"binlog_row_metadata": "FULL"}).create_database()
    odd = (
        "g geometry, x text COMPRESSED, y varbinary(300) COMPRESSED"
        if database.is_mariadb
        else "g geometry, x vector(2)"
    )
    texts = (
        "s varchar(9) CHARACTER SET latin1, e enum('é', 'b') CHARACTER SET latin2, t varchar(9) CHARACTER SET utf8mb4"
    )
    database.execute(
        f"CREATE TABLE one (id int PRIMARY KEY, {odd}, {texts}, u text CHARACTER SET utf8mb4);"
        f"CREATE TABLE two (id int PRIMARY KEY, {texts}, {odd}, a varchar(9) CHARACTER SET cp1251)"
    )
    with MySqlLive.on(database, tmp_path) as live:
        some = "NULL, repeat('é', 200), repeat('x', 200)" if database.is_mariadb else "POINT(1, 2), NULL"
        live.run(
            f"INSERT INTO one VALUES (1, {some}, 'é€', 'é', '漢é', 'é'), (2, {some}, NULL, 'b', 'é', NULL)",
            f"INSERT INTO two VALUES (1, 'é€', 'é', '漢é', {some}, 'ж'), (2, NULL, 'b', 'é', {some}, NULL)",
            "UPDATE one SET g = POINT(3, 4), t = concat(t, 'ü')",
        )
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == live.resyncs() == 0


def test_generated_columns(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(
        "CREATE TABLE made (id int PRIMARY KEY, a int, b varchar(20), v int AS (a * 2) VIRTUAL,"
        " s varchar(40) AS (concat(b, '`')) STORED);"
        "INSERT INTO made (id, a, b) VALUES (1, 1, 'x'), (2, 2, 'y'), (3, 3, 'z')"
    )
    with MySqlLive.on(mysql_any, tmp_path) as live:
        live.run("INSERT INTO made (id, a) VALUES (4, 4)", "DELETE FROM made WHERE id = 4")
        live.run("UPDATE made SET id = 5 WHERE id = 2", "UPDATE made SET a = a", "DELETE FROM made WHERE id = 3")
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == 0
        for image in ("FULL", "MINIMAL", "NOBLOB"):
            # Some versions of MariaDB leave out what they computed.
            live.run("INSERT INTO made (id, a) VALUES (4, 4)", binlog_row_image=image)
            live.wait_equal()
            live.run("UPDATE made SET a = a + 1, b = concat(b, a)", binlog_row_image=image)
            live.wait_equal()
            live.run("DELETE FROM made WHERE id = 4", binlog_row_image=image)
            live.wait_equal()
        if not mysql_any.is_mariadb:
            assert live.reloads() == 0


SETTINGS: dict[str, list[dict[str, object]]] = {
    "mysql-9.7": [
        {"binlog_checksum": "NONE", "binlog_row_metadata": "MINIMAL"},
        {"binlog_row_metadata": "FULL", "binlog_transaction_compression": "ON", "binlog_rows_query_log_events": "ON"},
        {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF", "max_binlog_size": "1M"},
    ],
    "mariadb": [
        {"binlog_checksum": "NONE", "binlog_row_metadata": "MINIMAL"},
        {
            "binlog_checksum": "CRC32",
            "binlog_row_metadata": "FULL",
            "log_bin_compress": "ON",
            "log_bin_compress_min_len": 10,
        },
    ],
}


@pytest.mark.parametrize("which", range(3))
def test_settings_of_the_server(
    make_mysql: Callable[..., MySqlServer], mysql_flavour: str, which: int, tmp_path: Path
) -> None:
    choices = SETTINGS.get(mysql_flavour, SETTINGS["mariadb"])
    if which >= len(choices):
        pytest.skip("no further settings for this server")
    server = make_mysql(mysql_flavour, settings=choices[which])
    database = server.create_database()
    database.execute(ITEMS)
    with MySqlLive.on(database, tmp_path, start=False) as live, MySqlPairWriter(database) as pair:
        items(live, range(20))
        live.engine.start()
        with Witness(live.engine.url, pair.question, rank=rank):
            items(live, range(100, 120))
            live.run("UPDATE items SET name = concat(name, '!') WHERE id > 10", "DELETE FROM items WHERE id = 105")
            server.flush_binary_logs()
            live.engine.restart(kill=True)
            items(live, range(200, 220))
            live.wait_caught_up()
            server.restart("immediate")
            items(live, range(300, 320))
            live.wait_caught_up()
        pair.stop()
        live.wait_caught_up()
        live.compare()
        assert live.reloads() == live.resyncs() == 0
