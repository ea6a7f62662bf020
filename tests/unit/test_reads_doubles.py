"""Floating point numbers as text: every power of two, where DuckDB's own cast to text goes wrong for some."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from engine.replica.rendering import text_expression


@pytest.mark.parametrize(
    ("kind", "lowest", "beyond", "arrow"), [("double", -1074, 1024, pa.float64()), ("float", -149, 128, pa.float32())]
)
def test_every_power_of_two_reads_back_as_itself(kind: str, lowest: int, beyond: int, arrow: pa.DataType) -> None:
    numbers = [sign * 2.0**exponent for exponent in range(lowest, beyond) for sign in (1, -1)]
    table = pa.table({"x": pa.array([*numbers, 0.0, -0.0], arrow)})
    with duckdb.connect() as con:
        con.register("numbers", table)
        rows = con.execute(f"SELECT x, {text_expression('x', kind)} FROM numbers").fetchall()
    assert len(rows) == len(numbers) + 2
    wrong = [(x, text) for x, text in rows if str(pa.scalar(float(text), arrow).as_py()) != str(x)]
    assert wrong == []
