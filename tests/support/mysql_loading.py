"""Loads tables through the connector's snapshot into a plain DuckDB, without the engine's pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from connectors.mysql.catalog import Catalog
from connectors.mysql.connection import Connections
from connectors.mysql.snapshot import MysqlSnapshot
from engine.schema import TableSchema
from engine.source import SourceOptions


def quote(name: str) -> str:
    """An identifier as DuckDB quotes it."""
    return '"' + name.replace('"', '""') + '"'


def discover(connections: Connections, options: SourceOptions) -> list[TableSchema]:
    """The tables that the connector finds."""
    with connections.session("discovering") as connection:
        return [t.schema for t in Catalog(connection, options).tables()]


def create(con: duckdb.DuckDBPyConnection, table: TableSchema) -> str:
    """Make a table of the replica's types; returns its qualified name."""
    name = f"{quote(table.id.schema)}.{quote(table.id.name)}"
    columns = ", ".join(f"{quote(c.name)} {c.type}" for c in table.columns)
    con.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(table.id.schema)}")
    con.execute(f"CREATE TABLE {name} ({columns})")
    return name


def fill(con: duckdb.DuckDBPyConnection, snapshot: MysqlSnapshot, table: TableSchema, name: str) -> int:
    """Read every part of a table into the replica; returns the number of batches."""
    count = 0
    for part in snapshot.split(table):
        for batch in snapshot.read(part):
            con.register("batch", pa.table(batch))
            con.execute(f"INSERT INTO {name} SELECT * FROM batch")
            con.unregister("batch")
            count += 1
    return count


def load(options: SourceOptions, names: Sequence[str] | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that holds the tables as the snapshot reads them."""
    connections = Connections(options)
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    try:
        tables = [t for t in discover(connections, options) if names is None or t.id.name in names]
        snapshot = MysqlSnapshot(connections, options, tables)
        try:
            for table in snapshot.tables:
                fill(con, snapshot, table, create(con, table))
            assert snapshot.settled().covers(snapshot.position)
        finally:
            snapshot.close()
    finally:
        connections.close()
    return con
