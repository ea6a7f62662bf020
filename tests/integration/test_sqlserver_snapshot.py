"""Snapshots of SQL Server: parts, locks, and tables that change under them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from connectors.registry import open_poll_source, open_source
from connectors.sqlserver import snapshot as module
from connectors.sqlserver.connection import Connection
from connectors.sqlserver.poll import SqlServerReader
from connectors.sqlserver.snapshot import Range
from engine.errors import ResyncRequired, TransientError
from engine.schema import TableId
from engine.source import Part, Source
from tests.support.replay import Replay
from tests.support.servers import SqlServer, SqlServerDatabase

T = TableId("dbo", "t")


@pytest.fixture
def source(sqlserver: SqlServerDatabase) -> Iterator[Source]:
    made = open_source("mssql", sqlserver.options(batch_window=0.02))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("key", "parts"), [("int", 4), ("bigint", 4), ("smallint", 4), ("nvarchar(10)", 1), ("decimal(9,0)", 1)]
)
def test_the_parts_of_a_table_are_the_table(
    sqlserver: SqlServerDatabase, source: Source, monkeypatch: pytest.MonkeyPatch, key: str, parts: int
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1)
    monkeypatch.setattr(module, "MOST_PARTS", 4)
    sqlserver.execute(f"CREATE TABLE dbo.t (id {key} PRIMARY KEY, n int)")
    sqlserver.execute("INSERT INTO dbo.t VALUES " + ", ".join(f"({i}, {i})" for i in range(-30, 71)))
    sqlserver.enable_cdc("t")
    (table,) = source.discover()
    with source.snapshot([table], start=True) as snapshot:
        found = snapshot.split(snapshot.tables[0])
        assert len(found) == parts
        read = [n for part in found for batch in snapshot.read(part) for n in batch.column("n").to_pylist()]
    assert sorted(read) == list(range(-30, 71))


def test_an_empty_table_and_one_of_a_single_row(
    sqlserver: SqlServerDatabase, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1)
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY); CREATE TABLE dbo.u (id int PRIMARY KEY)")
    sqlserver.execute("INSERT INTO dbo.u VALUES (7)")
    sqlserver.enable_cdc("t", "u")
    replay = Replay(source)
    replay.start()
    assert [r.content() for r in replay.tables.values()] == [[], [(7,)]]
    replay.close()


def test_conditions_are_half_open() -> None:
    assert Range().condition("[id]") == ""
    assert Range(None, 5).condition("[id]") == " WHERE [id] < 5"
    assert Range(-3, 5).condition("[id]") == " WHERE [id] >= -3 AND [id] < 5"


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
@pytest.mark.parametrize("change", ["DROP TABLE dbo.t", "ALTER TABLE dbo.t DROP COLUMN n"])
def test_a_table_that_is_altered_under_its_snapshot_asks_for_another(
    sqlserver: SqlServerDatabase, source: Source, key: str, change: str
) -> None:
    sqlserver.execute(f"CREATE TABLE dbo.t (id int {key}, n int); INSERT INTO dbo.t VALUES (1, 1)")
    sqlserver.enable_cdc("t")
    (table,) = source.discover()
    with source.snapshot([table], start=True) as snapshot:
        parts = snapshot.split(snapshot.tables[0])
        sqlserver.execute(change)
        with pytest.raises(ResyncRequired) as caught:
            list(snapshot.read(parts[0]))
    assert caught.value.tables == (T,)


def test_a_writer_that_does_not_end_makes_the_lock_time_out(
    sqlserver: SqlServerDatabase, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_MILLISECONDS", 200)
    monkeypatch.setattr(module, "_LOCK_TRIES", 2)
    sqlserver.execute("CREATE TABLE dbo.t (n int)")
    sqlserver.enable_cdc("t")
    (table,) = source.discover()
    with sqlserver.connect(autocommit=False) as writer, writer.cursor() as cursor:
        cursor.execute("INSERT INTO dbo.t VALUES (1)")
        with pytest.raises(TransientError, match="1222"):
            with source.snapshot([table], start=True):
                pass
        writer.commit()
    with source.snapshot([table], start=True) as snapshot:
        (part,) = snapshot.split(snapshot.tables[0])
        assert [b.num_rows for b in snapshot.read(part)] == [1]


def test_loading_holds_no_lock_on_the_tables(sqlserver: SqlServerDatabase, source: Source) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (n int); INSERT INTO dbo.t VALUES (1), (2)")
    sqlserver.enable_cdc("t")
    (table,) = source.discover()
    with source.snapshot([table], start=True) as snapshot:
        sqlserver.execute("SET LOCK_TIMEOUT 500; UPDATE dbo.t SET n = n + 10")
        (part,) = snapshot.split(snapshot.tables[0])
        # The rows are those of the view, whatever has happened since.
        assert sorted(n for b in snapshot.read(part) for n in b.column("n").to_pylist()) == [1, 2]


def test_a_server_that_goes_away_is_transient(private_sqlserver: SqlServer) -> None:
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    database.enable_cdc("t")
    source = open_source("mssql", database.options())
    polled = open_poll_source("mssql", database.options())
    (table,) = source.discover()
    with source.snapshot([table], start=True) as snapshot:
        private_sqlserver.stop()
        with pytest.raises(TransientError):
            list(snapshot.read(Part(table, Range())))
    with pytest.raises(TransientError):
        source.status()
    with pytest.raises(TransientError):
        polled.discover()
    source.close()
    polled.close()


def test_a_table_altered_between_the_catalog_and_the_view_is_polled_as_it_is_in_the_view(
    sqlserver: SqlServerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is altered after the view was opened is refused when it is read."""
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, v int)")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, 10)")
    reader = SqlServerReader(sqlserver.options())
    look = SqlServerReader._tables

    def altered_after_the_look(self: SqlServerReader, connection: Connection) -> object:
        found = look(self, connection)
        monkeypatch.undo()
        sqlserver.execute("ALTER TABLE dbo.t ADD w int NOT NULL DEFAULT 7")
        sqlserver.execute("CREATE TABLE dbo.u (id int PRIMARY KEY)")
        return found

    monkeypatch.setattr(SqlServerReader, "_tables", altered_after_the_look)
    with reader.view() as view:
        assert {t.id.name: t.column_names for t in view.tables} == {"t": ("id", "v", "w"), "u": ("id",)}
        rows = [b.to_pylist() for t in view.tables for part in view.split(t) for b in view.read(part)]
    assert [{"id": 1, "v": 10, "w": 7}] in rows
    reader.close()
