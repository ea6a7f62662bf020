"""One small replicated table, and what the tests of the replica do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.changes import ChangeBatch, Op, TableChanges
from engine.replica.store import DuckDBReplica
from engine.schema import Column, Identity, TableId, TableSchema

ITEMS = TableSchema(
    TableId("shop", "items"),
    (Column("id", "BIGINT", "bigint", id=1), Column("name", "VARCHAR", "text", id=2)),
    ("id",),
    Identity.KEY,
    source_id="1",
)


def open_replica(path: Path, instance: str = "t", **options: Any) -> DuckDBReplica:
    return DuckDBReplica.open(
        path, instance=instance, memory_limit_bytes=200 << 20, threads=2, search_schema="shop", **options
    )


def images(table: TableSchema, *rows: tuple[Any, ...]) -> pa.RecordBatch:
    arrays = [
        pa.array([r[i] for r in rows], pa.int64() if c.type == "BIGINT" else pa.string())
        for i, c in enumerate(table.columns)
    ]
    return pa.RecordBatch.from_arrays(arrays, names=list(table.column_names))


def entry(table: TableSchema, op: Op, *rows: tuple[Any, ...], truncate: bool = False) -> TableChanges:
    return TableChanges(table, pa.array([int(op)] * len(rows), pa.int8()), images(table, *rows), truncate)


def batch(position: int, *changes: TableChanges, complete: bool = True) -> ChangeBatch:
    return ChangeBatch(str(position), changes, complete=complete)  # type: ignore[arg-type]


def begin(replica: DuckDBReplica, table: TableSchema, *rows: tuple[Any, ...], position: str = "0") -> None:
    loader = replica.load(table)
    if rows:
        loader.append([images(table, *rows)])
    loader.finish(position)
    replica.swap([table.id], position, "source")


def read(replica: DuckDBReplica, sql: str) -> list[tuple[Any, ...]]:
    cursor = replica.cursor()
    try:
        return cursor.execute(sql).fetchall()
    finally:
        cursor.close()


def physical(replica: DuckDBReplica) -> int:
    return len(read(replica, "SELECT 1 FROM duckdb_tables() WHERE regexp_full_match(table_name, 't[0-9]+')"))


def max_number(replica: DuckDBReplica) -> int:
    names = read(replica, "SELECT table_name FROM duckdb_tables() WHERE regexp_full_match(table_name, 't[0-9]+')")
    return max(int(name[1:]) for (name,) in names)


def churned(ids: Any, n: int) -> pa.RecordBatch:
    return pa.record_batch({"id": pa.array(ids), "name": pa.array([f"row {i} version {n}" for i in ids])})
