"""SQL Server behind the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.registry import open_source
from engine.schema import TableId
from engine.source import Source
from tests.support.servers import SqlServerDatabase

Upsert = tuple[TableId, int, int | None]


class SqlServerHarness:
    """A real server, or the emulator. What is done to it has been captured when a method returns."""

    stable_columns = True
    follows_renames = True
    exact_snapshots = False
    has_log = True

    def __init__(self, database: SqlServerDatabase) -> None:
        self.database = database
        self._instances = 0
        database.enable_cdc()

    def source(self, **changes: Any) -> Source:
        return open_source("mssql", self.database.options(batch_window=0.02, **changes))

    def create(self, name: str) -> TableId:
        self.database.execute(f"CREATE TABLE dbo.{name} (id bigint PRIMARY KEY, v bigint)")
        self.database.enable_cdc(name)
        return TableId("dbo", name)

    def commit(self, *wanted: Upsert) -> None:
        with self.database.connect(autocommit=False) as connection, connection.cursor() as cursor:
            if fresh := _first_rows(cursor, wanted):
                table, values = wanted[0][0], ", ".join(f"({key}, {value})" for _, key, value in wanted)
                cursor.execute(f"INSERT INTO {table} (id, v) VALUES {values}")
            for table, key, value in () if fresh else wanted:
                if value is None:
                    cursor.execute(f"DELETE FROM {table} WHERE id = {key}")
                    continue
                cursor.execute(f"UPDATE {table} SET v = {value} WHERE id = {key}")
                if cursor.rowcount == 0:
                    cursor.execute(f"INSERT INTO {table} (id, v) VALUES ({key}, {value})")
            connection.commit()
        self.database.captured()

    def truncate(self, table: TableId) -> None:
        """The server refuses TRUNCATE of a table that is captured."""
        self.database.execute(f"DELETE FROM {table}")
        self.database.captured()

    def drop(self, table: TableId) -> None:
        self.database.execute(f"DROP TABLE {table}")

    def rename(self, table: TableId, name: str) -> TableId:
        self.database.execute(f"EXEC sp_rename '{table}', '{name}'")
        return TableId(table.schema, name)

    def add_column(self, table: TableId, name: str) -> None:
        """With the capture instance that it takes to see the column."""
        self.database.execute(f"ALTER TABLE {table} ADD {name} bigint")
        self._instances += 1
        self.database.enable_cdc(str(table), instance=f"{table.schema}_{table.name}_{self._instances}")
        self.database.captured()

    def rows(self, table: TableId) -> Sequence[tuple[int, ...]]:
        return self.database.execute(f"SELECT * FROM {table} ORDER BY id")


def _first_rows(cursor: Any, wanted: Sequence[Upsert]) -> bool:
    """Whether these are the first rows of one table, which one INSERT brings (the emulator is slow by the statement)."""
    if len({(table, key) for table, key, value in wanted if value is not None}) < len(wanted):
        return False
    tables = {table for table, _, _ in wanted}
    if len(tables) > 1 or len(wanted) < 2:
        return False
    cursor.execute(f"SELECT count(*) FROM {tables.pop()}")
    return bool(cursor.fetchone()[0] == 0)
