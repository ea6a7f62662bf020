"""How the text of a load is stored, as its first rows tell.

DuckDB's own choice for text, a dictionary of FSST symbols, is right where values repeat. Where they hardly do, Zstandard
gives the same size for less of a load's processor time, which text dominates. And what it hardly
halves (hashes, UUIDs, tokens) is kept as it is: compressed, it would take three times as long to write, and to read
each time (measured).
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from engine.schema import TableSchema

ROOMY = 400 << 20
"""DuckDB's memory from which on text may stay as it is: what is written without compression stays in its cache."""
_SAMPLE_ROWS = 10_000
_DISTINCT = _SAMPLE_ROWS // 5
_WORTHWHILE = 2.5
"""By how much a run of values must shrink for them to be compressed. What DuckDB stores shrinks a fifth less."""
_RUN_ROWS = 1_000
_TEXT_TYPES = frozenset({"VARCHAR", "JSON"})


def compressions(layout: TableSchema, rows: pa.Table, memory_limit: int) -> Mapping[int, str]:
    """DuckDB's compression by column index, where it is not left to DuckDB. Columns as in `layout`; many rows tell.

    With a `memory_limit` (bytes) of less than `ROOMY` all text that hardly repeats is compressed.
    """
    if rows.num_rows < _SAMPLE_ROWS:
        return {}
    sample = rows.slice(0, _SAMPLE_ROWS)
    roomy = memory_limit >= ROOMY
    found = {i: _compression(sample.column(i), roomy) for i, c in enumerate(layout.columns) if c.type in _TEXT_TYPES}
    return {i: method for i, method in found.items() if method is not None}


def _compression(values: pa.ChunkedArray, roomy: bool) -> str | None:
    # An encoding (dictionary) says by itself that there are few values.
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return None
    if pc.count_distinct(values).as_py() <= _DISTINCT:
        return None
    return "zstd" if not roomy or _shrinks(values.slice(0, _RUN_ROWS)) else "uncompressed"


def _shrinks(values: pa.ChunkedArray) -> bool:
    text = "".join(v for v in values.to_pylist() if v is not None).encode()
    return len(text) > _WORTHWHILE * len(pa.compress(text, "zstd", asbytes=True))
