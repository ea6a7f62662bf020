"""A small database behind each source: what a contract test does to it, and what is true of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from psycopg import sql

from connectors.poll import Round
from connectors.registry import open_source
from engine.changes import Position
from engine.schema import TableId
from engine.source import Secret, Source, SourceOptions
from tests.support.fake_source import FakeDatabase, FakeSource
from tests.support.replay import Replay
from tests.support.servers import REFLEX, Database

Upsert = tuple[TableId, int, int | None]


class Harness(Protocol):
    """Tables of two columns, ``id`` (the key) and ``v``, and what can happen to them."""

    stable_columns: bool
    """Whether columns have numbers that a rename keeps."""
    follows_renames: bool
    """Whether a renamed table is known to be the same one; otherwise one is gone, and another is new."""
    exact_snapshots: bool
    """Whether a snapshot's rows are the state at its position, rather than at or after it."""

    has_log: bool
    """Whether every change comes by itself, in a log with an end; otherwise the source is polled (`tests.contract.poll`)."""

    def source(self) -> Source: ...

    def create(self, name: str) -> TableId: ...

    def commit(self, *wanted: Upsert) -> None:
        """One transaction: per (table, key, v) an upsert, or a delete when v is None."""
        ...

    def truncate(self, table: TableId) -> None: ...

    def drop(self, table: TableId) -> None: ...

    def rename(self, table: TableId, name: str) -> TableId: ...

    def add_column(self, table: TableId, name: str) -> None:
        """A column that is NULL in every row."""
        ...

    def rows(self, table: TableId) -> Sequence[tuple[int, ...]]: ...


class FakeHarness:
    """The fake source."""

    stable_columns = True
    follows_renames = True
    exact_snapshots = True
    has_log = True

    def __init__(self) -> None:
        self.database = FakeDatabase()

    def source(self) -> Source:
        return FakeSource(self.database)

    def create(self, name: str) -> TableId:
        return self.database.create(name)

    def commit(self, *wanted: Upsert) -> None:
        self.database.commit(*wanted)

    def truncate(self, table: TableId) -> None:
        self.database.truncate(table)

    def drop(self, table: TableId) -> None:
        self.database.drop(table)

    def rename(self, table: TableId, name: str) -> TableId:
        return self.database.rename(table, name)

    def add_column(self, table: TableId, name: str) -> None:
        self.database.add_column(table, name)

    def rows(self, table: TableId) -> Sequence[tuple[int, ...]]:
        return sorted(tuple(map(int, map(str, r))) for r in self.database.rows[table].values())


def postgres_options(database: Database, **changes: object) -> SourceOptions:
    """Options that reach a test database as the role `reflex`."""
    values: dict[str, object] = {
        "host": database.server.host,
        "port": database.server.port,
        "user": REFLEX.name,
        "password": Secret(REFLEX.password),
        "database": database.name,
        # Slots are the server's, not the database's: the name must differ from test to test.
        "instance": database.name,
        "batch_window": 0.02,
    }
    return SourceOptions(**{**values, **changes})  # type: ignore[arg-type]


class PostgresHarness:
    """A real server."""

    stable_columns = True
    follows_renames = True
    exact_snapshots = True
    has_log = True

    def __init__(self, database: Database) -> None:
        self.database = database
        database.execute("CREATE SCHEMA shop")

    def source(self) -> Source:
        return open_source("postgres", postgres_options(self.database))

    def create(self, name: str) -> TableId:
        self.database.execute(f"CREATE TABLE shop.{name} (id bigint PRIMARY KEY, v bigint)")
        return TableId("shop", name)

    def commit(self, *wanted: Upsert) -> None:
        with self.database.connect(autocommit=False) as connection:
            for table, key, value in wanted:
                name = sql.Identifier(table.schema, table.name)
                if value is None:
                    connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(name), [key])
                else:
                    statement = "INSERT INTO {} VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
                    connection.execute(sql.SQL(statement).format(name), [key, value])

    def truncate(self, table: TableId) -> None:
        self.database.execute(f"TRUNCATE {table}")

    def drop(self, table: TableId) -> None:
        self.database.execute(f"DROP TABLE {table}")

    def rename(self, table: TableId, name: str) -> TableId:
        self.database.execute(f"ALTER TABLE {table} RENAME TO {name}")
        return TableId(table.schema, name)

    def add_column(self, table: TableId, name: str) -> None:
        self.database.execute(f"ALTER TABLE {table} ADD COLUMN {name} bigint")

    def rows(self, table: TableId) -> Sequence[tuple[int, ...]]:
        return self.database.execute(f"SELECT * FROM {table} ORDER BY id")


def end_of(harness: Harness, replay: Replay) -> Position:
    """A position that everything committed so far is within: the log's end, or where polls of it are."""
    if harness.has_log:
        return position_of(replay.source)
    assert replay.position is not None
    # One round may be under way with an older view.
    return later(replay.position, 2)


def later(position: Position, rounds: int) -> Position:
    """The position of a polled source so many rounds later."""
    assert isinstance(position, Round)
    return replace(position, number=position.number + rounds)


def position_of(source: Source) -> Position:
    """The end of the source's log now."""
    position = source.status().position
    assert position is not None
    return position
