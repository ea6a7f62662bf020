"""Definitions that change while the stream runs: followed in place, or reloaded, never silently wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from connectors.postgres.source import PostgresSource
from engine.changes import SchemaChange
from engine.errors import ResyncRequired
from engine.schema import AddColumn, DropColumn, RenameColumn, TableId, TableSchema, evolve
from tests.contract.harness import position_of, postgres_options
from tests.support.replay import Replay
from tests.support.servers import Database
from tests.support.waiting import wait_until

T = TableId("public", "t")
SETUP = "CREATE TABLE t (id int PRIMARY KEY, a int, b text); INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 9) i"


@pytest.fixture
def open_replay(postgres: Database) -> Iterator[Callable[..., Replay]]:
    made: list[Replay] = []

    def open_it(database: Database | None = None, **options: object) -> Replay:
        replay = Replay(PostgresSource(postgres_options(database or postgres, **options)))
        made.append(replay)
        return replay

    yield open_it
    for replay in made:
        replay.close()


def known(replay: Replay) -> list[TableSchema]:
    return [r.table for r in replay.tables.values()]


def judged(change: SchemaChange) -> object:
    """What the pipeline makes of a change: the steps in place, or a reload."""
    if change.old is None or change.new is None:
        return "new" if change.old is None else "gone"
    return "reload" if change.reload else evolve(change.old, change.new)


IN_PLACE = {
    "add a column": ("ALTER TABLE t ADD COLUMN c int", [AddColumn]),
    "add two": ("ALTER TABLE t ADD COLUMN c int, ADD COLUMN d text", [AddColumn, AddColumn]),
    "add, then a default": ("ALTER TABLE t ADD c int; ALTER TABLE t ADD d int", [AddColumn, AddColumn]),
    "drop a column": ("ALTER TABLE t DROP COLUMN a", [DropColumn]),
    "rename a column": ("ALTER TABLE t RENAME COLUMN b TO bb", [RenameColumn]),
    "rename the key": ("ALTER TABLE t RENAME COLUMN id TO ident", [RenameColumn]),
    "rename the table": ("ALTER TABLE t RENAME TO tt", []),
    "move the table": ("CREATE SCHEMA other; ALTER TABLE t SET SCHEMA other", []),
    "drop and add": ("ALTER TABLE t DROP COLUMN b, ADD COLUMN c int", [DropColumn, AddColumn]),
}
RELOADED = {
    "a default": "ALTER TABLE t ADD COLUMN c int DEFAULT 5",
    "a volatile default": "ALTER TABLE t ADD COLUMN c double precision DEFAULT random()",
    "a default that was dropped": "ALTER TABLE t ADD c float DEFAULT random(); ALTER TABLE t ALTER c DROP DEFAULT",
    "a wider type": "ALTER TABLE t ALTER COLUMN a TYPE bigint",
    "another type": "ALTER TABLE t ALTER COLUMN a TYPE text",
    "a type by an expression": "ALTER TABLE t ALTER COLUMN b TYPE int USING length(b)",
    "the same type by an expression": "ALTER TABLE t ALTER COLUMN a TYPE int USING a + 1",
    "no key": "ALTER TABLE t DROP CONSTRAINT t_pkey",
    "another key": "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, a)",
    "no replica identity": "ALTER TABLE t REPLICA IDENTITY NOTHING",
    "swapped names": "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b",
    "created again": "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a int, b text)",
}
HARMLESS = {
    "vacuum": "VACUUM FULL t",
    "cluster": "CLUSTER t USING t_pkey",
    "truncate": "TRUNCATE t",
    "analyze": "ANALYZE t",
    "statistics": "ALTER TABLE t ALTER COLUMN a SET STATISTICS 500",
    "a default for rows to come": "ALTER TABLE t ALTER COLUMN a SET DEFAULT 7",
    "an index": "CREATE INDEX ON t (a)",
    "a comment": "COMMENT ON COLUMN t.a IS 'x'",
    "full identity with the same key": "ALTER TABLE t REPLICA IDENTITY FULL",
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_inspection_finds_what_can_be_done_in_place(
    postgres: Database, open_replay: Callable[..., Replay], case: str
) -> None:
    statements, steps = IN_PLACE[case]
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    postgres.execute(statements)
    (change,) = replay.source.inspect(known(replay))
    done = judged(change)
    assert isinstance(done, tuple)
    assert [type(s) for s in done] == steps
    assert change.old == known(replay)[0]


@pytest.mark.parametrize("case", [c for c in IN_PLACE if "table" not in c and c != "drop and add"])
def test_the_stream_tells_it_with_the_next_row(
    postgres: Database, open_replay: Callable[..., Replay], case: str
) -> None:
    statements, steps = IN_PLACE[case]
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    # One transaction each: within one that has changed rows in the old layout, only a reload is exact.
    for statement in ("UPDATE t SET b = 'before' WHERE id = 1", statements, "DELETE FROM t WHERE ctid = '(0,5)'"):
        postgres.execute(statement)
    postgres.execute("INSERT INTO t SELECT 100")
    replay.reach(position_of(replay.source))
    (change,) = replay.changes
    done = judged(change)
    assert isinstance(done, tuple)
    assert [type(s) for s in done] == steps
    assert replay.content(T) == sorted(postgres.execute("SELECT * FROM t"), key=repr)


def test_the_stream_leaves_columns_dropped_and_added_to_a_reload(
    postgres: Database, open_replay: Callable[..., Replay]
) -> None:
    """Rows say neither when they were written nor which column of a name they hold: a renamed one may have come and gone."""
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    postgres.execute(IN_PLACE["drop and add"][0])
    postgres.execute("INSERT INTO t SELECT 100")
    replay.reach(position_of(replay.source))
    (change,) = replay.changes
    assert judged(change) == "reload"


def asked(replay: Replay, table: TableSchema) -> bool:
    """Whether the stream has asked for a reload of this table, in either way that it may: by a schema change, or, where
    rows are missing from what it would have to give out next, by an error that names it."""
    if isinstance(replay.error, ResyncRequired):
        assert replay.error.tables == (table.id,)
        return True
    if replay.error is not None:
        raise replay.error
    return any(judged(c) in ("reload", None) for c in replay.changes)


@pytest.mark.parametrize("case", RELOADED)
def test_what_only_a_reload_can_follow_asks_for_one(
    postgres: Database, open_replay: Callable[..., Replay], case: str
) -> None:
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    postgres.execute(RELOADED[case])
    (table,) = known(replay)
    (change,) = replay.source.inspect([table])
    assert judged(change) in ("reload", None)
    if case != "the same type by an expression":
        postgres.execute("INSERT INTO t SELECT 100, 100")
        if case == "created again":
            replay.source.prepare(replay.source.discover(), replay.position, replay.source.identity())
            postgres.execute("INSERT INTO t SELECT 101, 101")
        wait_until(lambda: asked(replay, table), 20, message="the stream asks for a reload")


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_no_row_is_followed_without_a_reload(
    postgres: Database, open_replay: Callable[..., Replay], case: str
) -> None:
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    with postgres.connect() as connection:
        connection.execute(HARMLESS[case].encode())
    assert [judged(c) for c in replay.source.inspect(known(replay)) if judged(c) != ()] == []
    postgres.execute("INSERT INTO t (id) VALUES (100); UPDATE t SET b = 'after' WHERE id IN (1, 100)")
    replay.reach(position_of(replay.source))
    assert [judged(c) for c in replay.changes if judged(c) != ()] == []
    assert replay.content(T) == sorted(postgres.execute("SELECT * FROM t"), key=repr)


def test_an_added_column_and_a_vacuum_later_are_still_in_place(
    postgres: Database, open_replay: Callable[..., Replay]
) -> None:
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    with postgres.connect() as connection:
        connection.execute("VACUUM FULL t")
        connection.execute("INSERT INTO t VALUES (50)")
        replay.reach(position_of(replay.source))
        assert replay.changes == []
        (change,) = replay.source.inspect(known(replay))
        assert judged(change) == ()
        assert change.new is not None
        assert replay.source.inspect([change.new]) == []
        connection.execute("ALTER TABLE t ADD COLUMN c int")
        (added,) = replay.source.inspect([change.new])
        assert [type(s) for s in evolve(change.new, added.new or change.new) or ()] == [AddColumn]


def test_new_and_dropped_tables(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute(SETUP)
    replay = open_replay()
    replay.start()
    before = known(replay)
    postgres.execute("CREATE TABLE fresh (id int PRIMARY KEY); DROP TABLE t; CREATE UNLOGGED TABLE no (id int)")
    told = {judged(c): (c.old or c.new) for c in replay.source.inspect(before)}
    assert {k: str(v.id) for k, v in told.items() if v is not None} == {"new": "public.fresh", "gone": "public.t"}
    postgres.execute("INSERT INTO fresh VALUES (1)")
    replay.wait(lambda: replay.changes, 10, "the stream tells of the new table, once published")
    assert judged(replay.changes[0]) == "new"
    assert sum(b.row_count for b in replay.batches) == 0


PARTITIONED = """
CREATE TABLE t (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10);
CREATE TABLE t_2 PARTITION OF t FOR VALUES FROM (10) TO (20);
CREATE TABLE loose (id int NOT NULL, at int NOT NULL, PRIMARY KEY (id, at));
INSERT INTO t SELECT i, i FROM generate_series(0, 19) i; INSERT INTO loose VALUES (30, 30);
"""


@pytest.mark.parametrize(
    ("statements", "outcome"),
    [
        ("CREATE TABLE t_3 PARTITION OF t FOR VALUES FROM (20) TO (30)", []),
        ("TRUNCATE t_1", ["reload"]),
        ("DROP TABLE t_1", ["reload"]),
        ("ALTER TABLE t DETACH PARTITION t_1", ["new", "reload"]),
        ("ALTER TABLE t ATTACH PARTITION loose FOR VALUES FROM (30) TO (40)", ["gone", "reload"]),
        (
            "ALTER TABLE t DETACH PARTITION t_1; DELETE FROM t_1; "
            "ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES FROM (0) TO (10)",
            ["reload"],
        ),
    ],
)
def test_partitions_that_come_and_go(
    postgres: Database, open_replay: Callable[..., Replay], statements: str, outcome: list[str]
) -> None:
    postgres.execute(PARTITIONED)
    replay = open_replay()
    replay.start()
    postgres.execute(statements)
    found = replay.source.inspect(known(replay))
    assert sorted(str(judged(c)) for c in found if judged(c) != ()) == outcome


def test_rows_of_a_new_partition_are_followed(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute(PARTITIONED)
    replay = open_replay()
    replay.start()
    postgres.execute("CREATE TABLE t_3 PARTITION OF t FOR VALUES FROM (20) TO (30)")
    (change,) = replay.source.inspect(known(replay))
    assert judged(change) == ()
    assert change.new is not None
    postgres.execute("INSERT INTO t VALUES (25, 25); UPDATE t SET at = 21 WHERE id = 25")
    replay.reach(position_of(replay.source))
    assert replay.changes == []
    assert replay.content(T) == sorted(postgres.execute("SELECT * FROM t"), key=repr)
    assert replay.source.inspect([change.new, replay.tables[TableId("public", "loose")].table]) == []
    postgres.execute("ALTER TABLE t ADD COLUMN c int")
    postgres.execute("INSERT INTO t VALUES (26, 26, 26)")
    replay.wait(lambda: replay.changes, 10)
    assert replay.changes[0].old == change.new
    assert [type(s) for s in evolve(change.new, replay.changes[0].new or change.new) or ()] == [AddColumn]


def test_a_label_that_is_renamed_reloads_and_one_that_is_added_does_not(
    postgres: Database, open_replay: Callable[..., Replay]
) -> None:
    postgres.execute(
        """
        CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN moods AS mood[];
        CREATE TABLE t (id int PRIMARY KEY, m mood); CREATE TABLE u (id int PRIMARY KEY, m moods);
        CREATE TABLE v (id int PRIMARY KEY); INSERT INTO t VALUES (1, 'sad');
        """
    )
    replay = open_replay()
    replay.start()
    postgres.execute("ALTER TYPE mood ADD VALUE 'meh' BEFORE 'sad'")
    assert [c for c in replay.source.inspect(known(replay)) if judged(c) != ()] == []
    postgres.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'")
    found = {str(c.old.id): c.reason for c in replay.source.inspect(known(replay)) if c.old is not None and c.reload}
    assert found == dict.fromkeys(["public.t", "public.u"], "a label of an enum type was renamed")


def test_generated_columns_are_exact_or_reloaded(postgres_any: Database, open_replay: Callable[..., Replay]) -> None:
    postgres_any.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED); "
        "INSERT INTO t VALUES (1, 1)"
    )
    replay = open_replay(postgres_any)
    replay.start()
    assert replay.content(T) == [(1, 1, 2)]
    postgres_any.execute("UPDATE t SET v = 5; INSERT INTO t VALUES (2, 2)")
    if postgres_any.version >= 18:
        replay.reach(position_of(replay.source))
        assert replay.content(T) == [(1, 5, 10), (2, 2, 4)]
        postgres_any.execute("ALTER TABLE t ADD COLUMN virtual int GENERATED ALWAYS AS (v + 1) VIRTUAL")
        (change,) = replay.source.inspect(known(replay))
        assert judged(change) in ("reload", None)
    else:
        replay.wait(lambda: replay.changes, 10)
        assert judged(replay.changes[0]) == "reload"


def test_a_table_altered_while_nobody_watched(postgres: Database, open_replay: Callable[..., Replay]) -> None:
    postgres.execute(SETUP)
    first = open_replay()
    first.start()
    identity = first.source.identity()
    first.close()
    postgres.execute("INSERT INTO t VALUES (20); ALTER TABLE t ADD c int; INSERT INTO t VALUES (21)")
    second = open_replay()
    second.tables = first.tables
    assert first.position is not None
    assert second.source.prepare(second.source.discover(), first.position, identity).position == first.position
    second.follow(first.position)
    second.wait(lambda: second.changes, 10)
    wait_until(lambda: second.changes, 10)
    assert judged(second.changes[0]) != "gone"
    if judged(second.changes[0]) != "reload":
        second.reach(position_of(second.source))
        assert second.content(T) == sorted(postgres.execute("SELECT * FROM t"), key=repr)
