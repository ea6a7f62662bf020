"""Whether streaming can continue exactly, and what is found when someone meddles with what the engine made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from connectors.postgres.position import Lsn
from connectors.postgres.source import PostgresSource
from engine.changes import Position
from engine.errors import PreconditionError
from engine.source import StreamState
from tests.contract.harness import position_of, postgres_options
from tests.support.replay import Replay
from tests.support.servers import Database, PostgresServer
from tests.support.waiting import wait_until

Started = tuple[Position, str]


@pytest.fixture
def source(postgres: Database) -> Iterator[PostgresSource]:
    made = PostgresSource(postgres_options(postgres))
    yield made
    made.close()


def begun(source: PostgresSource, database: Database) -> Started:
    """Load nothing much and stop: what a replica would remember."""
    database.execute("CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, v int)")
    found = source.discover()
    source.prepare(found, None, None)
    with source.snapshot(found, start=True) as snapshot:
        return snapshot.position, source.identity()


def resumed(source: PostgresSource, after: Position, identity: str | None) -> StreamState:
    return source.prepare(source.discover(), after, identity)


def slot_name(database: Database) -> str:
    return f"reflex_{database.name}"


def test_an_untouched_slot_continues(postgres_any: Database) -> None:
    source = PostgresSource(postgres_options(postgres_any))
    try:
        after, identity = begun(source, postgres_any)
        assert resumed(source, after, identity) == StreamState(after)
        (row,) = postgres_any.superuser(
            "SELECT plugin, temporary, slot_type FROM pg_replication_slots WHERE slot_name = %s",
            [slot_name(postgres_any)],
        )
        assert row == ("pgoutput", False, "logical")
        if postgres_any.version >= 17:
            assert postgres_any.superuser("SELECT failover FROM pg_replication_slots") == [(True,)]
        assert source.teardown() == [
            f"replication slot {slot_name(postgres_any)}",
            f"publication {slot_name(postgres_any)}",
            f"publication {slot_name(postgres_any)}_inserts",
        ]
        assert source.teardown() == []
    finally:
        source.close()


def test_a_dropped_slot_does_not(postgres: Database, source: PostgresSource) -> None:
    after, identity = begun(source, postgres)
    postgres.superuser("SELECT pg_drop_replication_slot(%s)", [slot_name(postgres)])
    state = resumed(source, after, identity)
    assert state.position is None
    assert "does not exist" in state.reason


def test_a_slot_created_again_or_advanced_does_not(postgres: Database, source: PostgresSource) -> None:
    after, identity = begun(source, postgres)
    postgres.execute("INSERT INTO t VALUES (1)")
    postgres.superuser("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slot_name(postgres)])
    state = resumed(source, after, identity)
    assert (state.position, "advanced or created again" in state.reason) == (None, True)
    after, identity = begun(source, postgres)
    postgres.superuser("SELECT pg_drop_replication_slot(%s)", [slot_name(postgres)])
    postgres.execute("INSERT INTO t VALUES (2)")
    postgres.superuser("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot_name(postgres)])
    state = resumed(source, after, identity)
    assert (state.position, "advanced or created again" in state.reason) == (None, True)


def test_a_slot_of_another_plugin_does_not(postgres: Database, source: PostgresSource) -> None:
    after, identity = begun(source, postgres)
    postgres.superuser("SELECT pg_drop_replication_slot(%s)", [slot_name(postgres)])
    postgres.superuser("SELECT pg_create_physical_replication_slot(%s, true)", [slot_name(postgres)])
    assert resumed(source, after, identity).position is None
    postgres.superuser("SELECT pg_drop_replication_slot(%s)", [slot_name(postgres)])


@pytest.mark.parametrize("field", ["system", "database", "slot", "timeline"])
def test_another_history_does_not(postgres: Database, source: PostgresSource, field: str) -> None:
    after, identity = begun(source, postgres)
    changed = json.loads(identity)
    changed[field] = changed[field] + 1 if isinstance(changed[field], int) else "another"
    state = resumed(source, after, json.dumps(changed))
    assert state.position is None
    assert state.reason
    assert resumed(source, after, None).position is None
    assert resumed(source, after, "garbage").position is None


def test_a_server_that_is_behind_was_restored(postgres: Database, source: PostgresSource) -> None:
    after, identity = begun(source, postgres)
    assert isinstance(after, Lsn)
    state = resumed(source, Lsn(after.value + (1 << 30)), identity)
    assert (state.position, "restored" in state.reason) == (None, True)


def test_a_slot_whose_wal_was_removed_is_lost(make_postgres: Callable[..., PostgresServer]) -> None:
    server = make_postgres(settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"})
    database = server.create_database()
    source = PostgresSource(postgres_options(database))
    try:
        after, identity = begun(source, database)

        def lost() -> bool:
            database.superuser("CREATE TABLE junk AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)")
            database.superuser("DROP TABLE junk; SELECT pg_switch_wal(); CHECKPOINT")
            (row,) = database.superuser("SELECT wal_status FROM pg_replication_slots")
            return bool(row[0] == "lost")

        wait_until(lost, 60)
        state = resumed(source, after, identity)
        assert (state.position, "lost" in state.reason) == (None, True)
        position, identity = begun(source, database)
        assert resumed(source, position, identity).position == position
    finally:
        source.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restarted_server_continues(make_postgres: Callable[..., PostgresServer], mode: str) -> None:
    server = make_postgres(fsync=True)
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    replay = Replay(PostgresSource(postgres_options(database)))
    replay.start()
    identity = replay.source.identity()
    database.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 1000) i")
    replay.reach(position_of(replay.source))
    server.restart(mode)
    replay.close()
    again = Replay(PostgresSource(postgres_options(database)))
    again.tables = replay.tables
    try:
        assert replay.position is not None
        assert resumed(again.source, replay.position, identity).position == replay.position  # type: ignore[arg-type]
        again.follow(replay.position)
        database.execute("UPDATE t SET v = -1 WHERE id < 10")
        again.reach(position_of(again.source))
        assert [r[1] for r in again.content(next(iter(again.tables)))].count(-1) == 9
    finally:
        again.close()


def test_a_server_without_logical_decoding_is_refused(make_postgres: Callable[..., PostgresServer]) -> None:
    database = make_postgres(settings={"wal_level": "replica"}).create_database()
    source = PostgresSource(postgres_options(database))
    try:
        with pytest.raises(PreconditionError, match="wal_level is replica") as refused:
            source.prepare([], None, None)
        assert "ALTER SYSTEM SET wal_level" in refused.value.remedy
        assert [c.name for c in source.check() if not c.ok and not c.warning] == ["wal_level"]
    finally:
        source.close()


def test_no_free_slot_is_a_precondition(make_postgres: Callable[..., PostgresServer]) -> None:
    database = make_postgres(settings={"max_replication_slots": 1}).create_database()
    database.superuser("SELECT pg_create_physical_replication_slot('taken')")
    source = PostgresSource(postgres_options(database))
    try:
        assert [c.name for c in source.check() if not c.ok and not c.warning] == ["replication slots"]
        with pytest.raises(PreconditionError, match="max_replication_slots"):
            begun(source, database)
    finally:
        source.close()


def meddled(database: Database, source: PostgresSource, *statements: str) -> list[tuple[str | None, bool, str]]:
    """What inspection finds after these statements, told from what the replica knew before them."""
    found = source.discover()
    source.prepare(found, None, None)
    with source.snapshot(found, start=True) as snapshot:
        known = list(snapshot.tables)
    assert source.inspect(known) == []
    for statement in statements:
        database.superuser(statement)
    findings = source.inspect(known)
    now = source.discover()
    assert all(c.reload for c in findings)
    assert source.inspect(now) == []
    return sorted((str(c.old.id) if c.old else None, c.reload, c.reason) for c in findings)


def test_meddling_with_publications_is_mended_and_the_tables_reloaded(
    postgres: Database, source: PostgresSource
) -> None:
    postgres.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int)"
    )
    name = slot_name(postgres)
    out = "it was out of the publication for a time, or what is published changed"
    one, every = [("public.a", True, out)], [("public.a", True, out), ("public.b", True, out)]
    assert meddled(postgres, source, f"ALTER PUBLICATION {name} DROP TABLE a") == one
    assert (
        meddled(postgres, source, f"ALTER PUBLICATION {name} DROP TABLE a", f"ALTER PUBLICATION {name} ADD TABLE a")
        == one
    )
    assert meddled(postgres, source, f"ALTER PUBLICATION {name} SET (publish = 'insert')") == every
    assert meddled(postgres, source, f"DROP PUBLICATION {name}") == every
    assert meddled(postgres, source, f"ALTER PUBLICATION {name} SET TABLE a WHERE (id > 5), b") == one
    assert meddled(postgres, source, f"DROP PUBLICATION {name}_inserts") == [("public.c", True, out)]
    tables = "SELECT tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1"
    assert postgres.superuser(tables, [name]) == [("a",), ("b",)]


def test_updates_without_replica_identity_are_noticed(postgres: Database, source: PostgresSource) -> None:
    postgres.execute("CREATE TABLE t (id int, v int); INSERT INTO t VALUES (1, 1)")
    found = source.discover()
    source.prepare(found, None, None)
    with source.snapshot(found, start=True) as snapshot:
        known = list(snapshot.tables)
    postgres.execute("INSERT INTO t VALUES (2, 2)")
    assert source.inspect(known) == []
    before = position_of(source)
    postgres.execute("UPDATE t SET v = 3 WHERE id = 1")
    findings = wait_until(lambda: source.inspect(known), 20)
    assert [(c.reload, c.old == known[0]) for c in findings] == [(True, True)]
    assert findings[0].position.covers(before)
    assert "updated or deleted" in findings[0].reason
    with source.snapshot(source.discover(), start=False) as snapshot:
        known = list(snapshot.tables)
    assert source.inspect(known) == []
    postgres.superuser("SELECT pg_stat_reset()")
    wait_until(lambda: source.inspect(known), 20)


def test_the_identity_is_text_that_names_server_and_slot(source: PostgresSource, postgres: Database) -> None:
    begun(source, postgres)
    known = json.loads(source.identity())
    assert set(known) == {"system", "timeline", "database", "slot", "landmark"}
    assert known["slot"] == slot_name(postgres)
