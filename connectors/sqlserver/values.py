"""Columns of values from the driver as Arrow arrays. The driver makes one Python object per value; nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from connectors.sqlserver.types import Definition, Kind
from engine.errors import ResyncRequired, UnsupportedValue
from engine.schema import TableId

Values = Sequence[Any]
Convert = Callable[[Values], pa.Array]

_FIRST_NS, _LAST_NS = "1677-09-21 00:12:44", "2262-04-11 23:47:16"
"""What fits 64 bits of nanoseconds, to the whole second. ISO text of four-digit years sorts as time does."""
_MICROSECOND = len("2026-01-01 00:00:00.123456")
_INTEGERS = {"UTINYINT": pa.uint8(), "SMALLINT": pa.int16(), "INTEGER": pa.int32(), "BIGINT": pa.int64()}


class OutOfRange(Exception):
    """A value does not fit the column's replica type."""


def converter(definition: Definition, *, as_text: bool = False) -> Convert:
    """How values that `Definition.expression` gave become an array that DuckDB reads as `Definition.type`.

    The function raises OutOfRange, or pyarrow's errors for values of another type than the definition says.
    """
    kind, declared = definition.kind(as_text=as_text), definition.type(as_text=as_text)
    match kind:
        case Kind.INTEGER:
            return _plain(_INTEGERS[declared])
        case Kind.BOOLEAN:
            return _plain(pa.bool_())
        case Kind.DECIMAL:
            precision, scale = declared[len("DECIMAL(") : -1].split(",")
            return _parsed(pa.decimal128(int(precision), int(scale)))
        case Kind.FLOAT:
            return _plain(pa.float32() if declared == "FLOAT" else pa.float64())
        case Kind.TEXT | Kind.TIME:
            return _plain(pa.string())
        case Kind.BYTES:
            return _plain(pa.binary())
        case Kind.DATE:
            return _parsed(pa.date32())
        case Kind.TIMESTAMP:
            return _microseconds
        case Kind.TIMESTAMP_NS:
            return _nanoseconds
        case Kind.TIMESTAMP_TZ:
            return lambda values: _microseconds(values).view(pa.timestamp("us", "UTC"))


def _plain(kind: pa.DataType) -> Convert:
    return lambda values: pa.array(values, kind)


def _parsed(kind: pa.DataType) -> Convert:
    return lambda values: pc.cast(pa.array(values, pa.string()), kind)


def _microseconds(values: Values) -> pa.Array:
    text = pc.utf8_slice_codeunits(pa.array(values, pa.string()), 0, _MICROSECOND)
    return pc.cast(text, pa.timestamp("us"))


def _nanoseconds(values: Values) -> pa.Array:
    text = pa.array(values, pa.string())
    ends = pc.min_max(text).as_py()
    if ends["min"] is not None and (ends["min"] < _FIRST_NS or ends["max"] >= _LAST_NS):
        raise OutOfRange
    return pc.cast(text, pa.timestamp("ns"))


class RowReader:
    """Turns rows of one table into record batches.

    `columns` are the table's replicated columns, with whether each is kept as text.
    """

    def __init__(self, table: TableId, columns: Sequence[tuple[Definition, bool]]) -> None:
        self._table = table
        self._converters = [(d, converter(d, as_text=as_text)) for d, as_text in columns]
        self._schema_names = [d.name for d, _ in columns]

    def arrays(self, columns: Sequence[Values]) -> list[pa.Array]:
        """Convert whole columns, given in order. Raises UnsupportedValue, or ResyncRequired for another type's values."""
        arrays: list[pa.Array] = []
        beyond: list[str] = []
        for (definition, convert), values in zip(self._converters, columns, strict=True):
            try:
                arrays.append(convert(values))
            except OutOfRange:
                beyond.append(definition.name)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                reason = f"column {definition.name} of {self._table} does not hold {definition.declared} any more"
                raise ResyncRequired(reason, [self._table]) from None
        if beyond:
            raise UnsupportedValue(self._table, beyond, "a value lies outside of the years 1677 to 2262")
        return arrays

    def batch(self, columns: Sequence[Values]) -> pa.RecordBatch:
        """Convert whole columns to a record batch."""
        return pa.RecordBatch.from_arrays(self.arrays(columns), names=self._schema_names)

    def rows(self, rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
        """Convert rows (at least one) to a record batch."""
        return self.batch(list(zip(*rows, strict=True)))
