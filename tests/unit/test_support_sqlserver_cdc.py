"""Change data capture of the test server is what Microsoft documents: rows, masks, LSNs, instances, clean-up, errors."""

from __future__ import annotations

from typing import Any

import pymssql
import pytest

from tests.support.servers import APP, REFLEX, SqlServerDatabase
from tests.support.servers.sqlserver_server import run
from tests.support.waiting import wait_until


def changes(database: SqlServerDatabase, instance: str = "dbo_t", columns: str = "id, a") -> list[tuple[Any, ...]]:
    """What a change table holds, in order: operation, mask as a number, columns."""
    database.captured()
    rows = database.execute(
        f"SELECT [__$operation], [__$update_mask], {columns} FROM cdc.{instance}_CT"
        " ORDER BY [__$start_lsn], [__$command_id], [__$seqval], [__$operation]"
    )
    return [(operation, int.from_bytes(mask, "big"), *rest) for operation, mask, *rest in rows]


def fails(database: SqlServerDatabase, statement: str, **options: Any) -> int:
    with pytest.raises(pymssql.Error) as raised:
        database.execute(statement, **options)
    return int(raised.value.args[0])


@pytest.fixture
def shop(sqlserver: SqlServerDatabase) -> SqlServerDatabase:
    sqlserver.execute("CREATE TABLE t (id int NOT NULL PRIMARY KEY, a nvarchar(20), b int)")
    sqlserver.enable_cdc("t")
    return sqlserver


def test_insert_update_delete(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, N'ä', 5)")
    shop.execute("UPDATE t SET a = N'ö', b = 5 WHERE id = 1")
    shop.execute("UPDATE t SET a = a WHERE id = 1")
    shop.execute("DELETE FROM t")
    assert changes(shop, columns="id, a, b") == [
        (2, 0b111, 1, "ä", 5),
        (3, 0b010, 1, "ä", 5),
        (4, 0b010, 1, "ö", 5),
        (1, 0b111, 1, "ö", 5),
    ]


def test_a_changed_key_is_a_delete_and_an_insert(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'x', 1), (5, 'y', 1)")
    shop.execute("UPDATE t SET id = 3 WHERE id = 5")
    shop.execute("UPDATE t SET id = id + 2")
    rows = changes(shop)[2:]
    assert rows[:2] == [(1, 7, 5, "y"), (2, 7, 3, "y")]
    # Where a new key is an old one, the two are one update again.
    assert sorted(rows[2:]) == [(1, 7, 1, "x"), (2, 7, 5, "y"), (3, 2, 3, "y"), (4, 2, 3, "x")]


def test_a_transaction_has_one_lsn_and_its_order(shop: SqlServerDatabase) -> None:
    shop.execute("CREATE TABLE u (id int PRIMARY KEY)")
    shop.enable_cdc("u")
    with shop.connect() as connection:
        run(
            connection,
            "BEGIN TRAN; INSERT INTO t VALUES (1, 'a', 1); INSERT INTO u VALUES (1); UPDATE t SET a = 'b';"
            " DELETE FROM u; DELETE FROM t; COMMIT",
        )
    shop.captured()
    rows = shop.execute(
        "SELECT [__$start_lsn], [__$seqval], [__$command_id], [__$operation], 't' FROM cdc.dbo_t_CT UNION ALL"
        " SELECT [__$start_lsn], [__$seqval], [__$command_id], [__$operation], 'u' FROM cdc.dbo_u_CT ORDER BY 3, 2, 4"
    )
    assert [(row[3], row[4]) for row in rows] == [(2, "t"), (2, "u"), (3, "t"), (4, "t"), (1, "u"), (1, "t")]
    assert len({row[0] for row in rows}) == 1
    assert rows[2][1] == rows[3][1]
    assert sorted(row[1] for row in rows) == [row[1] for row in rows]
    assert all(row[1] < row[0] for row in rows)
    ((lsn, began),) = shop.execute("SELECT start_lsn, tran_begin_lsn FROM cdc.lsn_time_mapping WHERE tran_id <> 0x00")
    assert began < lsn == rows[0][0]


def test_rolled_back_changes_are_not_captured(shop: SqlServerDatabase) -> None:
    with shop.connect() as connection:
        run(connection, "BEGIN TRAN; INSERT INTO t VALUES (1, 'a', 1); ROLLBACK")
        run(connection, "BEGIN TRAN; INSERT INTO t VALUES (2, 'b', 1); SAVE TRAN s; INSERT INTO t VALUES (3, 'c', 1)")
        run(connection, "ROLLBACK TRAN s; COMMIT")
    assert changes(shop) == [(2, 7, 2, "b")]


def test_transactions_are_in_the_order_of_their_commits(shop: SqlServerDatabase) -> None:
    with shop.connect() as first, shop.connect() as second:
        run(first, "BEGIN TRAN; INSERT INTO t VALUES (1, 'a', 1)")
        run(second, "BEGIN TRAN; INSERT INTO t VALUES (2, 'b', 1); COMMIT")
        assert changes(shop) == [(2, 7, 2, "b")]
        (high,) = shop.execute("SELECT sys.fn_cdc_get_max_lsn()")[0]
        run(first, "COMMIT")
    assert changes(shop) == [(2, 7, 2, "b"), (2, 7, 1, "a")]
    (higher,) = shop.execute("SELECT sys.fn_cdc_get_max_lsn()")[0]
    assert higher > high


def test_large_objects(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int NOT NULL PRIMARY KEY, a int, m nvarchar(max), x text, c AS (a * 2))")
    sqlserver.enable_cdc("t")
    sqlserver.execute("INSERT INTO t VALUES (1, 1, 'm1', 'x1')")
    sqlserver.execute("UPDATE t SET a = 2")
    sqlserver.execute("UPDATE t SET m = 'm2', x = 'x2'")
    sqlserver.execute("DELETE FROM t")
    assert changes(sqlserver, columns="id, a, m, x, c") == [
        (2, 0b11111, 1, 1, "m1", "x1", None),
        (3, 0b00010, 1, 1, None, None, None),
        (4, 0b00010, 1, 2, None, None, None),
        (3, 0b01100, 1, 2, "m1", None, None),
        (4, 0b01100, 1, 2, "m2", "x2", None),
        (1, 0b11111, 1, 2, "m2", None, None),
    ]


def test_a_heap_captures_every_row(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int, a int)")
    sqlserver.enable_cdc("t")
    sqlserver.execute("INSERT INTO t VALUES (1, 1), (1, 1), (1, 1)")
    sqlserver.execute("DELETE TOP (1) FROM t")
    sqlserver.execute("UPDATE t SET id = 2")
    rows = changes(sqlserver)
    assert rows == [(2, 3, 1, 1)] * 3 + [(1, 3, 1, 1)] + [(3, 1, 1, 1), (4, 1, 2, 1)] * 2


def test_masks_of_many_columns(sqlserver: SqlServerDatabase) -> None:
    columns = ", ".join(f"c{index} int" for index in range(2, 12))
    sqlserver.execute(f"CREATE TABLE t (id int NOT NULL PRIMARY KEY, {columns})")
    sqlserver.enable_cdc("t")
    sqlserver.execute("INSERT INTO t (id) VALUES (1); UPDATE t SET c2 = 1, c9 = 1, c11 = 1")
    assert [row[:2] for row in changes(sqlserver, columns="id")] == [(2, 0x7FF), (3, 0x502), (4, 0x502)]
    assert sqlserver.execute(
        "SELECT sys.fn_cdc_is_bit_set(9, [__$update_mask]), sys.fn_cdc_is_bit_set(10, [__$update_mask])"
        " FROM cdc.dbo_t_CT WHERE [__$operation] = 4"
    ) == [(True, False)]


def test_captured_columns(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int NOT NULL PRIMARY KEY, secret int, a int, v rowversion)")
    sqlserver.enable_cdc()
    sqlserver.superuser(
        "EXEC sys.sp_cdc_enable_table @source_schema = 'dbo', @source_name = 't', @role_name = NULL,"
        " @captured_column_list = N'id, [a]', @supports_net_changes = 1"
    )
    sqlserver.execute("INSERT INTO t (id, secret, a) VALUES (1, 1, 1); UPDATE t SET secret = 2; UPDATE t SET a = 2")
    assert changes(sqlserver) == [(2, 3, 1, 1), (3, 2, 1, 1), (4, 2, 1, 2)]
    assert sqlserver.execute(
        "SELECT column_name, column_id, column_type, column_ordinal, is_computed FROM cdc.captured_columns ORDER BY column_ordinal"
    ) == [("id", 1, "int", 1, False), ("a", 3, "int", 2, False)]
    assert sqlserver.execute("SELECT column_name, index_ordinal FROM cdc.index_columns") == [("id", 1)]


def test_all_changes(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1); UPDATE t SET a = 'b'")
    shop.captured()
    bounds = "DECLARE @a binary(10) = sys.fn_cdc_get_min_lsn('dbo_t'), @b binary(10) = sys.fn_cdc_get_max_lsn(); "
    call = "SELECT [__$operation], id, a FROM cdc.fn_cdc_get_all_changes_dbo_t(@a, @b, N'{}') ORDER BY [__$seqval], 1"
    assert shop.execute(bounds + call.format("all")) == [(2, 1, "a"), (4, 1, "b")]
    assert shop.execute(bounds + call.format("all update old")) == [(2, 1, "a"), (3, 1, "a"), (4, 1, "b")]
    for change in (
        "SET @a = sys.fn_cdc_increment_lsn(@b);",
        "SET @b = sys.fn_cdc_increment_lsn(@b);",
        "SET @a = sys.fn_cdc_decrement_lsn(@a);",
        "SET @a = 0x00;",
    ):
        assert fails(shop, bounds + change + call.format("all")) == 313
    assert fails(shop, "SELECT * FROM cdc.fn_cdc_get_all_changes_nothing(0x00, 0x01, 'all')") == 208
    assert shop.execute("SELECT sys.fn_cdc_get_min_lsn('nothing')") == [(bytes(10),)]


def test_lsns_and_times(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.captured()
    ((lsn, ended),) = shop.execute("SELECT start_lsn, tran_end_time FROM cdc.lsn_time_mapping WHERE tran_id <> 0x00")
    at = f"{ended:%Y-%m-%dT%H:%M:%S.%f}"[:-3]
    assert shop.execute(f"SELECT sys.fn_cdc_map_lsn_to_time(0x{lsn.hex()})") == [(ended,)]
    assert shop.execute(f"SELECT sys.fn_cdc_map_time_to_lsn('largest less than or equal', '{at}')") == [(lsn,)]
    # While the job runs, an idle database's time line goes on between two questions.
    shop.stop_capture_job()
    latest = shop.execute("SELECT sys.fn_cdc_get_max_lsn()")
    assert shop.execute("SELECT sys.fn_cdc_map_time_to_lsn('largest less than or equal', GETDATE())") == latest
    assert shop.execute("SELECT sys.fn_cdc_map_time_to_lsn('smallest greater than', '2001-01-01')")[0][0] <= lsn


def test_a_stopped_job_captures_later(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.captured()
    shop.stop_capture_job()
    (high,) = shop.execute("SELECT sys.fn_cdc_get_max_lsn()")[0]
    shop.execute("INSERT INTO t VALUES (2, 'b', 1)")
    shop.execute("UPDATE t SET a = 'c' WHERE id = 2")
    with pytest.raises(AssertionError, match="capture job"):
        shop.captured(timeout=0.3)
    assert shop.execute("SELECT sys.fn_cdc_get_max_lsn()") == [(high,)]
    shop.start_capture_job()
    assert changes(shop) == [(2, 7, 1, "a"), (2, 7, 2, "b"), (3, 2, 2, "b"), (4, 2, 2, "c")]


def test_every_scan_leaves_its_trace(shop: SqlServerDatabase) -> None:
    statement = (
        "SELECT TOP (1) session_id, empty_scan_count, CONVERT(varchar(23), end_time, 121)"
        " FROM sys.dm_cdc_log_scan_sessions ORDER BY session_id DESC"
    )
    first = wait_until(lambda: shop.execute(statement, role=REFLEX))
    wait_until(lambda: shop.execute(statement, role=REFLEX) != first)


def test_the_end_of_the_log(shop: SqlServerDatabase) -> None:
    statement = "SELECT log_end_lsn FROM sys.dm_db_log_stats(DB_ID())"
    shop.execute("CREATE TABLE other (id int)")
    (before,) = shop.execute(statement)[0]
    shop.execute("INSERT INTO other VALUES (1)")
    (after,) = shop.execute(statement)[0]
    assert [len(part) for part in after.split(":")] == [8, 8, 4]
    assert after > before
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.captured()
    (end,) = shop.execute(statement)[0]
    (high,) = shop.execute("SELECT sys.fn_cdc_get_max_lsn()")[0]
    assert high.hex() <= end.replace(":", "")


def test_clean_up_moves_the_low_end(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.execute("INSERT INTO t VALUES (2, 'b', 1)")
    shop.captured()
    low = shop.clean_up("dbo_t")
    assert shop.execute("SELECT sys.fn_cdc_get_min_lsn('dbo_t'), start_lsn FROM cdc.change_tables") == [(low, low)]
    assert changes(shop) == [(2, 7, 2, "b")]
    statement = "EXEC sys.sp_cdc_cleanup_change_table 'dbo_t', 0x00000001000000010001"
    assert fails(shop, statement) == 22964


def test_two_instances_at_most(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.execute("ALTER TABLE t ADD c int")
    shop.execute("ALTER TABLE t DROP COLUMN b")
    shop.execute("INSERT INTO t VALUES (2, 'b', 7)")
    shop.enable_cdc("t", instance="second")
    shop.execute("UPDATE t SET a = 'x', c = 8 WHERE id = 2")
    assert changes(shop, columns="id, a, b") == [
        (2, 0b111, 1, "a", 1),
        (2, 0b111, 2, "b", None),
        (3, 0b010, 2, "b", None),
        (4, 0b010, 2, "x", None),
    ]
    assert changes(shop, "second", "id, a, c") == [(3, 0b110, 2, "b", 7), (4, 0b110, 2, "x", 8)]
    starts = dict(shop.execute("SELECT capture_instance, start_lsn FROM cdc.change_tables"))
    assert starts["dbo_t"] < starts["second"]
    history = shop.execute("SELECT ddl_command, required_column_update, ddl_lsn FROM cdc.ddl_history ORDER BY ddl_lsn")
    assert [row[:2] for row in history] == [("ALTER TABLE t ADD c int", False), ("ALTER TABLE t DROP COLUMN b", False)]
    assert starts["dbo_t"] < history[0][2] < history[1][2] < starts["second"]
    call = "EXEC sys.sp_cdc_enable_table @source_schema = 'dbo', @source_name = 't', @role_name = NULL, @capture_instance = "
    assert fails(shop, call + "'third'") == 22962
    assert fails(shop, call + "'second'") == 22926
    shop.disable_cdc("t", "dbo_t")
    assert fails(shop, "SELECT * FROM cdc.dbo_t_CT") == 208
    shop.execute("UPDATE t SET c = 9 WHERE id = 2")
    assert changes(shop, "second", "c")[-1] == (4, 0b100, 9)


def test_an_altered_column_goes_on(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.execute("ALTER TABLE t ALTER COLUMN b bigint")
    shop.execute("INSERT INTO t VALUES (2, 'b', 5000000000)")
    assert changes(shop, columns="id, b") == [(2, 7, 1, 1), (2, 7, 2, 5_000_000_000)]
    assert shop.execute("SELECT required_column_update FROM cdc.ddl_history") == [(True,)]


def test_what_is_refused_under_cdc(shop: SqlServerDatabase) -> None:
    assert fails(shop, "TRUNCATE TABLE t") == 4711
    assert fails(shop, "EXEC sp_rename 'dbo.t.a', 'aa', 'COLUMN'") == 4928
    statement = "EXEC sys.sp_cdc_enable_table @source_schema = 'dbo', @source_name = 'x', @role_name = NULL"
    assert fails(shop, statement, role=APP) in (22931, 22981)


def test_a_dropped_table_takes_its_instances_with_it(shop: SqlServerDatabase) -> None:
    shop.execute("DROP TABLE t")
    assert shop.execute("SELECT COUNT(*) FROM cdc.change_tables") == [(0,)]
    shop.execute("CREATE TABLE t (id int PRIMARY KEY)")
    assert shop.execute("SELECT is_tracked_by_cdc FROM sys.tables WHERE name = 't'") == [(False,)]


def test_enabling_needs_the_database_enabled(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int)")
    statement = "EXEC sys.sp_cdc_enable_table @source_schema = 'dbo', @source_name = 't', @role_name = NULL"
    assert fails(sqlserver, statement) == 22901
    assert fails(sqlserver, "SELECT * FROM cdc.change_tables") == 208
    sqlserver.superuser("EXEC sys.sp_cdc_enable_db")
    assert sqlserver.execute("SELECT sys.fn_cdc_get_max_lsn()") == [(None,)]
    sqlserver.superuser("EXEC sys.sp_cdc_disable_db")
    assert sqlserver.execute("SELECT is_cdc_enabled FROM sys.databases WHERE database_id = DB_ID()") == [(False,)]


def test_gating_by_a_role(shop: SqlServerDatabase) -> None:
    shop.execute("CREATE TABLE u (id int PRIMARY KEY)")
    shop.enable_cdc("u", role="readers")
    shop.execute("INSERT INTO u VALUES (1)")
    shop.captured()
    bounds = "DECLARE @a binary(10) = sys.fn_cdc_get_min_lsn('dbo_u'), @b binary(10) = sys.fn_cdc_get_max_lsn(); "
    call = "SELECT id FROM cdc.fn_cdc_get_all_changes_dbo_u(@a, @b, 'all')"
    assert fails(shop, bounds + call, role=REFLEX) == 229
    shop.superuser("ALTER ROLE readers ADD MEMBER reflex")
    assert shop.execute(bounds + call, role=REFLEX) == [(1,)]


def test_the_change_tables_are_read_as_of_one_moment(shop: SqlServerDatabase) -> None:
    shop.execute("INSERT INTO t VALUES (1, 'a', 1)")
    shop.captured()
    with shop.connect() as reader:
        run(reader, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION")
        assert run(reader, "SELECT COUNT(*) FROM cdc.dbo_t_CT") == [(1,)]
        shop.execute("INSERT INTO t VALUES (2, 'b', 1)")
        shop.captured()
        assert run(reader, "SELECT COUNT(*) FROM cdc.dbo_t_CT") == [(1,)]
        run(reader, "COMMIT")
        assert run(reader, "SELECT COUNT(*) FROM cdc.dbo_t_CT") == [(2,)]
