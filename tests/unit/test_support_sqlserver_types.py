"""Every type of SQL Server goes through the test server unharmed, by pymssql, and CONVERT reads it as documented."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from decimal import Decimal
from typing import Any

import pymssql
import pytest

from tests.support.servers import SqlServerDatabase

UTC = dt.UTC
INDIA = dt.timezone(dt.timedelta(hours=5, minutes=30))
LONG = "ä€" * 30_000
CASES: list[tuple[str, str, Any]] = [
    ("tinyint", "0", 0),
    ("tinyint", "255", 255),
    ("smallint", "-32768", -32768),
    ("int", "-2147483648", -(2**31)),
    ("bigint", "-9223372036854775808", -(2**63)),
    ("bigint", "9223372036854775807", 2**63 - 1),
    ("bit", "1", True),
    ("bit", "0", False),
    ("decimal(38,10)", "-1234567890123456789012345678.0123456789", Decimal("-1234567890123456789012345678.0123456789")),
    ("decimal(38,10)", "-0.0000000001", Decimal("-0.0000000001")),
    ("decimal(9,2)", "1234567.89", Decimal("1234567.89")),
    ("numeric(19,0)", "-9999999999999999999", Decimal("-9999999999999999999")),
    ("money", "-922337203685477.5808", Decimal("-922337203685477.5808")),
    ("money", "922337203685477.5807", Decimal("922337203685477.5807")),
    ("smallmoney", "-214748.3648", Decimal("-214748.3648")),
    ("float", "1.7976931348623157E308", 1.7976931348623157e308),
    ("float", "-2.5E-300", -2.5e-300),
    ("real", "1.5", 1.5),
    ("date", "'0001-01-01'", dt.date(1, 1, 1)),
    ("date", "'9999-12-31'", dt.date(9999, 12, 31)),
    ("datetime", "'1753-01-01'", dt.datetime(1753, 1, 1)),
    ("datetime", "'9999-12-31 23:59:59.997'", dt.datetime(9999, 12, 31, 23, 59, 59, 997000)),
    ("datetime", "'2020-02-29T12:34:56.125'", dt.datetime(2020, 2, 29, 12, 34, 56, 127000)),
    ("smalldatetime", "'2079-06-06 23:59:00'", dt.datetime(2079, 6, 6, 23, 59)),
    ("datetime2(7)", "'0001-01-01 00:00:00.0000010'", dt.datetime(1, 1, 1, 0, 0, 0, 1)),
    ("datetime2(3)", "'2020-02-29 12:34:56.7895'", dt.datetime(2020, 2, 29, 12, 34, 56, 790000)),
    ("datetime2(0)", "'2020-02-29 12:34:56'", dt.datetime(2020, 2, 29, 12, 34, 56)),
    ("time(7)", "'23:59:59.9999990'", dt.time(23, 59, 59, 999999)),
    ("time(0)", "'00:00:01'", dt.time(0, 0, 1)),
    ("datetimeoffset(7)", "'2020-01-01 00:00:00.1234560 +05:30'", dt.datetime(2020, 1, 1, 0, 0, 0, 123456, INDIA)),
    ("datetimeoffset(0)", "'1999-12-31 23:00:00 +00:00'", dt.datetime(1999, 12, 31, 23, tzinfo=UTC)),
    ("uniqueidentifier", "'0E984725-C51C-4BF4-9960-E1C80E27ABA0'", uuid.UUID("0e984725-c51c-4bf4-9960-e1c80e27aba0")),
    ("char(5)", "'ab'", "ab   "),
    ("varchar(20)", "'Käse €'", "Käse €"),
    ("varchar(20)", "''", ""),
    ("nchar(3)", "N'ß'", "ß  "),
    ("nvarchar(20)", "N'日本語 😀'", "日本語 😀"),
    ("nvarchar(20)", "N'quote '' and \\'", "quote ' and \\"),
    ("varchar(max)", f"'{LONG}'", LONG),
    ("nvarchar(max)", f"N'{LONG}'", LONG),
    ("nvarchar(max)", "N''", ""),
    ("text", "'plain text'", "plain text"),
    ("ntext", "N'Київ'", "Київ"),
    ("binary(4)", "0x0102", b"\x01\x02\x00\x00"),
    ("varbinary(10)", "0x", b""),
    ("varbinary(10)", "0x00FF", b"\x00\xff"),
    ("varbinary(max)", "0x" + "AB" * 20_000, b"\xab" * 20_000),
    ("image", "0xDEADBEEF", b"\xde\xad\xbe\xef"),
    ("xml", "N'<a>é</a>'", "<a>é</a>"),
]


def _id(case: tuple[str, str, Any]) -> str:
    return f"{case[0]}-{case[1][:20]}"


@pytest.fixture(scope="module")
def every(sqlserver_server: Any) -> Any:
    database = sqlserver_server.create_database()
    columns = ", ".join(f"c{index} {kind}" for index, (kind, _, _) in enumerate(CASES))
    database.execute(f"CREATE TABLE every (id int NOT NULL PRIMARY KEY, {columns})")
    literals = ", ".join(literal for _, literal, _ in CASES)
    database.execute(f"INSERT INTO every VALUES (1, {literals})")
    database.execute("INSERT INTO every (id) VALUES (2)")
    yield database
    database.drop()


@pytest.mark.parametrize("index", range(len(CASES)), ids=[_id(case) for case in CASES])
def test_round_trip(every: SqlServerDatabase, index: int) -> None:
    rows = every.execute(f"SELECT c{index} FROM every ORDER BY id")
    assert rows == [(CASES[index][2],), (None,)]
    assert type(rows[0][0]) is type(CASES[index][2])


def test_all_columns_at_once(every: SqlServerDatabase) -> None:
    first, second = every.execute("SELECT * FROM every ORDER BY id")
    assert first == (1, *(value for _, _, value in CASES))
    assert second == (2, *(None for _ in CASES))


def test_the_catalogue_describes_the_columns(every: SqlServerDatabase) -> None:
    rows = every.execute(
        "SELECT c.name, TYPE_NAME(c.system_type_id), c.max_length, c.precision, c.scale, c.is_nullable"
        " FROM sys.columns c WHERE c.object_id = OBJECT_ID('dbo.every') ORDER BY c.column_id"
    )
    found = {name: rest for name, *rest in rows}
    kinds = {kind: f"c{index}" for index, (kind, _, _) in enumerate(CASES)}
    assert found["id"] == ["int", 4, 10, 0, False]
    assert found[kinds["decimal(38,10)"]] == ["decimal", 17, 38, 10, True]
    assert found[kinds["nvarchar(20)"]] == ["nvarchar", 40, 0, 0, True]
    assert found[kinds["varchar(max)"]] == ["varchar", -1, 0, 0, True]
    assert found[kinds["datetime2(7)"]] == ["datetime2", 8, 27, 7, True]
    assert found[kinds["datetime2(0)"]] == ["datetime2", 6, 19, 0, True]
    assert found[kinds["datetimeoffset(7)"]] == ["datetimeoffset", 10, 34, 7, True]
    assert found[kinds["time(0)"]] == ["time", 3, 8, 0, True]
    assert found[kinds["text"]] == ["text", 16, 0, 0, True]
    assert found[kinds["real"]] == ["real", 4, 24, 0, True]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("CONVERT(varchar(27), CAST('9999-12-31 23:59:59.9999999' AS datetime2(7)), 121)", "9999-12-31 23:59:59.9999999"),
        ("CONVERT(varchar(23), CAST('2020-01-02 03:04:05.007' AS datetime), 121)", "2020-01-02 03:04:05.007"),
        ("CONVERT(varchar(23), CAST('2020-01-02 03:04:05.010' AS datetime), 126)", "2020-01-02T03:04:05.010"),
        ("CONVERT(varchar(10), CAST('2020-01-02' AS date), 23)", "2020-01-02"),
        ("CONVERT(varchar(8), CAST('2020-01-02' AS datetime), 112)", "20200102"),
        ("CONVERT(varchar(16), CAST('01:02:03.4567891' AS time), 121)", "01:02:03.4567891"),
        ("CAST(CAST('2020-01-02 13:04:05' AS datetime) AS varchar(30))", "Jan  2 2020  1:04PM"),
        (
            "CONVERT(varchar(34), CAST('2020-01-01 00:00:00 +05:30' AS datetimeoffset), 121)",
            "2020-01-01 00:00:00.0000000 +05:30",
        ),
        (
            "CONVERT(varchar(27), CONVERT(datetime2(7), SWITCHOFFSET(CAST('2020-01-01 00:00 +05:30' AS datetimeoffset), 0)), 121)",
            "2019-12-31 18:30:00.0000000",
        ),
        ("CONVERT(char(36), CAST('0e984725-c51c-4bf4-9960-e1c80e27aba0' AS uniqueidentifier))", "0E984725-C51C-4BF4-9960-E1C80E27ABA0"),
        ("CONVERT(varchar(30), CAST(1234567.891 AS money), 2)", "1234567.8910"),
        ("CAST(CAST(1.5 AS money) AS varchar(30))", "1.50"),
        ("CONVERT(varchar(30), CAST(0.1 AS float), 3)", "0.10000000000000001"),
        ("CONVERT(varchar(30), 0x0AFF, 1)", "0x0AFF"),
        ("CONVERT(varbinary(4), 'AB12', 2)", b"\xab\x12"),
        ("CONVERT(varbinary(8), 258)", b"\x00\x00\x01\x02"),
        ("CONVERT(binary(8), CAST(1 AS bigint))", b"\x00\x00\x00\x00\x00\x00\x00\x01"),
        ("CONVERT(int, SUBSTRING(0x0102, 2, 1))", 2),
        ("CONVERT(varbinary(10), N'aé')", b"a\x00\xe9\x00"),
        ("CAST('  12 ' AS int)", 12),
        ("CAST(2.9 AS int)", 2),
        ("CAST('true' AS bit)", True),
        ("TRY_CAST('x' AS int)", None),
        ("TRY_CONVERT(date, 'x')", None),
        ("7 / 2", 3),
        ("-7 / 2", -3),
        ("-7 % 2", -1),
        ("CAST(7 AS decimal(5,1)) / 2", Decimal("3.50000000")),
        ("1.10 * 2.20", Decimal("2.4200")),
        ("'a' + N'ü'", "aü"),
        ("LEN('ab  ')", 2),
        ("DATALENGTH(N'ab ')", 6),
        ("ISNULL(NULL, 3)", 3),
        ("COALESCE(NULL, 'x')", "x"),
        ("IIF('A' = 'a ', 1, 0)", 1),
        ("CASE WHEN 'A' = 'a' COLLATE Latin1_General_BIN2 THEN 1 ELSE 0 END", 0),
        ("CASE WHEN 'ab_c' LIKE 'AB[_]%' THEN 1 ELSE 0 END", 1),
        ("DATEDIFF(day, '2020-02-28', '2020-03-01')", 2),
        ("DATEDIFF_BIG(millisecond, '1970-01-01', '2020-01-01')", 1577836800000),
        ("DATEADD(month, 1, CAST('2020-01-31' AS date))", dt.date(2020, 2, 29)),
        ("CONVERT(nvarchar(30), CAST(CAST(2.5 AS float) AS sql_variant))", "2.5"),
        ("CONVERT(varchar(30), SQL_VARIANT_PROPERTY(CAST(N'x' AS sql_variant), 'BaseType'))", "nvarchar"),
    ],
)  # fmt: skip
def test_expressions(sqlserver_server: Any, expression: str, value: Any) -> None:
    rows = sqlserver_server.execute(f"SELECT {expression}")
    assert rows == [(value,)]
    assert type(rows[0][0]) is type(value)


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("SELECT CAST('x' AS int)", 245),
        ("SELECT CAST('x' AS date)", 241),
        ("SELECT CAST('x' AS uniqueidentifier)", 8169),
        ("SELECT CAST(300 AS tinyint)", 220),
        ("SELECT 2147483647 + 1", 8115),
        ("SELECT 1 / 0", 8134),
        ("SELECT CAST('1000-01-01' AS datetime)", 242),
        ("SELECT nothing FROM sys.tables", 207),
        ("SELECT 1 FROM nothing", 208),
        ("SELECT x.y FROM sys.tables t", 4104),
        ("SELECT name FROM sys.tables a, sys.schemas b", 209),
        ("SELEKT 1", 102),
        ("SELECT FROM", 156),
        ("SELECT 'open", 105),
        ("SELECT @nothing", 137),
        ("SELECT 1 WHERE 1", 4145),
        ("CREATE TABLE x (a nothing)", 2715),
        ("COMMIT", 3902),
        ("ROLLBACK", 3903),
        ("RAISERROR('mine', 16, 1)", 50000),
        ("THROW 51000, 'mine', 1", 51000),
    ],
)
def test_errors_carry_their_numbers(sqlserver_server: Any, statement: str, number: int) -> None:
    with pytest.raises(pymssql.Error) as raised:
        sqlserver_server.execute(statement)
    assert raised.value.args[0] == number
    sqlserver_server.unknown()  # what is no T-SQL might be some that the emulator does not read


def test_text_that_is_too_long_is_refused(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (a varchar(3), b varbinary(2))")
    sqlserver.execute("INSERT INTO t VALUES ('abc  ', NULL)")
    for values in ("('abcd', NULL)", "(NULL, 0x010203)"):
        with pytest.raises(pymssql.Error) as raised:
            sqlserver.execute(f"INSERT INTO t VALUES {values}")
        assert raised.value.args[0] in (2628, 8152)
    assert sqlserver.execute("SELECT a FROM t") == [("abc",)]


def test_types_of_the_clr(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int PRIMARY KEY, h hierarchyid, g geometry, o geography)")
    sqlserver.enable_cdc("t")
    sqlserver.execute(
        "INSERT INTO t VALUES (1, '/1/2.1/', geometry::STGeomFromText('POINT(1 2 3)', 0),"
        " geography::STGeomFromText('LINESTRING(1 2, 3 4)', 4326)), (2, NULL, NULL, NULL);"
        " UPDATE t SET h = hierarchyid::Parse('/3/') WHERE id = 1"
    )
    point = struct.pack("<BI3d", 1, 1001, 1, 2, 3)
    line = struct.pack("<BII4d", 1, 2, 2, 1, 2, 3, 4)
    items = "h.ToString(), CAST(g AS geometry).AsBinaryZM(), t.o.AsBinaryZM(), g.STAsBinary()"
    assert sqlserver.execute(f"SELECT {items} FROM t ORDER BY id") == [
        ("/3/", point, line, struct.pack("<BI2d", 1, 1, 1, 2)),
        (None, None, None, None),
    ]
    sqlserver.captured()
    assert sqlserver.execute(
        "SELECT h.ToString(), g.AsBinaryZM() FROM cdc.dbo_t_CT WHERE id = 1 ORDER BY [__$operation]"
    ) == [
        ("/1/2.1/", point),
        ("/1/2.1/", None),
        ("/3/", None),
    ]
    assert sqlserver.execute(
        "SELECT TYPE_NAME(system_type_id), TYPE_NAME(user_type_id), max_length FROM sys.columns"
        " WHERE object_id = OBJECT_ID('t') AND column_id > 1 ORDER BY column_id"
    ) == [(None, "hierarchyid", 892), (None, "geometry", -1), (None, "geography", -1)]
    with pytest.raises(pymssql.Error) as raised:
        sqlserver.execute("INSERT INTO t (id, h) VALUES (3, '1/')")
    assert raised.value.args[0] == 6522


def test_guids_sort_by_their_last_bytes(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (g uniqueidentifier NOT NULL PRIMARY KEY)")
    low, high = "ffffffff-ffff-ffff-ffff-000000000001", "00000000-0000-0000-0000-000000000002"
    sqlserver.execute(f"INSERT INTO t VALUES ('{high}'), ('{low}')")
    assert [str(row[0]) for row in sqlserver.execute("SELECT g FROM t ORDER BY g")] == [low, high]
    assert sqlserver.execute(f"SELECT COUNT(*) FROM t WHERE g > '{low}'") == [(1,)]


def test_rowversions_grow_with_every_change(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE t (id int PRIMARY KEY, a int, v rowversion)")
    sqlserver.execute("INSERT INTO t (id, a) VALUES (1, 1), (2, 2)")
    before = dict(sqlserver.execute("SELECT id, v FROM t"))
    sqlserver.execute("UPDATE t SET a = 3 WHERE id = 1")
    after = dict(sqlserver.execute("SELECT id, v FROM t"))
    assert after[2] == before[2] > before[1]
    assert after[1] > before[2]
