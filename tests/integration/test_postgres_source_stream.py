"""Snapshot and stream together give the source, whatever goes on meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
import pytest

from connectors.postgres.position import Lsn
from connectors.postgres.source import PostgresSource
from engine.errors import PreconditionError, ResyncRequired, TransientError
from engine.schema import TableId
from engine.source import Follow, Tls
from tests.contract.harness import position_of, postgres_options
from tests.support.proxy import TcpProxy
from tests.support.replay import Replay
from tests.support.servers import Database, LocalPostgres, PostgresServer
from tests.support.servers.roles import SUPERUSER
from tests.support.waiting import wait_until

T = TableId("public", "t")


@pytest.fixture
def open_replay(postgres: Database) -> Iterator[Callable[..., Replay]]:
    made: list[Replay] = []

    def open_it(database: Database | None = None, *, confirm: bool = True, **options: object) -> Replay:
        replay = Replay(PostgresSource(postgres_options(database or postgres, **options)), confirm=confirm)
        made.append(replay)
        return replay

    yield open_it
    for replay in made:
        replay.close()


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        connection.execute("SET timezone = 'UTC'")
        return sorted(connection.execute(query.encode()).fetchall(), key=repr)


def settle(replay: Replay) -> None:
    replay.reach(position_of(replay.source), 30)


def slot_row(database: Database) -> dict[str, Any]:
    with database.connect() as connection:
        cursor = connection.cursor(row_factory=psycopg.rows.dict_row)
        found = cursor.execute("SELECT * FROM pg_replication_slots WHERE database = %s", [database.name]).fetchone()
    assert found is not None
    return found


def active_pid(database: Database) -> int:
    """The server process that streams, once there is one: the stream begins in a thread of its own."""
    return int(wait_until(lambda: slot_row(database)["active_pid"], 20, message="the slot is streamed from"))


def confirmed_beyond(database: Database, position: Lsn) -> bool:
    return Lsn.parse(str(slot_row(database)["confirmed_flush_lsn"])) >= position


class Writers:
    """Several sessions that insert, update, delete and move keys at random until told to stop."""

    def __init__(self, database: Database, statements: Sequence[str], sessions: int = 3) -> None:
        self._stop = threading.Event()
        self._errors: list[Exception] = []
        self._threads = [
            threading.Thread(target=self._run, args=(database, statements, n), daemon=True) for n in range(sessions)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, database: Database, statements: Sequence[str], seed: int) -> None:
        try:
            with database.connect() as connection:
                connection.execute("SELECT setseed(%s)", [seed / 10])
                while not self._stop.is_set():
                    for statement in statements:
                        try:
                            connection.execute(statement.encode())
                        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
                            continue
        except Exception as error:
            self._errors.append(error)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        assert not self._errors, self._errors


def test_exact_under_concurrent_writes(postgres_any: Database, open_replay: Callable[..., Replay]) -> None:
    postgres_any.execute(
        """
        CREATE TABLE keyed (id int PRIMARY KEY, v int, t text);
        CREATE TABLE whole (id int, v int); ALTER TABLE whole REPLICA IDENTITY FULL;
        CREATE TABLE log (at int, v int);
        INSERT INTO keyed SELECT i, i, 'x' FROM generate_series(1, 2000) i;
        INSERT INTO whole SELECT i % 50, i % 7 FROM generate_series(1, 500) i;
        """
    )
    writers = Writers(
        postgres_any,
        [
            "INSERT INTO keyed SELECT (random() * 5000)::int, 1, 'new' ON CONFLICT DO NOTHING",
            "UPDATE keyed SET v = v + 1, t = t || 'y' WHERE id BETWEEN 100 AND 100 + (random() * 20)::int",
            "UPDATE keyed SET id = id + 10000 WHERE id = (random() * 5000)::int",
            "DELETE FROM keyed WHERE id = (random() * 5000)::int",
            "INSERT INTO whole VALUES ((random() * 50)::int, 3), (1, 1), (1, 1)",
            "UPDATE whole SET v = v + 1 WHERE id = (random() * 50)::int",
            "DELETE FROM whole WHERE ctid = (SELECT ctid FROM whole LIMIT 1)",
            "INSERT INTO log VALUES (1, 2), (1, 2)",
            "BEGIN; INSERT INTO log VALUES (9, 9); ROLLBACK",
        ],
    )
    replay = open_replay(postgres_any)
    try:
        replay.start()
        wait_until(lambda: sum(b.transactions for b in replay.batches) > 300, 30)
    finally:
        writers.stop()
    settle(replay)
    for name in ("keyed", "whole", "log"):
        assert replay.content(TableId("public", name)) == rows(postgres_any, f"SELECT * FROM {name}")


def test_truncate_of_several_tables_and_cascade(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
        CREATE TABLE other (id int); INSERT INTO t VALUES (1), (2); INSERT INTO child VALUES (1, 1);
        INSERT INTO other VALUES (1);
        """
    )
    replay = open_replay()
    replay.start()
    with postgres.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO t VALUES (3)")
        connection.execute("TRUNCATE t, other CASCADE")
        connection.execute("INSERT INTO t VALUES (4)")
    settle(replay)
    assert [replay.content(TableId("public", n)) for n in ("t", "child", "other")] == [[(4,)], [], []]
    assert replay.changes == []


def test_partitions_arrive_as_their_root(postgres_any: Database, open_replay: Callable[..., Replay]) -> None:
    postgres_any.execute(
        """
        CREATE TABLE t (id int, at int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10);
        CREATE TABLE t_2 (v text, at int NOT NULL, id int NOT NULL, PRIMARY KEY (id, at));
        ALTER TABLE t_2 REPLICA IDENTITY FULL;
        ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (10) TO (20);
        INSERT INTO t SELECT i, i % 20, 'v' || i FROM generate_series(1, 100) i;
        """
    )
    replay = open_replay(postgres_any)
    replay.start()
    postgres_any.execute("UPDATE t SET v = 'w' WHERE id < 10; UPDATE t SET at = 15 WHERE id = 1; DELETE FROM t_2")
    postgres_any.execute("INSERT INTO t_1 VALUES (500, 5, 'direct'); UPDATE t SET id = 501 WHERE id = 500")
    settle(replay)
    assert replay.content(T) == rows(postgres_any, "SELECT * FROM t")
    postgres_any.execute("TRUNCATE t")
    settle(replay)
    assert replay.content(T) == []
    assert replay.changes == []


def test_unchanged_toast_values_are_kept(postgres_any: Database, open_replay: Callable[..., Replay]) -> None:
    big = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 400))"
    postgres_any.execute(
        f"""
        CREATE TABLE t (id int PRIMARY KEY, v int, a text, b text); CREATE TABLE whole (id int, v int, a text);
        ALTER TABLE whole REPLICA IDENTITY FULL;
        INSERT INTO t SELECT i, 0, {big}, {big} FROM generate_series(1, 5) i;
        INSERT INTO whole SELECT i, 0, {big} FROM generate_series(1, 3) i;
        """
    )
    replay = open_replay(postgres_any)
    replay.start()
    with postgres_any.connect(autocommit=False) as connection:
        connection.execute("UPDATE t SET v = 1")
        connection.execute(f"UPDATE t SET a = {big} WHERE id = 1".encode())
        connection.execute("UPDATE t SET v = 2, id = id + 100")
        connection.execute("UPDATE whole SET v = 1")
    postgres_any.execute("UPDATE t SET id = id - 50; UPDATE t SET v = 3")
    settle(replay)
    assert any(c.unchanged for b in replay.batches for c in b.changes)
    assert replay.content(T) == rows(postgres_any, "SELECT * FROM t")
    assert replay.content(TableId("public", "whole")) == rows(postgres_any, "SELECT * FROM whole")


def test_keys_that_change_places_within_a_transaction(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    replay = open_replay()
    replay.start()
    with postgres.connect(autocommit=False) as connection:
        for statement in ("UPDATE t SET id = -1 WHERE id = 1", "UPDATE t SET id = 1 WHERE id = 2"):
            connection.execute(statement.encode())
        connection.execute("UPDATE t SET id = 2 WHERE id = -1")
        connection.execute("DELETE FROM t WHERE id = 1")
        connection.execute("INSERT INTO t VALUES (1, 'c')")
    settle(replay)
    assert replay.content(T) == [(1, "c"), (2, "a")]


def test_the_slot_moves_with_an_idle_stream(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE busy (id int)")
    replay = open_replay(include=("t",))
    replay.start()
    for _ in range(3):
        postgres.execute("INSERT INTO busy SELECT generate_series(1, 1000)")
        target = Lsn.parse(postgres.wal_position())
        replay.reach(target, 5)
        wait_until(partial(confirmed_beyond, postgres, target), 5)


def fill_the_page(database: Database) -> Lsn:
    """Write records until the last one ends with its page; returns where the server says that it will write next."""
    with database.connect(SUPERUSER) as connection:

        def insert() -> Lsn:
            row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            return Lsn.parse(str(row[0]))

        def emit(size: int) -> int:
            before = insert().value
            connection.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', %s))", [size])
            return insert().value - before

        for _ in range(200):
            if insert().value % 8192 > 6000:
                # What crosses into the next page costs its header, too.
                emit(3000)
            overhead = emit(1000) - 1000
            left = 8192 - insert().value % 8192
            if left > overhead + 300:
                emit(left - overhead)
                if insert().value % 8192 in (24, 40):
                    return insert()
    pytest.fail("no record ends with its page")


def test_a_log_that_ends_with_a_page_is_reached(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    """The next record will begin behind the next page's header, where nothing is until then."""
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    replay = open_replay()
    replay.start()
    for _ in range(5):
        # Another record may come in between at any time: the server's own.
        postgres.execute("INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t")
        ahead = fill_the_page(postgres)
        end = position_of(replay.source)
        assert isinstance(end, Lsn)
        if ahead.value - end.value in (24, 40):
            replay.reach(end, 10)
            return
    pytest.fail("the server kept writing")


def test_nothing_is_reported_before_it_is_confirmed(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    replay = open_replay(confirm=False)
    start = replay.start()
    postgres.execute("INSERT INTO t SELECT generate_series(1, 100)")
    settle(replay)
    half = replay.position
    assert half is not None
    until = time.monotonic() + 2.5
    seen = set()
    while time.monotonic() < until:
        seen.add(slot_row(postgres)["confirmed_flush_lsn"])
        time.sleep(0.1)
    assert seen == {str(start)}
    postgres.execute("INSERT INTO t VALUES (1000)")
    replay.source.confirm(half)
    replay.wait(lambda: slot_row(postgres)["confirmed_flush_lsn"] == str(half), 5)


def test_a_consumer_that_stalls_does_not_lose_the_connection(
    make_postgres: Callable[..., PostgresServer], open_replay: Callable[..., Replay]
) -> None:
    database = make_postgres(settings={"wal_sender_timeout": "2s"}).create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    replay = open_replay(database, batch_bytes=64 << 10)
    replay.start()
    pid = active_pid(database)
    replay.gate.clear()
    database.execute("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 60000) i")
    # Three times the time after which the server ends a silent connection.
    until = time.monotonic() + 6
    while time.monotonic() < until:
        assert slot_row(database)["active_pid"] == pid
        time.sleep(0.2)
    replay.gate.set()
    settle(replay)
    assert len(replay.content(T)) == 60000
    assert slot_row(database)["active_pid"] == pid
    assert "terminating walsender process due to replication timeout" not in database.server.log_text()
    replay.close()


def test_a_large_transaction_comes_in_fragments(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    replay = open_replay(batch_bytes=100_000)
    replay.start()
    postgres.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i; UPDATE t SET v = 'y'")
    settle(replay)
    assert any(not b.complete for b in replay.batches)
    assert max(b.size for b in replay.batches) < 1_000_000
    assert replay.content(T) == rows(postgres, "SELECT * FROM t")


def test_changes_wait_for_company_no_longer_than_the_window(
    postgres: Database, open_replay: Callable[..., Replay]
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    replay = open_replay(batch_window=0.5)
    replay.start()
    began = time.monotonic()
    for i in range(20):
        postgres.execute("INSERT INTO t VALUES (%s)", [i])
    replay.wait(lambda: len(replay.content(T)) == 20, 10)
    elapsed = time.monotonic() - began
    with_rows = [b for b in replay.batches if b.changes]
    assert len(with_rows) <= elapsed / 0.5 + 2
    assert sum(b.transactions for b in with_rows) == 20
    assert all(b.commit_time is not None and abs(b.commit_time - time.time()) < 60 for b in with_rows)


def test_a_second_engine_of_the_same_name_is_refused(
    postgres: Database, open_replay: Callable[..., Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.postgres.slot.IN_USE_PATIENCE", 0.3)
    monkeypatch.setattr("connectors.postgres.receiver.IN_USE_PATIENCE", 0.3)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    replay = open_replay()
    start = replay.start()
    settle(replay)
    identity = replay.source.identity()
    second = open_replay()
    with pytest.raises(PreconditionError, match="in use"):
        second.source.prepare(second.source.discover(), start, identity)
    with pytest.raises(PreconditionError, match="Another engine"):
        next(iter(second.source.stream(start, [])))
    postgres.execute("INSERT INTO t VALUES (1)")
    settle(replay)


def test_a_dropped_publication_or_slot_needs_a_new_start(
    postgres: Database, open_replay: Callable[..., Replay]
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    first = open_replay()
    start = first.start()
    first.close()
    second = open_replay()
    postgres.superuser(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [postgres.name]
    )
    with pytest.raises(ResyncRequired, match="does not exist"):
        next(iter(second.source.stream(start, [])))


def test_a_connection_that_breaks_is_a_passing_error(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with TcpProxy(postgres.server.host, postgres.server.port) as proxy:
        replay = open_replay(port=proxy.port)
        replay.start()
        postgres.execute("INSERT INTO t VALUES (1)")
        settle(replay)
        after, identity = replay.position, replay.source.identity()
        assert after is not None
        proxy.cut()
        wait_until(lambda: replay.error is not None, 10)
        assert isinstance(replay.error, TransientError)
        postgres.execute("INSERT INTO t VALUES (2)")
    again = open_replay()
    again.tables = replay.tables
    assert again.source.prepare(again.source.discover(), after, identity).position == after
    again.follow(after)
    settle(again)
    assert again.content(T) == [(1,), (2,)]


def test_a_terminated_walsender_is_a_passing_error(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    replay = open_replay()
    replay.start()
    postgres.superuser("SELECT pg_terminate_backend(%s)", [active_pid(postgres)])
    wait_until(lambda: replay.error is not None, 10)
    assert isinstance(replay.error, TransientError)


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_over_tls_the_same(
    make_postgres: Callable[..., PostgresServer], open_replay: Callable[..., Replay], mode: str
) -> None:
    server = make_postgres()
    if not isinstance(server, LocalPostgres):
        pytest.skip("needs a local server")
    authority = server.enable_tls(required=True)
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    database.execute("INSERT INTO t SELECT i, repeat('x', i % 3000) FROM generate_series(1, 3000) i")
    with pytest.raises((PreconditionError, TransientError)):
        open_replay(database, tls=Tls("disable")).source.discover()
    replay = open_replay(database, tls=Tls(mode, ca=str(authority)))
    assert any("with TLS" in c.detail for c in replay.source.check())
    replay.start()
    database.execute("UPDATE t SET v = v || 'y'; DELETE FROM t WHERE id % 7 = 0")
    settle(replay)
    assert replay.content(T) == rows(database, "SELECT * FROM t")
    replay.close()


def test_close_ends_everything_within_a_second(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with postgres.connect(autocommit=False) as blocker:
        blocker.execute("INSERT INTO t VALUES (1)")
        replay = open_replay()
        failure: list[BaseException] = []

        def start() -> None:
            try:
                replay.start()
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        # Making the slot waits for the open transaction.
        wait_until(lambda: postgres.superuser("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION%'"))
        began = time.monotonic()
        replay.close()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - began < 2
        assert isinstance(failure[0], TransientError)
        blocker.rollback()


def test_a_table_joins_from_its_own_position(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE late (id int PRIMARY KEY, v int)")
    first = open_replay(include=("t",))
    start = first.start()
    identity = first.source.identity()
    first.close()
    writers = Writers(
        postgres,
        [
            "INSERT INTO late SELECT (random() * 1e6)::int ON CONFLICT DO NOTHING",
            "UPDATE late SET v = coalesce(v, 0) + 1 WHERE id % 100 = 1",
            "INSERT INTO t SELECT (random() * 1e6)::int ON CONFLICT DO NOTHING",
        ],
    )
    try:
        replay = open_replay()
        replay.tables = first.tables
        found = replay.source.discover()
        assert replay.source.prepare(found, start, identity).position == start
        late = [t for t in found if t.id.name == "late"]
        with replay.source.snapshot(late, start=False) as snapshot:
            since = snapshot.position
            replay.load(snapshot)
            layout = snapshot.tables[0]
        follow = [Follow(replay.tables[T].table), Follow(layout, since)]
        replay.follow(start, follow, [since])
        wait_until(lambda: sum(b.transactions for b in replay.batches) > 200, 20)
    finally:
        writers.stop()
    settle(replay)
    assert any(str(b.position) == str(since) for b in replay.batches)
    assert replay.content(T) == rows(postgres, "SELECT * FROM t")
    assert replay.content(TableId("public", "late")) == rows(postgres, "SELECT * FROM late")
    temporary = postgres.superuser("SELECT count(*) FROM pg_replication_slots WHERE temporary")
    assert temporary == [(0,)]
