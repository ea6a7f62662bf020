"""What others do to the source's own objects: recognised, mended or loaded anew, and never silently wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.live import Live, lsn
from tests.support.servers import LocalPostgres, PostgresServer
from tests.support.waiting import wait_until
from tests.support.witness import Witness
from tests.support.writer import PairWriter

SETUP = (
    "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;"
    "CREATE TABLE u (id int PRIMARY KEY, v int); INSERT INTO u SELECT g, g FROM generate_series(1, 1000) g;"
    "CREATE TABLE bag (v int); INSERT INTO bag SELECT g % 10 FROM generate_series(1, 100) g"
)
WRITES = (
    "UPDATE t SET v = v + 1 WHERE id % 3 = 0",
    "DELETE FROM u WHERE id IN (SELECT id FROM u ORDER BY id LIMIT 5)",
    "INSERT INTO u SELECT max(id) + 1, 7 FROM u",
    "INSERT INTO bag VALUES (5)",
)


@pytest.fixture(scope="module")
def shared(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Live, PairWriter]]:
    """One engine and one pair of tables that are written to and watched through all of it."""
    database = postgres_server.create_database()
    database.execute(SETUP)
    with PairWriter(database) as pair, Live.on(database, tmp_path_factory.mktemp("back")) as live:
        with Witness(live.engine.url, pair.question):
            yield live, pair
    database.drop()


@pytest.fixture
def live(shared: tuple[Live, PairWriter]) -> Live:
    assert shared[0].engine.running
    return shared[0]


def publications(live: Live) -> list[str]:
    return [name for (name,) in live.database.superuser("SELECT pubname FROM pg_publication")]


def settle(live: Live, timeout: float = 60.0) -> None:
    """It must become equal, stay so under more writes, and be healthy again."""
    live.wait_equal(["public.t", "public.u", "public.bag"], timeout)
    live.run(*WRITES)
    live.wait_equal(["public.t", "public.u", "public.bag"], timeout)


def wait_for_transactions(pair: PairWriter, count: int) -> None:
    """Wait until the writer has committed `count` more transactions."""
    goal = pair.transactions + count
    wait_until(lambda: pair.transactions > goal, 60)


def end_walsenders(live: Live) -> None:
    live.database.superuser(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database() AND active"
    )


def test_a_table_is_taken_out_of_the_publication(live: Live) -> None:
    for name in publications(live):
        for table in ("t", "bag"):
            try:
                live.database.superuser(f'ALTER PUBLICATION "{name}" DROP TABLE {table}')
            except psycopg.errors.UndefinedObject:
                continue
    live.run(*WRITES)
    settle(live)


def test_a_table_is_out_of_the_publication_for_a_moment(live: Live) -> None:
    """What was written meanwhile is in no stream: only a reload brings it."""
    (name,) = [n for (n,) in live.database.superuser("SELECT pubname FROM pg_publication_tables WHERE tablename = 't'")]
    live.database.superuser(f'ALTER PUBLICATION "{name}" DROP TABLE t')
    live.run("UPDATE t SET v = -1 WHERE id < 10")
    with suppress(psycopg.errors.DuplicateObject):  # The engine was quicker to put the table back.
        live.database.superuser(f'ALTER PUBLICATION "{name}" ADD TABLE t')
    settle(live)


def test_publications_are_dropped(live: Live) -> None:
    for name in publications(live):
        live.database.superuser(f'DROP PUBLICATION "{name}"')
    live.run(*WRITES)
    settle(live)


def test_publication_publishes_less_for_a_while(live: Live) -> None:
    (name,) = [n for (n,) in live.database.superuser("SELECT pubname FROM pg_publication_tables WHERE tablename = 't'")]
    live.database.superuser(f"ALTER PUBLICATION \"{name}\" SET (publish = 'insert')")
    live.run("UPDATE t SET v = -2 WHERE id < 10")
    settle(live)


def test_a_row_filter_is_put_on_a_table(live: Live) -> None:
    if live.database.version < 15:
        pytest.skip("row filters came with PostgreSQL 15")
    (name,) = [n for (n,) in live.database.superuser("SELECT pubname FROM pg_publication_tables WHERE tablename = 't'")]
    live.database.superuser(
        f'ALTER PUBLICATION "{name}" DROP TABLE t; ALTER PUBLICATION "{name}" ADD TABLE t WHERE (id > 500)'
    )
    live.run("UPDATE t SET v = -3 WHERE id < 10")
    settle(live)


ALTERATIONS = {
    "it publishes less": "ALTER PUBLICATION {name} SET (publish = 'insert')",
    "a table is taken out": "ALTER PUBLICATION {name} DROP TABLE pair.accounts",
    "a table is out for a moment": (
        "ALTER PUBLICATION {name} DROP TABLE pair.accounts",
        "ALTER PUBLICATION {name} ADD TABLE pair.accounts",
    ),
    "a row filter is set": (
        "ALTER PUBLICATION {name} DROP TABLE pair.accounts; ALTER PUBLICATION {name} ADD TABLE pair.accounts WHERE (id > 5)"
    ),
    "the alteration is open for long": (
        "BEGIN; ALTER PUBLICATION {name} DROP TABLE pair.entries; SELECT pg_sleep(2); COMMIT"
    ),
    "the alteration is given up": (
        "BEGIN; ALTER PUBLICATION {name} DROP TABLE pair.entries; SELECT pg_sleep(0.3); ROLLBACK"
    ),
}


@pytest.mark.parametrize("how", ALTERATIONS)
def test_readers_see_whole_transactions_while_the_publication_is_altered(
    shared: tuple[Live, PairWriter], how: str
) -> None:
    """The witness of `shared` compares the pair of tables at every moment of this."""
    live, pair = shared
    if "WHERE" in ALTERATIONS[how] and live.database.version < 15:
        pytest.skip("row filters came with PostgreSQL 15")
    live.wait_equal(["public.t"])
    [(name,)] = live.database.superuser("SELECT DISTINCT pubname FROM pg_publication_tables WHERE schemaname = 'pair'")
    statements = ALTERATIONS[how]
    for statement in [statements] if isinstance(statements, str) else statements:
        with suppress(psycopg.errors.DuplicateObject):  # The engine was quicker to put the table back.
            live.database.superuser(statement.format(name=name))
        wait_for_transactions(pair, 10)
    live.wait_caught_up()
    settle(live)


def drop_slot(live: Live) -> str:
    """Take the slot away from under the engine, which tries to hold on to it."""
    name = live.slot()

    def dropped() -> bool:
        end_walsenders(live)
        live.database.superuser("SELECT pg_drop_replication_slot(%s)", (name,))
        return True

    wait_until(dropped, 30, interval=0.005, ignore=(psycopg.errors.ObjectInUse,))
    return name


def test_the_slot_is_dropped(live: Live) -> None:
    drop_slot(live)
    live.run(*WRITES)
    settle(live)


def test_the_slot_is_dropped_and_created_again(live: Live) -> None:
    with live.database.connect() as connection:
        connection.execute("SELECT 1")
        live.engine.kill()
        end_walsenders(live)
        name = drop_slot(live)
        live.run("UPDATE t SET v = -4 WHERE id < 10")
        live.database.superuser("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
        live.engine.start()
        settle(live)


def test_the_slot_is_advanced_by_someone_else(live: Live) -> None:
    live.engine.kill()
    name = live.slot()
    wait_until(
        lambda: (
            live.database.superuser("SELECT active FROM pg_replication_slots WHERE slot_name = %s", (name,))
            == [(False,)]
        ),
        30,
    )
    live.run("UPDATE t SET v = -5 WHERE id < 10")
    live.database.superuser("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", (name,))
    live.engine.start()
    settle(live)


def test_publication_is_dropped_while_the_engine_is_down(live: Live) -> None:
    """The stream of the time without it cannot be decoded: 'publication does not exist'."""
    live.engine.terminate()
    for name in publications(live):
        live.database.superuser(f'DROP PUBLICATION "{name}"')
    live.run(*WRITES, "ALTER TABLE t ADD w int DEFAULT 3")
    live.engine.start()
    settle(live)


def test_the_replication_right_is_taken_for_a_while(live: Live) -> None:
    live.database.superuser("ALTER ROLE reflex NOREPLICATION")
    end_walsenders(live)
    live.run(*WRITES)
    live.engine.wait_health(status="degraded")
    live.database.superuser("ALTER ROLE reflex REPLICATION")
    settle(live)


def test_a_slot_whose_wal_is_gone(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    """max_slot_wal_keep_size passed while the engine is down: loaded anew, the old data served meanwhile."""
    server = make_postgres(settings={"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"})
    database = server.create_database()
    database.execute(SETUP)
    with Live.on(database, tmp_path) as live:
        live.wait_equal()
        live.engine.terminate()
        live.run("UPDATE t SET v = 100000 + v")

        def lost() -> bool:
            live.run(
                "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 40000)", "DROP TABLE filler"
            )
            database.superuser("SELECT pg_switch_wal(); CHECKPOINT")
            rows = database.superuser("SELECT wal_status FROM pg_replication_slots")
            return rows == [("lost",)]

        wait_until(lost, 60)
        live.engine.start()
        settle(live)


def test_server_is_restored_from_an_older_copy(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    """Same system identifier, same timeline, same slot: but its log ends before the replica's position."""
    server = make_postgres()
    if not isinstance(server, LocalPostgres):
        pytest.skip("needs the server's data directory")
    database = server.create_database()
    database.execute(SETUP)
    with Live.on(database, tmp_path) as live:
        live.wait_equal()
        server.stop()
        shutil.copytree(server.data, server.home / "copy", copy_function=shutil.copy2)
        server.start()
        live.run("UPDATE t SET v = -6", "INSERT INTO u SELECT g, 1 FROM generate_series(5000, 9000) g")
        live.wait_equal()
        live.engine.terminate()
        server.stop()
        restore(server)
        server.start()
        live.run("UPDATE t SET v = -7 WHERE id < 100")
        live.engine.start()
        settle(live)


def test_server_is_restored_and_has_written_past_our_position(
    make_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    """The same, but its new log has passed the replica's position before the engine looks: another history."""
    server = make_postgres()
    if not isinstance(server, LocalPostgres):
        pytest.skip("needs the server's data directory")
    database = server.create_database()
    database.execute(SETUP)
    with Live.on(database, tmp_path) as live:
        live.wait_equal()
        server.stop()
        shutil.copytree(server.data, server.home / "copy", copy_function=shutil.copy2)
        server.start()
        live.run("UPDATE t SET v = -6 WHERE id < 50")
        live.wait_equal()
        live.engine.terminate()
        ahead = database.wal_position()
        server.stop()
        restore(server)
        server.start()
        while lsn(database.wal_position()) <= lsn(ahead) + 100_000:
            live.run("UPDATE u SET v = v + 1")
        live.engine.start()
        settle(live, 20)


def restore(server: LocalPostgres) -> None:
    """Put the copy in the place of the data directory, with its owner."""
    owner = server.data.stat()
    shutil.rmtree(server.data)
    shutil.copytree(server.home / "copy", server.data, copy_function=shutil.copy2)
    for folder, folders, files in os.walk(server.data):
        for name in (".", *folders, *files):
            os.chown(Path(folder) / name, owner.st_uid, owner.st_gid)
