"""Values of one column as the replica holds them, and as a server's own text says they must be."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from engine.schema import Column
from tests.support.mysql_samples import Sample


def replicated(column: Column, values: pa.Array) -> list[object]:
    """The values that DuckDB holds in a column of the replica's type; intervals in microseconds, JSON as its text."""
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("given", pa.table({"n": pa.array(range(len(values))), "v": values}))
        con.execute(f"CREATE TABLE replica AS SELECT n, CAST(v AS {column.type}) AS v FROM given")
        shown = {"INTERVAL": "epoch_us(v)", "JSON": "CAST(v AS VARCHAR)"}.get(column.type, "v")
        return [row[0] for row in con.execute(f"SELECT {shown} FROM replica ORDER BY n").fetchall()]


def expected(sample: Sample, column: Column, texts: Sequence[str | None]) -> list[object]:
    """What `replicated` must give, from the texts of the sample's oracle."""
    read = [None if text is None else sample.read(text) for text in texts]
    if column.type == "INTERVAL":
        return [None if v is None else round(v.total_seconds() * 1_000_000) for v in read]  # type: ignore[attr-defined]
    return read


def differences(sample: Sample, way: str, values: Sequence[object], wanted: Sequence[object]) -> list[str]:
    """One line for each value that is not what it must be (nor of the same type, or sign of zero)."""
    return [
        f"{sample.name} {way}: {value!r} is not {want!r}"
        for value, want in zip(values, wanted, strict=True)
        if value != want or str(value) != str(want)
    ]
