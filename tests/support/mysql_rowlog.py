"""The row events of a real server, read by a plain dump of its binary log: for tests of the row decoder alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from connectors.mysql.rowheaders import KIND_OF_EVENT, parse_row_headers
from connectors.mysql.rows import Layout, RowRun, decode_rows
from connectors.mysql.tablemap import TableMap, parse_table_map
from connectors.mysql.types import COLUMN_FIELDS, Definition, replica_column
from engine.changes import TableChanges
from engine.schema import Identity, TableId, TableSchema
from tests.support.servers.mysql_database import MySqlDatabase

COM_BINLOG_DUMP, NON_BLOCK = 0x12, 1
TABLE_MAP = 19
HEADER, CHECKSUM = 19, 4


@dataclass(frozen=True, slots=True)
class RowEvent:
    """One row event with the body of the table map it refers to."""

    table_map: bytes
    type: int
    body: bytes


def end_of_log(database: MySqlDatabase) -> tuple[str, int]:
    """Where the server's binary log ends."""
    statement = "SHOW MASTER STATUS" if database.is_mariadb else "SHOW BINARY LOG STATUS"
    return tuple(database.superuser(statement)[0][:2])


def read_row_events(database: MySqlDatabase, since: tuple[str, int]) -> list[RowEvent]:
    """The row events of this database since a place in the log."""
    maps: dict[int, bytes] = {}
    found = []
    for kind, body in _events(database, since):
        if kind == TABLE_MAP:
            maps[int.from_bytes(body[:6], "little")] = body
        elif kind in KIND_OF_EVENT:
            table_map = maps[int.from_bytes(body[:6], "little")]
            if parse_table_map(table_map, mariadb=database.is_mariadb).schema == database.name:
                found.append(RowEvent(table_map, kind, body))
    return found


def _events(database: MySqlDatabase, since: tuple[str, int]) -> Iterator[tuple[int, bytes]]:
    from tests.support.servers.roles import ROOT

    with database.connect(ROOT) as connection:
        with connection.cursor() as cursor:
            # who does not say that it knows checksums gets an error from a server that writes them
            for name in ("master", "source"):
                cursor.execute(f"SET @{name}_binlog_checksum = 'CRC32'")
            if database.is_mariadb:
                cursor.execute("SET @mariadb_slave_capability = 4")
        file, position = since
        argument = struct.pack("<IHI", position, NON_BLOCK, 990_001) + file.encode()
        connection._execute_command(COM_BINLOG_DUMP, argument)
        while True:
            packet = connection._read_packet()
            if packet.is_eof_packet():
                return
            data = packet.get_all_data()[1:]
            if zlib.crc32(data[:-CHECKSUM]) == int.from_bytes(data[-CHECKSUM:], "little"):
                data = data[:-CHECKSUM]
            yield data[4], data[HEADER:]


def definitions_of(database: MySqlDatabase, table: str) -> tuple[Definition, ...]:
    """A table's columns as the catalog has them now."""
    names = COLUMN_FIELDS if database.is_mariadb else (*COLUMN_FIELDS, "SRS_ID")
    rows = database.superuser(
        f"SELECT {', '.join(names)} FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s"
        " ORDER BY ORDINAL_POSITION",
        (database.name, table),
    )
    checks: set[str] = set()
    if database.is_mariadb:
        clauses = database.superuser(
            "SELECT CHECK_CLAUSE FROM information_schema.CHECK_CONSTRAINTS"
            " WHERE CONSTRAINT_SCHEMA = %s AND TABLE_NAME = %s",
            (database.name, table),
        )
        checks = {str(clause) for (clause,) in clauses}
    return tuple(
        Definition.from_row(row, json=f"json_valid(`{row['COLUMN_NAME']}`)" in checks, mariadb=database.is_mariadb)
        for row in (dict(zip(names, values, strict=True)) for values in rows)
    )


def schema_of(name: str, definitions: Sequence[Definition], key: tuple[str, ...] = ("id",)) -> TableSchema:
    """The table as it is replicated, whole."""
    columns = tuple(replica_column(d) for d in definitions)
    return TableSchema(TableId("db", name), columns, key, Identity.KEY if key else Identity.ROW)


def layout_of(table_map: TableMap, definitions: Sequence[Definition], key: tuple[str, ...] = ("id",)) -> Layout:
    """A layout that replicates every column."""
    table = schema_of(table_map.table, definitions, key)
    return Layout(table_map, table, tuple(range(len(definitions))), tuple(definitions))


def run_of(events: Sequence[RowEvent], columns: int) -> RowRun:
    """The events, all of one table map layout, as one run."""
    bodies = [e.body for e in events]
    ends = np.cumsum([len(b) for b in bodies])
    starts = ends - np.array([len(b) for b in bodies])
    headers = parse_row_headers(b"".join(bodies), np.array([e.type for e in events], np.uint8), starts, ends)
    return headers.run(np.arange(len(events)), columns)


def decode_events(
    events: Sequence[RowEvent],
    definitions: Sequence[Definition],
    *,
    mariadb: bool,
    key: tuple[str, ...] = ("id",),
) -> TableChanges:
    """Decode all events of one table together."""
    layout = layout_of(parse_table_map(events[0].table_map, mariadb=mariadb), definitions, key)
    (changes,) = decode_rows(layout, run_of(events, len(definitions)))
    return changes


def raw_rows(database: MySqlDatabase, query: str) -> list[tuple[bytes | None, ...]]:
    """A query's values as the text protocol has them."""
    from tests.support.servers.roles import ROOT

    options: dict[str, Any] = {"use_unicode": False, "conv": {}}
    with database.connect(ROOT, **options) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return list(cursor.fetchall())


def arrow_columns(rows: Sequence[tuple[bytes | None, ...]], count: int) -> list[pa.Array]:
    """Raw values as binary arrays, one per column."""
    return [pa.array([row[i] for row in rows], pa.binary()) for i in range(count)]
