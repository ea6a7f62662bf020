"""Results of the binary protocol come out the same however the network cuts them, and damage is never passed over."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.mysql.resultset import Mismatch, ResultReader
from connectors.mysql.types import Definition, replica_column
from engine.errors import DecodeError, UnsupportedValue
from engine.schema import TableId, TableSchema
from tests.fixtures.mysql.results import column, moment, result, text

DEFINITIONS = (
    Definition("id", "bigint", "bigint", nullable=False),
    Definition("name", "varchar", "varchar(500)", character_set="latin1"),
    Definition("amount", "decimal", "decimal(12,2)", precision=12, scale=2),
    Definition("at", "datetime", "datetime(6)", fsp=6),
    Definition("data", "longblob", "longblob"),
    Definition("small", "smallint", "smallint unsigned"),
    Definition("flag", "bit", "bit(1)"),
)
WIRES = [column(8), column(253), column(246), column(12), column(252), column(2, unsigned=True), column(16)]
TABLE = TableSchema(TableId("s", "t"), tuple(replica_column(d) for d in DEFINITIONS))

ROWS = st.lists(
    st.tuples(
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.none() | st.text(st.characters(codec="utf-8"), max_size=300),
        st.none() | st.integers(-(10**12) + 1, 10**12 - 1),
        st.none() | st.datetimes(),
        st.none() | st.binary(max_size=20) | st.sampled_from([b"x" * 251, b"y" * 70_000]),
        st.none() | st.integers(0, 65535),
        st.none() | st.booleans(),
    ),
    max_size=40,
)


def encoded(rows: list[tuple[Any, ...]]) -> bytes:
    return result(WIRES, [_cells(*row) for row in rows])


def _cells(key: int, name: Any, cents: Any, at: Any, data: Any, small: Any, flag: Any) -> list[bytes | None]:
    moments = None
    if at is not None:
        parts = (at.year, at.month, at.day, at.hour, at.minute, at.second)
        if at.microsecond:
            moments = moment(*parts, at.microsecond)
        else:
            moments = moment(*(parts if any(parts[3:]) else parts[:3]))
    return [
        struct.pack("<q", key),
        None if name is None else text(name.encode()),
        None if cents is None else text(f"{Decimal(cents).scaleb(-2):.2f}".encode()),
        moments,
        None if data is None else text(data),
        None if small is None else struct.pack("<H", small),
        None if flag is None else text(bytes([flag])),
    ]


def expected(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*row[:2], None if row[2] is None else Decimal(row[2]).scaleb(-2), *row[3:]) for row in rows]


def found(batches: list[pa.RecordBatch]) -> list[tuple[Any, ...]]:
    return [row for batch in batches for row in zip(*(c.to_pylist() for c in batch.columns), strict=True)]


@settings(max_examples=60)
@given(rows=ROWS, cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=12))
def test_any_cut_gives_the_same_rows(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    data = encoded(rows)
    reader = ResultReader(TABLE, DEFINITIONS)
    batches: list[pa.RecordBatch] = []
    at = step = 0
    while at < len(data):
        size = cuts[step % len(cuts)]
        reader.feed(data[at : at + size])
        at, step = at + size, step + 1
        while (batch := reader.take()) is not None:
            batches.append(batch)
        assert reader.ended == (at >= len(data))
        if at >= len(data):
            assert reader.may_be_complete
    assert found(batches) == expected(rows)


@settings(max_examples=150)
@given(
    rows=ROWS.filter(bool), place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), cut=st.integers(0, 8)
)
def test_damage_ends_in_a_typed_error_or_in_well_formed_rows(
    rows: list[tuple[Any, ...]], place: float, change: int, cut: int
) -> None:
    data = bytearray(encoded(rows))
    data[int(place * len(data))] ^= change
    reader = ResultReader(TABLE, DEFINITIONS)
    reader.feed(bytes(data[: len(data) - cut]))
    taken = 0
    try:
        while (batch := reader.take()) is not None:
            batch.validate(full=True)
            taken += batch.num_rows
    except (DecodeError, UnsupportedValue, Mismatch):
        return
    assert taken <= len(rows)
    # Only what is within a value can go unnoticed; a result that is cut is not complete.
    assert not (cut and reader.ended and reader.failure is None)
