"""Results of the binary protocol, value by value, from bytes written by the documented format."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from connectors.mysql.resultset import Failure, Mismatch, ResultReader
from connectors.mysql.types import Definition, replica_column
from engine.errors import DecodeError, UnsupportedValue
from engine.schema import TableId, TableSchema
from tests.fixtures.mysql.results import EOF, Packets, column, duration, error, lenenc, moment, result, row, text

TINY, SHORT, LONG, FLOAT, DOUBLE, TIMESTAMP, LONGLONG, INT24 = 1, 2, 3, 4, 5, 7, 8, 9
DATE, TIME, DATETIME, YEAR, BIT, JSON, NEWDECIMAL, BLOB, VAR_STRING, STRING = (
    10,
    11,
    12,
    13,
    16,
    245,
    246,
    252,
    253,
    254,
)
VECTOR, GEOMETRY = 242, 255


def define(data_type: str, column_type: str | None = None, **fields: Any) -> Definition:
    return Definition("c", data_type, column_type or data_type, **fields)


def reader(*definitions: Definition) -> ResultReader:
    named = [Definition(**{**_fields(d), "name": f"c{i}"}) for i, d in enumerate(definitions)]
    table = TableSchema(TableId("s", "t"), tuple(replica_column(d) for d in named))
    return ResultReader(table, named)


def _fields(definition: Definition) -> dict[str, Any]:
    return {name: getattr(definition, name) for name in definition.__slots__}


def decode(definition: Definition, wire: bytes, cells: list[bytes | None]) -> list[Any]:
    taken = reader(definition)
    taken.feed(result([wire], [[cell] for cell in cells]))
    batch = taken.take()
    assert taken.take() is None
    assert taken.ended
    assert taken.failure is None
    return [] if batch is None else batch.column(0).to_pylist()


@pytest.mark.parametrize(
    "definition, wire, cells, values",
    [
        (define("tinyint"), column(TINY), [b"\x80", None, b"\x7f"], [-128, None, 127]),
        (define("tinyint", "tinyint unsigned"), column(TINY, unsigned=True), [b"\xff"], [255]),
        (define("smallint"), column(SHORT), [b"\x00\x80"], [-32768]),
        (define("mediumint"), column(INT24), [struct.pack("<i", -8388608)], [-8388608]),
        (define("int", "int unsigned"), column(LONG, unsigned=True), [b"\xff\xff\xff\xff"], [4294967295]),
        (define("bigint"), column(LONGLONG), [struct.pack("<q", -(1 << 63))], [-(1 << 63)]),
        (define("bigint", "bigint unsigned"), column(LONGLONG, unsigned=True), [b"\xff" * 8], [(1 << 64) - 1]),
        (define("float"), column(FLOAT), [struct.pack("<f", 0.1), None], [struct.unpack("<f", struct.pack("<f", 0.1))[0], None]),
        (define("double"), column(DOUBLE), [struct.pack("<d", 5e-324)], [5e-324]),
        (define("year"), column(YEAR), [struct.pack("<H", 2155), struct.pack("<H", 0)], [2155, 0]),
        (define("date"), column(DATE), [moment(2024, 2, 29), moment(), None, moment(2024, 0, 1), moment(2023, 2, 29)],
         [date(2024, 2, 29), None, None, None, None]),
        (define("datetime"), column(DATETIME),
         [moment(2024, 1, 2), moment(2024, 1, 2, 3, 4, 5), moment(9999, 12, 31, 23, 59, 59, 999999), moment(), None],
         [datetime(2024, 1, 2), datetime(2024, 1, 2, 3, 4, 5), datetime(9999, 12, 31, 23, 59, 59, 999999), None, None]),
        (define("timestamp"), column(TIMESTAMP), [moment(1970, 1, 1, 0, 0, 1)], [datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)]),
        (define("decimal", precision=5, scale=2), column(NEWDECIMAL),
         [text(b"-0.01"), text(b"999.99"), None, text(b"00012.50"), text(b"0.00")],
         [Decimal("-0.01"), Decimal("999.99"), None, Decimal("12.50"), Decimal("0.00")]),
        (define("decimal", precision=18, scale=0), column(NEWDECIMAL), [text(b"-999999999999999999")], [Decimal(-999999999999999999)]),
        (define("decimal", precision=18, scale=18), column(NEWDECIMAL), [text(b"0.000000000000000001")], [Decimal("1e-18")]),
        (define("decimal", precision=30, scale=2), column(NEWDECIMAL), [text(b"1234567890123456789012345678.91"), None],
         ["1234567890123456789012345678.91", None]),
        (define("bit", "bit(1)"), column(BIT), [text(b"\1"), text(b"\0"), None], [True, False, None]),
        (define("bit", "bit(9)"), column(BIT), [text(b"\1\xff")], [511]),
        (define("bit", "bit(64)"), column(BIT), [text(b"\xff" * 8)], [(1 << 64) - 1]),
        (define("varchar", "varchar(9)", character_set="latin1"), column(VAR_STRING), [text("Grüße €".encode()), None, text(b"")],
         ["Grüße €", None, ""]),
        (define("longblob"), column(BLOB), [text(b"\xff" * 250), text(b"\0" * 251), text(b"x" * 70_000), None, text(b"")],
         [b"\xff" * 250, b"\0" * 251, b"x" * 70_000, None, b""]),
        (define("json"), column(JSON), [text(b'{"a": 1}')], ['{"a": 1}']),
        (define("enum", "enum('a','b')"), column(STRING), [text(b"b"), text(b"")], ["b", ""]),
        (define("uuid"), column(STRING), [text(b"123e4567-e89b-12d3-a456-426655440000")], ["123e4567-e89b-12d3-a456-426655440000"]),
        (define("point"), column(GEOMETRY), [text(b"\0\0\0\0WKB"), None], [b"WKB", None]),
        (define("vector", "vector(2)"), column(VECTOR), [text(struct.pack("<2f", 1, -2.5)), None], [[1.0, -2.5], None]),
    ],
)  # fmt: skip
def test_values(definition: Definition, wire: bytes, cells: list[bytes | None], values: list[Any]) -> None:
    assert decode(definition, wire, cells) == values


def test_times_are_intervals_of_microseconds() -> None:
    cells = [duration(True, 34, 22, 59, 59), duration(False, 0, 0, 0, 0, 1), text(b""), None]
    found = decode(define("time"), column(TIME), cells)
    assert [None if v is None else (v.months, v.days, v.nanoseconds) for v in found] == [
        (0, 0, -(838 * 3600 + 59 * 60 + 59) * 10**9),
        (0, 0, 1000),
        (0, 0, 0),
        None,
    ]


def test_nulls_of_many_columns_and_values_behind_them() -> None:
    count = 19
    kinds = [define("int") if i % 3 else define("varchar", character_set="utf8mb4") for i in range(count)]
    wires = [column(LONG if i % 3 else VAR_STRING) for i in range(count)]
    full = [struct.pack("<i", i) if i % 3 else text(b"v%d" % i) for i in range(count)]
    rows: list[list[bytes | None]] = [
        [None if (i + r) % 5 == 0 else cell for i, cell in enumerate(full)] for r in range(6)
    ]
    rows += [[None] * count, [*full]]
    taken = reader(*kinds)
    taken.feed(result(wires, rows))
    batch = taken.take()
    assert batch is not None
    for r, cells in enumerate(rows):
        got = [batch.column(i)[r].as_py() for i in range(count)]
        assert got == [None if c is None else (i if i % 3 else f"v{i}") for i, c in enumerate(cells)]


def test_rows_of_16_mib_and_more_come_in_several_packets() -> None:
    sizes = [5, (1 << 24) - 1 - 6 - 4, (1 << 24) + 7, 3]
    taken = reader(define("longblob"), define("int"))
    data = result(
        [column(BLOB), column(LONG)], [[text(bytes([i]) * size), struct.pack("<i", i)] for i, size in enumerate(sizes)]
    )
    taken.feed(data)
    seen: list[tuple[int, int]] = []
    while (batch := taken.take()) is not None:
        seen += zip([len(v) for v in batch.column(0).to_pylist()], batch.column(1).to_pylist(), strict=True)
    assert seen == [(size, i) for i, size in enumerate(sizes)]
    assert taken.ended


def test_an_error_in_place_of_a_result_or_behind_rows() -> None:
    refused = reader(define("int"))
    packets = Packets()
    packets.add(error(1146, "Table 's.t' doesn't exist"))
    refused.feed(bytes(packets.data))
    assert refused.take() is None
    assert (refused.ended, refused.failure) == (True, Failure(1146, "Table 's.t' doesn't exist"))
    killed = reader(define("int"))
    killed.feed(result([column(LONG)], [[b"\1\0\0\0"]], end=error(1317, "Query execution was interrupted")))
    batch = killed.take()
    assert batch is not None
    assert batch.num_rows == 1
    assert killed.failure == Failure(1317, "Query execution was interrupted")


@pytest.mark.parametrize(
    "definition, wire",
    [
        (define("int"), column(LONGLONG)),
        (define("int"), column(LONG, unsigned=True)),
        (define("varchar"), column(LONG)),
        (define("datetime"), column(TIMESTAMP)),
        (define("date"), column(VAR_STRING)),
        (define("decimal"), column(DOUBLE)),
    ],
)
def test_a_column_of_another_type_is_a_mismatch(definition: Definition, wire: bytes) -> None:
    taken = reader(definition)
    taken.feed(result([wire], []))
    with pytest.raises(Mismatch):
        taken.take()


def test_a_vector_that_the_replica_cannot_hold() -> None:
    taken = reader(define("vector", "vector(3)"))
    taken.feed(result([column(VECTOR)], [[text(struct.pack("<2f", 1, 2))]]))
    with pytest.raises(UnsupportedValue) as raised:
        taken.take()
    assert raised.value.columns == ("c0",)


def _out_of_order() -> bytes:
    data = bytearray(result([column(LONG)], [[b"\1\0\0\0"], [b"\2\0\0\0"]]))
    data[-9 - 10 + 3] ^= 0x40
    return bytes(data)


@pytest.mark.parametrize(
    "definition, data",
    [
        (define("int"), result([column(LONG), column(LONG)], [])),
        (define("int"), result([column(LONG)], [[b"\1\0\0"]])),
        (define("int"), result([column(LONG)], [[b"\1\0\0\0\0"]])),
        (define("longblob"), result([column(BLOB)], [[b"\5abc"]])),
        (define("longblob"), result([column(BLOB)], [[b"\xfbabc"]])),
        (define("longblob"), result([column(BLOB)], [[b"\xff"]])),
        (define("longblob"), result([column(BLOB)], [[b"\xfe" + b"\xff" * 8]])),
        (define("longtext", character_set="utf8mb4"), result([column(BLOB)], [[text(b"\xff\xfe")]])),
        (define("decimal", precision=5, scale=2), result([column(NEWDECIMAL)], [[text(b"1.2x")]])),
        (define("decimal", precision=5, scale=2), result([column(NEWDECIMAL)], [[text(b"1.234")]])),
        (define("decimal", precision=5, scale=2), result([column(NEWDECIMAL)], [[text(b"")]])),
        (define("date"), result([column(DATE)], [[text(b"\1\2\3")]])),
        (define("date"), result([column(DATE)], [[text(struct.pack("<HBB", 2024, 77, 1))]])),
        (define("datetime"), result([column(DATETIME)], [[moment(2024, 1, 1, 25, 0, 0)]])),
        (define("time"), result([column(TIME)], [[duration(False, 0, 0, 0, 0, 2_000_000)]])),
        (define("bit", "bit(9)"), result([column(BIT)], [[text(b"\1")]])),
        (define("int"), _out_of_order()),
        (define("int"), result([column(LONG)], []) + b"\0\0\0\0\0\0"),
    ],
)
def test_what_is_no_result_is_refused(definition: Definition, data: bytes) -> None:
    taken = reader(definition)
    taken.feed(data)
    with pytest.raises(DecodeError) as raised:
        while not taken.ended:
            if taken.take() is None and not taken.ended:
                pytest.fail("not noticed")
    assert "abc" not in str(raised.value)


def test_lengths_are_written_as_documented() -> None:
    assert [lenenc(n)[0] for n in (250, 251, 1 << 16, 1 << 24)] == [250, 252, 253, 254]
    assert row([None, b"x"])[:2] == b"\0\4"
    assert EOF[0] == 0xFE
