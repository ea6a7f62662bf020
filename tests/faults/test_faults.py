"""What happens to networks, servers and processes: the replica is behind for a while, and never wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.live import Live, lsn, polls
from tests.support.proxy import TcpProxy
from tests.support.servers import Database, PostgresServer
from tests.support.waiting import wait_until
from tests.support.witness import Witness
from tests.support.writer import PairWriter

BIG = (
    "CREATE TABLE big (id int PRIMARY KEY, v int, s text);"
    "INSERT INTO big SELECT g, g, repeat(md5(g::text), 4) FROM generate_series(1, 300000) g;"
    "CREATE TABLE small (id int PRIMARY KEY, v int);"
    "INSERT INTO small SELECT g, g FROM generate_series(1, 1000) g;"
)
EVERY_TABLE = ["public.big", "public.small"]


@contextmanager
def through(database: Database, folder: Path, *, start: bool = True) -> Iterator[tuple[Live, TcpProxy]]:
    """An engine that reaches its source through a proxy."""
    with TcpProxy(database.server.host, database.server.port) as proxy:
        connection = {"host": "127.0.0.1", "port": proxy.port}
        with Live.on(database, folder, start=start, connection=connection) as live:
            yield live, proxy


def events(live: Live, name: str) -> int:
    """How often the engine has logged an event."""
    return sum(1 for event in live.engine.log_events() if event.get("event") == name)


def wait_received(proxy: TcpProxy, size: int) -> None:
    """Wait until so many bytes have come from the server."""
    wait_until(lambda: proxy.forwarded["down"] > size, 60, interval=0.005)


def wait_swaps(live: Live, count: int) -> None:
    """Wait until tables have been swapped in so many times."""
    wait_until(lambda: live.engine.health()["swapCount"] >= count, 60, message=f"{count} swaps")


def test_network_fails_during_the_snapshot(postgres: Database, tmp_path: Path) -> None:
    """Cut twice in the middle; then black-holed, which only a time-out can notice; rows change meanwhile."""
    postgres.execute(BIG)
    with through(postgres, tmp_path, start=False) as (live, proxy):
        live.engine.start(ready=False)
        for _ in range(2):
            begun = proxy.forwarded["down"]
            wait_received(proxy, begun + 4_000_000)
            proxy.cut()
            live.run(
                "UPDATE big SET v = v + 1 WHERE id % 1000 = 0", "INSERT INTO small SELECT max(id) + 1, 0 FROM small"
            )
        live.wait_equal(EVERY_TABLE, 90)


def test_network_fails_while_streaming(postgres: Database, tmp_path: Path) -> None:
    """Cut again and again under writes, refused for a while, and black-holed for a moment: no reload is needed."""
    postgres.execute(BIG)
    with PairWriter(postgres) as pair, through(postgres, tmp_path) as (live, proxy):
        with Witness(live.engine.url, pair.question):
            for _ in range(5):
                time.sleep(random.uniform(0.1, 0.5))
                proxy.cut()
            proxy.refuse()
            live.run("UPDATE big SET v = 1 WHERE id < 1000", "DELETE FROM small WHERE id < 100")
            wait_until(lambda: live.engine.health()["status"] != "ok", 30, message="health tells of the lost source")
            proxy.resume()
            live.wait_caught_up()
            proxy.blackhole()
            time.sleep(2)
            proxy.resume()
            live.wait_caught_up()
            pair.stop()
            live.wait_equal([*EVERY_TABLE, *pair.tables])
        live.engine.wait_health(status="ok")
        assert live.reloads() == 0


def test_a_large_transaction_is_cut_in_the_middle(postgres: Database, tmp_path: Path) -> None:
    """Fragments of it are staged already: the stream brings them again, and they count once."""
    postgres.execute(BIG)
    question = "SELECT (SELECT sum(v) FROM big) - (SELECT sum(id) FROM big), (SELECT 0 + 300000 * min(v - id) FROM big)"
    with through(postgres, tmp_path) as (live, proxy):
        with Witness(live.engine.url, question) as witness:
            for attempt in range(3):
                begun = proxy.forwarded["down"]
                live.run("UPDATE big SET v = v + 1")
                wait_received(proxy, begun + 25_000_000 // (attempt + 1))
                if attempt == 1:
                    live.engine.restart(kill=True)
                else:
                    proxy.cut()
            live.wait_caught_up(120)
            live.wait_equal(EVERY_TABLE)
        assert len(witness.values) >= 2


def test_killed_at_every_stage(postgres: Database, tmp_path: Path) -> None:
    """SIGKILL during the snapshot, at its swap, in catch-up, while streaming, in the middle of a giant transaction."""
    postgres.execute(BIG)
    dice = random.Random(11)
    with PairWriter(postgres) as pair, Live.on(postgres, tmp_path, start=False) as live:
        with Witness(live.engine.url, pair.question):
            live.engine.start(ready=False)
            wait_until(lambda: events(live, "table_loaded") >= 2, 60, interval=0.005)
            live.engine.kill()
            live.run("UPDATE big SET v = 0 WHERE id % 100 = 0", "DELETE FROM small WHERE id = 5")
            live.engine.start(ready=False)
            wait_until(lambda: events(live, "tables_swapped_in") >= 1, 60, interval=0.002)
            live.engine.kill()
            for _ in range(3):
                live.engine.start(ready=False)
                live.run("UPDATE big SET v = v + 1, s = 'x' || s")
                live.engine.wait_ready()
                time.sleep(dice.uniform(0, 1.5))
                live.engine.kill()
            live.engine.start()
            loads = events(live, "tables_loaded")
            live.engine.http.post("/sync/reload", json={"table": "public.big"})
            wait_until(lambda: events(live, "tables_loaded") > loads, 60, interval=0.005)
            live.engine.kill()
            live.engine.start()
            live.wait_caught_up(90)
            pair.stop()
            live.wait_equal([*EVERY_TABLE, *pair.tables])


def test_complete_tables_survive_a_kill_in_the_snapshot(postgres: Database, tmp_path: Path) -> None:
    """What was loaded completely is not loaded again. Two workers load three large tables, so the third is never early."""
    postgres.execute(BIG)
    for copy in ("large", "third"):
        postgres.execute(f"CREATE TABLE {copy} (LIKE big INCLUDING ALL); INSERT INTO {copy} SELECT * FROM big")
    with Live.on(postgres, tmp_path, start=False) as live:
        live.engine.start(ready=False)
        wait_until(lambda: events(live, "table_loaded") >= 1, 60, interval=0.002)
        live.engine.kill()
        loaded = {e["table"] for e in live.engine.log_events() if e.get("event") == "table_loaded"}
        assert not loaded >= {"public.big", "public.large", "public.third"}, "everything was loaded before the kill"
        live.run("UPDATE small SET v = -1", "INSERT INTO third VALUES (0, 1)", "UPDATE big SET v = 3 WHERE id < 100")
        live.engine.start()
        again = [e["table"] for e in live.engine.log_events() if e.get("event") == "table_loaded"]
        assert all(again.count(table) == 1 for table in loaded), again
        live.wait_equal([*EVERY_TABLE, "public.large", "public.third"])


def test_server_is_stopped_frozen_and_started(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    """Fast, immediate and killed; a paused engine whose walsender times out; a server that hangs."""
    server = make_postgres(settings={"wal_sender_timeout": "2s"})
    database = server.create_database()
    database.execute(BIG)
    with PairWriter(database) as pair, Live.on(database, tmp_path) as live:
        with Witness(live.engine.url, pair.question):
            for mode in ("fast", "immediate"):
                server.restart(mode)
                live.wait_caught_up()
            server.kill()
            health = live.engine.wait_health(status="degraded")
            assert health["rowCounts"]["public.small"] == 1000, "data are served while the source is gone"
            server.start()
            live.wait_caught_up()
            with server.frozen():
                time.sleep(3)
            live.wait_caught_up()
            assert live.engine.http.post("/sync/pause").status_code == 202
            live.engine.wait_health(phase="paused")
            before = live.engine.query_json("SELECT 1 AS x")["position"]
            live.run("UPDATE small SET v = 0")
            time.sleep(5)
            assert live.engine.query_json("SELECT sum(v) AS v FROM small")["position"] == before
            assert live.engine.http.post("/sync/resume").status_code == 202
            live.wait_caught_up()
        pair.stop()
        live.wait_equal([*EVERY_TABLE, *pair.tables])
        assert live.reloads() == 0


def test_the_slot_follows_what_is_durable(postgres: Database, tmp_path: Path) -> None:
    """Never ahead of the replica's checkpoint; and moving when only other tables write."""
    postgres.execute("CREATE TABLE small (id int PRIMARY KEY, v int); CREATE TABLE audit_log (id bigserial, v text)")
    with Live.on(postgres, tmp_path, tables={"exclude": ["audit_*"]}) as live:
        for n, _ in enumerate(polls(3)):
            live.run(f"INSERT INTO small VALUES ({n}, 0)")
            confirmed = lsn(live.confirmed())
            shown = lsn(live.engine.query_json("SELECT count(*) AS n FROM small")["position"])
            assert confirmed <= shown
        live.engine.kill()
        live.engine.start(ready=False)
        # Killed at once behind each commit: what the slot has forgotten must be in the file.
        live.run("INSERT INTO small SELECT g, 1 FROM generate_series(100000, 100500) g")
        live.engine.wait_ready()
        start = live.confirmed()
        live.run("INSERT INTO audit_log (v) SELECT repeat('x', 500) FROM generate_series(1, 20000)")
        written = postgres.wal_position()
        wait_until(lambda: lsn(live.confirmed()) >= lsn(written), 15, message=f"confirmed_flush_lsn moves from {start}")
        live.wait_equal(["public.small"])


def test_writes_are_read_after_their_position(postgres: Database, tmp_path: Path) -> None:
    """`after`: the answer has the write; a position that is not reached in time is a 504."""
    postgres.execute("CREATE TABLE small (id int PRIMARY KEY, v int)")
    with Live.on(postgres, tmp_path) as live:
        for n in range(30):
            live.run(f"INSERT INTO small VALUES ({n}, {n})")
            position = postgres.wal_position()
            assert live.engine.query("SELECT max(id), count(*) FROM small", after=position) == [(n, n + 1)]
        live.engine.http.post("/sync/pause")
        live.engine.wait_health(phase="paused")
        live.run("INSERT INTO small VALUES (100, 1)")
        answer = live.engine.http.post(
            "/query", json={"sql": "SELECT 1", "after": postgres.wal_position(), "timeout_ms": 500}
        )
        assert answer.status_code == 504
        assert set(answer.json()) == {"error", "message"}
        live.engine.http.post("/sync/resume")
        live.wait_equal(["public.small"])


def test_reloads_on_request(postgres: Database, tmp_path: Path) -> None:
    """One table, and all of them, while they are written to: readers see one position all the while."""
    postgres.execute(BIG)
    with PairWriter(postgres) as pair, Live.on(postgres, tmp_path) as live:
        with Witness(live.engine.url, pair.question) as witness:
            swaps = live.engine.health()["swapCount"]
            for body in ({"table": "pair.entries"}, {"table": "pair.accounts"}, {}, {"table": "public.big"}):
                assert live.engine.http.post("/sync/reload", json=body).status_code == 202
                swaps += 1
                wait_swaps(live, swaps)
            assert live.engine.http.post("/sync/reload", json={"table": "public.none"}).status_code in (400, 404)
            assert witness.longest_silence < 2
        held = "SELECT count(*) FROM pg_replication_slots WHERE temporary"
        wait_until(lambda: postgres.superuser(held) == [(0,)], 10, message="the views of the loads are closed")
        pair.stop()
        live.wait_equal([*EVERY_TABLE, *pair.tables])


def test_terminated_in_time(postgres: Database, tmp_path: Path) -> None:
    """SIGTERM: exit code 0 within ten seconds, at any moment, and the next start goes on without a reload."""
    postgres.execute(BIG)
    with PairWriter(postgres) as pair, Live.on(postgres, tmp_path, start=False) as live:
        live.engine.start(ready=False)
        for moment in ("snapshot", "streaming", "transaction", "paused"):
            if moment == "transaction":
                live.engine.wait_ready()
                live.run("UPDATE big SET v = v + 1")
                time.sleep(0.3)
            elif moment != "snapshot":
                live.engine.wait_ready()
                live.wait_caught_up()
            if moment == "paused":
                live.engine.http.post("/sync/pause")
                live.engine.wait_health(phase="paused")
            began = time.monotonic()
            assert live.engine.terminate(15) == 0, moment
            assert time.monotonic() - began < 10, moment
            live.engine.start(ready=False)
        live.engine.wait_ready()
        loads = events(live, "tables_loaded")
        pair.stop()
        live.wait_equal([*EVERY_TABLE, *pair.tables])
        assert events(live, "tables_loaded") == loads
        assert live.reloads() == 0


def test_a_second_engine_does_not_take_the_slot(postgres: Database, tmp_path: Path) -> None:
    """Two engines under one name: the second one says so and ends, the first one streams on."""
    postgres.execute("CREATE TABLE small (id int PRIMARY KEY, v int); INSERT INTO small VALUES (1, 1)")
    with Live.on(postgres, tmp_path / "first") as live, Live.on(postgres, tmp_path / "second", start=False) as second:
        second.engine.start(ready=False)
        live.run("INSERT INTO small VALUES (2, 2)")
        assert second.engine.wait_exit(30) == 3
        assert "is in use" in second.engine.log_text()
        live.run("INSERT INTO small VALUES (3, 3)")
        live.wait_equal()
        assert live.reloads() == 0


def test_waits_for_a_source_that_is_not_there_yet(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    server = make_postgres()
    database = server.create_database()
    database.execute("CREATE TABLE small (id int PRIMARY KEY, v int); INSERT INTO small VALUES (1, 1)")
    server.stop()
    with Live.on(database, tmp_path, start=False) as live:
        live.engine.start(ready=False)
        time.sleep(1)
        assert live.engine.http.get("/readyz").status_code == 503
        assert live.engine.http.post("/query", json={"sql": "SELECT 1"}).status_code == 503
        server.start()
        live.engine.wait_ready()
        live.wait_equal()
