"""Every type on real servers: what the binary log gives equals the server's own text, and what a snapshot reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from connectors.mysql.source import MysqlSource
from tests.support.mysql_rowlog import (
    decode_events,
    definitions_of,
    end_of_log,
    raw_rows,
    read_row_events,
)
from tests.support.mysql_samples import SAMPLES, Sample
from tests.support.mysql_values import differences, expected, replicated
from tests.support.servers.mysql_database import MySqlDatabase
from tests.support.servers.mysql_server import MySqlServer

LENIENT = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'"


def fill(database: MySqlDatabase, samples: Sequence[Sample]) -> None:
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(LENIENT)
        for sample in samples:
            cursor.execute(f"CREATE TABLE {sample.table} (id int PRIMARY KEY, v {sample.type})")
            rows = ", ".join(f"({i}, {value})" for i, value in enumerate([*sample.values, "NULL"]))
            cursor.execute(f"INSERT INTO {sample.table} VALUES {rows}")


def texts(database: MySqlDatabase, sample: Sample) -> list[str | None]:
    rows = raw_rows(database, f"SELECT {sample.oracle} FROM {sample.table} ORDER BY id")
    return [None if value is None else value.decode() for (value,) in rows]


def snapshot(database: MySqlDatabase, samples: Sequence[Sample]) -> dict[str, pa.Array]:
    """Column ``v`` of every sample's table as a snapshot reads it, in the order of the ids."""
    names = tuple(f"{database.name}.{s.table}" for s in samples)
    source = MysqlSource(database.options(include=names))
    try:
        with source.snapshot(source.discover(), start=False) as view:
            return {t.id.name: ordered([b for part in view.split(t) for b in view.read(part)]) for t in view.tables}
    finally:
        source.close()


def ordered(batches: Sequence[pa.RecordBatch]) -> pa.Array:
    table = pa.Table.from_batches(batches).combine_chunks()
    return table.column("v").take(pc.sort_indices(table.column("id").cast(pa.int64()))).combine_chunks()


def check(database: MySqlDatabase, samples: Sequence[Sample]) -> list[str]:
    """Compare all samples; returns what differs (all of it, since one run tells more than its first failure)."""
    since = end_of_log(database)
    fill(database, samples)
    events = read_row_events(database, since)
    read = snapshot(database, samples)
    problems = []
    for sample in samples:
        mine = [e for e in events if f"{len(sample.table):c}{sample.table}\0".encode() in e.table_map]
        definitions = definitions_of(database, sample.table)
        changes = decode_events(mine, definitions, mariadb=database.is_mariadb)
        column = changes.table.columns[1]
        wanted = expected(sample, column, texts(database, sample))
        problems += differences(sample, "stream", replicated(column, changes.rows.column(1)), wanted)
        problems += differences(sample, "snapshot", replicated(column, read[sample.table]), wanted)
    return problems


def fitting(server: str) -> list[Sample]:
    return [s for s in SAMPLES if s.fits(server)]


def test_every_type_without_metadata(mysql_any: MySqlDatabase) -> None:
    assert check(mysql_any, fitting(mysql_any.server.name)) == []


def test_every_type_with_full_metadata(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    database = make_mysql(mysql_flavour, settings={"binlog_row_metadata": "FULL"}).create_database()
    assert check(database, fitting(mysql_flavour)) == []


@pytest.mark.parametrize("name", ["mariadb-10.11", "mariadb-11.8"])
def test_mariadbs_own_temporal_formats(make_mysql: Callable[..., MySqlServer], name: str) -> None:
    database = make_mysql(name).create_database()
    database.superuser("SET GLOBAL mysql56_temporal_format = OFF")
    samples = [s for s in fitting(name) if s.type.startswith(("time", "datetime", "date"))]
    assert check(database, samples) == []
    assert "mariadb-5.3" in definitions_of(database, "s_time3")[1].column_type
