"""The engine polling, end to end: what changes between two polls is in the replica after the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import Live
from tests.support.mysql_live import MySqlLive
from tests.support.servers import Database, LocalPostgres, MySqlDatabase, PostgresServer
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.roles import ROOT
from tests.support.standby import Standby
from tests.support.waiting import wait_until

POLL = {"sync_mode": "poll", "sync_interval": 5}
WATCHER = {"user": "watcher", "password": "watcher-pass-never-logged-1f"}


def reader_of(database: Database) -> None:
    """A role that may do nothing but SELECT."""
    database.superuser(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'watcher') THEN"
        f" CREATE ROLE watcher LOGIN PASSWORD '{WATCHER['password']}'; END IF; END $$"
    )
    database.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO watcher")


def table(live: Live | MySqlLive, name: str) -> dict[str, Any]:
    return dict(live.engine.http.get(f"/tables/{name}").json())


SHOP = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE keyed (id int PRIMARY KEY, v numeric(10,2), m mood, t text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO keyed SELECT i, i / 4.0, 'ok', repeat('é', i % 40) FROM generate_series(1, 3000) i;
CREATE TABLE bag (a int, b text);
INSERT INTO bag SELECT i % 3, 'same' FROM generate_series(1, 100) i;
CREATE TABLE part (id int, v int) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (1000);
INSERT INTO part SELECT i, i FROM generate_series(0, 500) i;
CREATE TABLE quiet (id int PRIMARY KEY, a int[], ts timestamptz);
INSERT INTO quiet SELECT i, ARRAY[i, NULL], '2024-02-29 12:00+00' FROM generate_series(1, 500) i;
CREATE TABLE old_name (id int PRIMARY KEY, "Odd ""name" text);
INSERT INTO old_name VALUES (1, 'x');
CREATE TABLE doomed (id int PRIMARY KEY);
"""


def changed_on_postgres(live: Live) -> None:
    live.run(
        "UPDATE keyed SET v = v + 1 WHERE id % 7 = 0",
        "DELETE FROM keyed WHERE id % 11 = 0",
        "INSERT INTO keyed VALUES (9001, 1, 'sad', NULL), (9002, NULL, NULL, '')",
        "DELETE FROM bag WHERE a = 1",
        "INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL)",
        "UPDATE part SET v = -v WHERE id IN (7, 300)",
    )
    live.wait_equal()


def redefined_on_postgres(live: Live) -> None:
    live.run(
        "ALTER TABLE keyed ADD COLUMN extra int DEFAULT 7",
        "ALTER TABLE keyed DROP COLUMN doubled",
        "ALTER TABLE keyed DROP CONSTRAINT keyed_pkey",
        "ALTER TYPE mood RENAME VALUE 'ok' TO 'fine'",
        "ALTER TABLE old_name RENAME TO new_name",
        "DROP TABLE doomed",
        "CREATE TABLE fresh (id int PRIMARY KEY, v text)",
        "INSERT INTO fresh VALUES (1, 'new')",
        "TRUNCATE bag",
        "CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (1000) TO (2000)",
        "INSERT INTO part VALUES (1500, 1)",
    )
    live.wait_equal()
    # Values that change without a row: dropped and added again under the same name, with another default.
    live.run("ALTER TABLE fresh DROP COLUMN v", "ALTER TABLE fresh ADD COLUMN v text DEFAULT 'again'")
    live.wait_equal()


def test_postgres_with_select_alone(postgres_any: Database, tmp_path: Path) -> None:
    reader_of(postgres_any)
    postgres_any.execute(SHOP)
    with Live.on(postgres_any, tmp_path, connection=WATCHER, instance=POLL) as live:
        live.compare()
        health = live.engine.wait_health(30, phase="polling", status="ok")
        assert health["syncMode"] == "poll"
        assert health["position"].startswith("poll/1@")
        changed_on_postgres(live)
        wait_until(lambda: table(live, "public.quiet")["skippedAt"], 20)
        assert table(live, "public.keyed")["lastChange"]
        redefined_on_postgres(live)
        live.engine.restart(kill=True)
        live.run("DELETE FROM quiet WHERE id = 1")
        live.wait_equal()
        assert postgres_any.superuser("SELECT count(*) FROM pg_replication_slots") == [(0,)]
        assert postgres_any.execute("SELECT count(*) FROM pg_publication") == [(0,)]


def test_postgres_through_pgbouncer(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    """In session mode: a server connection belongs to one client for as long as that is connected."""
    server = make_postgres()
    if not isinstance(server, LocalPostgres):
        pytest.skip("needs a local server")
    database = server.create_database()
    reader_of(database)
    database.execute(SHOP)
    with PgBouncer(server, {WATCHER["user"]: WATCHER["password"]}) as pool:
        through = {**WATCHER, "host": pool.host, "port": pool.port}
        with Live.on(database, tmp_path, connection=through, instance=POLL) as live:
            live.compare()
            changed_on_postgres(live)
            wait_until(lambda: table(live, "public.quiet")["skippedAt"], 20)
            redefined_on_postgres(live)


def test_a_standby_is_polled(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    primary = make_postgres()
    if not isinstance(primary, LocalPostgres):
        pytest.skip("needs a local server")
    database = primary.create_database()
    reader_of(database)
    database.execute(SHOP)
    standby = Standby(primary)
    standby.start()
    try:
        here = {**WATCHER, "host": standby.host, "port": standby.port}
        with Live.on(database, tmp_path, connection=here, instance=POLL) as live:
            wait_until(live.compare, 30, ignore=(AssertionError,))
            changed_on_postgres(live)
            wait_until(lambda: table(live, "public.quiet")["skippedAt"], 20)
            redefined_on_postgres(live)
    finally:
        standby.close()


def test_a_right_that_is_taken_away_stops_the_rounds_and_says_so(postgres: Database, tmp_path: Path) -> None:
    reader_of(postgres)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE other (id int)")
    with Live.on(postgres, tmp_path, connection=WATCHER, instance=POLL) as live:
        postgres.execute("REVOKE SELECT ON t FROM watcher; INSERT INTO t VALUES (2); INSERT INTO other VALUES (2)")
        error = wait_until(lambda: live.engine.health()["lastError"], 30)
        assert error["error"] == "precondition"
        assert 'GRANT SELECT ON "public"."t"' in error["remedy"]
        assert live.engine.query("SELECT count(*) FROM t") == [(1,)]
        assert live.engine.query("SELECT count(*) FROM other") == [(0,)]
        postgres.execute("GRANT SELECT ON t TO watcher")
        live.wait_equal()


def test_auto_polls_where_it_may_not_stream_and_says_why(postgres: Database, tmp_path: Path) -> None:
    reader_of(postgres)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    instance = {"sync_mode": "auto", "sync_interval": 5}
    with Live.on(postgres, tmp_path, connection=WATCHER, instance=instance) as live:
        health = live.engine.wait_health(30, status="ok", syncMode="poll")
        (check,) = [c for c in health["checks"] if c["name"] == "sync_mode"]
        assert "ALTER ROLE" in check["detail"]
        live.run("INSERT INTO t VALUES (2)")
        live.wait_equal()
    # With the rights for it, what was polled is streamed from then on; and polled again when that is asked for.
    with Live.on(postgres, tmp_path, instance={"sync_mode": "auto"}) as live:
        live.engine.wait_health(30, status="ok", syncMode="logical", phase="streaming")
        live.run("INSERT INTO t VALUES (3)")
        live.wait_caught_up()
        live.compare()
    with Live.on(postgres, tmp_path, instance=POLL) as live:
        live.engine.wait_health(30, status="ok", syncMode="poll", phase="polling")
        live.run("INSERT INTO t VALUES (4)")
        live.wait_equal()


ITEMS = """CREATE TABLE items (id int PRIMARY KEY, name varchar(40), amount decimal(12,2), data json, body longblob);
CREATE TABLE bag (a int, b varchar(10)); CREATE TABLE old_name (id int PRIMARY KEY, v int);
CREATE TABLE doomed (id int PRIMARY KEY); CREATE TABLE loose (id int, v int) ENGINE=MyISAM;
INSERT INTO bag VALUES (1, 'x'), (1, 'x'), (2, NULL); INSERT INTO old_name VALUES (1, 1); INSERT INTO loose VALUES (1, 1)"""


def test_mysql_with_select_alone(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(ITEMS)
    mysql_any.execute(
        "INSERT INTO items VALUES "
        + ",".join(f"""({i}, 'é{i}', {i}.25, '{{"a": {i}}}', repeat(unhex('00ff'), {i % 50}))""" for i in range(2000))
    )
    with mysql_any.connect(ROOT) as connection, connection.cursor() as cursor:
        cursor.execute("DROP USER IF EXISTS watcher@'%'")
        cursor.execute(f"CREATE USER watcher@'%' IDENTIFIED BY '{WATCHER['password']}'")
        cursor.execute(f"GRANT SELECT ON `{mysql_any.name}`.* TO watcher@'%'")
    with MySqlLive.on(mysql_any, tmp_path, connection=WATCHER, instance={**POLL, "sync_mode": "auto"}) as live:
        live.compare()
        health = live.engine.wait_health(30, phase="polling", status="ok", syncMode="poll")
        assert [c["detail"] for c in health["checks"] if c["name"] == "sync_mode"]
        live.run(
            "UPDATE items SET amount = amount + 1 WHERE id % 7 = 0",
            "DELETE FROM items WHERE id % 11 = 0",
            "INSERT INTO items (id, name) VALUES (9001, NULL)",
            "DELETE FROM bag WHERE a = 1 LIMIT 1",
            "INSERT INTO bag VALUES (NULL, NULL), (NULL, NULL)",
            "UPDATE loose SET v = 2",
        )
        live.wait_equal()
        live.run(
            "ALTER TABLE items ADD COLUMN extra int DEFAULT 7",
            "ALTER TABLE items DROP COLUMN body",
            "RENAME TABLE old_name TO new_name",
            "DROP TABLE doomed",
            "CREATE TABLE fresh (id int PRIMARY KEY, v varchar(10))",
            "INSERT INTO fresh VALUES (1, 'new')",
            "TRUNCATE bag",
        )
        live.wait_equal()
