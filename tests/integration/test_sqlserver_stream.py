"""The stream from SQL Server's change tables, on a server: order, bounds, gaps, definitions, and what rows leave out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.registry import open_source
from connectors.sqlserver import followed as bounds
from connectors.sqlserver import jobs
from connectors.sqlserver.position import CdcPosition, lsn_of
from engine.changes import ChangeBatch, Op
from engine.errors import ResyncRequired, TransientError
from engine.schema import Identity, TableId
from engine.source import Follow, Source
from tests.support.live import polls
from tests.support.replay import Replay
from tests.support.servers import SqlServer, SqlServerDatabase
from tests.support.servers.sqlserver_emulated import EmulatedSqlServer
from tests.support.waiting import wait_until

T = TableId("dbo", "t")


@pytest.fixture
def source(sqlserver: SqlServerDatabase) -> Iterator[Source]:
    """A source on a database with change data capture, and no table yet."""
    sqlserver.enable_cdc()
    made = open_source("mssql", sqlserver.options(batch_window=0.02))
    yield made
    made.close()


@pytest.fixture
def replay(source: Source) -> Iterator[Replay]:
    """A consumer of it."""
    made = Replay(source)
    yield made
    made.close()


def catch_up(database: SqlServerDatabase, replay: Replay) -> None:
    """Wait until the replay holds everything that is committed."""
    database.captured()
    position = replay.source.status().position
    assert position is not None
    replay.reach(position)


def rows(database: SqlServerDatabase, table: str = "t") -> list[tuple[Any, ...]]:
    return sorted(database.execute(f"SELECT * FROM dbo.{table}"), key=repr)


def test_large_values_that_updates_leave_out_are_kept(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, n int, body nvarchar(max), raw varbinary(max))")
    sqlserver.execute(
        "INSERT INTO dbo.t VALUES (1, 1, REPLICATE(CONVERT(nvarchar(max), N'é'), 9000), 0x00FF), (2, 2, NULL, NULL)"
    )
    sqlserver.enable_cdc("t")
    replay.start()
    for statement in (
        "UPDATE dbo.t SET n = n + 1",
        "UPDATE dbo.t SET body = NULL, n = 7 WHERE id = 1",
        "UPDATE dbo.t SET raw = 0x01 WHERE id = 2",
        "UPDATE dbo.t SET n = 9",
    ):
        sqlserver.execute(statement)
    catch_up(sqlserver, replay)
    assert replay.content(T) == rows(sqlserver)
    assert replay.changes == []
    kept = [c.unchanged for b in replay.batches for c in b.changes if c.unchanged]
    assert {name for each in kept for name in each} == {"body", "raw"}


IN_PLACE, MOVED = "PRIMARY KEY NONCLUSTERED", "PRIMARY KEY"
"""How an update of a key is told: by the row before and the row after it, or as a delete and an insert."""
KEY_CHANGES = {
    "in place": (IN_PLACE, "UPDATE dbo.t SET id = id + 10", False),
    "in place, and the value too": (IN_PLACE, "UPDATE dbo.t SET id = id + 10, body = N'z'", False),
    "in place, to NULL": (IN_PLACE, "UPDATE dbo.t SET id = id + 10, body = NULL", False),
    "keys that are exchanged in place": (IN_PLACE, "UPDATE dbo.t SET id = 3 - id WHERE id < 3", True),
    "keys that are exchanged in place, and the values too": (
        IN_PLACE,
        "UPDATE dbo.t SET id = 3 - id, body = CONCAT(N'z', id) WHERE id < 3",
        False,
    ),
    "in place, and back": (
        IN_PLACE,
        "BEGIN TRANSACTION; UPDATE dbo.t SET id = 7 WHERE id = 1; UPDATE dbo.t SET id = 8 WHERE id = 7; COMMIT",
        True,
    ),
    "in place, and changed again": (
        IN_PLACE,
        "BEGIN TRANSACTION; UPDATE dbo.t SET id = 7 WHERE id = 1; UPDATE dbo.t SET n = 9 WHERE id = 7; "
        "UPDATE dbo.t SET id = 1 WHERE id = 7; COMMIT",
        False,
    ),
    "moved, no value being NULL": (MOVED, "UPDATE dbo.t SET id = id + 10 WHERE id <> 2", False),
    "moved and swapped, no value being NULL": (MOVED, "UPDATE dbo.t SET id = 4 - id WHERE id <> 2", False),
    "moved, and the value too": (MOVED, "UPDATE dbo.t SET id = id + 10, body = N'z'", False),
    "moved, a value being NULL": (MOVED, "UPDATE dbo.t SET id = id + 10", True),
    "moved, to NULL": (MOVED, "UPDATE dbo.t SET id = id + 10, body = NULL", True),
    # It cannot be told from a key that moved.
    "another row with NULL for one that went": (
        MOVED,
        "BEGIN TRANSACTION; DELETE FROM dbo.t WHERE id = 1; INSERT INTO dbo.t VALUES (9, 9, NULL); COMMIT",
        True,
    ),
    "a row with NULL and none that went": (MOVED, "INSERT INTO dbo.t VALUES (9, 9, NULL)", False),
}


@pytest.mark.parametrize("case", KEY_CHANGES)
def test_a_key_that_changes_beside_large_values(sqlserver: SqlServerDatabase, replay: Replay, case: str) -> None:
    """It is followed exactly, save where NULL may be a value that the change row left out: then the table is reloaded."""
    key, statement, reload = KEY_CHANGES[case]
    sqlserver.execute(f"CREATE TABLE dbo.t (id int {key}, n int, body nvarchar(max))")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, 1, REPLICATE(CONVERT(nvarchar(max), N'x'), 9000)), (2, 2, NULL)")
    sqlserver.execute("INSERT INTO dbo.t VALUES (3, 3, N'y')")
    sqlserver.enable_cdc("t")
    replay.start()
    before = rows(sqlserver)
    sqlserver.execute(statement)
    if not reload:
        catch_up(sqlserver, replay)
        assert replay.content(T) == rows(sqlserver) != before
        assert replay.changes == []
        return
    replay.wait(lambda: replay.changes)
    (change,) = replay.changes
    assert (change.old and change.old.id, change.reload) == (T, True)
    assert "key" in change.reason
    # Of a transaction that is not whole, nothing is shown.
    assert replay.content(T) == before


SHIFTS = {
    "up": "UPDATE dbo.t SET id = id + 1",
    "down": "UPDATE dbo.t SET id = id - 1",
    "exchanged": "UPDATE dbo.t SET id = 9 - id",
    "turned round": "UPDATE dbo.t SET id = CASE id WHEN 8 THEN 1 ELSE id + 1 END",
    "up, and up again": "BEGIN TRANSACTION; UPDATE dbo.t SET id = id + 1, n = n + 1; UPDATE dbo.t SET id = id + 1; COMMIT",
    "up, and some that went": "BEGIN TRANSACTION; UPDATE dbo.t SET id = id + 1; DELETE FROM dbo.t WHERE id IN (3, 6); COMMIT",
    "up, changed, and moved away": (
        "BEGIN TRANSACTION; UPDATE dbo.t SET id = id + 1; UPDATE dbo.t SET n = -n; UPDATE dbo.t SET id = id + 100; COMMIT"
    ),
    "inserted and gone": "BEGIN TRANSACTION; INSERT INTO dbo.t VALUES (50, 1); DELETE FROM dbo.t WHERE id IN (50, 3); COMMIT",
}


@pytest.mark.parametrize("at_a_time", [3, 1000])
@pytest.mark.parametrize("key", [IN_PLACE, MOVED])
@pytest.mark.parametrize("case", SHIFTS)
def test_keys_that_one_statement_moves_over_each_other(
    sqlserver: SqlServerDatabase, replay: Replay, monkeypatch: pytest.MonkeyPatch, case: str, key: str, at_a_time: int
) -> None:
    """A key may be told as taken before it is told as left: the row that comes is not the one that goes."""
    monkeypatch.setattr(bounds, "MOST_ROWS", at_a_time)
    monkeypatch.setattr(bounds.Followed.__init__, "__defaults__", (0, None, at_a_time))
    sqlserver.execute(f"CREATE TABLE dbo.t (id int {key}, n int)")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60), (7, 70), (8, 80)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.execute(SHIFTS[case])
    catch_up(sqlserver, replay)
    assert replay.content(T) == rows(sqlserver)
    assert replay.changes == []


@pytest.mark.parametrize("at_a_time", [2, 1000])
@pytest.mark.parametrize("name", ["'old'", "'new'"])
def test_a_row_that_is_told_before_the_one_whose_key_it_takes(
    sqlserver_server: SqlServer,
    sqlserver: SqlServerDatabase,
    replay: Replay,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    at_a_time: int,
) -> None:
    """As a MERGE may be told: it is never taken for a row that came and went. On two pages, nothing tells: a reload."""
    if not isinstance(sqlserver_server, EmulatedSqlServer):
        pytest.skip("how a real server tells a MERGE depends on its plan")
    monkeypatch.setattr(bounds, "MOST_ROWS", at_a_time)
    monkeypatch.setattr(bounds.Followed.__init__, "__defaults__", (0, None, at_a_time))
    sqlserver_server.merge_transactions(sqlserver.name)
    sqlserver.execute(f"CREATE TABLE dbo.t (id int {IN_PLACE}, name varchar(9))")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, 'old'), (2, 'old'), (3, 'old')")
    sqlserver.enable_cdc("t")
    replay.start()
    before = rows(sqlserver)
    sqlserver.execute(
        f"BEGIN TRANSACTION; DELETE FROM dbo.t; INSERT INTO dbo.t VALUES (1, {name}), (2, {name}), (4, 'x'); COMMIT"
    )
    if at_a_time > 6:
        catch_up(sqlserver, replay)
        assert replay.content(T) == rows(sqlserver) == [(1, name[1:-1]), (2, name[1:-1]), (4, "x")]
        assert replay.changes == []
        return
    with pytest.raises(ResyncRequired, match="in which order") as caught:
        replay.wait(lambda: replay.changes)
    assert caught.value.tables == (T,)
    assert replay.content(T) == before


def test_a_transaction_over_several_tables_is_one_batch(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    for name in ("t", "u", "v"):
        sqlserver.execute(f"CREATE TABLE dbo.{name} (id int PRIMARY KEY, n int)")
        sqlserver.enable_cdc(name)
    replay.start()
    with sqlserver.connect(autocommit=False) as connection, connection.cursor() as cursor:
        for name in ("v", "t", "u"):
            cursor.execute(f"INSERT INTO dbo.{name} VALUES (1, 1), (2, 2)")
        cursor.execute("UPDATE dbo.t SET id = 5 WHERE id = 1; DELETE FROM dbo.v WHERE id = 2; UPDATE dbo.u SET n = 0")
        connection.commit()
    catch_up(sqlserver, replay)
    (batch,) = (b for b in replay.batches if b.changes)
    assert {c.table.id.name for c in batch.changes} == {"t", "u", "v"}
    assert batch.transactions == 1
    assert batch.commit_time is not None
    for name in ("t", "u", "v"):
        assert replay.content(TableId("dbo", name)) == rows(sqlserver, name)


@pytest.mark.parametrize("at_a_time", [2, 3, 7])
@pytest.mark.parametrize("primary", ["PRIMARY KEY", "PRIMARY KEY NONCLUSTERED"])
def test_windows_are_bounded_and_transactions_whole(
    sqlserver: SqlServerDatabase, replay: Replay, monkeypatch: pytest.MonkeyPatch, at_a_time: int, primary: str
) -> None:
    monkeypatch.setattr(bounds, "MOST_ROWS", at_a_time)
    monkeypatch.setattr(bounds.Followed.__init__, "__defaults__", (0, None, at_a_time))
    for name, key in (("t", primary), ("u", "")):
        sqlserver.execute(f"CREATE TABLE dbo.{name} (id int {key}, n int)")
        sqlserver.enable_cdc(name)
    replay.start()
    sqlserver.stop_capture_job()
    for n in range(12):
        values = ", ".join(f"({n * 100 + i}, {i})" for i in range(n))
        with sqlserver.connect(autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO dbo.t VALUES ({n * 100 + 99}, -1)")
            cursor.execute("UPDATE dbo.t SET id = id + 10000, n = n + 1 WHERE n % 3 = 1; DELETE FROM dbo.u WHERE n = 2")
            if values:
                cursor.execute(f"INSERT INTO dbo.t VALUES {values}; INSERT INTO dbo.u VALUES {values}")
            connection.commit()
    sqlserver.start_capture_job()
    catch_up(sqlserver, replay)
    assert all(c.rows.num_rows <= at_a_time for b in replay.batches for c in b.changes)
    assert any(not b.complete for b in replay.batches)
    assert sum(b.transactions for b in replay.batches) == 12
    assert replay.content(T) == rows(sqlserver)
    assert replay.content(TableId("dbo", "u")) == rows(sqlserver, "u")


def test_a_checkpoint_below_the_low_end_reloads_that_table_only(sqlserver: SqlServerDatabase, source: Source) -> None:
    for name in ("t", "u"):
        sqlserver.execute(f"CREATE TABLE dbo.{name} (id int PRIMARY KEY)")
        sqlserver.enable_cdc(name)
    first = Replay(source)
    position = first.start()
    first.close()
    sqlserver.execute("INSERT INTO dbo.t VALUES (1); INSERT INTO dbo.u VALUES (1)")
    sqlserver.captured()
    sqlserver.execute("INSERT INTO dbo.t VALUES (2); INSERT INTO dbo.u VALUES (2)")
    sqlserver.captured()
    sqlserver.clean_up("dbo_t")
    again = Replay(open_source("mssql", sqlserver.options(batch_window=0.02)))
    try:
        again.tables = first.tables
        again.follow(position)
        catch_up(sqlserver, again)
        (change,) = again.changes
        assert (change.old and change.old.id, change.reload, change.reason) == (T, True, bounds.GAP)
        assert again.content(TableId("dbo", "u")) == [(1,), (2,)]
        assert {c.table.id.name for b in again.batches for c in b.changes} == {"u"}
    finally:
        again.close()


def test_clean_up_in_the_middle_of_a_large_transaction_commits_none_of_it(
    sqlserver: SqlServerDatabase, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_ROWS", 3)
    monkeypatch.setattr(bounds.Followed.__init__, "__defaults__", (0, None, 3))
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    tables = source.discover()
    source.prepare(tables, None, None)
    with source.snapshot(tables, start=True) as snapshot:
        position = snapshot.position
    sqlserver.execute("INSERT INTO dbo.t VALUES (1), (2), (3), (4), (5), (6), (7)")
    sqlserver.captured()
    follow = [Follow(table) for table in tables]
    stream = source.stream(position, follow)
    fragment = next(item for item in stream if isinstance(item, ChangeBatch) and item.changes)
    assert not fragment.complete
    # The consumer takes its time: meanwhile the rest of the transaction is cleaned up.
    sqlserver.execute("INSERT INTO dbo.t VALUES (8)")
    sqlserver.captured()
    sqlserver.clean_up("dbo_t")
    with pytest.raises(TransientError, match="cleaned up"):
        next(item for item in stream if isinstance(item, ChangeBatch) and item.complete)
    again = source.stream(fragment.position, follow)
    change = next(item for item in again if not isinstance(item, ChangeBatch) or item.changes)
    assert not isinstance(change, ChangeBatch)
    assert (change.reload, change.reason) == (True, bounds.GAP)


def test_a_large_transaction_whose_rows_stop_to_fit_midway_is_given_up_and_read_without_the_table(
    sqlserver: SqlServerDatabase, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "MOST_ROWS", 3)
    monkeypatch.setattr(bounds.Followed.__init__, "__defaults__", (0, None, 3))
    for name in ("t", "u"):
        sqlserver.execute(f"CREATE TABLE dbo.{name} (id int PRIMARY KEY, body nvarchar(max))")
        sqlserver.execute(f"INSERT INTO dbo.{name} VALUES (1, N'x')")
        sqlserver.enable_cdc(name)
    replay = Replay(source)
    position = replay.start()
    before = replay.content(T)
    with sqlserver.connect(autocommit=False) as connection, connection.cursor() as cursor:
        values = ", ".join(f"({n}, N'x')" for n in range(10, 19))
        cursor.execute(f"INSERT INTO dbo.u VALUES {values}; INSERT INTO dbo.t VALUES {values}")
        # The tenth change of t and its fellow: by then, fragments are on their way.
        cursor.execute("DELETE FROM dbo.t WHERE id = 1; INSERT INTO dbo.t VALUES (20, NULL)")
        connection.commit()
    sqlserver.captured()
    wait_until(lambda: replay.error is not None, 20)
    assert isinstance(replay.error, ResyncRequired)
    assert replay.error.tables == (T,)
    assert "a key of dbo.t may have changed" in replay.error.reason
    assert any(not b.complete and b.changes for b in replay.batches)
    assert replay.position is not None
    assert replay.position.covers(position)
    assert replay.content(T) == before, "part of the transaction was shown"
    # The session after that loads the table, and has the rest of the transaction from the stream.
    again = Replay(open_source("mssql", sqlserver.options(batch_window=0.02)))
    try:
        again.tables = {name: r for name, r in replay.tables.items() if name != T}
        again.follow(replay.position)
        catch_up(sqlserver, again)
        assert again.content(TableId("dbo", "u")) == rows(sqlserver, "u")
        assert again.changes == []
    finally:
        again.close()
        replay.close()


def test_clean_up_behind_the_stream_is_no_gap(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.start()
    for n in range(3):
        sqlserver.execute(f"INSERT INTO dbo.t VALUES ({n})")
        catch_up(sqlserver, replay)
        sqlserver.clean_up("dbo_t")
    sqlserver.execute("INSERT INTO dbo.t VALUES (9)")
    catch_up(sqlserver, replay)
    assert replay.changes == []
    assert replay.content(T) == rows(sqlserver)


def test_a_second_instance_of_the_same_columns_is_taken_over_unseen(
    sqlserver: SqlServerDatabase, replay: Replay
) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int, n int)")
    sqlserver.enable_cdc("t")
    replay.start()
    done = threading.Event()

    def write() -> None:
        n = 0
        while not done.is_set():
            n += 1
            sqlserver.execute(f"INSERT INTO dbo.t VALUES ({n}, 0); UPDATE dbo.t SET n = n + 1 WHERE id = {n // 2}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        replay.wait(lambda: len(replay.batches) > 3)
        sqlserver.enable_cdc("t", instance="second")
        seen = len(replay.batches)
        replay.wait(lambda: len(replay.batches) > seen + 3)
        sqlserver.captured()
        catch_up(sqlserver, replay)
        sqlserver.disable_cdc("t", "dbo_t")
        seen = len(replay.batches)
        replay.wait(lambda: len(replay.batches) > seen + 3)
    finally:
        done.set()
        writer.join()
    catch_up(sqlserver, replay)
    # Without a key, a row twice or a row lost shows.
    assert replay.content(T) == rows(sqlserver)
    assert replay.changes == []


def test_a_second_instance_is_taken_over_while_nothing_happens(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.enable_cdc("t", instance="second")
    start = sqlserver.superuser("SELECT start_lsn FROM cdc.change_tables WHERE capture_instance = 'second'")[0][0]
    replay.reach(CdcPosition(lsn_of(start)))
    sqlserver.disable_cdc("t", "dbo_t")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1)")
    catch_up(sqlserver, replay)
    assert replay.changes == []
    assert replay.content(T) == [(1,)]


def test_a_column_that_is_added_comes_with_the_instance_that_holds_it(
    sqlserver: SqlServerDatabase, replay: Replay
) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.execute("ALTER TABLE dbo.t ADD n int NOT NULL DEFAULT 7")
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, 1)")
    catch_up(sqlserver, replay)
    assert replay.content(T) == [(1,)]
    replay.source.discover()
    (problem,) = replay.source.status().problems
    assert "dbo.t is replicated without n" in problem.detail
    assert "sp_cdc_enable_table" in problem.remedy
    sqlserver.superuser(problem.remedy)
    sqlserver.execute("INSERT INTO dbo.t VALUES (2, 2)")
    sqlserver.captured()
    replay.wait(lambda: replay.changes)
    (change,) = replay.changes
    assert change.reload
    assert change.new is not None
    assert change.new.column_names == ("id", "n")
    replay.source.discover()
    assert replay.source.status().problems == ()


def test_a_dropped_column_goes_where_the_log_says_so(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, gone int, n int)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.execute("INSERT INTO dbo.t VALUES (1, 1, 1)")
    catch_up(sqlserver, replay)
    sqlserver.stop_capture_job()
    sqlserver.execute("INSERT INTO dbo.t VALUES (2, 2, 2)")
    sqlserver.execute("ALTER TABLE dbo.t DROP COLUMN gone")
    sqlserver.execute("INSERT INTO dbo.t VALUES (3, 3)")
    sqlserver.start_capture_job()
    sqlserver.captured()
    replay.wait(lambda: replay.changes)
    catch_up(sqlserver, replay)
    (change,) = replay.changes
    assert not change.reload
    assert replay.content(T) == rows(sqlserver) == [(1, 1), (2, 2), (3, 3)]


def test_a_renamed_table_goes_on(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.execute("INSERT INTO dbo.t VALUES (1)")
    sqlserver.execute("EXEC sp_rename 'dbo.t', 'u'")
    sqlserver.execute("INSERT INTO dbo.u VALUES (2)")
    known = [r.table for r in replay.tables.values()]
    (found,) = replay.source.inspect(known)
    assert (found.old and found.old.id, found.new and found.new.id, found.reload) == (T, TableId("dbo", "u"), False)
    catch_up(sqlserver, replay)
    held = [row for r in replay.tables.values() for row in r.content()]
    assert sorted(held) == rows(sqlserver, "u")


def test_a_table_that_is_dropped_and_made_again_is_loaded_anew(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.execute("DROP TABLE dbo.t")
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.wait(lambda: replay.changes)
    (change,) = replay.changes
    assert change.reload or change.new is None
    assert replay.error is None


def test_computed_columns_equal_the_server_s(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute(
        "CREATE TABLE dbo.t (id int PRIMARY KEY, price int, qty int, total AS (price * qty), kept AS (qty + 1) PERSISTED)"
    )
    sqlserver.execute("INSERT INTO dbo.t (id, price, qty) VALUES (1, 2, 3), (2, NULL, 1)")
    sqlserver.enable_cdc("t")
    replay.start()
    sqlserver.execute("UPDATE dbo.t SET qty = 10; INSERT INTO dbo.t (id, price, qty) VALUES (3, 7, 7)")
    catch_up(sqlserver, replay)
    assert replay.content(T) == rows(sqlserver)
    assert [r.table.column_names for r in replay.tables.values()] == [("id", "price", "qty", "total", "kept")]


def test_what_cannot_be_followed_is_loaded_again_at_every_change(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (n int, body nvarchar(max)); INSERT INTO dbo.t VALUES (1, N'x')")
    sqlserver.enable_cdc("t")
    (found,) = replay.source.discover()
    assert found.identity is Identity.RELOAD
    replay.start()
    sqlserver.execute("UPDATE dbo.t SET n = 2")
    replay.wait(lambda: replay.changes)
    (change,) = replay.changes
    assert change.reload
    assert "no key" in change.reason
    assert all(not b.changes for b in replay.batches)


def test_tables_without_a_key_are_loaded_at_one_exact_place(sqlserver: SqlServerDatabase, source: Source) -> None:
    for name in ("t", "u"):
        sqlserver.execute(f"CREATE TABLE dbo.{name} (n int, m int)")
        sqlserver.enable_cdc(name)
    done = threading.Event()
    written = []

    def write() -> None:
        n = 0
        while not done.is_set():
            n += 1
            with sqlserver.connect(autocommit=False) as connection, connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO dbo.t VALUES ({n % 5}, 1); INSERT INTO dbo.u VALUES ({n % 5}, 1)")
                cursor.execute(
                    f"DELETE FROM dbo.t WHERE n = {(n + 2) % 5}; UPDATE dbo.u SET m = m + 1 WHERE n = {n % 3}"
                )
                connection.commit()
            written.append(n)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    replays = []
    try:
        for _ in range(3):
            wait_until(lambda: len(written) > 10)
            replay = Replay(open_source("mssql", sqlserver.options(batch_window=0.02)))
            replays.append(replay)
            replay.start()
            written.clear()
    finally:
        done.set()
        for writer in writers:
            writer.join()
    for replay in replays:
        catch_up(sqlserver, replay)
        for name in ("t", "u"):
            assert replay.content(TableId("dbo", name)) == rows(sqlserver, name)
        replay.close()


def test_a_capture_job_that_is_stopped_is_told(
    sqlserver: SqlServerDatabase, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "STALLED", 1.0)
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    replay.start()
    assert replay.source.status().problems == ()
    sqlserver.stop_capture_job()
    sqlserver.execute("INSERT INTO dbo.t VALUES (1)")
    wait_until(lambda: replay.source.status().problems, 20)
    (problem,) = replay.source.status().problems
    assert problem.name == "capture job"
    assert "sp_cdc_start_job" in problem.remedy
    assert replay.content(T) == []
    sqlserver.start_capture_job()
    catch_up(sqlserver, replay)
    wait_until(lambda: not replay.source.status().problems, 20)
    assert replay.content(T) == [(1,)]


def test_an_idle_database_reaches_where_its_tables_were_read(sqlserver: SqlServerDatabase, replay: Replay) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY); INSERT INTO dbo.t VALUES (1)")
    sqlserver.enable_cdc("t")
    sqlserver.captured()
    replay.start()
    assert replay.settled is not None
    replay.reach(replay.settled)
    assert replay.content(T) == [(1,)]


def test_a_lost_server_is_transient_and_the_stream_goes_on_where_it_was(private_sqlserver: SqlServer) -> None:
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    database.enable_cdc("t")
    first = Replay(open_source("mssql", database.options(batch_window=0.02)))
    first.start()
    identity = first.identity
    database.execute("INSERT INTO dbo.t VALUES (1)")
    catch_up(database, first)
    private_sqlserver.restart()
    wait_until(lambda: first.error is not None or len(first.content(T)) > 1, 20, message="the stream noticed")
    assert isinstance(first.error, TransientError)
    first.close()
    database.execute("INSERT INTO dbo.t VALUES (2)")
    again = Replay(open_source("mssql", database.options(batch_window=0.02)))
    try:
        assert first.position is not None
        state = again.source.prepare(again.source.discover(), first.position, identity)
        assert state.position == first.position
        again.tables = first.tables
        again.follow(first.position)
        catch_up(database, again)
        assert again.content(T) == [(1,), (2,)]
    finally:
        again.close()


def test_a_follow_since_passes_over_what_is_loaded(sqlserver: SqlServerDatabase, source: Source) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    (table,) = source.discover()
    with source.snapshot([table], start=True) as snapshot:
        start = snapshot.position
    sqlserver.execute("INSERT INTO dbo.t VALUES (1)")
    sqlserver.captured()
    since = source.status().position
    sqlserver.execute("INSERT INTO dbo.t VALUES (2)")
    sqlserver.captured()
    found = []
    for item in source.stream(start, [Follow(table, since)]):
        assert isinstance(item, ChangeBatch)
        found += [(c.ops.to_pylist(), c.rows.column("id").to_pylist()) for c in item.changes]
        if found:
            break
    assert found == [([Op.INSERT], [2])]


def test_a_server_that_does_not_answer_does_not_hold_a_source_that_is_closed(private_sqlserver: SqlServer) -> None:
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    database.enable_cdc("t")
    replay = Replay(open_source("mssql", database.options(batch_window=0.02)))
    replay.start()
    assert replay.source.status().position is not None
    with private_sqlserver.frozen():
        seen = len(replay.batches)
        asked = threading.Event()
        failures: list[BaseException] = []

        def ask() -> None:
            asked.set()
            try:
                replay.source.status()
            except TransientError as error:
                failures.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        asked.wait(5)
        began = time.monotonic()
        replay.close()
        asking.join(5)
        assert time.monotonic() - began < 3
        assert not asking.is_alive()
        assert failures
    assert replay.error is None
    assert len(replay.batches) == seen


def test_what_was_read_settles_only_when_the_capture_job_has_shown_it(
    sqlserver: SqlServerDatabase, replay: Replay
) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, n int); INSERT INTO dbo.t VALUES (1, 1)")
    sqlserver.enable_cdc("t")
    sqlserver.captured()
    sqlserver.stop_capture_job()
    sqlserver.execute("UPDATE dbo.t SET n = 2; INSERT INTO dbo.t VALUES (2, 2)")
    replay.start()
    assert replay.content(T) == [(1, 2), (2, 2)]
    assert replay.settled is not None
    for _ in polls(1.0):
        assert replay.position is not None
        assert not replay.position.covers(replay.settled)
        assert replay.error is None
        replay.source.status()
    sqlserver.start_capture_job()
    replay.reach(replay.settled)
    assert replay.content(T) == rows(sqlserver)
