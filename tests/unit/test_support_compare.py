"""The oracle itself: every type of types.md compares equal when it is, and every kind of difference is found."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator

import duckdb
import psycopg
import pytest

from tests.support.compare import Query, assert_replica_equals, duckdb_query, wait_until_equal
from tests.support.pgtypes import parse_duck_type
from tests.support.servers import SUPERUSER, Database

# Source type, source literals, replica type, replica literals: equal pairwise, NULL is added to each.
TYPES: dict[str, tuple[str, list[str], str, list[str]]] = {
    "smallint": ("int2", ["-32768", "32767"], "SMALLINT", ["-32768", "32767"]),
    "bigint": ("int8", ["-9223372036854775808"], "BIGINT", ["-9223372036854775808"]),
    "oid": ("oid", ["4294967295"], "UINTEGER", ["4294967295"]),
    "numeric": (
        "numeric(38,10)",
        ["1.5", "-9999999999999999999999999999.9999999999", "0"],
        "DECIMAL(38,10)",
        ["1.5", "-9999999999999999999999999999.9999999999", "0"],
    ),
    "numeric text": ("numeric", ["'NaN'", "1.500", "'-Infinity'"], "VARCHAR", ["'NaN'", "'1.500'", "'-Infinity'"]),
    "real": (
        "real",
        ["'NaN'", "'infinity'", "3.4028235e38", "1e-45", "'-0'", "16777216", "0.1", "-6.97828e+08"],
        "FLOAT",
        ["'nan'", "'inf'", "3.4028235e38", "1e-45", "'-0.0'", "16777216", "0.1", "-6.97828e+08"],
    ),
    "double": (
        "float8",
        ["'NaN'", "'-infinity'", "1.7976931348623157e308", "5e-324", "'-0'", "1e15", "0.1", "-4.01721403319629e+16"],
        "DOUBLE",
        ["'nan'", "'-inf'", "1.7976931348623157e308", "5e-324", "'-0.0'", "1e15", "0.1", "-4.01721403319629e+16"],
    ),
    "boolean": ("bool", ["true", "false"], "BOOLEAN", ["true", "false"]),
    "uuid": (
        "uuid",
        ["'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"],
        "UUID",
        ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    ),
    "bytea": ("bytea", [r"'\x'", r"'\x00ff5c0a09'"], "BLOB", ["''", r"'\x00\xff\x5c\x0a\x09'"]),
    "date": (
        "date",
        ["'2024-02-29'", "'0044-03-15 BC'", "'infinity'", "'-infinity'", "'12345-06-07'", "'0099-01-01'"],
        "DATE",
        ["'2024-02-29'", "'0044-03-15 (BC)'", "'infinity'", "'-infinity'", "'12345-06-07'", "'0099-01-01'"],
    ),
    "timestamp": (
        "timestamp",
        ["'2024-02-29 12:00:00.1'", "'0044-03-15 01:02:03.000004 BC'", "'infinity'", "'12345-06-07 00:00'"],
        "TIMESTAMP",
        ["'2024-02-29 12:00:00.1'", "'0044-03-15 (BC) 01:02:03.000004'", "'infinity'", "'12345-06-07 00:00:00'"],
    ),
    "timestamptz": (
        "timestamptz",
        ["'2024-02-29 12:00:00.1+05:30'", "'0044-03-15 01:02:03+00 BC'", "'-infinity'", "'12345-06-07 00:00+00'"],
        "TIMESTAMPTZ",
        ["'2024-02-29 06:30:00.1+00'", "'0044-03-15 (BC) 01:02:03+00'", "'-infinity'", "'12345-06-07 00:00:00+00'"],
    ),
    "time": ("time", ["'24:00:00'", "'00:00:00.000001'"], "TIME", ["'24:00:00'", "'00:00:00.000001'"]),
    "timetz": ("timetz", ["'12:00:00.5+05:30:15'"], "TIMETZ", ["'12:00:00.5+05:30:15'"]),
    "timetz text": ("timetz", ["'24:00:00-12'"], "VARCHAR", ["'24:00:00-12'"]),
    "interval": (
        "interval",
        ["'0'", "'1 mon'", "'-14 mons +3 days -04:05:06.7'", "'1000:00:00'", "'-1 days +1 sec'", "'2 years 1 day'"],
        "INTERVAL",
        [
            "'0 days'",
            "'1 month'",
            "'-14 months 3 days -04:05:06.7'",
            "'1000 hours'",
            "'-1 days 00:00:01'",
            "'24 months 1 day'",
        ],
    ),
    "json": ("json", ["""'{"b": 1,  "a":"\\n"}'""", "'null'"], "JSON", ["""'{"b": 1,  "a":"\\n"}'""", "'null'"]),
    "jsonb": ("jsonb", ["""'{"b":1,"a":[]}'"""], "JSON", ["""'{"a": [], "b": 1}'"""]),
    "text": (
        "text",
        ["''", r"E'tab\there\nand \\ \r\b\f\x0b'", "'ünï ☃ 🦆'", r"'\N'", "'NULL'"],
        "VARCHAR",
        ["''", r"E'tab\there\nand \\ \r\b\f' || chr(11)", "'ünï ☃ 🦆'", r"'\N'", "'NULL'"],
    ),
    "char": ("char(5)", ["'ab'"], "VARCHAR", ["'ab   '"]),
    "money": ("money", ["'-1234567.89'", "'0.05'"], "DECIMAL(19,2)", ["-1234567.89", "0.05"]),
    "inet": ("inet", ["'10.0.0.1/8'"], "VARCHAR", ["'10.0.0.1/8'"]),
    "range": ("int4range", ["'[1,5)'", "'empty'"], "VARCHAR", ["'[1,5)'", "'empty'"]),
    "bit": ("varbit", ["B'0101'"], "BIT", ["'0101'"]),
    "enum": ("mood", ["'it''s ok'"], "VARCHAR", ["'it''s ok'"]),
    "domain": ("positive", ["7"], "INTEGER", ["7"]),
    "array": (
        "int4[]",
        ["'{}'", "'{1,NULL,-3}'", "'[2:3]={4,5}'"],
        "INTEGER[]",
        ["[]", "[1, NULL, -3]", "[4, 5]"],
    ),
    "array of text": (
        "text[]",
        [r"""ARRAY['a"b', 'c\d', '', 'NULL', NULL, 'e,f', '{g}', E'h\ti', ' j ']"""],
        "VARCHAR[]",
        [r"""['a"b', 'c\d', '', 'NULL', NULL, 'e,f', '{g}', E'h\ti', ' j ']"""],
    ),
    "array of arrays": ("int4[][]", ["'{{1,2},{NULL,4}}'"], "INTEGER[][]", ["[[1, 2], [NULL, 4]]"]),
    "array of floats": (
        "float8[]",
        ["'{NaN,-0,0.1,-4.01721403319629e+16,NULL}'"],
        "DOUBLE[]",
        ["['nan'::DOUBLE, '-0.0'::DOUBLE, 0.1, -4.01721403319629e+16, NULL]"],
    ),
    "array of bytea": ("bytea[]", [r"""ARRAY['\x00ff'::bytea, NULL]"""], "BLOB[]", [r"['\x00\xff'::BLOB, NULL]"]),
    "array of timestamptz": (
        "timestamptz[]",
        ["'{2024-01-01 00:00:00+01,infinity}'"],
        "TIMESTAMPTZ[]",
        ["['2023-12-31 23:00:00+00'::TIMESTAMPTZ, 'infinity'::TIMESTAMPTZ]"],
    ),
    "composite": (
        "pair",
        ["""ROW('a "b", (c\\)', 1.5, '{1,NULL}')""", "ROW('', NULL, NULL)", "ROW(NULL, NULL, NULL)"],
        'STRUCT("a b" VARCHAR, f DOUBLE, l INTEGER[])',
        [
            """{'a b': 'a "b", (c\\)', 'f': 1.5, 'l': [1, NULL]}""",
            "{'a b': '', 'f': NULL, 'l': NULL}",
            "{'a b': NULL, 'f': NULL, 'l': NULL}",
        ],
    ),
    "array of composites": (
        "pair[]",
        ["""ARRAY[ROW('x,y', 1, NULL)::pair, NULL]"""],
        'STRUCT("a b" VARCHAR, f DOUBLE, l INTEGER[])[]',
        ["[{'a b': 'x,y', 'f': 1, 'l': NULL}, NULL]"],
    ),
    "hstore": (
        "hstore",
        ["""'"a\\"b"=>"1", x=>NULL, "y\\\\"=>""'""", "''"],
        "MAP(VARCHAR, VARCHAR)",
        ["""MAP {'y\\': '', 'a"b': '1', 'x': NULL}""", "MAP {}"],
    ),
}

SETUP = """
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE TYPE mood AS ENUM ('it''s ok', 'sad');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TYPE pair AS ("a b" text, f float8, l int4[]);
"""


@pytest.fixture
def replica() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA public; SET TimeZone = 'America/New_York'")
        yield connection


@pytest.fixture
def query(replica: duckdb.DuckDBPyConnection) -> Query:
    return duckdb_query(replica)


def test_equal_values_of_every_type_compare_equal_and_unequal_ones_do_not(
    postgres: Database, replica: duckdb.DuckDBPyConnection, query: Query
) -> None:
    postgres.superuser(SETUP)
    tables: list[tuple[str, str]] = []
    for number, (name, (pg_type, pg_values, duck_type, duck_values)) in enumerate(TYPES.items()):
        table = f"t{number}"
        tables.append((name, table))
        postgres.execute(f"CREATE TABLE {table} (i int PRIMARY KEY, v {pg_type}, w int DEFAULT 1)")
        replica.execute(f"CREATE TABLE public.{table} (i INTEGER, v {duck_type}, w INTEGER DEFAULT 1)")
        for i, (pg_value, duck_value) in enumerate(zip([*pg_values, "NULL"], [*duck_values, "NULL"], strict=True)):
            postgres.execute(f"INSERT INTO {table} VALUES ({i}, {pg_value})")
            replica.execute(f"INSERT INTO public.{table} VALUES ({i}, {duck_value}, 1)")
    with postgres.connect(SUPERUSER) as source:
        counts = assert_replica_equals(source, query)
        assert sum(counts.values()) == sum(len(case[1]) + 1 for case in TYPES.values())
        # Give the first row NULL in place of its value, and the NULL row the first value: both must be found.
        for name, table in tables:
            replica.execute(f"UPDATE public.{table} SET v = NULL WHERE i = 0")
            with pytest.raises(AssertionError, match="1 only at the source, 1 only in the replica") as caught:
                assert_replica_equals(source, query, [table])
            assert "replica NULL" in str(caught.value), name
            first = TYPES[name][3][0]
            last = len(TYPES[name][3])
            replica.execute(f"UPDATE public.{table} SET v = {first} WHERE i IN (0, {last})")
            with pytest.raises(AssertionError, match=f"differs at i='{last}'"):
                assert_replica_equals(source, query, [table])


@pytest.fixture
def orders(postgres: Database, replica: duckdb.DuckDBPyConnection) -> Database:
    postgres.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, note text, price float8);"
        " INSERT INTO orders VALUES (1, 'a', 1.5), (2, '', 2.5), (3, NULL, 3.5);"
        " CREATE TABLE log (line text); INSERT INTO log VALUES ('x'), ('x'), ('y')"
    )
    replica.execute(
        "CREATE TABLE public.orders (id INTEGER, note VARCHAR, price DOUBLE);"
        " INSERT INTO public.orders VALUES (3, NULL, 3.5), (1, 'a', 1.5), (2, '', 2.5);"
        " CREATE TABLE public.log (line VARCHAR); INSERT INTO public.log VALUES ('x'), ('y'), ('x')"
    )
    return postgres


def test_order_does_not_matter(orders: Database, query: Query) -> None:
    assert assert_replica_equals(orders.conninfo(), query) == {"public.log": 3, "public.orders": 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE orders SET note = 'b' WHERE id = 1", "differs at id='1':\n    note: source 'a', replica 'b'"),
        ("UPDATE orders SET note = NULL WHERE id = 2", "note: source '', replica NULL"),
        ("UPDATE orders SET note = '' WHERE id = 3", "note: source NULL, replica ''"),
        ("UPDATE orders SET note = '\\N' WHERE id = 3", r"note: source NULL, replica '\\\\N'"),
        ("UPDATE orders SET note = 'a ' WHERE id = 1", "note: source 'a', replica 'a '"),
        ("UPDATE orders SET price = 1.5000000000000002 WHERE id = 1", "source 1.5, replica 1.5000000000000002"),
        ("DELETE FROM orders WHERE id = 1", "missing in the replica: id='1', note='a', price=1.5"),
        ("INSERT INTO orders VALUES (4, 'd', 4)", "not at the source: id='4', note='d', price=4.0"),
        ("INSERT INTO orders SELECT * FROM orders WHERE id = 1", "3 rows at the source, 4 in the replica"),
        ("INSERT INTO log VALUES ('y')", "not at the source: line='y'"),
        ("DELETE FROM log WHERE rowid = 0", "missing in the replica: line='x'"),
        ("UPDATE log SET line = 'y' WHERE rowid = 0", "0 only at the source"),
        ("ALTER TABLE orders ADD COLUMN extra INTEGER", "only in the replica ['extra']"),
        ("ALTER TABLE orders DROP COLUMN note", "only in the source ['note']"),
        ("ALTER TABLE orders ALTER price TYPE FLOAT", "float8 must not be FLOAT"),
        ("ALTER TABLE orders ALTER id TYPE VARCHAR", "int4 must not be VARCHAR"),
        ("DROP TABLE log", "only in the source [('public', 'log')]"),
        ("CREATE TABLE more (i INTEGER)", "only in the replica [('public', 'more')]"),
    ],
)
def test_every_kind_of_difference_is_found_and_told(
    orders: Database, replica: duckdb.DuckDBPyConnection, query: Query, change: str, message: str
) -> None:
    replica.execute("SET schema = 'public'")
    replica.execute(change)
    with pytest.raises(AssertionError) as caught:
        assert_replica_equals(orders.conninfo(), query)
    if "0 only at" in message:
        assert "log: 3 rows at the source, 3 in the replica; 1 only at the source, 1 only" in str(caught.value)
    else:
        assert message in str(caught.value)


def test_text_by_exception_must_be_named(orders: Database, replica: duckdb.DuckDBPyConnection, query: Query) -> None:
    replica.execute("ALTER TABLE public.orders ALTER id TYPE VARCHAR")
    assert_replica_equals(orders.conninfo(), query, as_text={"public.orders.id"})


def test_excluded_columns_are_not_expected(orders: Database, replica: duckdb.DuckDBPyConnection, query: Query) -> None:
    replica.execute("ALTER TABLE public.orders DROP COLUMN note")
    assert_replica_equals(orders.conninfo(), query, exclude={"public.orders": ["note"]})


def test_partitions_count_with_their_root_and_odd_names_are_quoted(
    postgres: Database, replica: duckdb.DuckDBPyConnection, query: Query
) -> None:
    postgres.execute(
        'CREATE SCHEMA "My.Schema"; CREATE TABLE "My.Schema"."a ""b""" ("select" int) PARTITION BY LIST ("select");'
        ' CREATE TABLE p1 PARTITION OF "My.Schema"."a ""b""" FOR VALUES IN (1);'
        ' INSERT INTO "My.Schema"."a ""b""" VALUES (1)'
    )
    replica.execute('CREATE SCHEMA "My.Schema"; CREATE TABLE "My.Schema"."a ""b""" ("select" INTEGER)')
    replica.execute('INSERT INTO "My.Schema"."a ""b""" VALUES (1)')
    assert assert_replica_equals(postgres.conninfo(), query, [("My.Schema", 'a "b"')]) == {'My.Schema.a "b"': 1}
    assert assert_replica_equals(postgres.conninfo(), query) == {'My.Schema.a "b"': 1}


def test_a_wide_table_keeps_its_columns_apart(
    postgres: Database, replica: duckdb.DuckDBPyConnection, query: Query
) -> None:
    names = [f"c{i}" for i in range(130)]
    postgres.execute(f"CREATE TABLE wide ({', '.join(f'{name} int' for name in names)})")
    replica.execute(f"CREATE TABLE public.wide ({', '.join(f'{name} INTEGER' for name in names)})")
    values = ", ".join(str(i) for i in range(130))
    postgres.execute(f"INSERT INTO wide VALUES ({values})")
    replica.execute(f"INSERT INTO public.wide VALUES ({values})")
    assert assert_replica_equals(postgres.conninfo(), query) == {"public.wide": 1}
    replica.execute("UPDATE public.wide SET c90 = 91, c91 = 90")
    with pytest.raises(AssertionError, match="c90='91', c91='90'"):
        assert_replica_equals(postgres.conninfo(), query)


def test_waiting_ends_when_they_agree_and_fails_with_the_difference(
    orders: Database, replica: duckdb.DuckDBPyConnection, query: Query
) -> None:
    replica.execute("DELETE FROM public.log WHERE line = 'y'")
    with pytest.raises(AssertionError, match="missing in the replica: line='y'"):
        wait_until_equal(orders.conninfo(), query, timeout=0.2)
    replica.execute("INSERT INTO public.log VALUES ('y')")
    assert wait_until_equal(orders.conninfo(), query, timeout=5)["public.log"] == 3


def test_floats_agree_by_their_bits(postgres: Database, replica: duckdb.DuckDBPyConnection, query: Query) -> None:
    chance = random.Random(7)
    doubles = [struct.unpack(">d", chance.randbytes(8))[0] for _ in range(5000)] + [2.0**k for k in range(-1074, 1024)]
    singles = [struct.unpack(">f", chance.randbytes(4))[0] for _ in range(5000)] + [2.0**k for k in range(-149, 128)]
    replica.execute("CREATE TABLE public.f (d DOUBLE); CREATE TABLE public.g (d FLOAT)")
    postgres.execute("CREATE TABLE f (d float8); CREATE TABLE g (d float4)")
    for table, values in (("f", doubles), ("g", singles)):
        kept = [v for v in values if v == v]
        replica.execute(f"INSERT INTO public.{table} SELECT unnest(?::DOUBLE[])", [kept])
        with psycopg.connect(postgres.conninfo()) as connection:
            connection.execute(f"INSERT INTO {table} SELECT unnest(%b::float8[])", (kept,))
    assert_replica_equals(postgres.conninfo(), query)


def test_a_large_table_is_compared_quickly(
    postgres: Database, replica: duckdb.DuckDBPyConnection, query: Query
) -> None:
    rows = 300_000
    columns = "i AS id, 'name ' || i AS name, i * 0.5::float8 AS price, DATE '2020-01-01' + (i % 1000)::int AS day"
    postgres.execute(f"CREATE TABLE big AS SELECT {columns} FROM generate_series(1, {rows}) i")
    replica.execute(
        "CREATE TABLE public.big AS SELECT i::INTEGER AS id, 'name ' || i AS name, (i * 0.5)::DOUBLE AS price,"
        f" DATE '2020-01-01' + (i % 1000)::INTEGER AS day FROM range(1, {rows + 1}) t(i)"
    )
    started = time.monotonic()
    assert assert_replica_equals(postgres.conninfo(), query) == {"public.big": rows}
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "text",
    [
        "INTEGER",
        "DECIMAL(5,2)[][]",
        "MAP(VARCHAR, VARCHAR)",
        "TIMESTAMP WITH TIME ZONE[]",
        'STRUCT(x INTEGER, "y ""z"" ,)" TIMESTAMP WITH TIME ZONE[])[]',
        "ENUM('a', 'b,)')[]",
        "FLOAT[3]",
    ],
)
def test_duckdb_type_names_are_read(text: str) -> None:
    duck = parse_duck_type(text)
    while duck.name == "LIST":
        duck = duck.inner[0]
    assert duck.name in text.replace(", ", ",")
    with pytest.raises(ValueError, match="cannot read"):
        parse_duck_type(text + ")")
