"""The test server under hard cases: names, many columns, large values, its clock, and what it does not know."""

from __future__ import annotations

import datetime as dt

import pymssql
import pytest

from tests.support.servers import REFLEX, SqlServer, SqlServerDatabase
from tests.support.servers.sqlserver_emulated import EmulatedSqlServer
from tests.support.servers.sqlserver_server import quote, require_known, run
from tests.support.waiting import wait_until

NAMES = ["a b", "a.b", "it's", "]", "[", 'quote"', "select", "Ünïcödé 日本", "@x", "$partition", "-- no comment", "/*"]


def test_names(sqlserver: SqlServerDatabase) -> None:
    for name in NAMES:
        sqlserver.execute(f"CREATE SCHEMA {quote(name)}")
        sqlserver.execute(f"CREATE TABLE {quote(name)}.{quote(name)} (id int PRIMARY KEY, {quote(name)} nvarchar(9))")
        sqlserver.execute(f"INSERT INTO {quote(name)}.{quote(name)} VALUES (1, N'x')")
        sqlserver.enable_cdc()
        sqlserver.superuser(
            "EXEC sys.sp_cdc_enable_table @source_schema = %s, @source_name = %s, @role_name = NULL, @capture_instance = %s",
            (name, name, f"i {name}"),
        )
        sqlserver.execute(f"UPDATE {quote(name)}.{quote(name)} SET {quote(name)} = N'y'")
    sqlserver.captured()
    rows = sqlserver.execute(
        "SELECT s.name, t.name, c.name, HAS_PERMS_BY_NAME(QUOTENAME(s.name) + '.' + QUOTENAME(t.name), 'OBJECT', 'SELECT')"
        " FROM sys.tables t JOIN sys.schemas s ON s.schema_id = t.schema_id JOIN sys.columns c"
        " ON c.object_id = t.object_id WHERE c.column_id = 2 AND s.name <> 'cdc' ORDER BY t.object_id",
        role=REFLEX,
    )
    assert rows == [(name, name, name, 1) for name in NAMES]
    for name in NAMES:
        found = sqlserver.execute(f"SELECT {quote(name)} FROM cdc.{quote(f'i {name}_CT')} WHERE [__$operation] = 4")
        assert found == [("y",)]


def test_names_differ_by_more_than_case(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE Things (Id int)")
    with pytest.raises(pymssql.Error) as raised:
        sqlserver.execute("CREATE TABLE THINGS (id int)")
    assert raised.value.args[0] == 2714
    assert sqlserver.execute("SELECT ID FROM things") == []


def test_a_thousand_columns(sqlserver: SqlServerDatabase) -> None:
    count = 1000
    sqlserver.execute(
        f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(f'c{index} int' for index in range(2, count + 1))})"
    )
    sqlserver.enable_cdc("wide")
    sqlserver.execute(f"INSERT INTO wide VALUES ({', '.join(str(index) for index in range(count))})")
    sqlserver.execute(f"UPDATE wide SET c{count} = -1")
    sqlserver.captured()
    ((mask, last),) = sqlserver.execute(
        f"SELECT [__$update_mask], c{count} FROM cdc.dbo_wide_CT WHERE [__$operation] = 4"
    )
    assert int.from_bytes(mask, "big") == 1 << (count - 1)
    assert len(mask) == 125
    assert last == -1
    assert sqlserver.execute("SELECT * FROM wide")[0] == (*range(count - 1), -1)


def test_a_large_value(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int PRIMARY KEY, a nvarchar(max), b varbinary(max))")
    text, data = "it's ä 日" * 500_000, bytes(range(256)) * 8_000
    sqlserver.execute("INSERT INTO t VALUES (1, %s, %s)", (text, data))
    assert sqlserver.execute("SELECT a, b, LEN(a), DATALENGTH(b) FROM t") == [(text, data, len(text), len(data))]


def test_what_the_code_page_lacks_is_lost_in_varchar(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (a varchar(9), b nvarchar(9))")
    sqlserver.execute(
        "INSERT INTO t VALUES (N'€日', N'€日'), ('€日', '€日'); INSERT INTO t SELECT b, b FROM t WHERE b = N'€日'"
    )
    assert sqlserver.execute("SELECT CONVERT(nvarchar(9), a), b FROM t") == [
        ("€?", "€日"),
        ("€?", "€?"),
        ("€?", "€日"),
    ]


def test_an_idle_time_line_goes_on(private_sqlserver: SqlServer) -> None:
    if not isinstance(private_sqlserver, EmulatedSqlServer):
        pytest.skip("a real server's clock is not moved")
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.enable_cdc("t")
    database.execute("INSERT INTO t VALUES (1)")
    database.captured()
    (high,) = database.execute("SELECT sys.fn_cdc_get_max_lsn()")[0]
    private_sqlserver.set_clock(dt.timedelta(minutes=10))
    wait_until(lambda: database.execute("SELECT sys.fn_cdc_get_max_lsn()")[0][0] > high)
    rows = database.execute("SELECT tran_id FROM cdc.lsn_time_mapping ORDER BY start_lsn DESC")
    assert rows[0] == (b"\x00",)
    assert database.execute("SELECT COUNT(*) FROM cdc.dbo_t_CT") == [(1,)]


def test_a_slow_capture_job_lags(private_sqlserver: SqlServer) -> None:
    if not isinstance(private_sqlserver, EmulatedSqlServer):
        pytest.skip("a real server's job is not slowed down")
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.enable_cdc("t")
    private_sqlserver.emulator.capture_delay = 3600
    database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(AssertionError):
        database.captured(timeout=0.3)
    private_sqlserver.emulator.capture_delay = 0
    database.captured()
    assert database.execute("SELECT COUNT(*) FROM cdc.dbo_t_CT") == [(1,)]


def test_change_tables_of_old_servers(private_sqlserver: SqlServer) -> None:
    if not isinstance(private_sqlserver, EmulatedSqlServer):
        pytest.skip("a real server has one version")
    database = private_sqlserver.create_database()
    private_sqlserver.without_command_ids(database.name)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    database.enable_cdc("t")
    database.execute("INSERT INTO t VALUES (1, 1); UPDATE t SET a = 2")
    database.captured()
    rows = database.execute("SELECT * FROM cdc.dbo_t_CT ORDER BY [__$start_lsn], [__$seqval], [__$operation]")
    assert [row[3:] for row in rows] == [(2, b"\x03", 1, 1), (3, b"\x02", 1, 1), (4, b"\x02", 1, 2)]


def test_a_frozen_server_answers_later(private_sqlserver: SqlServer) -> None:
    with private_sqlserver.connect(timeout=1) as connection:
        with private_sqlserver.frozen(), pytest.raises(pymssql.Error):
            run(connection, "SELECT 1")
    assert private_sqlserver.execute("SELECT 1") == [(1,)]


def test_a_test_that_asks_for_the_unknown_fails(private_sqlserver: SqlServer) -> None:
    if not private_sqlserver.emulated:
        pytest.skip("the server is real")
    require_known(private_sqlserver)
    with pytest.raises(pymssql.Error):
        private_sqlserver.execute("SELECT FROBNICATE(1)")
    with pytest.raises(pytest.fail.Exception, match="frobnicate"):
        require_known(private_sqlserver)
