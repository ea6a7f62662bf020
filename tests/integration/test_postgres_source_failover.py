"""The server changes under the slot: a standby takes over, or the server gives the slot up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from connectors.postgres.position import Lsn
from connectors.postgres.source import PostgresSource
from engine.schema import TableId
from tests.contract.harness import position_of, postgres_options
from tests.support.replay import Replay
from tests.support.servers import Database, LocalPostgres, PostgresServer
from tests.support.standby import SLOT, Standby
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


def local(server: PostgresServer) -> LocalPostgres:
    if not isinstance(server, LocalPostgres):
        pytest.skip("needs a local server")
    return server


def wait_for_error(replay: Replay) -> None:
    wait_until(lambda: replay.error, 30)


def synchronised(standby: Standby, position: Lsn) -> bool:
    """Whether the standby's copy of the slot is usable, and has been confirmed up to `position`."""
    query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE synced AND NOT temporary"
    rows = standby.execute(query)
    return bool(rows) and Lsn.parse(rows[0][0]) >= position


@pytest.mark.parametrize("version", [17, 18])
def test_a_promoted_standby_goes_on_with_the_slot(
    make_postgres: Callable[..., PostgresServer], open_replay: Open, version: int
) -> None:
    primary = local(make_postgres(version))
    database = primary.create_database()
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 99) i"
    )
    replay = open_replay(database)
    replay.start()
    with Standby(primary) as standby:
        # So that no consumer of the primary is ever ahead of the standby.
        primary.configure(synchronized_standby_slots=SLOT)
        database.execute("UPDATE t SET v = 1 WHERE id < 50")
        position = position_of(replay.source)
        replay.reach(position)
        assert isinstance(position, Lsn)
        wait_until(lambda: synchronised(standby, position), 60, message=standby.log_text)
        # More than the standby's copy of the slot knows of.
        database.execute("UPDATE t SET v = 2 WHERE id < 40")
        replay.reach(position_of(replay.source))
        primary.kill()
        wait_for_error(replay)
        replay.close()
        standby.promote()
        after = Database(standby, database.name)
        again = open_replay(after)
        again.tables, again.position, again.identity = replay.tables, replay.position, replay.identity
        assert again.position is not None
        found = again.source.discover()
        state = again.source.prepare(found, again.position, again.identity)
        assert state.position == again.position, state.reason
        again.follow(again.position)
        after.execute("UPDATE t SET v = v + 10 WHERE id > 20; DELETE FROM t WHERE id = 1")
        again.reach(position_of(again.source))
        assert again.content(T) == sorted(after.execute("SELECT * FROM t"), key=repr)
        # What is stored from here on belongs to the new timeline.
        assert again.source.prepare(again.source.discover(), again.position, again.identity).position == again.position
        again.close()


@pytest.mark.parametrize("version", [17])
def test_a_standby_that_lacks_what_was_read_is_loaded_from_anew(
    make_postgres: Callable[..., PostgresServer], open_replay: Open, version: int
) -> None:
    primary = local(make_postgres(version))
    database = primary.create_database()
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 99) i"
    )
    replay = open_replay(database)
    replay.start()
    with Standby(primary) as standby:
        position = position_of(replay.source)
        assert isinstance(position, Lsn)
        database.execute("UPDATE t SET v = 1")
        wait_until(lambda: synchronised(standby, position), 60, message=standby.log_text)
        # The standby hears no more of the primary, and the primary does not wait for it.
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''; ")
        standby.execute("SELECT pg_reload_conf()")
        wait_until(lambda: standby.execute("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)], 30)
        database.execute("UPDATE t SET v = 2")
        replay.reach(position_of(replay.source))
        primary.kill()
        wait_for_error(replay)
        replay.close()
        standby.promote()
        after = Database(standby, database.name)
        again = open_replay(after)
        assert replay.position is not None
        state = again.source.prepare(again.source.discover(), replay.position, replay.identity)
        assert (state.position, "timeline" in state.reason) == (None, True)
        again.start()
        after.execute("UPDATE t SET v = v + 10")
        again.reach(position_of(again.source))
        assert again.content(T) == sorted(after.execute("SELECT * FROM t"), key=repr)
        again.close()


def test_a_slot_that_was_idle_for_too_long_is_lost(
    make_postgres: Callable[..., PostgresServer], open_replay: Open
) -> None:
    server = make_postgres(18, settings={"idle_replication_slot_timeout": "1s"})
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    replay = open_replay(database)
    replay.start()
    replay.reach(position_of(replay.source))
    replay.close()

    def invalidated() -> bool:
        database.superuser("CHECKPOINT")
        return database.superuser("SELECT invalidation_reason FROM pg_replication_slots") == [("idle_timeout",)]

    wait_until(invalidated, 30)
    assert replay.position is not None
    again = open_replay(database)
    state = again.source.prepare(again.source.discover(), replay.position, replay.identity)
    assert state.position is None
    assert "idle_timeout" in state.reason
    [told] = [c for c in again.source.check() if c.name == "replication slot"]
    assert not told.ok
    assert told.warning
    assert "idle_timeout" in told.detail
    # A new start drops the slot and makes another.
    again.start()
    database.execute("INSERT INTO t VALUES (2, 2)")
    again.reach(position_of(again.source))
    assert again.content(T) == [(1, 1), (2, 2)]
    assert [c.ok for c in again.source.check() if c.name == "replication slot"] == [True]
