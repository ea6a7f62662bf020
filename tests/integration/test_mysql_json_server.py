"""Binary JSON from the binary log, beside the text that the server itself prints for the same document."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator

import pytest

from connectors.mysql.events import PARTIAL_UPDATE_ROWS
from engine.changes import Op
from tests.support.mysql_rowlog import decode_events, definitions_of, end_of_log, read_row_events
from tests.support.servers import MySqlDatabase
from tests.support.servers.roles import ROOT

TEXTS = [
    *("null", "true", "false", "0", "-1", '""', "[]", "{}", "[[]]", '{"": {}}', '[null, true, false, {"a": [1]}]'),
    *("32767", "-32768", "32768", "65535", "65536", "-32769", "2147483647", "-2147483648", "4294967295"),
    *("9223372036854775807", "-9223372036854775808", "18446744073709551615", "18446744073709551616"),
    r'"\b\t\n\f\r\"\\\/\u0000\u001f\u007f\u00e9\u20ac\ud83d\ude00 ü"',
    '{"b": 1, "aa": 2, "a": 3, "é": 4, "zz": 5, "": 6, "k\\"\\n": 7}',
    "[32767, -32768, 65535, 2147483647, 4294967295, -2147483648, 1.5, true, null]",
    json.dumps({f"key{i}": i for i in range(300)}),
    json.dumps(["x" * n for n in (0, 1, 127, 128, 16383, 16384, 70000)]),
    json.dumps({"wide": ["y" * 70000], "n": [7, 70000, -70000, 4294967295, 65535]}),
    "[" * 99 + "1" + "]" * 99,
]
NUMBERS = [
    *(0.0, -0.0, 1.0, -1.5, 0.1, 1 / 3, 100.0, 1e14, 123456789012345.0, 999999999999999.0, 1e15, 1e16, 123456789012345678.0),
    *(1234567890123456.5, 12345678901234.5, 1e-4, 1e-5, 1.5e-14, 1e-14, 1.25e-15, 1e-15, 1e-16, 1e100, 1.7e308, 5e-324),
    *(2.2250738585072014e-308, 2251799813685248.5, 9007199254740993.0, 0.30000000000000004, 1e22, 1e23),
]  # fmt: skip
OPAQUE = [
    *("CAST('2015-01-15' AS DATE)", "CAST('0000-00-00' AS DATE)", "CAST('9999-12-31 23:59:59.999999' AS DATETIME(6))"),
    *("TIMESTAMP('2015-01-15 23:24:25.12')", "CAST('0000-00-00 00:00:00' AS DATETIME)", "CAST('-838:59:59' AS TIME)"),
    *("CAST('23:24:25.000001' AS TIME(6))", "CAST('-00:00:00.5' AS TIME(6))", "CAST('838:59:59' AS TIME(3))"),
    *("CAST(1.50 AS DECIMAL(10,2))", "CAST(-1.50 AS DECIMAL(10,2))", "CAST(0 AS DECIMAL(10,2))"),
    *("CAST(-0.001 AS DECIMAL(5,3))", "CAST('123456789012345678901234567890.12345678901234567890' AS DECIMAL(65,30))"),
    *("CAST(REPEAT('9', 65) AS DECIMAL(65,0))", "CAST('-0.000000001' AS DECIMAL(10,9))", "12345678901234567890.5", "-7.0"),
    *("x'00ff80'", "REPEAT(x'ab', 100)", "b'1010'", "CAST('abc' AS BINARY(5))", "CAST(2024 AS YEAR)", "1e0", "1e-20"),
    *("ST_GeomFromText('POINT(1 2)')", "CAST(1.1 AS FLOAT)", "TRUE", "NULL", "'text'", "18446744073709551615"),
]  # fmt: skip


@pytest.fixture
def documents(mysql: MySqlDatabase) -> Iterator[MySqlDatabase]:
    mysql.execute("CREATE TABLE documents (id int PRIMARY KEY AUTO_INCREMENT, j json)")
    yield mysql
    mysql.execute("DROP TABLE documents")


def printed(database: MySqlDatabase) -> list[str | None]:
    return [text for (text,) in database.execute("SELECT j FROM documents ORDER BY id")]


def logged(database: MySqlDatabase, since: tuple[str, int]) -> list[str | None]:
    events = read_row_events(database, since)
    changes = decode_events(events, definitions_of(database, "documents"), mariadb=False)
    return [
        text
        for text, op in zip(changes.rows.column("j").to_pylist(), changes.ops.to_pylist(), strict=True)
        if op != Op.DELETE
    ]


def assert_equal_texts(found: list[str | None], expected: list[str | None]) -> None:
    assert len(found) == len(expected)
    different = [(a, b) for a, b in zip(found, expected, strict=True) if a != b]
    assert not different, f"{len(different)} differ, the first: {str(different[0])[:500]}"


def test_documents_of_every_shape(documents: MySqlDatabase) -> None:
    since = end_of_log(documents)
    with documents.connect() as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO documents (j) VALUES (%s)", [(text,) for text in TEXTS])
    found = logged(documents, since)
    assert_equal_texts(found, printed(documents))
    assert [json.loads(text) for text in found if text] == [json.loads(text) for text in TEXTS]


def test_doubles(documents: MySqlDatabase) -> None:
    chooser = random.Random(7)
    numbers = list(NUMBERS)
    while len(numbers) < 4000:
        (number,) = struct.unpack("<d", chooser.randbytes(8))
        numbers += [number] if math.isfinite(number) else []
        numbers.append(
            chooser.choice([1, -1])
            * chooser.randrange(10 ** chooser.randrange(1, 18))
            * 10.0 ** chooser.randrange(-25, 8)
        )
    since = end_of_log(documents)
    lists = [numbers[i : i + 100] for i in range(0, len(numbers), 100)]
    with documents.connect() as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO documents (j) VALUES (%s)", [(json.dumps(part),) for part in lists])
    found = logged(documents, since)
    assert_equal_texts(found, printed(documents))
    assert [json.loads(str(text)) for text in found] == lists


def test_values_that_json_has_no_type_for(documents: MySqlDatabase) -> None:
    since = end_of_log(documents)
    with documents.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        for expression in OPAQUE:
            cursor.execute(
                f"INSERT INTO documents (j) VALUES (JSON_ARRAY({expression})), (JSON_OBJECT('k', {expression}))"
            )
            cursor.execute(
                f"INSERT INTO documents (j) SELECT CAST({expression} AS JSON) WHERE %s NOT LIKE '''%%'", (expression,)
            )
    assert_equal_texts(logged(documents, since), printed(documents))


def test_null_in_a_column_that_is_not_null(documents: MySqlDatabase) -> None:
    documents.execute("ALTER TABLE documents MODIFY j json NOT NULL")
    since = end_of_log(documents)
    with documents.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SET sql_mode = ''")
        cursor.execute("INSERT IGNORE INTO documents (j) SELECT NULL UNION ALL SELECT '[1]'")
    assert_equal_texts(logged(documents, since), printed(documents))


def update(chooser: random.Random) -> str:
    """A statement that changes a part of the document: what the server logs in parts."""
    places = [
        "$.a",
        "$.b",
        "$.list[0]",
        "$.list[2]",
        "$.list[last]",
        "$.list[99]",
        '$."k \\"x"',
        "$.deep.er.a",
        "$.deep.er.n",
        "$.é",
    ]
    values = [
        "1",
        "1.5",
        "'text'",
        "NULL",
        "CAST('[1, {\"z\": 2}]' AS JSON)",
        "CAST(1.50 AS DECIMAL(5,2))",
        "REPEAT('x', 300)",
    ]
    calls = []
    for _ in range(chooser.randrange(1, 4)):
        place = chooser.choice(places)
        calls.append((chooser.choice(["JSON_SET", "JSON_REPLACE", "JSON_REMOVE"]), place, chooser.choice(values)))
    expression = "j"
    for function, place, value in calls:
        path = place.replace("\\", "\\\\")
        expression = f"{function}({expression}, '{path}'" + ("" if function == "JSON_REMOVE" else f", {value}") + ")"
    return f"UPDATE documents SET j = {expression}"


def test_partial_updates(documents: MySqlDatabase) -> None:
    chooser = random.Random(11)
    document = {
        "a": 1,
        "b": "two",
        "list": [1, 2, 3, 4],
        'k "x': None,
        "deep": {"er": {"a": "x" * 500}},
        "pad": "y" * 2000,
    }
    documents.execute("INSERT INTO documents (j) VALUES (%s)", (json.dumps(document),))
    since = end_of_log(documents)
    expected: list[str | None] = []
    with documents.connect(ROOT) as connection, connection.cursor() as cursor:
        cursor.execute("SET binlog_row_value_options = 'PARTIAL_JSON', binlog_row_image = 'FULL'")
        for _ in range(300):
            if cursor.execute(update(chooser)):
                cursor.execute("SELECT j FROM documents")
                expected += [text for (text,) in cursor.fetchall()]
    events = read_row_events(documents, since)
    partial = sum(event.type == PARTIAL_UPDATE_ROWS for event in events)
    assert partial > 50, "the server logged whole documents: nothing was tested"
    assert_equal_texts(logged(documents, since), expected)
