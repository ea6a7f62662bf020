"""Text bound to the replica's types: a value is cast exactly, or it is refused; nothing in between."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest

from engine.errors import ReplicaError, UnsupportedValue
from engine.replica.binding import Binder, unfit_columns, verify
from engine.schema import Column, TableId

TABLE = TableId("s", "t")


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


def outcome(con: duckdb.DuckDBPyConnection, kind: str, values: pa.Array) -> list[str | None] | str:
    """The values as the replica would hold them, as text; or why they are refused."""
    bound = Binder(con).bind(TABLE, [Column("v", kind, kind)], [values.type])
    rows = pa.RecordBatch.from_arrays([values], names=["c0"])
    try:
        verify(TABLE, bound, rows)
    except UnsupportedValue as error:
        return "digits" if error.columns == ("v",) else "another column"
    con.register("given", rows)
    if unfit_columns(con, "given", bound):
        return "unfit"
    answer = con.execute(f"SELECT CAST({bound[0].expression} AS VARCHAR) FROM given").fetchall()
    return [value for (value,) in answer]


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("INTEGER", ["1", "-22", None], ["1", "-22", None]),
        ("INTEGER", ["1.0", "2"], ["1", "2"]),
        ("INTEGER", ["1", "1.5"], "digits"),
        ("INTEGER", ["15e-1"], "digits"),
        ("INTEGER", ["2147483648"], "unfit"),
        ("UTINYINT", ["-1"], "unfit"),
        ("HUGEINT", ["170141183460469231731687303715884105727"], ["170141183460469231731687303715884105727"]),
        ("BIGINT[]", ["[1, NULL]", "[]"], ["[1, NULL]", "[]"]),
        ("BIGINT[]", ["[1, 1.5]"], "digits"),
        ("DECIMAL(12,2)", ["12.34", "1", "-0.5", "7.100"], ["12.34", "1.00", "-0.50", "7.10"]),
        ("DECIMAL(12,2)", ["12.34", "12.345"], "digits"),
        ("DECIMAL(12,2)", ["1e-3"], "digits"),
        ("DECIMAL(12,2)", ["1e2"], ["100.00"]),
        ("DECIMAL(12,2)", ["NaN"], "unfit"),
        ("DECIMAL(12,0)", ["3.5"], "digits"),
        ("DECIMAL(38,10)", ["1234567890123456789012345678.0123456789"], ["1234567890123456789012345678.0123456789"]),
        ("DECIMAL(38,10)", ["1234567890123456789012345678.01234567891"], "digits"),
        ("DECIMAL(9,2)[]", ["[1.25, 2]"], ["[1.25, 2.00]"]),
        ("DECIMAL(9,2)[]", ["[1.255]"], "digits"),
        ("DATE", ["2024-02-29", "infinity"], ["2024-02-29", "infinity"]),
        ("DATE", ["2024-02-29 10:00:00"], "digits"),
        ("TIMESTAMP", ["2024-01-01 00:00:00.123456", "2024-01-01 00:00:01"], ["2024-01-01 00:00:00.123456", "2024-01-01 00:00:01"]),
        ("TIMESTAMP", ["2024-01-01 00:00:00.1234567"], "digits"),
        ("TIMESTAMP", ["2024-01-01 00:00:00.1234560"], ["2024-01-01 00:00:00.123456"]),
        ("TIMESTAMP_NS", ["2024-01-01 00:00:00.123456789"], ["2024-01-01 00:00:00.123456789"]),
        ("TIMESTAMP_NS", ["2024-01-01 00:00:00.1234567891"], "digits"),
        ("TIME", ["24:00:00", "10:00:00.5"], ["24:00:00", "10:00:00.5"]),
        ("TIME", ["10:00:00.1234567"], "digits"),
        ("INTERVAL", ["1 month", "-838:59:59.999999"], ["1 month", "-838:59:59.999999"]),
        ("BOOLEAN", ["t", "f", None], ["true", "false", None]),
        ("BOOLEAN", ["2"], "unfit"),
        ("UUID", ["x"], "unfit"),
        ("JSON", ['{"a":  1.50}'], ['{"a":  1.50}']),
        ("JSON", ["{"], "unfit"),
        ("DOUBLE", ["1e300", "NaN", "-Infinity"], ["1e+300", "nan", "-inf"]),
        ("VARCHAR", ["1.50", ""], ["1.50", ""]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["string", "large", "sliced", "dictionary"])
def test_text(
    con: duckdb.DuckDBPyConnection, kind: str, given: list[str | None], expected: list[str | None] | str, encoding: str
) -> None:
    values = pa.array(given, pa.string())
    match encoding:
        case "large":
            values = values.cast(pa.large_string())
        case "sliced":
            values = pa.array(["1.99999999999e5:", *given, "1.99999999999e5:"], pa.string()).slice(1, len(given))
        case "dictionary":
            values = values.dictionary_encode()
    assert outcome(con, kind, values) == expected


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        ("INTEGER", pa.int32()),
        ("INTEGER", pa.int64()),
        ("DECIMAL(12,4)", pa.decimal128(10, 2)),
        ("DECIMAL(12,4)", pa.int16()),
        ("DOUBLE", pa.float32()),
        ("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "UTC")),
        ("TIMESTAMPTZ", pa.timestamp("us", "UTC")),
        ("TIMESTAMP_NS", pa.timestamp("ns")),
        ("BLOB", pa.large_binary()),
        ("FLOAT[3]", pa.list_(pa.float32(), 3)),
        ("BIGINT", pa.null()),
    ],
)
def test_arrow_types_that_keep_every_value(con: duckdb.DuckDBPyConnection, kind: str, arrow: pa.DataType) -> None:
    Binder(con).bind(TABLE, [Column("v", kind, kind)], [arrow])


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        ("INTEGER", pa.float64()),
        ("DECIMAL(12,2)", pa.decimal128(12, 3)),
        ("DECIMAL(12,2)", pa.float64()),
        ("TIMESTAMP", pa.timestamp("ns")),
        ("TIMESTAMP", pa.timestamp("us", "UTC")),
        ("DATE", pa.timestamp("us")),
        ("FLOAT", pa.float64()),
        ("BLOB", pa.string()),
        ("VARCHAR", pa.int64()),
        ("VARCHAR", pa.binary()),
    ],
)
def test_arrow_types_that_could_change_a_value(con: duckdb.DuckDBPyConnection, kind: str, arrow: pa.DataType) -> None:
    with pytest.raises(ReplicaError, match="arrived as Arrow"):
        Binder(con).bind(TABLE, [Column("v", kind, kind)], [arrow])
