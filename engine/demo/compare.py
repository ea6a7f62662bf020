"""Compares the replica with its source, row by row, both as text."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass

import psycopg
import pyarrow as pa
from psycopg import sql

from engine.client import ACCEPT, InstanceClient

Rows = Counter[tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One table: how many rows each side has, and how many rows are on one side only."""

    table: str
    source_rows: int
    replica_rows: int
    different: int

    @property
    def equal(self) -> bool:
        return self.different == 0


def compare_table(connection: psycopg.Connection, client: InstanceClient, table: str, after: str) -> Comparison:
    """Compare one table of schema ``public``, as multisets of rows. The replica answers at or behind `after`."""
    columns = [
        row[0]
        for row in connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped "
            "ORDER BY attnum",
            (f'public."{table}"',),
        )
    ]
    source = _source_rows(connection, table, columns)
    replica = _replica_rows(client, table, columns, after)
    different = (source - replica).total() + (replica - source).total()
    return Comparison(table, source.total(), replica.total(), different)


def _source_rows(connection: psycopg.Connection, table: str, columns: list[str]) -> Rows:
    texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(c)) for c in columns)
    statement = sql.SQL("SELECT {} FROM {}").format(texts, sql.Identifier("public", table))
    return Counter(connection.execute(statement).fetchall())


def _replica_rows(client: InstanceClient, table: str, columns: list[str], after: str) -> Rows:
    texts = ", ".join(f'CAST("{c}" AS VARCHAR)' for c in columns)
    answer = b"".join(client.stream(f'SELECT {texts} FROM public."{table}"', ACCEPT["arrow"], after=after))
    read = pa.ipc.open_stream(io.BytesIO(answer)).read_all()
    return Counter(zip(*(column.to_pylist() for column in read.columns), strict=True))
