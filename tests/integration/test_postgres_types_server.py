"""Every type, read by the snapshot's binary COPY and decoded from a real pgoutput stream: the same values, and text
where the replica keeps text is the server's own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import duckdb
import psycopg
import pyarrow as pa

from connectors.postgres.copybinary import CopyDecoder, snapshot_select
from connectors.postgres.copystream import Payloads
from connectors.postgres.text_values import SESSION_SETTINGS
from connectors.postgres.types import TYPES_QUERY, TypeCatalog
from engine.changes import ChangeBatch
from engine.errors import UnsupportedValue
from engine.schema import Column, Identity, TableId, TableSchema
from tests.fixtures.pgoutput import encoder
from tests.fixtures.pgoutput.tables import assembler
from tests.support.servers import Database
from tests.support.servers.roles import SUPERUSER
from tests.support.type_samples import SAMPLES, Sample

ATTRIBUTE = """
SELECT attrelid::int8, atttypid::int8, atttypmod, attndims::int4, pg_catalog.format_type(atttypid, atttypmod)
FROM pg_attribute WHERE attrelid = %s::regclass AND attname = 'v'
"""
Connection = psycopg.Connection[Any]


def create(connection: Connection, sample: Sample) -> bool:
    """Make the sample's table, empty. False if the server lacks the type."""
    try:
        if sample.before:
            connection.execute(sample.before)
        connection.execute(f"SELECT CAST({sample.values[-1]} AS {sample.type})")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile):
        return False
    connection.execute(f'CREATE TABLE "t {sample.name}" (id int PRIMARY KEY, v {sample.type})')
    return True


def fill(connection: Connection, sample: Sample) -> None:
    for i, value in enumerate([*sample.values, "NULL"]):
        with suppress(psycopg.DataError):  # a value that this server does not take
            connection.execute(f'INSERT INTO "t {sample.name}" VALUES ({i}, {value})')


def schema(connection: Connection, types: TypeCatalog, sample: Sample, *, as_text: bool) -> TableSchema:
    name = f"t {sample.name}"
    row = connection.execute(ATTRIBUTE, [f'"{name}"']).fetchone()
    assert row is not None
    oid, type_oid, typmod, dimensions, source = row
    replica = types.replica_type(type_oid, typmod, dimensions, as_text=as_text)
    columns = (Column("id", "INTEGER", "integer"), Column("v", replica.type, source, rule=replica.rule))
    return TableSchema(TableId("public", name), columns, ("id",), Identity.KEY, str(oid))


def snapshot(connection: Connection, table: TableSchema) -> pa.Array:
    columns = ", ".join(snapshot_select(c) for c in table.columns)
    decoder = CopyDecoder(table)
    query = f'COPY (SELECT {columns} FROM "{table.id.name}" ORDER BY id) TO STDOUT (FORMAT binary)'
    with connection.cursor().copy(query) as copy:
        batch = decoder.decode(Payloads.of([bytes(message) for message in copy]))
    assert decoder.complete
    return batch.column("v")


def streamed(frames: list[bytes], table: TableSchema) -> pa.Array:
    made = assembler([table])
    made.feed(frames)
    batch = made.flush()
    assert isinstance(batch, ChangeBatch)
    return batch.changes[0].rows.column("v")


class Replica:
    """Shows values as the replica would."""

    def __init__(self) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'; SET threads = 1")

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def show(self, values: pa.Array, column: Column) -> list[Any]:
        """The values cast to the column's type, then to text."""
        self._connection.register("given", pa.table({"v": values}))
        query = f"SELECT CAST(CAST(v AS {column.type}) AS VARCHAR) FROM given"
        return self._connection.execute(query).fetchall()


def compare(connection: Connection, frames: list[bytes], types: TypeCatalog, sample: Sample, replica: Replica) -> str:
    """What is wrong with this sample, or nothing."""
    table = schema(connection, types, sample, as_text=False)
    if (
        sample.duck
        and table.columns[1].type.split("(")[0] not in {sample.duck.split("(")[0], "TIMESTAMPTZ"}
        and not sample.text
    ):
        return f"is {table.columns[1].type}, not {sample.duck}"
    refused = []
    try:
        loaded = snapshot(connection, table)
    except UnsupportedValue as error:
        refused.append(f"snapshot {error.columns}")
    try:
        followed = streamed(frames, table)
    except UnsupportedValue as error:
        refused.append(f"stream {error.columns}")
    if len(refused) == 1:
        return f"only the {refused[0]} refuses a value"
    if refused and not all("'v'" in r for r in refused):
        return "blames another column"
    if refused:
        table = schema(connection, types, sample, as_text=True)
        loaded, followed = snapshot(connection, table), streamed(frames, table)
    column = table.columns[1]
    if replica.show(loaded, column) != replica.show(followed, column):
        return f"differs between snapshot and stream as {column.type}"
    text = connection.execute(
        f"""SELECT CASE WHEN v IS NOT DISTINCT FROM NULL THEN NULL ELSE format('%s', v) END
        FROM "{table.id.name}" ORDER BY id"""
    ).fetchall()
    if column.type == "VARCHAR" and loaded.to_pylist() != [t for (t,) in text]:
        return "is not the server's own text"
    if loaded.is_null().to_pylist() != [t is None for (t,) in text]:
        return "has NULLs elsewhere"
    return ""


def test_snapshot_and_stream_agree_on_every_type(postgres_any: Database) -> None:
    found: dict[str, str] = {}
    with postgres_any.connect(SUPERUSER) as connection, Replica() as replica:
        for name, value in SESSION_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])
        wanted = [s for s in SAMPLES if s.least <= postgres_any.version]
        made = [s for s in wanted if create(connection, s)]
        connection.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        slot = f"types_{postgres_any.name}"
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        for sample in made:
            fill(connection, sample)
        rows = connection.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes"
            "(%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'everything')",
            [slot],
            binary=True,
        ).fetchall()
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        frames = [encoder.frame(bytes(data)) for (data,) in rows]
        types = TypeCatalog.from_rows(connection.execute(TYPES_QUERY).fetchall())
        for sample in made:
            problem = compare(connection, frames, types, sample, replica)
            if problem:
                found[sample.name] = problem
        assert len(made) > 80
    assert found == {}
