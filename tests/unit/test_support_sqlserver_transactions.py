"""Transactions of the test server: isolation, locks, savepoints, and what errors do to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pymssql
import pytest

from tests.support.servers import APP, REFLEX, SqlServer, SqlServerDatabase, SqlServerPool
from tests.support.servers.sqlserver_server import run
from tests.support.waiting import wait_until


@pytest.fixture
def shop(sqlserver: SqlServerDatabase) -> SqlServerDatabase:
    sqlserver.execute("CREATE TABLE t (id int NOT NULL PRIMARY KEY, a int)")
    sqlserver.execute("INSERT INTO t VALUES (1, 10), (2, 20)")
    return sqlserver


@pytest.fixture
def one(shop: SqlServerDatabase) -> Iterator[pymssql.Connection]:
    with shop.connect() as connection:
        yield connection


@pytest.fixture
def two(shop: SqlServerDatabase) -> Iterator[pymssql.Connection]:
    with shop.connect() as connection:
        yield connection


def fails(connection: Any, statement: str) -> int:
    with pytest.raises(pymssql.Error) as raised:
        run(connection, statement)
    return int(raised.value.args[0])


def test_a_snapshot_reads_one_state_of_all_tables(shop: SqlServerDatabase, one: Any, two: Any) -> None:
    shop.execute("CREATE TABLE other (id int)")
    run(one, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION")
    assert run(one, "SELECT a FROM t ORDER BY id") == [(10,), (20,)]
    run(
        two,
        "BEGIN TRAN; UPDATE t SET a = 11 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO other VALUES (1); COMMIT",
    )
    assert run(one, "SELECT a FROM t ORDER BY id") == [(10,), (20,)]
    assert run(one, "SELECT COUNT(*) FROM other") == [(0,)]
    run(one, "COMMIT")
    assert run(one, "SELECT a FROM t") == [(11,)]


def test_a_snapshot_begins_with_its_first_read(one: Any, two: Any) -> None:
    run(one, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION; SELECT COUNT(*) FROM sys.tables")
    run(two, "UPDATE t SET a = 11 WHERE id = 1")
    assert run(one, "SELECT a FROM t WHERE id = 1") == [(11,)]


def test_a_snapshot_that_writes_what_changed_since_is_aborted(one: Any, two: Any) -> None:
    run(one, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION; SELECT * FROM t")
    run(two, "UPDATE t SET a = 11 WHERE id = 1")
    assert fails(one, "UPDATE t SET a = 12 WHERE id = 1") == 3960
    assert run(one, "SELECT @@TRANCOUNT") == [(0,)]


def test_a_snapshot_does_not_read_what_was_defined_since(shop: SqlServerDatabase, one: Any) -> None:
    shop.execute("CREATE TABLE other (id int)")
    for change in ("ALTER TABLE t ADD b int", "CREATE INDEX ix ON t (a)"):
        run(one, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION; SELECT COUNT(*) FROM sys.tables")
        run(one, "SELECT * FROM other")
        shop.execute(change)
        assert fails(one, "SELECT * FROM t") == 3961


def test_snapshot_isolation_may_be_switched_off(sqlserver_server: SqlServer) -> None:
    database = sqlserver_server.create_database(snapshot_isolation=False)
    database.execute("CREATE TABLE t (id int)")
    with database.connect() as connection:
        run(connection, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
        assert fails(connection, "SELECT * FROM t") == 3952
    database.drop()


def test_without_row_versions_readers_wait_for_writers(sqlserver_server: SqlServer) -> None:
    database = sqlserver_server.create_database(snapshot_isolation=False)
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    with database.connect() as writer, database.connect() as reader:
        run(writer, "BEGIN TRAN; INSERT INTO t VALUES (2)")
        run(reader, "SET LOCK_TIMEOUT 100")
        assert fails(reader, "SELECT * FROM t") == 1222
        assert run(reader, "SELECT * FROM t WITH (READPAST)") == [(1,)]
        assert run(reader, "SELECT COUNT(*) FROM t WITH (NOLOCK)") == [(2,)]
        run(writer, "COMMIT")
        assert run(reader, "SELECT * FROM t ORDER BY id") == [(1,), (2,)]
    database.drop()


def test_read_committed_sees_what_is_committed_now(one: Any, two: Any) -> None:
    run(two, "BEGIN TRAN")
    run(one, "UPDATE t SET a = 11 WHERE id = 1")
    assert run(two, "SELECT a FROM t WHERE id = 1") == [(11,)]


def test_open_transactions_write_side_by_side(shop: SqlServerDatabase, one: Any, two: Any) -> None:
    run(one, "BEGIN TRAN; UPDATE t SET a = 11 WHERE id = 1; INSERT INTO t VALUES (3, 30)")
    run(two, "BEGIN TRAN; UPDATE t SET a = 21 WHERE id = 2; INSERT INTO t VALUES (4, 40)")
    assert run(one, "SELECT a FROM t WITH (READPAST) WHERE id IN (1, 3) ORDER BY id") == [(11,), (30,)]
    run(two, "COMMIT")
    run(one, "ROLLBACK")
    assert shop.execute("SELECT id, a FROM t ORDER BY id") == [(1, 10), (2, 21), (4, 40)]


def test_a_writer_waits_for_a_row_and_then_sees_its_new_state(shop: SqlServerDatabase, one: Any, two: Any) -> None:
    run(one, "BEGIN TRAN; UPDATE t SET a = a + 1 WHERE id = 1")
    waiting = threading.Thread(target=run, args=(two, "UPDATE t SET a = a * 2 WHERE id = 1"))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    run(one, "COMMIT")
    waiting.join(10)
    assert shop.execute("SELECT a FROM t WHERE id = 1") == [(22,)]


def test_lock_timeout(one: Any, two: Any) -> None:
    run(one, "BEGIN TRAN; UPDATE t SET a = 0 WHERE id = 1")
    run(two, "SET LOCK_TIMEOUT 100")
    assert fails(two, "DELETE FROM t WHERE id = 1") == 1222
    assert fails(two, "UPDATE t SET a = 1 WHERE id = 1") == 1222


def test_one_of_two_in_a_deadlock_is_its_victim(one: Any, two: Any) -> None:
    run(one, "BEGIN TRAN; UPDATE t SET a = 1 WHERE id = 1")
    run(two, "BEGIN TRAN; UPDATE t SET a = 2 WHERE id = 2")
    errors = []

    def cross(connection: Any, row: int) -> None:
        try:
            run(connection, f"UPDATE t SET a = 3 WHERE id = {row}")
        except pymssql.Error as error:
            errors.append(error.args[0])

    threads = [threading.Thread(target=cross, args=args) for args in ((one, 2), (two, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == [1205]


def test_a_shared_table_lock_waits_for_writers_and_holds_them_back(shop: SqlServerDatabase, one: Any, two: Any) -> None:
    run(two, "BEGIN TRAN; UPDATE t SET a = 0 WHERE id = 1")
    run(one, "SET LOCK_TIMEOUT 100; BEGIN TRAN")
    assert fails(one, "SELECT TOP (0) 1 FROM t WITH (TABLOCK, HOLDLOCK)") == 1222
    run(two, "COMMIT")
    run(one, "SELECT TOP (0) 1 FROM t WITH (TABLOCK, HOLDLOCK)")
    run(two, "SET LOCK_TIMEOUT 100")
    assert fails(two, "INSERT INTO t VALUES (9, 9)") == 1222
    run(one, "COMMIT")
    run(two, "INSERT INTO t VALUES (9, 9)")
    assert shop.execute("SELECT COUNT(*) FROM t") == [(3,)]


def test_savepoints(shop: SqlServerDatabase, one: Any) -> None:
    run(
        one,
        "BEGIN TRAN; INSERT INTO t VALUES (3, 30); SAVE TRAN s; DELETE FROM t WHERE id < 3; INSERT INTO t VALUES (4, 4)",
    )
    run(one, "ROLLBACK TRAN s; INSERT INTO t VALUES (5, 50); COMMIT")
    assert shop.execute("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,), (5,)]


def test_nested_transactions_count(one: Any) -> None:
    run(one, "BEGIN TRAN; BEGIN TRAN; COMMIT")
    assert run(one, "SELECT @@TRANCOUNT") == [(1,)]
    run(one, "ROLLBACK")
    assert run(one, "SELECT @@TRANCOUNT, XACT_STATE()") == [(0, 0)]


def test_the_driver_begins_transactions_itself(shop: SqlServerDatabase) -> None:
    with shop.connect(autocommit=False) as connection:
        run(connection, "INSERT INTO t VALUES (3, 30)")
        connection.rollback()
        run(connection, "INSERT INTO t VALUES (4, 40)")
        connection.commit()
    assert shop.execute("SELECT id FROM t ORDER BY id") == [(1,), (2,), (4,)]


def test_a_failed_statement_leaves_nothing_behind(shop: SqlServerDatabase, one: Any) -> None:
    run(one, "BEGIN TRAN")
    assert fails(one, "INSERT INTO t VALUES (3, 30), (1, 0)") == 2627
    assert run(one, "SELECT COUNT(*), @@TRANCOUNT FROM t") == [(2, 1)]
    run(one, "SET XACT_ABORT ON")
    assert fails(one, "INSERT INTO t VALUES (1, 0)") == 2627
    assert run(one, "SELECT @@TRANCOUNT") == [(0,)]


def test_try_and_catch(one: Any) -> None:
    assert run(
        one,
        "BEGIN TRY INSERT INTO t VALUES (1, 0); SELECT 'not reached' END TRY"
        " BEGIN CATCH SELECT ERROR_NUMBER(), @@TRANCOUNT END CATCH",
    ) == [(2627, 0)]


def test_constraints(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute(
        "CREATE TABLE t (id int IDENTITY(5, 5) PRIMARY KEY, u nvarchar(9) UNIQUE, n int NOT NULL, c AS (n * 2))"
    )
    sqlserver.execute("CREATE UNIQUE INDEX ix ON t (n)")
    sqlserver.execute("INSERT INTO t (u, n) VALUES ('a', 1), ('b', 2)")
    for statement, number in (
        ("INSERT INTO t (u, n) VALUES ('A ', 3)", 2627),
        ("INSERT INTO t (u, n) VALUES ('c', 2)", 2601),
        ("INSERT INTO t (u) VALUES ('c')", 515),
        ("UPDATE t SET n = NULL", 515),
        ("INSERT INTO t (id, u, n) VALUES (1, 'c', 3)", 544),
        ("UPDATE t SET id = 1", 8102),
        ("UPDATE t SET c = 1", 271),
        ("INSERT INTO t VALUES (1)", 213),
    ):
        with pytest.raises(pymssql.Error) as raised:
            sqlserver.execute(statement)
        assert raised.value.args[0] == number, statement
    sqlserver.execute("UPDATE t SET n = n + 1")
    sqlserver.execute("SET IDENTITY_INSERT t ON; INSERT INTO t (id, n) VALUES (100, 100); SET IDENTITY_INSERT t OFF")
    sqlserver.execute("INSERT INTO t (u, n) VALUES ('z', 7)")
    assert sqlserver.execute("SELECT id, n, c FROM t ORDER BY id") == [
        (5, 2, 4),
        (10, 3, 6),
        (100, 100, 200),
        (105, 7, 14),
    ]


def test_definitions_are_rolled_back(shop: SqlServerDatabase, one: Any) -> None:
    run(one, "BEGIN TRAN; CREATE TABLE u (a int); ALTER TABLE t ADD b int; DROP TABLE t; ROLLBACK")
    assert run(one, "SELECT * FROM t ORDER BY id") == [(1, 10), (2, 20)]
    assert run(one, "SELECT OBJECT_ID('dbo.u')") == [(None,)]


def test_a_killed_connection_is_rolled_back(shop: SqlServerDatabase, one: Any) -> None:
    run(one, "BEGIN TRAN; DELETE FROM t")
    (spid,) = run(one, "SELECT @@SPID")[0]
    shop.superuser(f"KILL {spid}")
    with pytest.raises(pymssql.Error):
        run(one, "SELECT 1")
    wait_until(lambda: shop.execute("SELECT COUNT(*) FROM t WITH (NOLOCK)") == [(2,)])


def test_logins_and_rights(shop: SqlServerDatabase) -> None:
    with pytest.raises(pymssql.Error) as raised:
        shop.connect(REFLEX._replace(password="wrong"))
    assert "18456" in str(raised.value.args)
    with pytest.raises(pymssql.Error) as raised:
        shop.server.connect("nowhere", APP)
    assert "18456" in str(raised.value.args) or "4060" in str(raised.value.args)
    for statement, number in (("DELETE FROM t", 229), ("EXEC sys.sp_cdc_enable_db", 22904), ("DROP TABLE t", 3701)):
        with pytest.raises(pymssql.Error) as raised:
            shop.execute(statement, role=REFLEX)
        assert raised.value.args[0] == number, statement
    shop.superuser("DENY SELECT ON dbo.t TO reflex")
    with pytest.raises(pymssql.Error) as raised:
        shop.execute("SELECT * FROM t", role=REFLEX)
    assert raised.value.args[0] == 229


def test_procedures_by_rpc(shop: SqlServerDatabase, one: Any) -> None:
    with one.cursor() as cursor:
        cursor.callproc("sp_executesql", ("INSERT INTO t VALUES (@a, 7)", "@a int", 33))
    assert shop.execute("EXEC sp_executesql N'SELECT a FROM t WHERE id = @x', N'@x int', @x = 33") == [(7,)]


def test_a_cancelled_batch_leaves_the_session_usable(shop: SqlServerDatabase) -> None:
    with shop.connect(timeout=1) as connection:
        with pytest.raises(pymssql.Error):
            run(connection, "WAITFOR DELAY '00:00:30'")
    assert shop.execute("SELECT COUNT(*) FROM t") == [(2,)]


def test_a_big_result_is_streamed_and_may_be_left(shop: SqlServerDatabase) -> None:
    shop.execute(
        "INSERT INTO t SELECT a.object_id * 0 + ROW_NUMBER() OVER (ORDER BY a.column_id) + 10, 1 FROM sys.columns a, sys.types b"
    )
    with shop.connect() as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT x.id, y.id FROM t x CROSS JOIN t y CROSS JOIN t z CROSS JOIN sys.types w CROSS JOIN sys.types v"
        )
        assert len(cursor.fetchmany(1000)) == 1000
        cursor.close()
        assert run(connection, "SELECT 1") == [(1,)]


def test_a_result_that_is_read_slowly_is_of_one_state(shop: SqlServerDatabase) -> None:
    shop.execute(
        "INSERT INTO t SELECT TOP (20000) ROW_NUMBER() OVER (ORDER BY a.column_id) + 10, 1 FROM sys.columns a"
        " CROSS JOIN sys.types b CROSS JOIN sys.types c CROSS JOIN sys.types d"
    )
    with shop.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, a FROM t")
        rows = cursor.fetchmany(10)
        shop.execute("UPDATE t SET a = 2")
        shop.execute("ALTER TABLE t ADD b int NOT NULL DEFAULT 5")
        shop.execute("ALTER TABLE t ALTER COLUMN a bigint")
        shop.execute("DELETE FROM t WHERE id > 100")
        rows += cursor.fetchall()
    assert len(rows) == 20_002
    assert {a for _, a in rows} == {1, 10, 20}
    assert shop.execute("SELECT COUNT(*), SUM(a), SUM(b) FROM t") == [(92, 184, 460)]


def test_a_restart_keeps_the_data_and_ends_connections(sqlserver_pool: SqlServerPool) -> None:
    server = sqlserver_pool.private("sqlserver")
    try:
        database = server.create_database("kept")
        database.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (7)")
        with database.connect() as connection:
            run(connection, "BEGIN TRAN; DELETE FROM t")
            server.restart()
            with pytest.raises(pymssql.Error):
                run(connection, "SELECT 1")
        assert database.execute("SELECT id FROM t") == [(7,)]
    finally:
        server.close()


def test_what_the_emulator_does_not_know_is_an_error_and_recorded(private_sqlserver: SqlServer) -> None:
    if not private_sqlserver.emulated:
        pytest.skip("the server is real")
    for statement in (
        "SELECT FROBNICATE(1)",
        "SELECT * FROM #t",
        "EXEC sp_nothing",
        "SET ROWCOUNT 1",
        "CREATE TABLE t (a vector)",
        "CREATE VIEW v AS SELECT 1 AS a",
        "SELECT 1 FROM sys.tables FOR XML PATH",
        "SELECT @@NOTHING",
    ):
        with pytest.raises(pymssql.Error):
            private_sqlserver.execute(statement)
        assert len(private_sqlserver.unknown()) == 1, statement
