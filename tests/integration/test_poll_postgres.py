"""What PostgreSQL's reader knows of a table that has not changed, and how it gets along without an exported view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from connectors.poll import View
from connectors.postgres import poll
from connectors.postgres.poll import PostgresReader, SingleSession
from engine.errors import ResyncRequired
from engine.schema import TableId
from tests.contract.harness import postgres_options
from tests.support.servers import Database

T = TableId("public", "t")


class Looks:
    """Looks at table `t` again and again; `same` says whether it is as it was at the look before."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.reader = PostgresReader(postgres_options(database))
        self._mark: object | None = None
        self._rows = 0

    def same(self) -> bool:
        with self.reader.view() as view:
            (table,) = [t for t in view.tables if t.id == T]
            same = self._mark is not None and view.unchanged(table, self._mark, self._rows)
            rows = content(view)
            assert not same or len(rows) == self._rows
            self._mark, self._rows = view.mark(table), len(rows)
        return same


def content(view: View) -> list[tuple[Any, ...]]:
    (table,) = [t for t in view.tables if t.id == T]
    batches = [b for part in view.split(table) for b in view.read(part)]
    return sorted((tuple(r.values()) for b in batches for r in b.to_pylist()), key=repr)


@pytest.fixture
def looks(postgres_any: Database) -> Iterator[Looks]:
    postgres_any.execute(
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int, v int, m mood);"
        "INSERT INTO t SELECT i, i, 'a' FROM generate_series(1, 1000) i"
    )
    made = Looks(postgres_any)
    made.same()
    yield made
    made.reader.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET v = v + 1 WHERE id = 5",
        "DELETE FROM t WHERE id = 5",
        "DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 5, 'a')",
        "TRUNCATE t; INSERT INTO t SELECT i, i, 'a' FROM generate_series(1, 1000) i",
        "ALTER TYPE mood RENAME VALUE 'a' TO 'z'",
        "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v int DEFAULT 3",
        "ALTER TABLE t ALTER COLUMN v TYPE bigint",
        "BEGIN; SAVEPOINT s; UPDATE t SET v = 0 WHERE id = 1; RELEASE s; COMMIT",
    ],
)
def test_a_change_is_seen(looks: Looks, statement: str) -> None:
    assert looks.same()
    looks.database.execute(statement)
    assert not looks.same()
    assert looks.same()


def test_what_changes_no_value_is_no_change(looks: Looks) -> None:
    looks.database.execute("CREATE TABLE other (id int); INSERT INTO other VALUES (1)")
    assert looks.same()
    looks.database.execute("VACUUM (FREEZE) t")
    assert looks.same()
    with looks.database.connect(autocommit=False) as connection:
        connection.execute("UPDATE t SET v = 0")
        connection.rollback()
    assert looks.same()


def test_a_part_of_a_transaction_under_way_in_the_older_view_is_seen(looks: Looks) -> None:
    """Its number is between the view's bounds, and no list of a view names it."""
    with looks.database.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO t VALUES (2000, 1, 'a')")
        connection.execute("SAVEPOINT s")
        connection.execute("UPDATE t SET v = -1 WHERE id = 7")
        connection.execute("RELEASE s")
        connection.execute("DELETE FROM t WHERE id = 2000")
        # A later transaction ends, so that the older view's upper bound is above the savepoint's number.
        looks.database.execute("CREATE TABLE later (id int)")
        looks.same()
        connection.commit()
    assert not looks.same()
    assert looks.same()


def test_a_transaction_that_stays_open_hides_nothing(looks: Looks) -> None:
    with looks.database.connect(autocommit=False) as idle:
        idle.execute("SELECT pg_current_xact_id()" if looks.database.server.version >= 13 else "SELECT txid_current()")
        assert looks.same()
        for value in range(3):
            looks.database.execute(f"UPDATE t SET v = {value} WHERE id = 3")
            assert not looks.same()


def test_partitions_are_compared_one_by_one(looks: Looks) -> None:
    looks.database.execute(
        "DROP TABLE t; CREATE TABLE t (id int, v int) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20); INSERT INTO t SELECT i, i FROM generate_series(0, 19) i"
    )
    if looks.database.server.version < 13:
        pytest.skip("left out on PostgreSQL 12")
    assert not looks.same()
    assert looks.same()
    looks.database.execute("UPDATE t SET v = 0 WHERE id = 15")
    assert not looks.same()
    looks.database.execute("ALTER TABLE t DETACH PARTITION t1")
    assert not looks.same()


@pytest.mark.parametrize(
    "column",
    ["regclass", "pair", "regrole[]", "named"],
    ids=["names", "composite", "array of names", "domain of names"],
)
def test_values_that_depend_on_more_than_the_row_are_always_read(postgres: Database, column: str) -> None:
    postgres.execute("CREATE TYPE pair AS (a int, b text); CREATE DOMAIN named AS regtype")
    postgres.execute(f"CREATE TABLE t (id int, x {column}); CREATE TABLE plain (id int, r int4range, n name)")
    reader = PostgresReader(postgres_options(postgres))
    try:
        with reader.view() as view:
            marks = {t.id.name: view.mark(t) for t in view.tables}
        assert marks["t"] is None
        assert marks["plain"] is not None
    finally:
        reader.close()


def test_rights_on_columns_are_enough_to_read(postgres: Database) -> None:
    postgres.superuser("REVOKE app FROM reflex")
    try:
        postgres.execute("CREATE TABLE t (id int, v int, secret text); INSERT INTO t VALUES (1, 2, 's')")
        postgres.execute("GRANT USAGE ON SCHEMA public TO reflex; GRANT SELECT (id, v) ON t TO reflex")
        reader = PostgresReader(postgres_options(postgres, exclude_columns={"public.t": ("secret",)}))
        try:
            with reader.view() as view:
                assert content(view) == [(1, 2)]
                assert view.mark(view.tables[0]) is None
            assert all(c.ok for c in reader.check())
        finally:
            reader.close()
    finally:
        postgres.superuser("GRANT app TO reflex")


def test_a_view_that_cannot_be_exported_is_read_in_its_own_session(
    looks: Looks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del tmp_path
    with looks.reader.view() as view:
        expected = content(view)
    monkeypatch.setattr(poll, "_EXPORT", "SELECT pg_catalog.pg_export_snapshot() FROM pg_catalog.nowhere")
    with looks.reader.view() as view:
        assert isinstance(view._snapshot, SingleSession)
        looks.database.execute("INSERT INTO t VALUES (5000, 1, 'b')")
        assert content(view) == expected
        assert content(view) == expected


def test_a_table_rewritten_under_a_view_is_not_read(looks: Looks) -> None:
    with looks.reader.view() as view:
        looks.database.execute("TRUNCATE t")
        with pytest.raises(ResyncRequired):
            content(view)


def test_sessions_are_set_as_behind_a_pooler(postgres: Database) -> None:
    postgres.superuser(f"ALTER ROLE reflex IN DATABASE {postgres.name} SET datestyle = 'German, DMY'")
    postgres.execute("CREATE TABLE t (d date[], i interval, f float8)")
    postgres.execute("INSERT INTO t VALUES (ARRAY['2024-02-29'::date], '1 mon 2 days', 0.1)")
    reader = PostgresReader(postgres_options(postgres))
    try:
        with reader.view() as view:
            (row,) = content(view)
        assert "2024-02-29" in str(row[0]) or "2024, 2, 29" in repr(row[0])
        with reader._connections.session("looking") as connection:
            shown = {name: connection.execute(f"SHOW {name}".encode()).fetchone() for name in ("datestyle", "timezone")}
        assert shown == {"datestyle": ("ISO, YMD",), "timezone": ("UTC",)}
    finally:
        reader.close()
