"""An application's statement that the publication makes the server refuse works again as soon as the status is asked."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from connectors.postgres.source import PostgresSource
from engine.errors import ResyncRequired, TransientError
from engine.schema import TableId
from tests.contract.harness import position_of, postgres_options
from tests.support.replay import Replay
from tests.support.servers import Database
from tests.support.waiting import wait_until

SETUP = """
CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i;
CREATE TABLE u (id int PRIMARY KEY, v int); CREATE UNIQUE INDEX code ON u (id); ALTER TABLE u REPLICA IDENTITY USING INDEX code;
CREATE TABLE whole (id int, v int) PARTITION BY RANGE (id);
CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (0) TO (10);
ALTER TABLE whole REPLICA IDENTITY FULL; ALTER TABLE whole_1 REPLICA IDENTITY FULL;
CREATE TABLE keyed (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM (0) TO (10);
INSERT INTO u VALUES (1, 0); INSERT INTO whole VALUES (1, 0); INSERT INTO keyed VALUES (1, 0);
"""
CASES = {
    "no key": ("ALTER TABLE t DROP CONSTRAINT t_pkey", "t"),
    "a deferrable key": ("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id) DEFERRABLE", "t"),
    "no identity": ("ALTER TABLE t REPLICA IDENTITY NOTHING", "t"),
    "no index": ("DROP INDEX code", "u"),
    "a partition with less": (
        "CREATE TABLE whole_2 PARTITION OF whole FOR VALUES FROM (10) TO (20); INSERT INTO whole VALUES (11, 0)",
        "whole",
    ),
    "a partition without": ("ALTER TABLE keyed_1 REPLICA IDENTITY NOTHING", "keyed"),
}


@pytest.fixture
def replay(postgres_any: Database) -> Iterator[Replay]:
    postgres_any.execute(SETUP)
    made = Replay(PostgresSource(postgres_options(postgres_any)))
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize("case", CASES)
def test_the_table_is_taken_out_at_once_and_loaded_anew(postgres_any: Database, replay: Replay, case: str) -> None:
    statement, table = CASES[case]
    postgres_any.execute(statement)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        postgres_any.execute(f"UPDATE {table} SET v = 1")
    position_of(replay.source)
    postgres_any.execute(f"UPDATE {table} SET v = 1; DELETE FROM {table}")
    wait_until(lambda: replay.error, 20, message="the stream asks for a reload")
    assert isinstance(replay.error, ResyncRequired)
    assert replay.error.tables == (TableId("public", table),)
    others = {"t", "u", "whole", "keyed"} - {table}
    for other in others:
        postgres_any.execute(f"UPDATE {other} SET v = 2")


def test_nothing_else_is_taken_out(postgres_any: Database, replay: Replay) -> None:
    """Neither what has an identity, nor what is published by its inserts only."""
    postgres_any.execute("CREATE TABLE bare (v int)")
    for change in replay.source.inspect([r.table for r in replay.tables.values()]):
        assert change.old is None
    tables = "SELECT pubname, tablename FROM pg_publication_tables ORDER BY 1, 2"
    before = postgres_any.superuser(tables)
    assert ("bare" in {t for _, t in before}, len(before)) == (True, 5)
    position_of(replay.source)
    assert postgres_any.superuser(tables) == before


def test_a_table_that_is_locked_is_tried_again(postgres_any: Database, replay: Replay) -> None:
    with postgres_any.connect(autocommit=False) as connection:
        postgres_any.execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
        connection.execute("LOCK TABLE t IN SHARE MODE")
        with pytest.raises(TransientError, match="updates are refused"):
            replay.source.status()
        connection.rollback()
    replay.source.status()
    postgres_any.execute("UPDATE t SET v = 1")
