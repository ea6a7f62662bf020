"""The last image of each key of a batch, found in Arrow: for batches that fit in memory this costs less than the SQL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.changes import Op
from engine.replica.binding import Bound, is_integer
from engine.replica.entries import Entry, key_indexes


@dataclass(frozen=True, slots=True)
class Reduced:
    """One row per key, the last one, with ``op`` and the columns of the entry.

    `deletes`, `inserts`: the conditions for the rows whose keys are to be deleted first, and for the rows that are to be
    inserted; None when there are none.
    """

    rows: pa.Table
    deletes: str | None
    inserts: str | None


def reduce(entry: Entry) -> Reduced | None:
    """Reduce an entry to the last image per key. None where Arrow may not tell keys apart as DuckDB does."""
    codes = _codes(entry)
    if codes is None:
        return None
    ops = entry.rows.column("op").to_numpy()
    count = int(codes.max()) + 1 if len(codes) else 0
    last = np.empty(count, np.int64)
    # Of several values for one place the last one stays (numpy's rule for repeated indexes).
    last[codes] = np.arange(len(codes), dtype=np.int64)
    known = np.zeros(count, np.bool_)
    known[codes[ops != Op.INSERT]] = True
    rows = entry.rows if count == len(codes) else entry.rows.take(pa.array(last))
    gone = ops[last] == Op.DELETE
    if known.all():
        deletes: str | None = "TRUE"
    elif not known.any():
        deletes = None
    else:
        rows = rows.append_column("known", pa.array(known)) if count < len(codes) else _in_place(rows, codes, known)
        deletes = "known"
    inserts = None if gone.all() else "TRUE" if not gone.any() else f"op <> {Op.DELETE:d}"
    return Reduced(rows, deletes, inserts)


def _in_place(rows: pa.Table, codes: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> pa.Table:
    """Add ``known`` to rows that are still in the order of the events."""
    return rows.append_column("known", pa.array(known[codes]))


def _codes(entry: Entry) -> npt.NDArray[np.int64] | None:
    """Number the distinct keys from 0; None where that cannot be done exactly."""
    codes: npt.NDArray[np.int64] | None = None
    for i in key_indexes(entry.table):
        values = _comparable(entry.rows.column(f"c{i}"), entry.bound[i])
        if values is None:
            return None
        encoded = values.combine_chunks().dictionary_encode()
        column = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        if codes is None:
            codes = column
            continue
        both = pa.array(codes * len(encoded.dictionary) + column).dictionary_encode()
        codes = both.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _comparable(values: pa.ChunkedArray, bound: Bound) -> pa.ChunkedArray | None:
    """The key values in a type in which Arrow and DuckDB agree on what is equal."""
    if values.null_count:
        return None
    if bound.text and is_integer(bound.type):
        try:
            return pc.cast(values, pa.uint64() if bound.type.startswith("U") else pa.int64())
        except pa.ArrowInvalid:
            # Not digits alone, or too many: the CAST in SQL decides.
            return None
    if bound.cast:
        return None
    kind = values.type
    exact = (
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_decimal128(kind)
    )
    return values if exact else None
