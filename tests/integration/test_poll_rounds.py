"""Many rounds on real servers: readers never see two tables of different moments, nor lose them when the server goes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.poll import source as poll_source
from connectors.registry import open_poll_source
from engine.schema import TableId
from engine.source import Source
from tests.contract.harness import postgres_options
from tests.support.mysql_live import MySqlPairWriter
from tests.support.polling import Polled
from tests.support.servers import Database, MySqlDatabase, MySqlServer, PostgresServer
from tests.support.waiting import wait_until
from tests.support.writer import PairWriter

ROUNDS = 20


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_source, "REST", 0.05)


def opener(backend: str, database: Any, **changes: Any) -> Callable[[frozenset[tuple[TableId, str]]], Source]:
    def connect(as_text: frozenset[tuple[TableId, str]]) -> Source:
        wanted = {"poll_interval": 0.3, "as_text": as_text, **changes}
        options = postgres_options(database, **wanted) if backend == "postgres" else database.options(**wanted)
        return open_poll_source(backend, options)

    return connect


class Reader:
    """Asks one question all the time; the values of every answer must be equal."""

    def __init__(self, polled: Polled, question: str) -> None:
        self.answers = 0
        self.wrong: list[tuple[Any, ...]] = []
        self.values: set[tuple[Any, ...]] = set()
        self._polled = polled
        self._question = question
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)
        assert not self.wrong, self.wrong[:5]
        assert self.answers > ROUNDS

    def _run(self) -> None:
        while not self._end.wait(0.01):
            (row,) = self._polled.query(self._question)
            self.answers += 1
            self.values.add(row)
            if len(set(row)) != 1:
                self.wrong.append(row)


def test_twenty_rounds_under_load_on_postgres(postgres: Database, tmp_path: Path) -> None:
    with PairWriter(postgres) as pair, Polled.on(tmp_path, opener("postgres", postgres)) as polled:
        with Reader(polled, pair.question) as reader:
            polled.wait_rounds(ROUNDS, 120)
            pair.stop()
            polled.wait_rounds(1)
        assert len(reader.values) > ROUNDS // 2
        for schema, name in pair.tables:
            query = f"SELECT * FROM {schema}.{name} ORDER BY 1"
            assert polled.query(query) == postgres.execute(query)
        assert polled.board.current.counters.resyncs == 0
        # Nothing happens any more: the rounds go on, and read nothing.
        polled.wait_rounds(1)
        tables = polled.board.current.tables
        assert all(tables[TableId(*name)].skipped_at is not None for name in pair.tables)


@pytest.mark.parametrize("flavour", ["mysql", "mariadb"])
def test_twenty_rounds_under_load_on_mysql(request: pytest.FixtureRequest, tmp_path: Path, flavour: str) -> None:
    database: MySqlDatabase = request.getfixturevalue(flavour)
    with MySqlPairWriter(database) as pair, Polled.on(tmp_path, opener("mysql", database)) as polled:
        question = pair.question.replace("pair_", f'"{database.name}".pair_')
        with Reader(polled, question) as reader:
            polled.wait_rounds(ROUNDS, 120)
            pair.stop()
            polled.wait_rounds(1)
        assert len(reader.values) > ROUNDS // 2
        for name in pair.tables:
            theirs = database.execute(f"SELECT * FROM {name} ORDER BY 1")
            assert polled.query(f'SELECT * FROM "{database.name}".{name} ORDER BY 1') == [tuple(r) for r in theirs]
        assert polled.board.current.counters.resyncs == 0


def outage(polled: Polled, stop: Callable[[], object], start: Callable[[], object], table: str) -> None:
    """Stop the server while a round reads: what is there stays, and says why; afterwards all goes on by itself."""
    (before,) = polled.query(f"SELECT count(*), sum(v) FROM {table}")
    stop()
    polled.wait(lambda status: status.last_error is not None)
    error = polled.board.current.last_error
    assert error is not None
    assert error.error == "source_unreachable"
    assert polled.query(f"SELECT count(*), sum(v) FROM {table}") == [before]
    start()
    polled.wait_rounds(0, 90)
    polled.wait(lambda status: status.last_error is None)


def test_postgres_stops_in_the_middle_of_a_round(private_postgres: PostgresServer, tmp_path: Path) -> None:
    database = private_postgres.create_database()
    database.execute(
        "CREATE TABLE big (id int PRIMARY KEY, v bigint, t text);"
        "INSERT INTO big SELECT i, i, repeat('x', 200) FROM generate_series(1, 200000) i;"
        "CREATE TABLE held (id int PRIMARY KEY, v bigint); INSERT INTO held VALUES (1, 1)"
    )

    def waiting() -> bool:
        held_up = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%held%'"
        return database.superuser(held_up) != [(0,)]

    with Polled.on(tmp_path, opener("postgres", database, batch_bytes=1 << 20)) as polled:
        with contextlib.closing(database.connect(autocommit=False)) as holder:
            holder.execute("UPDATE big SET v = v + 1")
            holder.execute("UPDATE held SET v = v + 1")
            holder.commit()
            holder.execute("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
            wait_until(waiting, 60)  # a round is on, and cannot end
            outage(polled, lambda: private_postgres.stop("immediate"), private_postgres.start, "public.big")
        wait_until(lambda: polled.query("SELECT sum(v) FROM public.big") == [(20000300000,)], 60)
        assert polled.query("SELECT count(DISTINCT id) FROM public.big") == [(200000,)]
        assert polled.query("SELECT * FROM public.held") == [(1, 2)]


def test_mysql_stops_in_the_middle_of_a_round(private_mysql: MySqlServer, tmp_path: Path) -> None:
    database = private_mysql.create_database()
    database.execute("CREATE TABLE big (id int PRIMARY KEY AUTO_INCREMENT, v bigint, t text)")
    database.execute("CREATE TABLE held (id int PRIMARY KEY, v bigint)")
    database.execute("INSERT INTO held VALUES (1, 1)")
    database.execute("INSERT INTO big (v, t) VALUES " + ",".join(f"({i}, repeat('x', 200))" for i in range(5000)))
    for _ in range(5):
        database.execute("INSERT INTO big (v, t) SELECT v, t FROM big")

    def waiting() -> bool:
        states = (
            "SELECT count(*) FROM information_schema.processlist WHERE state LIKE 'Waiting for table metadata lock'"
        )
        return tuple(database.superuser(states)[0]) != (0,)

    with Polled.on(tmp_path, opener("mysql", database, batch_bytes=1 << 20)) as polled:
        (before,) = database.execute("SELECT sum(v) FROM big")
        holder = database.connect()
        with holder.cursor() as cursor:
            database.execute("UPDATE big SET v = v + 1")
            cursor.execute("LOCK TABLES held WRITE")
            cursor.execute("UPDATE held SET v = v + 1")
            wait_until(waiting, 60)  # a round is on, and cannot end
            outage(polled, private_mysql.kill, private_mysql.start, f'"{database.name}".big')
        after = [(int(before[0]) + 160000,)]
        wait_until(lambda: polled.query(f'SELECT sum(v) FROM "{database.name}".big') == after, 60)
        assert polled.query(f'SELECT count(*) FROM "{database.name}".big') == [(160000,)]
        assert polled.query(f'SELECT * FROM "{database.name}".held') == [(1, 2)]


def test_rounds_do_not_pile_up(postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_source, "REST", 0.5)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with Polled.on(tmp_path, opener("postgres", postgres, poll_interval=0.01)) as polled:
        polled.wait_rounds(0)
        began, first = time.monotonic(), polled.round
        polled.wait(lambda _: polled.round >= first + 3)
        assert time.monotonic() - began > 0.9
