"""One server, several histories: what a crash forgets is no reason to load anew, what a restore brings back is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from connectors.postgres.position import Lsn
from connectors.postgres.source import PostgresSource
from engine.errors import ResyncRequired
from engine.schema import TableId
from tests.contract.harness import position_of, postgres_options
from tests.support.replay import Replay
from tests.support.servers import Database, LocalPostgres, PostgresServer
from tests.support.waiting import wait_until

T = TableId("public", "t")
Open = Callable[[Database], Replay]


@pytest.fixture
def open_replay() -> Iterator[Open]:
    made: list[Replay] = []

    def open_it(database: Database) -> Replay:
        replay = Replay(PostgresSource(postgres_options(database)))
        made.append(replay)
        return replay

    yield open_it
    for replay in made:
        replay.close()


def continued(before: Replay, again: Replay) -> Replay:
    """Another process that goes on with what the first has durably."""
    again.tables, again.position, again.identity = before.tables, before.position, before.identity
    assert again.position is not None
    state = again.source.prepare(again.source.discover(), again.position, again.identity)
    assert state.position == again.position, state.reason
    again.follow(again.position)
    return again


def wait_for_error(replay: Replay) -> BaseException | None:
    """Wait until the stream has failed; what it failed with."""
    return wait_until(lambda: replay.error, 20)


def slot_position(database: Database) -> Lsn:
    [(text,)] = database.superuser("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE NOT temporary")
    return Lsn.parse(text)


@pytest.mark.parametrize("when", ["at the last transaction", "behind it"])
def test_a_slot_that_a_crash_sets_back_is_no_other_history(
    make_postgres: Callable[..., PostgresServer], open_replay: Open, when: str
) -> None:
    server = make_postgres(fsync=True)
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    replay = open_replay(database)
    replay.start()
    set_back = 0
    for number in range(4):
        database.execute("INSERT INTO t SELECT %s::int + i, 0 FROM generate_series(1, 100) i", [number * 100])
        database.execute("UPDATE t SET v = v + 1")
        if when == "behind it":
            advance(database, 1000)
        replay.reach(position_of(replay.source))
        server.restart("immediate")
        wait_for_error(replay)
        assert isinstance(replay.position, Lsn)
        set_back += slot_position(database) < replay.position
        replay.close()
        replay = continued(replay, open_replay(database))
    database.execute("UPDATE t SET v = v + 1")
    replay.reach(position_of(replay.source))
    assert replay.content(T) == sorted(database.execute("SELECT * FROM t"), key=repr)
    assert set_back, "a crash never set the slot back: nothing was compared"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("UPDATE t SET v = 1", "UPDATE t SET v = 2"),
        ("UPDATE t SET v = 1", "SELECT 1"),
        ("SELECT 1", "UPDATE t SET v = 2"),
    ],
    ids=["both wrote", "what we read is gone", "only the copy wrote"],
)
def test_a_restored_server_that_has_written_past_our_position_is_another_history(
    make_postgres: Callable[..., PostgresServer], open_replay: Open, ours: str, theirs: str
) -> None:
    server = make_postgres()
    if not isinstance(server, LocalPostgres):
        pytest.skip("needs the server's data directory")
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT generate_series(1, 100), 0")
    first = open_replay(database)
    first.start()
    database.execute("UPDATE t SET v = 9")
    first.reach(position_of(first.source))
    first.close()
    server.stop()
    shutil.copytree(server.data, server.home / "copy", copy_function=shutil.copy2)
    server.start()
    second = continued(first, open_replay(database))
    # Enough that the copy's writes lie before our position.
    database.execute(ours)
    advance(database, 64 << 10)
    second.reach(position_of(second.source))
    after, identity = second.position, second.identity
    second.close()
    assert isinstance(after, Lsn)
    server.stop()
    restore(server)
    server.start()
    database.execute(theirs)
    assert Lsn.parse(database.wal_position()) < after
    while Lsn.parse(database.wal_position()) <= Lsn(after.value + (16 << 10)):
        advance(database, 16 << 10)
    # A second time, too: until the log is recognised, nothing may be confirmed to the slot.
    for _ in range(2):
        third = open_replay(database)
        third.tables = second.tables
        assert third.source.prepare(third.source.discover(), after, identity).position == after
        third.source.confirm(after)
        third.follow(after)
        error = wait_for_error(third)
        assert isinstance(error, ResyncRequired)
        assert error.tables is None
        assert third.batches == []
        third.close()
        assert slot_position(database) < after


def advance(database: Database, size: int) -> None:
    """Make the log longer by about `size` bytes without a change of a followed table."""
    database.superuser("SELECT pg_logical_emit_message(false, 'filler', repeat('x', %s))", [size])


def restore(server: LocalPostgres) -> None:
    """Put the copy in the place of the data directory, with its owner."""
    owner = server.data.stat()
    shutil.rmtree(server.data)
    shutil.copytree(server.home / "copy", server.data, copy_function=shutil.copy2)
    for folder, _, files in os.walk(server.data):
        for name in (".", *files):
            os.chown(Path(folder) / name, owner.st_uid, owner.st_gid)
