"""Polled sources behind the contract: the same databases as the streamed ones, with another source.

What a poll does otherwise follows from `has_log` being false: there is no position at which the source's log ends, rows
that did not change may come again, nothing lies between two rounds, and what is new, gone or altered is told by the
rounds (each of them, until it is followed) rather than by `inspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from connectors.registry import open_poll_source
from engine.schema import TableId
from engine.source import Source
from tests.contract.harness import Harness, PostgresHarness, Upsert, postgres_options
from tests.contract.mysql import MySqlHarness
from tests.contract.sqlserver import SqlServerHarness

INTERVAL = 0.3


class PollHarness:
    """A polled database: what happens to it happens through `under`, the harness of its backend."""

    stable_columns = False
    follows_renames = False
    exact_snapshots = True
    has_log = False

    def __init__(self, under: Harness, open_source: Callable[[], Source]) -> None:
        self._under = under
        self._open = open_source

    def source(self) -> Source:
        return self._open()

    def create(self, name: str) -> TableId:
        return self._under.create(name)

    def commit(self, *wanted: Upsert) -> None:
        self._under.commit(*wanted)

    def truncate(self, table: TableId) -> None:
        self._under.truncate(table)

    def drop(self, table: TableId) -> None:
        self._under.drop(table)

    def rename(self, table: TableId, name: str) -> TableId:
        return self._under.rename(table, name)

    def add_column(self, table: TableId, name: str) -> None:
        self._under.add_column(table, name)

    def rows(self, table: TableId) -> Sequence[tuple[int, ...]]:
        return self._under.rows(table)


def poll_postgres(database: Any) -> PollHarness:
    """PostgreSQL, polled."""
    options = postgres_options(database, poll_interval=INTERVAL)
    return PollHarness(PostgresHarness(database), lambda: open_poll_source("postgres", options))


def poll_mysql(database: Any) -> PollHarness:
    """MySQL or MariaDB, polled."""
    options = database.options(poll_interval=INTERVAL)
    return PollHarness(MySqlHarness(database), lambda: open_poll_source("mysql", options))


def poll_sqlserver(database: Any) -> PollHarness:
    """SQL Server, polled."""
    options = database.options(poll_interval=INTERVAL)
    return PollHarness(SqlServerHarness(database), lambda: open_poll_source("mssql", options))
