"""COPY's binary format: rows written by hand, and what damage does."""

from __future__ import annotations

import datetime as dt
import random
import struct
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.copybinary import CopyDecoder, snapshot_select
from connectors.postgres.copystream import Payloads
from engine.errors import DecodeError, EngineError, UnsupportedValue
from engine.schema import Column, TableId, TableSchema

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


def table(*columns: tuple[str, str]) -> TableSchema:
    made = tuple(Column(f"c{i}", kind, source) for i, (kind, source) in enumerate(columns))
    return TableSchema(TableId("public", "t"), made)


def row(*values: bytes | None) -> bytes:
    fields = (b"\xff\xff\xff\xff" if v is None else struct.pack(">i", len(v)) + v for v in values)
    return struct.pack(">h", len(values)) + b"".join(fields)


def numeric(value: str) -> bytes:
    """The send format of numeric: base-10000 digits around the decimal point."""
    sign, digits, exponent = Decimal(value).as_tuple()
    assert isinstance(exponent, int)
    whole = int("".join(map(str, digits))) * 10 ** (exponent % 4)
    weight = exponent // 4
    groups: list[int] = []
    while whole:
        groups.insert(0, whole % 10000)
        whole //= 10000
    weight += len(groups) - 1
    while groups and groups[-1] == 0:
        groups.pop()
    head = struct.pack(">hhHh", len(groups), weight if groups else 0, 0x4000 * sign, max(-exponent, 0))
    return head + struct.pack(f">{len(groups)}h", *groups)


def decode(schema: TableSchema, *rows: bytes) -> pa.RecordBatch:
    decoder = CopyDecoder(schema)
    batch = decoder.decode(Payloads.of([HEADER + rows[0], *rows[1:], TRAILER] if rows else [HEADER + TRAILER]))
    assert decoder.complete
    batch.validate()
    return batch


ALL = [
    ("BIGINT", "bigint", struct.pack(">q", -5), -5),
    ("SMALLINT", "smallint", struct.pack(">h", 7), 7),
    ("UINTEGER", "oid", struct.pack(">I", 2**32 - 1), 2**32 - 1),
    ("DOUBLE", "double precision", struct.pack(">d", 0.1), 0.1),
    ("BOOLEAN", "boolean", b"\x01", True),
    ("DATE", "date", struct.pack(">i", 59), dt.date(2000, 2, 29)),
    ("TIME", "time without time zone", struct.pack(">q", 1), dt.time(0, 0, 0, 1)),
    ("TIMESTAMP", "timestamp without time zone", struct.pack(">q", -1), dt.datetime(1999, 12, 31, 23, 59, 59, 999999)),
    ("INTERVAL", "interval", struct.pack(">qii", -7, 3, 14), (14, 3, -7000)),
    ("UUID", "uuid", bytes(range(16)), UUID(bytes=bytes(range(16)))),
    ("BLOB", "bytea", b"\0\xff", b"\0\xff"),
    ("DECIMAL(12,2)", "numeric(12,2)", numeric("-1234567.89"), Decimal("-1234567.89")),
    ("DECIMAL(38,2)", "numeric(38,2)", b"-1.50", Decimal("-1.50")),
    ("VARCHAR", "character(5)", b"ab   ", "ab   "),
    ("JSON", "jsonb", b'{"a": 1}', '{"a": 1}'),
    ("INTEGER[]", "integer[]", b"{1,NULL}", [1, None]),
]
EVERY = table(*((kind, source) for kind, source, *_ in ALL))
VALUES = row(*(data for *_, data, _ in ALL))
NULLS = row(*[None] * len(ALL))


def test_every_form() -> None:
    expected = {f"c{i}": value for i, (*_, value) in enumerate(ALL)}
    nothing = dict.fromkeys(expected)
    assert decode(EVERY, VALUES, NULLS, VALUES).to_pylist() == [expected, nothing, expected]
    assert decode(EVERY, NULLS).to_pylist() == [nothing]
    assert decode(EVERY).num_rows == 0
    assert decode(EVERY).schema == decode(EVERY, VALUES).schema


def test_rows_come_in_several_calls() -> None:
    decoder = CopyDecoder(table(("SMALLINT", "smallint")))
    one = row(b"\0\1")
    found = [
        decoder.decode(Payloads.of(part)).num_rows for part in ([HEADER], [], [memoryview(one)], [one, one], [TRAILER])
    ]
    assert (found, decoder.complete) == ([0, 0, 1, 2, 0], True)
    with pytest.raises(DecodeError):
        decoder.decode(Payloads.of([one]))


def test_infinities() -> None:
    schema = table(("DATE", "date"), ("TIMESTAMPTZ", "timestamp with time zone"))
    batch = decode(
        schema,
        row(struct.pack(">i", 2**31 - 1), struct.pack(">q", 2**63 - 1)),
        row(struct.pack(">i", -(2**31)), struct.pack(">q", -(2**63))),
    )
    assert batch.column(0).cast(pa.int32()).to_pylist() == [2**31 - 1, -(2**31) + 1]
    assert batch.column(1).cast(pa.int64()).to_pylist() == [2**63 - 1, -(2**63) + 1]


@pytest.mark.parametrize(
    ("kind", "source", "value"),
    [
        ("DECIMAL(12,2)", "numeric(12,2)", struct.pack(">hhHh", 0, 0, 0xC000, 0)),
        ("DECIMAL(12,2)", "numeric(12,2)", struct.pack(">hhHh", 0, 0, 0xD000, 0)),
        ("TIMESTAMP", "timestamp without time zone", struct.pack(">q", 2**63 - 2)),
        ("INTERVAL", "interval", struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)),
        ("INTERVAL", "interval", struct.pack(">qii", -(2**63), -(2**31), -(2**31))),
        ("DECIMAL(38,2)", "numeric(38,2)", b"NaN"),
    ],
)
def test_values_that_do_not_fit(kind: str, source: str, value: bytes) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        decode(table((kind, source)), row(value))
    assert caught.value.columns == ("c0",)


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1) | st.none(), min_size=1, max_size=12), st.integers(0, 18))
def test_any_numeric_of_18_digits(values: list[int | None], scale: int) -> None:
    exact = [None if v is None else Decimal(v).scaleb(-scale) for v in values]
    rows = [row(None if v is None else numeric(f"{v:.{scale}f}")) for v in exact]
    batch = decode(table((f"DECIMAL(18,{scale})", f"numeric(18,{scale})")), *rows)
    assert batch.column(0).to_pylist() == exact


@pytest.mark.parametrize(
    "value",
    [
        b"",
        numeric("123.456"),
        numeric("12345678901"),
        numeric("1" + "0" * 30),
        numeric("1.5") + b"\0\0",
        struct.pack(">hhHhh", 1, 0, 0, 0, 10000),
        struct.pack(">hhHhh", 1, 0, 0, 0, -1),
        struct.pack(">hhHh", -1, 0, 0, 0),
    ],
)
def test_numerics_that_are_none(value: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(table(("DECIMAL(12,2)", "numeric(12,2)")), row(value))


@pytest.mark.parametrize("length", range(len(HEADER) + len(VALUES)))
def test_a_row_cut_short_is_refused(length: int) -> None:
    whole = HEADER + VALUES
    if length == len(HEADER):
        return
    with pytest.raises(DecodeError):
        CopyDecoder(EVERY).decode(Payloads.of([whole[:length], VALUES]))


@pytest.mark.parametrize(
    "messages",
    [
        [b"PGCOPY\n\xff\r\n\0" + b"\0\1\0\0" + bytes(4) + VALUES],
        [VALUES],
        [HEADER + VALUES + b"x"],
        [HEADER + row(b"x")],
        [HEADER, TRAILER, TRAILER],
        [HEADER + TRAILER + VALUES],
    ],
)
def test_malformed_data_is_refused(messages: list[bytes]) -> None:
    decoder = CopyDecoder(EVERY)
    with pytest.raises(DecodeError):
        for message in messages:
            decoder.decode(Payloads.of([message]))


def test_damage_raises_nothing_but_our_errors() -> None:
    chance = random.Random(3)
    for _ in range(500):
        data = bytearray(HEADER + VALUES)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            CopyDecoder(EVERY).decode(Payloads.of([bytes(data), VALUES, NULLS]))
        except EngineError:
            continue


def test_what_is_selected() -> None:
    def select(kind: str, source: str) -> str:
        return snapshot_select(Column('a"b', kind, source))

    assert select("BIGINT", "bigint") == '"a""b"'
    assert select("VARCHAR", "character varying(16)") == '"a""b"'
    assert select("VARCHAR", "character(5)") == '"a""b"'
    assert select("DECIMAL(12,2)", "numeric(12,2)") == '"a""b"::pg_catalog.numeric(12,2)'
    for kind, source in (
        ("VARCHAR", "inet"),
        ("VARCHAR", "numeric"),
        ("JSON", "jsonb"),
        ("INTEGER[]", "integer[]"),
        ("BLOB", "public.geometry"),
    ):
        assert "pg_catalog.format('%s'" in select(kind, source)
