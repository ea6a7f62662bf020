"""MySQL and MariaDB behind the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.registry import open_source
from engine.schema import TableId
from engine.source import Source
from tests.support.servers import MySqlDatabase

Upsert = tuple[TableId, int, int | None]


class MySqlHarness:
    """A real server, of either flavour."""

    stable_columns = False
    """A column has no number that a rename keeps: a changed definition is loaded anew."""
    follows_renames = False
    exact_snapshots = False
    has_log = True

    def __init__(self, database: MySqlDatabase) -> None:
        self.database = database

    def source(self, **changes: Any) -> Source:
        return open_source("mysql", self.database.options(batch_window=0.02, **changes))

    def create(self, name: str) -> TableId:
        self.database.execute(f"CREATE TABLE {name} (id bigint PRIMARY KEY, v bigint)")
        return TableId(self.database.name, name)

    def commit(self, *wanted: Upsert) -> None:
        with self.database.connect(autocommit=False) as connection, connection.cursor() as cursor:
            for table, key, value in wanted:
                if value is None:
                    cursor.execute(f"DELETE FROM `{table.name}` WHERE id = %s", [key])
                else:
                    statement = (
                        f"INSERT INTO `{table.name}` (id, v) VALUES (%s, %s) ON DUPLICATE KEY UPDATE v = VALUES(v)"
                    )
                    cursor.execute(statement, [key, value])
            connection.commit()

    def truncate(self, table: TableId) -> None:
        self.database.execute(f"TRUNCATE {table.name}")

    def drop(self, table: TableId) -> None:
        self.database.execute(f"DROP TABLE {table.name}")

    def rename(self, table: TableId, name: str) -> TableId:
        self.database.execute(f"ALTER TABLE {table.name} RENAME TO {name}")
        return TableId(table.schema, name)

    def add_column(self, table: TableId, name: str) -> None:
        self.database.execute(f"ALTER TABLE {table.name} ADD COLUMN {name} bigint")

    def rows(self, table: TableId) -> Sequence[tuple[int, ...]]:
        return self.database.execute(f"SELECT * FROM {table.name} ORDER BY id")
