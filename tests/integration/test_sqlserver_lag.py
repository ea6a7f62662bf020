"""A capture job that lags, stops or fails: nothing that it has still to show is lost, or taken in twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.registry import open_source
from connectors.sqlserver.position import CdcPosition
from connectors.sqlserver.snapshot import SqlServerSnapshot
from engine.schema import TableId
from tests.support.live import polls
from tests.support.replay import Replay
from tests.support.servers import SqlServer, SqlServerDatabase
from tests.support.servers.sqlserver_emulated import EmulatedSqlServer
from tests.support.waiting import wait_until

TABLES = ("bag", "keyed", "other")


@pytest.fixture
def emulated(private_sqlserver: SqlServer) -> EmulatedSqlServer:
    """An emulator of the test's own: the pace of a real server's capture job cannot be set."""
    if not isinstance(private_sqlserver, EmulatedSqlServer):
        pytest.skip("needs the emulator")
    return private_sqlserver


@pytest.fixture
def database(emulated: EmulatedSqlServer) -> SqlServerDatabase:
    """Two tables without a key and one with it, with some rows."""
    database = emulated.create_database()
    database.execute("CREATE TABLE dbo.bag (n int, m int); CREATE TABLE dbo.other (n int, m int)")
    database.execute("CREATE TABLE dbo.keyed (n int PRIMARY KEY, m int)")
    database.execute("INSERT INTO dbo.bag VALUES (1, 1), (1, 1); INSERT INTO dbo.keyed VALUES (1, 1), (2, 2)")
    database.enable_cdc(*TABLES)
    database.captured()
    return database


@pytest.fixture
def replay(database: SqlServerDatabase) -> Iterator[Replay]:
    made = Replay(open_source("mssql", database.options(batch_window=0.02)))
    yield made
    made.close()


def rows(database: SqlServerDatabase, table: str) -> list[tuple[Any, ...]]:
    return sorted(database.execute(f"SELECT * FROM dbo.{table}"), key=repr)


def assert_equal(database: SqlServerDatabase, replay: Replay, *tables: str) -> None:
    database.captured()
    end = replay.source.status().position
    assert end is not None
    replay.reach(end, 60)
    for table in tables or TABLES:
        assert replay.content(TableId("dbo", table)) == rows(database, table), table


WRITE = (
    "INSERT INTO dbo.bag VALUES ({0} % 3, {0}); UPDATE dbo.bag SET m = m + 1 WHERE n = {0} % 2; "
    "INSERT INTO dbo.other VALUES ({0} % 3, 0); DELETE FROM dbo.other WHERE n = {0} % 4; "
    "DELETE FROM dbo.keyed WHERE n = {0} % 5; INSERT INTO dbo.keyed VALUES ({0} % 5, {0})"
)


def test_tables_without_a_key_are_loaded_exactly_while_the_job_is_stopped(
    database: SqlServerDatabase, replay: Replay
) -> None:
    database.stop_capture_job()
    for n in range(5):
        database.execute(WRITE.format(n))
    # What these wrote is in the view, and comes later in the change tables.
    replay.start()
    loaded = rows(database, "bag")
    assert replay.content(TableId("dbo", "bag")) == loaded
    for n in range(5, 9):
        database.execute(WRITE.format(n))
    for _ in polls(0.5):
        assert replay.content(TableId("dbo", "bag")) == loaded
    database.start_capture_job()
    assert_equal(database, replay)
    assert replay.changes == []


@pytest.mark.parametrize("idle", [True, False])
def test_tables_are_loaded_beside_a_stream_while_the_job_lags(
    emulated: EmulatedSqlServer, database: SqlServerDatabase, idle: bool
) -> None:
    """A scan takes 0.3 seconds and brings three commits at most: between a commit and its change rows lie several."""
    emulated.emulator.capture_limit, emulated.emulator.scan_duration = 3, 0.3
    done = threading.Event()

    def write() -> None:
        n = 0
        while not done.wait(0.05):
            n += 1
            with database.connect(autocommit=False) as connection, connection.cursor() as cursor:
                cursor.execute(WRITE.format(n))
                # Held open for a while: what is read meanwhile does not have it, and its commit lies behind that.
                done.wait(0.1)
                connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    replays = []
    try:
        for _ in range(3):
            replay = Replay(open_source("mssql", database.options(batch_window=0.02)))
            replays.append(replay)
            replay.start()
            if idle:
                # From here on nothing happens: the stream has to get by itself to where the tables were read.
                done.set()
                writer.join()
            assert replay.settled is not None
            replay.reach(replay.settled, 60)
    finally:
        done.set()
        writer.join()
        emulated.emulator.capture_limit, emulated.emulator.scan_duration = 500, 0.0
    for replay in replays:
        assert_equal(database, replay)
        assert replay.changes == []
        replay.close()


def test_what_a_failing_job_has_still_to_show_is_waited_for(
    emulated: EmulatedSqlServer, database: SqlServerDatabase, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated.emulator.failing_jobs.add(database.name)
    settled = SqlServerSnapshot.settled

    def written_meanwhile(self: SqlServerSnapshot) -> CdcPosition:
        # Read already, and not shown yet: it is for the stream to bring.
        database.execute(WRITE.format(7))
        return settled(self)

    monkeypatch.setattr(SqlServerSnapshot, "settled", written_meanwhile)
    replay.start([t for t in replay.source.discover() if t.key])
    assert replay.settled is not None
    for _ in polls(3.0):
        assert replay.position is not None
        assert not replay.position.covers(replay.settled), "what was not shown yet was passed over"
        assert replay.error is None
    [problem] = replay.source.status().problems
    assert problem.name == "capture job"
    assert "sys.dm_cdc_errors" in problem.remedy
    assert [c.remedy for c in replay.source.check() if not c.ok] == [problem.remedy]
    emulated.emulator.failing_jobs.clear()
    replay.reach(replay.settled, 60)
    assert_equal(database, replay, "keyed")
    wait_until(lambda: not replay.source.status().problems, 20)
