"""Tables of a SQL Server that are chosen and cannot be replicated: each is left out by itself, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from connectors.registry import open_poll_source, open_source
from engine.changes import SchemaChange
from engine.errors import ConfigError, PreconditionError
from engine.schema import TableId, TableSchema
from engine.source import Source
from tests.support.replay import Replay
from tests.support.servers import REFLEX, SqlServer, SqlServerDatabase

SETUP = "CREATE TABLE dbo.t (id int PRIMARY KEY); CREATE TABLE dbo.u (id int PRIMARY KEY, v int NOT NULL)"
KEY = {"exclude_columns": {"dbo.u": ("id",)}}


@pytest.fixture
def cased(sqlserver_server: SqlServer) -> Iterator[SqlServerDatabase]:
    """A database that tells names apart by case."""
    database = sqlserver_server.create_database(collation="Latin1_General_100_CS_AS")
    yield database
    database.drop()


def names(tables: Sequence[TableSchema]) -> list[str]:
    return [str(t.id) for t in tables]


def told(source: Source, known: Sequence[TableSchema]) -> set[tuple[str | None, str | None]]:
    return {named(c) for c in source.inspect(known)}


def named(change: SchemaChange) -> tuple[str | None, str | None]:
    return (str(change.old.id) if change.old else None, str(change.new.id) if change.new else None)


def problems(source: Source) -> list[tuple[str, str]]:
    return [(p.detail, p.remedy) for p in source.status().problems]


def test_a_table_whose_key_is_excluded_is_left_out_and_the_others_go_on(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute(SETUP)
    sqlserver.enable_cdc("t", "u")
    sqlserver.captured()
    for opened in (open_source, open_poll_source):
        source = opened("mssql", sqlserver.options(**KEY))
        found = source.discover()
        assert names(found) == ["dbo.t"]
        [(detail, remedy)] = problems(source)
        assert detail == "dbo.u is not replicated: id identifies its rows and is excluded"
        assert "`tables.columns.dbo.u.exclude`" in remedy
        failed = [c.detail for c in source.check() if not c.ok]
        assert failed == [detail]
        # A first start replicates all that is chosen; a later one goes on with what it has.
        with pytest.raises((ConfigError, PreconditionError), match=r"id identifies its rows"):
            source.prepare(found, None, None)
        source.prepare(found, None, "what a replica has stored")
        source.close()
    source = open_source("mssql", sqlserver.options(**KEY))
    source.discover()
    with pytest.raises(ConfigError, match=r"tables\.columns\.dbo\.u\.exclude"):
        source.prepare([], None, None)
    source.close()


def test_columns_that_are_no_key_can_be_excluded(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute(SETUP)
    sqlserver.enable_cdc("u")
    source = open_source("mssql", sqlserver.options(exclude_columns={"dbo.u": ("v",)}))
    (table,) = source.discover()
    assert table.column_names == ("id",)
    # Another key of the table will do.
    sqlserver.execute("CREATE UNIQUE INDEX other ON dbo.u (v)")
    source.close()
    source = open_source("mssql", sqlserver.options(**KEY))
    (table,) = source.discover()
    assert (table.column_names, table.key) == (("v",), ("v",))
    source.close()


def test_a_key_that_moves_to_an_excluded_column_stops_that_table(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.execute("CREATE TABLE dbo.u (id int NOT NULL CONSTRAINT one PRIMARY KEY, v int NOT NULL)")
    sqlserver.enable_cdc("t", "u")
    replay = Replay(open_source("mssql", sqlserver.options(batch_window=0.02, exclude_columns={"dbo.u": ("v",)})))
    try:
        replay.start()
        known = [r.table for r in replay.tables.values()]
        sqlserver.execute("ALTER TABLE dbo.u DROP CONSTRAINT one")
        sqlserver.execute("ALTER TABLE dbo.u ADD CONSTRAINT two PRIMARY KEY (v)")
        assert told(replay.source, known) == {("dbo.u", None)}
        assert "v identifies its rows" in problems(replay.source)[0][0]
        sqlserver.execute("INSERT INTO dbo.t VALUES (1); INSERT INTO dbo.u VALUES (1, 1)")
        sqlserver.captured()
        replay.wait(lambda: replay.content(TableId("dbo", "t")) == [(1,)])
    finally:
        replay.close()


def test_a_table_that_may_not_be_read_is_left_out(private_sqlserver: SqlServer) -> None:
    database = private_sqlserver.create_database()
    database.execute(SETUP)
    database.enable_cdc("t", "u")
    replay = Replay(open_source("mssql", database.options(batch_window=0.02)))
    try:
        replay.start()
        known = [r.table for r in replay.tables.values()]
        database.execute("CREATE TABLE dbo.x (id int PRIMARY KEY)")
        database.enable_cdc("x")
        database.superuser(f"GRANT SELECT ON SCHEMA::cdc TO {REFLEX.name}; GRANT VIEW DEFINITION TO {REFLEX.name}")
        database.superuser(f"ALTER ROLE db_datareader DROP MEMBER {REFLEX.name}")
        # What is followed needs no more than its change table.
        assert told(replay.source, known) == set()
        [(detail, remedy)] = problems(replay.source)
        assert detail == f"dbo.x is not replicated: {REFLEX.name} may not read it"
        database.execute("INSERT INTO dbo.t VALUES (1)")
        database.enable_cdc("t", instance="second")
        database.captured()
        replay.wait(lambda: replay.content(TableId("dbo", "t")) == [(1,)])
        assert replay.changes == []
        database.superuser(remedy)
        assert told(replay.source, known) == {(None, "dbo.x")}
        assert problems(replay.source) == []
    finally:
        replay.close()


NEWCOMERS = {
    "a new table": (["CREATE TABLE dbo.T (id int PRIMARY KEY)"], "dbo.T", set()),
    "a new schema": (["CREATE SCHEMA DBO", "CREATE TABLE DBO.x (id int PRIMARY KEY)"], "DBO.x", set()),
    "another table renamed": (["EXEC sp_rename 'dbo.u', 'T'"], "dbo.T", {("dbo.u", None)}),
    "an older table renamed": (["EXEC sp_rename 'dbo.t', 'U'"], "dbo.U", {("dbo.t", None)}),
}


@pytest.mark.parametrize("case", NEWCOMERS)
def test_a_newcomer_whose_name_differs_only_in_case_is_left_out(cased: SqlServerDatabase, case: str) -> None:
    statements, name, findings = NEWCOMERS[case]
    cased.execute(SETUP)
    cased.enable_cdc("t", "u")
    cased.captured()
    replay = Replay(open_source("mssql", cased.options(batch_window=0.02)))
    try:
        position = replay.start()
        known = [r.table for r in replay.tables.values()]
        for statement in statements:
            cased.execute(statement)
        if not findings:
            cased.enable_cdc(name, instance="newcomer")
        assert told(replay.source, known) == findings
        [(detail, remedy)] = problems(replay.source)
        assert detail.startswith(f"{name} is not replicated")
        assert "only in case" in detail
        assert "Rename" in remedy
        kept = {"dbo.t", "dbo.u"} - {old for old, _ in findings}
        # The stream says the same.
        cased.execute(
            f"INSERT INTO {name} (id{', v' if 'another' in case else ''}) VALUES (1{', 1' if 'another' in case else ''})"
        )
        cased.execute(
            f"INSERT INTO dbo.{'t' if 'dbo.t' in kept else 'u (id, v)'} VALUES (2{'' if 'dbo.t' in kept else ', 2'})"
        )
        cased.captured()
        replay.wait(lambda: any(c.rows.num_rows for b in replay.batches for c in b.changes))
        replay.wait(lambda: {named(c) for c in replay.changes} == findings)
        # So does the next start, which knows names by their age alone.
        if case == "an older table renamed":
            kept, detail = {"dbo.U"}, "dbo.u is not replicated: its name differs from 'dbo.U' only in case"
        source = open_source("mssql", cased.options())
        assert set(names(source.discover())) == kept
        assert [c.detail for c in source.check() if not c.ok] == [detail]
        assert source.prepare([], position, replay.identity).position == position
        with pytest.raises(PreconditionError, match="only in case"):
            source.prepare([], None, None)
        source.close()
        polled = open_poll_source("mssql", cased.options())
        assert set(names(polled.discover())) == kept
        assert [d for d, _ in problems(polled)] == [detail]
        polled.close()
    finally:
        replay.close()


def test_a_table_renamed_to_its_own_name_in_another_case_goes_on(cased: SqlServerDatabase) -> None:
    cased.execute(SETUP)
    cased.enable_cdc("t", "u")
    source = open_source("mssql", cased.options())
    known = source.discover()
    cased.execute("EXEC sp_rename 'dbo.t', 'T'")
    assert told(source, known) == {("dbo.t", "dbo.T")}
    assert problems(source) == []
    source.close()
