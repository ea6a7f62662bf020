"""Every type of types.md: what the snapshot reads, what the stream brings, and the server's own text are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.live import Live
from tests.support.servers import Database, PostgresServer
from tests.support.type_samples import SAMPLES, Sample
from tests.support.waiting import wait_until

BY_NAME = {sample.name: sample for sample in SAMPLES}


def create(live: Live, sample: Sample) -> None:
    """Table k has a key; f has none and full identity; both hold each value twice; d gets its values deleted."""
    values = [f"({i}, ({value})::{sample.type})" for i, value in enumerate((*sample.values, "NULL"), 1)]
    live.run(
        f"CREATE SCHEMA {sample.name}; SET search_path TO {sample.name}, public; {sample.before}",
        f"CREATE TABLE all_values (id int PRIMARY KEY, v {sample.type})",
        f"INSERT INTO all_values VALUES {', '.join(values)}",
        f"CREATE TABLE k (id int PRIMARY KEY, v {sample.type}, n int)",
        "INSERT INTO k SELECT id, v, 0 FROM all_values",
        "INSERT INTO k SELECT 200 + id, NULL, 0 FROM all_values",
        f"CREATE TABLE f (v {sample.type}, w int)",
        "ALTER TABLE f REPLICA IDENTITY FULL",
        "INSERT INTO f SELECT v, g % 2 FROM all_values, generate_series(1, 4) g",
        schema=sample.name,
    )


def change(live: Live, sample: Sample) -> None:
    """The same values by INSERT, by UPDATE, next to an UPDATE of another column, and by DELETE of whole old rows."""
    live.run(
        "INSERT INTO k SELECT 100 + id, v, 1 FROM all_values",
        "UPDATE k SET v = a.v FROM all_values a WHERE k.id = 200 + a.id",
        "UPDATE k SET n = n + 1 WHERE id < 100",
        "INSERT INTO f SELECT v, 5 FROM all_values",
        "UPDATE f SET w = w + 10 WHERE w = 1",
        # One of two rows that are the same: it takes the right count away.
        "DELETE FROM f WHERE ctid IN (SELECT min(ctid::text)::tid FROM f WHERE w = 0 GROUP BY v::text)",
        schema=sample.name,
    )


class Outcome:
    """All selected samples on one engine; `failures` by sample."""

    def __init__(self, live: Live, samples: list[Sample]) -> None:
        self.failures: dict[str, str] = {}
        self.live = live
        self.samples = samples

    def run(self) -> None:
        for sample in self.samples:
            self._step(sample, create)
        self.live.engine.start()
        self._settle("snapshot")
        for sample in self.samples:
            self._step(sample, change)
        self._settle("stream")
        for sample in self.samples:
            if sample.name not in self.failures:
                self._judge(sample)

    def _step(self, sample: Sample, step: Callable[[Live, Sample], None]) -> None:
        try:
            step(self.live, sample)
        except psycopg.Error as error:
            self.failures.setdefault(sample.name, f"the source refuses the test's own statement: {error}")

    def _settle(self, when: str) -> None:
        waiting = {s.name: s for s in self.samples if s.name not in self.failures}
        found: dict[str, str] = {}

        def settled() -> bool:
            held = self.live.held()
            with psycopg.connect(self.live.database.superuser_conninfo, autocommit=True) as source:
                for name, sample in list(waiting.items()):
                    texts = {f"{name}.{table}.v" for table in ("all_values", "k", "f")} if sample.text else set()
                    try:
                        self.live.compare_schema(name, texts, source=source, held=held.get(name, ()))
                        del waiting[name]
                    except (AssertionError, httpx.TransportError) as error:
                        found[name] = str(error)
            return not waiting

        try:
            wait_until(settled, 60, interval=0.2)
        except AssertionError:
            end = self.live.log_end()
            for name in waiting:
                self.failures[name] = f"{when}: {found[name]}\n{end}"

    def _judge(self, sample: Sample) -> None:
        engine, name = self.live.engine, sample.name
        differing = engine.query(
            f"SELECT a.id FROM {name}.k a JOIN {name}.k b ON b.id IN (a.id + 100, a.id + 200)"
            f" WHERE a.id < 100 AND a.v::VARCHAR IS DISTINCT FROM b.v::VARCHAR"
        )
        duck = engine.query(
            "SELECT data_type FROM information_schema.columns WHERE table_catalog = current_database()"
            f" AND table_schema = '{name}' AND table_name = 'k' AND column_name = 'v'"
        )[0][0]
        if differing:
            self.failures[name] = f"snapshot and stream differ in rows {differing}"
        elif sample.duck and duck.split("(")[0] != sample.duck.split("(")[0]:
            self.failures[name] = f"the replica's type is {duck}, not {sample.duck}"


@pytest.fixture(scope="module")
def outcome(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Outcome]:
    names = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.originalname == "test_type"
        and item.nodeid.startswith(request.node.nodeid)
    ]
    database = postgres_server.create_database()
    samples = [s for s in map(BY_NAME.__getitem__, names) if available(s, database)]
    with Live.on(database, tmp_path_factory.mktemp("types"), start=False) as live:
        outcome = Outcome(live, samples)
        outcome.run()
        yield outcome
    database.drop()


def available(sample: Sample, database: Database) -> bool:
    return sample.least <= database.version and (
        not sample.extension or database.server.has_extension(sample.extension)
    )


@pytest.mark.parametrize("name", list(BY_NAME))
def test_type(outcome: Outcome, name: str) -> None:
    sample = BY_NAME[name]
    if not available(sample, outcome.live.database):
        pytest.skip(f"not with PostgreSQL {outcome.live.database.version}")
    assert name not in outcome.failures, outcome.failures[name]


def test_a_value_that_does_not_fit_makes_its_column_text(postgres: Database, tmp_path: Path) -> None:
    """Values that the replica's type cannot hold arrive later, by the stream, one column after the other."""
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(12,2), ts timestamp, vb varbit, a int[], keep numeric(12,2));"
        "INSERT INTO t SELECT g, g + 0.10, '2024-01-01', B'01', ARRAY[g], 5 FROM generate_series(1, 100) g"
    )
    with Live.on(postgres, tmp_path) as live:
        live.wait_equal(["public.t"])
        odd = ["public.t.n", "public.t.ts", "public.t.vb", "public.t.a"]
        live.run(
            "INSERT INTO t VALUES (200, 'NaN', '2024-01-01', B'1', '{1}', 6)", "UPDATE t SET keep = 7 WHERE id < 4"
        )
        live.wait_equal(["public.t"], as_text=odd[:1])
        live.run("UPDATE t SET ts = '294276-12-31 23:59:59.999999' WHERE id = 2")
        live.run("UPDATE t SET vb = B'', a = '{{1,2}}' WHERE id = 3")
        live.wait_equal(["public.t"], as_text=odd)
        live.run("UPDATE t SET n = 3 WHERE id = 200", "DELETE FROM t WHERE id = 2")
        live.wait_equal(["public.t"], as_text=odd)
        types = dict(live.engine.query("SELECT column_name, column_type FROM (DESCRIBE t)"))
        assert types["n"] == "VARCHAR"
        assert types["keep"] == "DECIMAL(12,2)"
        # What was learnt is kept over restarts: no second reload.
        before = live.engine.log_text().count("column_kept_as_text")
        live.engine.restart(kill=True)
        live.run("INSERT INTO t VALUES (201, 'NaN')")
        live.wait_equal(["public.t"], as_text=odd)
        assert live.engine.log_text().count("column_kept_as_text") == before


NAMES = (
    "select",
    "a b",
    "dot.ted",
    'quo"te',
    "it's",
    "UPPER",
    "ünï😀",
    "x" * 63,
    "_reflex_x",
    "1st",
    "back\\slash",
    "%s{}",
    "table",
    "rowid",
    "main",
)


def test_identifiers(postgres: Database, tmp_path: Path) -> None:
    """Schemas, tables, columns and keys with every odd name; in snapshot, stream, rename and reload."""

    def q(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    statements = []
    for number, name in enumerate(NAMES):
        schema = name if not name.startswith("_") else "plain"
        columns = ", ".join(f"{q(other)} text" for other in NAMES if other != name)
        statements += [
            f"CREATE SCHEMA IF NOT EXISTS {q(schema)}",
            f"CREATE TABLE {q(schema)}.{q(name)} ({q(name)} int PRIMARY KEY, {columns})",
            f"INSERT INTO {q(schema)}.{q(name)} SELECT g, 'x' FROM generate_series(1, {number + 1}) g",
        ]
    tables = [(name if not name.startswith("_") else "plain", name) for name in NAMES]
    postgres.execute(";".join(statements).replace("%", "%"))
    with Live.on(postgres, tmp_path) as live:
        live.wait_equal(tables)
        for schema, name in tables:
            live.run(
                f"INSERT INTO {q(schema)}.{q(name)} VALUES (100)",
                f"UPDATE {q(schema)}.{q(name)} SET {q(name)} = 200 WHERE {q(name)} = 1",
                f"ALTER TABLE {q(schema)}.{q(name)} ADD {q('new ' + name[:20])} int DEFAULT 3",
                f"DELETE FROM {q(schema)}.{q(name)} WHERE {q(name)} = 2",
            )
        live.wait_equal(tables)


def test_wide_tables_and_large_values(postgres: Database, tmp_path: Path) -> None:
    """The most columns that a table can have, and values of many megabytes, by snapshot and by stream."""
    columns = [f"c{n} {('int', 'text', 'numeric(10,2)', 'timestamptz')[n % 4]}" for n in range(1599)]
    postgres.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {', '.join(columns)})")
    postgres.execute("INSERT INTO wide (id, c0, c1, c2) SELECT g, g, 'x', 1.5 FROM generate_series(1, 20) g")
    postgres.execute(
        "CREATE TABLE large (id int PRIMARY KEY, t text, b bytea, n int);"
        "INSERT INTO large VALUES (1, repeat('snapshot ü', 2000000), '', 0)"
    )
    # What takes memory here is the comparison: its queries hold values of 20 MB many times over.
    with Live.on(postgres, tmp_path, instance={"instance_size": "medium"}) as live:
        live.wait_equal(["public.wide", "public.large"])
        live.run(
            "INSERT INTO wide (id, c1596, c1597, c1598) SELECT g, g, 'y', 2.5 FROM generate_series(21, 40) g",
            "UPDATE wide SET c3 = now(), c1 = 'z' WHERE id % 3 = 0",
            "INSERT INTO large VALUES (2, repeat('stream 😀', 1500000), decode(repeat('00ff10', 2000000), 'hex'), 0)",
            "UPDATE large SET n = 1",
            "UPDATE large SET b = decode(repeat('aa', 5000000), 'hex') WHERE id = 1",
            "UPDATE large SET n = n + 1; UPDATE large SET id = id + 10; UPDATE large SET n = n + 1",
        )
        live.wait_equal(["public.wide", "public.large"])
