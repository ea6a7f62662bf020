"""Every way in which a table can name its rows, and every way in which transactions can touch them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.live import Live
from tests.support.servers import APP, Database, PostgresServer
from tests.support.table_kinds import SETUP
from tests.support.waiting import wait_until
from tests.support.witness import Witness

HIDDEN = ("audit_log", "unlogged", "no_columns")
TABLES = {"exclude": ["audit_*"], "columns": {"public.secret_column": {"exclude": ["password"]}}}


class World(Live):
    """The engine over the tables above. Every test leaves it running and equal."""

    def check(self) -> None:
        """Everything that has been done must arrive."""
        with self.database.connect() as connection:
            rows = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relpersistence = 'p'"
                " AND relnamespace = 'public'::regnamespace"
            ).fetchall()
        names = sorted(f"public.{name}" for (name,) in rows if name not in HIDDEN)
        self.wait_equal(names, exclude={"public.secret_column": ["password"]})

    def transact(self, *statements: str) -> None:
        """Run the statements in one transaction, each as a statement of its own."""
        with self.database.connect(autocommit=False) as connection:
            for statement in statements:
                connection.execute(statement.encode())
            connection.commit()


@pytest.fixture(scope="module")
def module_world(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    database = postgres_server.create_database()
    database.execute(SETUP)
    with World.on(database, tmp_path_factory.mktemp("tables"), tables=TABLES) as live:
        world = World(database, live.engine)
        world.check()
        yield world
    database.drop()


@pytest.fixture
def world(module_world: World) -> World:
    assert module_world.engine.running, "the engine ended in an earlier test"
    return module_world


def test_the_snapshot_and_what_is_left_out(world: World) -> None:
    rows = world.engine.query(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database() AND table_schema = 'public'"
    )
    assert not {name for (name,) in rows} & {"audit_log", "unlogged", "a_view", "a_matview", "parts_us", "parts_eu"}
    columns = world.engine.query("SELECT column_name FROM (DESCRIBE secret_column)")
    assert [name for (name,) in columns] == ["id", "v"]


def test_keyed_changes(world: World) -> None:
    for table in ("keyed", "full_keyed"):
        world.run(
            f"INSERT INTO {table} VALUES (1001, 1, NULL), (1002, 2, '')",
            f"UPDATE {table} SET v = v + 1 WHERE id % 3 = 0",
            f"UPDATE {table} SET v = NULL, s = NULL WHERE id % 7 = 0",
            f"DELETE FROM {table} WHERE id % 5 = 0",
            f"INSERT INTO {table} SELECT g * 5, 0, 'again' FROM generate_series(1, 10) g",
        )
        world.transact(
            f"DELETE FROM {table} WHERE id = 5",
            f"INSERT INTO {table} VALUES (5, 1, 'a')",
            f"UPDATE {table} SET v = 2 WHERE id = 5",
            f"DELETE FROM {table} WHERE id = 5",
            f"INSERT INTO {table} VALUES (5, 3, 'b')",
            f"INSERT INTO {table} VALUES (3001, 3, 'gone at once')",
            f"DELETE FROM {table} WHERE id = 3001",
        )
    world.run(
        "INSERT INTO composite_key VALUES (1, 'q\"\t', '2024-06-01', 1)",
        "UPDATE composite_key SET v = 0 WHERE a < 10",
        "UPDATE composite_key SET b = b || 'x', c = c + interval '1 us' WHERE a > 40",
        "DELETE FROM composite_key WHERE a BETWEEN 20 AND 25",
        "UPDATE all_key SET b = b + 100 WHERE a < 20",
        "DELETE FROM all_key WHERE a > 40",
        "UPDATE all_key SET a = a",
        "INSERT INTO empty VALUES (1, 1)",
    )
    world.check()


def test_key_changes_and_swaps(world: World) -> None:
    world.run(
        "UPDATE keyed SET id = id + 100000",
        "UPDATE keyed SET id = id - 100000",
        "UPDATE full_keyed SET id = -id",
        "BEGIN; UPDATE keyed SET id = -1 WHERE id = 11; UPDATE keyed SET id = 11 WHERE id = 12; UPDATE keyed SET id = 12 WHERE id = -1; COMMIT",
        # All keys move at once, through each other: allowed since the constraint is deferred.
        "UPDATE deferrable_key SET id = id + 1",
        "BEGIN; UPDATE deferrable_key SET id = CASE id WHEN 5 THEN 6 ELSE 5 END WHERE id IN (5, 6); COMMIT",
        "BEGIN; UPDATE deferrable_key SET id = 8 WHERE id = 7; UPDATE deferrable_key SET id = 7, v = 'was 8' WHERE v = 'v7'; COMMIT",
        "UPDATE deferred_unique SET u = 51 - u",
        "UPDATE by_index SET u = u + 1000",
        "UPDATE by_index SET id = NULL, v = 'w' WHERE u % 3 = 0",
        "DELETE FROM by_index WHERE u % 4 = 0",
        "UPDATE parent SET id = id + 100 WHERE id < 10",
        "DELETE FROM parent WHERE id BETWEEN 30 AND 35",
    )
    world.check()


def test_multisets_without_a_key(world: World) -> None:
    world.run(
        "DELETE FROM multiset WHERE ctid IN (SELECT ctid FROM multiset WHERE v = 1 LIMIT 3)",
        "UPDATE multiset SET v = 1 WHERE ctid IN (SELECT ctid FROM multiset WHERE v = 2 LIMIT 5)",
        "INSERT INTO multiset VALUES (NULL, NULL), (NULL, NULL), (1, 'x')",
        "UPDATE multiset SET s = 'was null' WHERE ctid IN (SELECT ctid FROM multiset WHERE v IS NULL LIMIT 1)",
        "UPDATE multiset SET v = v",
        "BEGIN; INSERT INTO multiset SELECT 77, 'x' FROM generate_series(1, 9);"
        " DELETE FROM multiset WHERE ctid IN (SELECT ctid FROM multiset WHERE v = 77 LIMIT 4);"
        " UPDATE multiset SET v = 78 WHERE v = 77; COMMIT",
        "UPDATE generated_no_key SET a = a + 1 WHERE a < 0",
    )
    world.check()
    dice = random.Random(5)
    with world.database.connect(autocommit=False) as connection:
        for _ in range(60):
            for _ in range(dice.randrange(1, 6)):
                low = dice.randrange(4)
                connection.execute(
                    dice.choice(
                        (
                            "INSERT INTO multiset SELECT %(n)s, 'x' FROM generate_series(1, 3)",
                            "DELETE FROM multiset WHERE ctid IN (SELECT ctid FROM multiset WHERE v = %(n)s LIMIT 2)",
                            "UPDATE multiset SET v = v + 1 WHERE ctid IN (SELECT ctid FROM multiset WHERE v = %(n)s LIMIT 2)",
                        )
                    ).encode(),
                    {"n": low},
                )
            if dice.random() < 0.2:
                connection.rollback()
            else:
                connection.commit()
    world.check()


def test_tables_without_any_identity_stay_writable_and_exact(world: World) -> None:
    """The application's own UPDATE and DELETE must work, and arrive by a reload."""
    world.run(
        "INSERT INTO no_key VALUES (100, 'inserted')",
        "INSERT INTO nothing VALUES (100, 1)",
        "INSERT INTO parts_no_key VALUES (1, '2020-02-02')",
    )
    world.check()
    world.run(
        "UPDATE no_key SET s = 'updated' WHERE v = 3",
        "DELETE FROM no_key WHERE v = 4",
        "UPDATE nothing SET v = -v WHERE id < 10",
        "DELETE FROM nothing WHERE id > 40",
        "UPDATE parts_no_key SET v = 0 WHERE v < 5",
        "UPDATE parts_no_key SET at = '2022-01-01' WHERE v < 10",
        "DELETE FROM parts_no_key WHERE v > 50",
        "UPDATE generated_no_key SET a = a + 1",
    )
    world.check()
    world.run(
        "BEGIN; INSERT INTO no_key VALUES (101, 'x'); UPDATE no_key SET v = 102 WHERE v = 101; COMMIT",
        "TRUNCATE nothing",
        "INSERT INTO nothing VALUES (1, 1)",
    )
    world.check()


def test_truncate(world: World) -> None:
    world.run(
        "INSERT INTO empty VALUES (2, 2), (3, 3)",
        "TRUNCATE empty, all_key",
        "INSERT INTO all_key VALUES (1, 1)",
        "TRUNCATE parent CASCADE",
        "INSERT INTO parent VALUES (1)",
        "BEGIN; INSERT INTO child VALUES (1, 1); TRUNCATE child; INSERT INTO child VALUES (2, 1); COMMIT",
        "BEGIN; TRUNCATE composite_key; ROLLBACK",
        "TRUNCATE by_index RESTART IDENTITY",
        "TRUNCATE no_key_quiet",
        "INSERT INTO no_key_quiet VALUES (1, 'after')",
    )
    world.check()


def test_partitions_through_the_root(world: World) -> None:
    world.run(
        "INSERT INTO parts VALUES (2000, 'eu', 1), (2001, 'us', 1)",
        "UPDATE parts SET region = 'us' WHERE id BETWEEN 100 AND 120 AND region = 'eu'",
        "UPDATE parts SET id = id + 5000 WHERE id < 20",
        "UPDATE parts_us SET v = 0 WHERE id < 200",
        "DELETE FROM parts_eu_low WHERE id > 300",
        "INSERT INTO parts_eu_high VALUES (9000, 'eu', 9)",
        "BEGIN; UPDATE parts SET region = 'eu' WHERE region = 'us' AND id > 800; UPDATE parts SET region = 'us' WHERE region = 'eu' AND id > 800; COMMIT",
    )
    world.check()
    world.run("TRUNCATE parts_us", "INSERT INTO parts VALUES (1, 'us', 1)")
    world.check()
    world.run("TRUNCATE parts", "INSERT INTO parts VALUES (1, 'eu', 1)")
    world.check()


def test_generated_columns(world: World) -> None:
    world.run(
        "INSERT INTO generated (id, a, c) VALUES (100, 7, 'x')",
        "UPDATE generated SET a = a + 1 WHERE id < 20",
        "UPDATE generated SET c = 'y' WHERE id > 40",
        "DELETE FROM generated WHERE id = 30",
        "INSERT INTO generated_no_key (a) VALUES (1)",
    )
    world.check()


@pytest.mark.parametrize("table", ["toast", "toast_full", "toast_multiset"])
def test_values_left_alone_by_an_update(world: World, table: str) -> None:
    """TOAST: the server does not send what an UPDATE leaves as it was."""
    world.run(
        f"UPDATE {table} SET n = n + 1",
        f"BEGIN; UPDATE {table} SET n = n + 1; UPDATE {table} SET big = repeat('new', 5000) WHERE n > 1 AND length(big) > 9000;"
        f" UPDATE {table} SET n = n + 1; UPDATE {table} SET n = 0 WHERE length(big) < 12000; COMMIT",
        f"UPDATE {table} SET big = NULL WHERE n = 0",
        f"UPDATE {table} SET n = 5 WHERE big IS NULL",
        f"INSERT INTO {table} (big, n{', id' if table != 'toast_multiset' else ''})"
        f" SELECT repeat('q' || g, 9000), 9{', 100 + g' if table != 'toast_multiset' else ''} FROM generate_series(1, 3) g",
    )
    if table != "toast_multiset":
        world.run(
            f"UPDATE {table} SET id = id + 1000",
            f"BEGIN; UPDATE {table} SET id = id + 1000; UPDATE {table} SET n = 7; UPDATE {table} SET id = id - 1500; COMMIT",
            # A key that moves, and another row that takes its place.
            f"BEGIN; UPDATE {table} SET id = 99999 WHERE id = 601; UPDATE {table} SET id = 601 WHERE id = 602;"
            f" UPDATE {table} SET id = 602 WHERE id = 99999; UPDATE {table} SET n = 8 WHERE id IN (601, 602); COMMIT",
            f"BEGIN; DELETE FROM {table} WHERE id = 601; INSERT INTO {table} VALUES (601, repeat('anew', 4000), 1); UPDATE {table} SET n = 2 WHERE id = 601; COMMIT",
        )
    world.run(
        "UPDATE toast_key SET n = n + 1",
        "UPDATE toast_key SET id = id || 'x' WHERE n < 10",
        "DELETE FROM toast_key WHERE n > 15",
    )
    world.check()


def test_transactions_of_every_kind(world: World) -> None:
    world.run(
        "BEGIN; SAVEPOINT a; INSERT INTO keyed VALUES (7001, 1, 'kept'); SAVEPOINT b; UPDATE keyed SET v = 0 WHERE id < 50;"
        " ROLLBACK TO b; SAVEPOINT c; INSERT INTO keyed VALUES (7002, 1, 'kept'); RELEASE c; ROLLBACK TO b; INSERT INTO keyed VALUES (7003, 1, 'x'); COMMIT",
        "BEGIN; INSERT INTO keyed VALUES (7004, 1, 'never'); ROLLBACK",
        "BEGIN; INSERT INTO keyed VALUES (7005, 1, 'prepared'); DELETE FROM keyed WHERE id = 20; PREPARE TRANSACTION 'kept'",
        "BEGIN; INSERT INTO keyed VALUES (7006, 1, 'prepared'); PREPARE TRANSACTION 'dropped'",
    )
    world.check()
    world.run("COMMIT PREPARED 'kept'", "ROLLBACK PREPARED 'dropped'")
    world.check()
    # Two open transactions, begun in one order and committed in the other, with readers watching.
    with world.database.connect(autocommit=False) as first, world.database.connect(autocommit=False) as second:
        first.execute("INSERT INTO keyed VALUES (7101, 1, 'first')")
        second.execute("INSERT INTO keyed VALUES (7102, 1, 'second')")
        second.commit()
        first.execute("UPDATE keyed SET v = 9 WHERE id = 7102")
        first.commit()
    world.check()


def test_a_transaction_larger_than_a_batch(world: World) -> None:
    """Fragments are staged; readers see all of it or nothing of it."""
    question = "SELECT (SELECT count(*) FROM keyed WHERE id >= 1000000), (SELECT 2 * count(*) FROM full_keyed WHERE id >= 1000000)"
    with Witness(world.engine.url, question) as witness:
        world.transact(
            "INSERT INTO keyed SELECT g, g, repeat('large', 60) FROM generate_series(1000000, 1119999) g",
            "SAVEPOINT undone",
            "UPDATE keyed SET v = -1 WHERE id >= 1000000",
            "ROLLBACK TO undone",
            "INSERT INTO full_keyed SELECT g, g, repeat('large', 60) FROM generate_series(1000000, 1059999) g",
            "UPDATE keyed SET s = 'shorter' WHERE id % 2 = 0 AND id >= 1000000",
            "UPDATE full_keyed SET id = id + 500000 WHERE id >= 1030000",
        )
        world.wait_caught_up()
        world.transact(
            "DELETE FROM keyed WHERE id >= 1000000", "TRUNCATE full_keyed", "INSERT INTO full_keyed VALUES (1, 1, 'x')"
        )
        world.wait_caught_up()
    assert {values[0] for values in witness.values} >= {"0", "120000"}
    world.check()


def test_row_level_security_does_not_filter(world: World) -> None:
    """A policy that hides rows from the engine's role must lead to all rows or to none, with a word about it."""
    world.run(
        "CREATE TABLE guarded (id int PRIMARY KEY, v text)",
        "INSERT INTO guarded SELECT g, 'x' FROM generate_series(1, 10) g",
        "CREATE POLICY few ON guarded USING (id < 3)",
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
    )
    try:
        world.run("INSERT INTO guarded VALUES (11, 'y')")
        # `reflex` is a member of the owner, whom policies do not bind: every row arrives.
        world.check()
    finally:
        world.run("DROP TABLE guarded")
    world.check()


def test_secrets_of_left_out_columns_never_arrive(world: World) -> None:
    world.run(
        "INSERT INTO secret_column VALUES (100, 'hunter2', 1)",
        "UPDATE secret_column SET password = 'hunter3'",
        "DELETE FROM secret_column WHERE id = 3",
    )
    world.check()
    files = [path for path in world.engine.folder.rglob("*") if path.is_file()]
    assert any(path.name == "replica.duckdb" for path in files)
    for path in files:
        assert b"hunter" not in path.read_bytes(), path.name


def test_updates_without_a_key_never_fail_at_the_source(postgres: Database, tmp_path: Path) -> None:
    """A table that loses its key, or is new and has none, must stay writable at every moment."""
    postgres.execute(
        "CREATE TABLE anchor (id int PRIMARY KEY); CREATE TABLE loses (id int PRIMARY KEY, v int); INSERT INTO loses VALUES (1, 1)"
    )
    with Live.on(postgres, tmp_path) as live:
        live.run("CREATE TABLE fresh (v int)", "INSERT INTO fresh VALUES (1), (2)")
        with postgres.connect(APP) as connection:
            for _ in range(40):
                connection.execute("UPDATE fresh SET v = v + 1")
                connection.execute("SELECT pg_sleep(0.05)")
            connection.execute("DELETE FROM fresh WHERE v > 41")
        live.wait_equal()
        with postgres.connect(APP) as connection:
            for _ in range(10):
                connection.execute("UPDATE fresh SET v = v + 1")
        live.wait_equal()
        # The server refuses updates from the moment that the key goes until we take the table out of the publication
        # of updates. That nobody can avoid; it must be soon, and without a word from the application.
        live.run("ALTER TABLE loses DROP CONSTRAINT loses_pkey")

        def updated() -> bool:
            live.run("UPDATE loses SET v = v + 1")
            return True

        wait_until(updated, 20, ignore=(psycopg.errors.ObjectNotInPrerequisiteState,))
        live.wait_equal()
