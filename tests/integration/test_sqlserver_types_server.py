"""Every type of SQL Server: the snapshot, the stream and the replica hold what the server says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.registry import open_poll_source, open_source
from engine.errors import UnsupportedValue
from engine.schema import TableId
from tests.contract.harness import later
from tests.support import replay as replaying
from tests.support.replay import Replay
from tests.support.servers import SqlServerDatabase
from tests.support.sqlserver_live import SqlServerLive

SAMPLES: dict[str, tuple[str, ...]] = {
    "tinyint": ("0", "255"),
    "smallint": ("-32768", "32767"),
    "int": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
    "bit": ("0", "1"),
    "decimal(38,10)": ("9999999999999999999999999999.9999999999", "CONVERT(decimal(38,10), '-0.0000000001')"),
    "numeric(5,0)": ("-99999", "0"),
    "money": ("-922337203685477.5808", "922337203685477.5807"),
    "smallmoney": ("-214748.3648", "0.0001"),
    "float": ("1.7976931348623157e308", "-5e-324", "0.1"),
    "real": ("3.4028234e38", "0.1"),
    "datetime": ("'1753-01-01T00:00:00.003'", "'9999-12-31T23:59:59.997'", "'2024-02-29T12:00:00.007'"),
    "smalldatetime": ("'1900-01-01T00:01:00'", "'2079-06-06T23:59:00'"),
    "datetime2(7)": ("'1969-12-31T23:59:59.9999999'", "'2024-02-29T00:00:00.0000001'"),
    "datetime2(3)": ("'0001-01-01T00:00:00.001'", "'9999-12-31T23:59:59.999'"),
    "datetime2(0)": ("'2024-02-29T01:02:03'",),
    "date": ("'0001-01-01'", "'9999-12-31'"),
    "time(7)": ("'23:59:59.9999999'", "'00:00:00'"),
    "time(3)": ("'23:59:59.999'", "'00:00:00'"),
    "datetimeoffset(7)": ("'2024-01-01T00:00:00.1234567+05:30'", "'1999-12-31T23:59:59.9999999-08:00'"),
    "datetimeoffset(0)": ("'2024-01-01T00:00:00-14:00'",),
    "uniqueidentifier": ("'6F9619FF-8B86-D011-B42D-00C04FC964FF'",),
    "binary(4)": ("0x01020300", "0x"),
    "varbinary(20)": ("0x", "0xFF00"),
    "varbinary(max)": ("0x0102", "0x"),
    "image": ("0x00FF", "0x"),
    "char(5)": ("'ab'", "'é'", "''"),
    "varchar(20)": ("''", "'naïve '"),
    "varchar(max)": ("REPLICATE(CONVERT(varchar(max), 'x'), 9000)", "''"),
    "nchar(4)": ("N'日'", "N''"),
    "nvarchar(20)": ("N'😀 x'", "N''"),
    "nvarchar(max)": ("REPLICATE(CONVERT(nvarchar(max), N'語'), 9000)", "N''"),
    "text": ("'text'", "''"),
    "ntext": ("N'ñ'", "N''"),
    "xml": ("'<a>1</a>'", "'<b/>'"),
    "hierarchyid": ("'/1/2/'", "hierarchyid::Parse('/')"),
    "geometry": (
        "geometry::STGeomFromText('POINT(1 2 3)', 0)",
        "geometry::STGeomFromText('LINESTRING(1 2, 3 4)', 4326)",
    ),
    "geography": ("geography::STGeomFromText('POINT(9.5 47.5)', 4326)",),
    "sql_variant": ("CONVERT(int, 5)", "CONVERT(nvarchar(10), N'v')", "CONVERT(bit, 1)"),
}
"""Per type: values as T-SQL writes them."""


@pytest.fixture(autouse=True)
def whole_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read times as their numbers: Python has no type for a nanosecond."""

    def rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
        columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in batch.columns]
        return [tuple(r.values()) for r in pa.RecordBatch.from_arrays(columns, batch.schema.names).to_pylist()]

    monkeypatch.setattr(replaying, "_tuples", rows)


def fill(database: SqlServerDatabase) -> dict[TableId, list[str]]:
    """A table per type; returns the statements that put the sample values in, once more."""
    statements: dict[TableId, list[str]] = {}
    for number, (kind, values) in enumerate(SAMPLES.items()):
        table = TableId("dbo", f"t{number}")
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, c {kind})")
        inserts = [f"INSERT INTO {table} VALUES ({n}, {value})" for n, value in enumerate((*values, "NULL"))]
        for statement in inserts:
            database.execute(statement)
        database.enable_cdc(table.name)
        statements[table] = [f"DELETE FROM {table}", *inserts]
    return statements


def test_snapshot_stream_and_poll_agree_on_every_type(sqlserver: SqlServerDatabase) -> None:
    statements = fill(sqlserver)
    replay = Replay(open_source("mssql", sqlserver.options(batch_window=0.02)))
    polled = Replay(open_poll_source("mssql", sqlserver.options(poll_interval=0.3)))
    try:
        replay.start()
        loaded = {table: rows.content() for table, rows in replay.tables.items()}
        assert {table.name: len(rows) for table, rows in loaded.items()} == {
            f"t{n}": len(values) + 1 for n, values in enumerate(SAMPLES.values())
        }
        types = {table: [c.type for c in rows.table.columns] for table, rows in replay.tables.items()}
        for batches in statements.values():
            for statement in batches:
                sqlserver.execute(statement)
        sqlserver.captured()
        end = replay.source.status().position
        assert end is not None
        replay.reach(end)
        assert {table: rows.content() for table, rows in replay.tables.items()} == loaded
        assert replay.changes == []
        position = polled.start()
        polled.reach(later(position, 1))
        assert {table: rows.content() for table, rows in polled.tables.items()} == loaded
        assert {table: [c.type for c in rows.table.columns] for table, rows in polled.tables.items()} == types
    finally:
        replay.close()
        polled.close()


def test_a_row_version_is_that_of_the_row(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, v rowversion, n int)")
    sqlserver.execute("INSERT INTO dbo.t (id) VALUES (1), (2)")
    sqlserver.enable_cdc("t")
    replay = Replay(open_source("mssql", sqlserver.options(batch_window=0.02)))
    try:
        replay.start()
        sqlserver.execute("UPDATE dbo.t SET n = 1 WHERE id = 2")
        sqlserver.captured()
        end = replay.source.status().position
        assert end is not None
        replay.reach(end)
        assert replay.content(TableId("dbo", "t")) == sorted(sqlserver.execute("SELECT * FROM dbo.t"), key=repr)
    finally:
        replay.close()


def test_years_beyond_nanoseconds_make_the_column_one_of_microseconds(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, c datetime2)")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, '9999-12-31T23:59:59.9999999'), (2, '0001-01-01')")
    sqlserver.enable_cdc("t")
    source = open_source("mssql", sqlserver.options())
    try:
        with source.snapshot(source.discover(), start=True) as snapshot, pytest.raises(UnsupportedValue) as caught:
            for part in snapshot.split(snapshot.tables[0]):
                list(snapshot.read(part))
        error = caught.value
        assert (error.table, list(error.columns)) == (TableId("dbo", "t"), ["c"])
    finally:
        source.close()
    text = frozenset({(TableId("dbo", "t"), "c")})
    replay = Replay(open_source("mssql", sqlserver.options(as_text=text, batch_window=0.02)))
    try:
        replay.start()
        assert [c.type for c in replay.tables[TableId("dbo", "t")].table.columns] == ["INTEGER", "TIMESTAMP"]
        # Rounded down: not into the year 10000.
        assert replay.content(TableId("dbo", "t"))[0] == (1, 253402300799999999)
    finally:
        replay.close()


def test_the_replica_holds_every_type(sqlserver: SqlServerDatabase, tmp_path: Path) -> None:
    statements = fill(sqlserver)
    sqlserver.execute("INSERT INTO dbo.t13 VALUES (9, '9999-12-31T23:59:59.9999999')")
    kinds = list(SAMPLES)
    assert kinds[13] == "datetime2(7)"
    with SqlServerLive.on(sqlserver, tmp_path) as live:
        held = {t: live.engine.query(f"SELECT id, CAST(c AS VARCHAR) FROM {t} ORDER BY id") for t in statements}
        assert {str(t): len(rows) for t, rows in held.items()} == {
            f"dbo.t{n}": len(values) + (2 if n == 13 else 1) for n, values in enumerate(SAMPLES.values())
        }
        assert list(map(tuple, held[TableId("dbo", "t13")]))[-1] == (9, "9999-12-31 23:59:59.999999")
        assert tuple(held[TableId("dbo", f"t{kinds.index('time(7)')}")][0]) == (0, "23:59:59.9999999")
        for table, batches in statements.items():
            if table.name != "t13":
                for statement in batches:
                    sqlserver.execute(statement)
        live.wait_caught_up()
        for table, rows in held.items():
            assert live.engine.query(f"SELECT id, CAST(c AS VARCHAR) FROM {table} ORDER BY id") == rows, table
        exact = [
            f"dbo.t{n}" for n, kind in enumerate(kinds)
            if kind.partition("(")[0] in {"tinyint", "int", "bigint", "bit", "decimal", "numeric", "uniqueidentifier"}
            or kind.startswith(("nvarchar", "varbinary", "datetime2(3)"))
        ]  # fmt: skip
        assert len(exact) == 12
        live.compare(exact)
