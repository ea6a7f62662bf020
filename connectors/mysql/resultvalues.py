"""The values of one column of a result of the binary protocol, to Arrow, as the binary log's values of it come out.

Text arrives in utf8mb4, whatever the column's character set, and DECIMAL as text. Source: MySQL source documentation,
"Binary Protocol Resultset: Binary Protocol Value" (dev.mysql.com).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columnar
from connectors.columnar import Mask, Offsets
from connectors.mysql import charsets, tablemap, temporal
from connectors.mysql.cellvalues import Values
from connectors.mysql.columnvalues import bits, geometries, vectors
from connectors.mysql.types import Definition
from engine.errors import DecodeError
from engine.schema import Column

_WIDTHS = {
    tablemap.TINY: 1,
    tablemap.SHORT: 2,
    tablemap.YEAR: 2,
    tablemap.INT24: 4,
    tablemap.LONG: 4,
    tablemap.LONGLONG: 8,
    tablemap.FLOAT: 4,
    tablemap.DOUBLE: 8,
}
_INTEGERS = {
    "tinyint": tablemap.TINY,
    "smallint": tablemap.SHORT,
    "mediumint": tablemap.INT24,
    "int": tablemap.LONG,
    "bigint": tablemap.LONGLONG,
}
_EXACT = {
    **{kind: frozenset({number}) for kind, number in _INTEGERS.items()},
    "float": frozenset({tablemap.FLOAT}),
    "double": frozenset({tablemap.DOUBLE}),
    "year": frozenset({tablemap.YEAR}),
    "date": frozenset({tablemap.DATE, tablemap.NEWDATE}),
    "datetime": frozenset({tablemap.DATETIME, tablemap.DATETIME2}),
    "timestamp": frozenset({tablemap.TIMESTAMP, tablemap.TIMESTAMP2}),
    "time": frozenset({tablemap.TIME, tablemap.TIME2}),
    "decimal": frozenset({tablemap.NEWDECIMAL}),
    "bit": frozenset({tablemap.BIT}),
}
"""The types of a result's column by the catalog's type; every other one is a string of bytes."""
_NUMBERS_AND_TIMES = frozenset(number for numbers in _EXACT.values() for number in numbers)
_ARROW = {1: pa.int8(), 2: pa.int16(), 4: pa.int32(), 8: pa.int64()}
_ARROW_UNSIGNED = {1: pa.uint8(), 2: pa.uint16(), 4: pa.uint32(), 8: pa.uint64()}
_DAY = 86_400 * temporal.MICROS
_DATE, _SECONDS, _MICROS = 4, 7, 11
"""Bytes of a date or time value: up to the day, the second, the microsecond. Fewer mean that the rest is zero."""
_TIME_SECONDS, _TIME_MICROS = 8, 12
_SHORT_DECIMAL = 18
_ZERO, _DOT, _MINUS = ord("0"), ord("."), ord("-")


@dataclass(frozen=True, slots=True)
class WireType:
    """A column of a result: its MYSQL_TYPE_* number, and whether it has no sign."""

    type: int
    unsigned: bool

    @property
    def width(self) -> int:
        """Bytes of every value; 0: each one says its length."""
        return _WIDTHS.get(self.type, 0)

    def fits(self, definition: Definition) -> bool:
        """Whether this can be the column that the catalog defines so."""
        exact = _EXACT.get(definition.data_type)
        if exact is None:
            return self.type not in _NUMBERS_AND_TIMES
        return self.type in exact and (definition.data_type not in _INTEGERS or self.unsigned == definition.unsigned)


def decode_values(wire: WireType, definition: Definition, column: Column, values: Values) -> pa.Array:
    """Decode values to an Arrow type that DuckDB reads as the column's replica type, or to strings that it casts.

    Raises DecodeError (or IndexError, ValueError, an Arrow error) for bytes that are none of the type, `Unfit` for a
    value that the replica type cannot hold.
    """
    kind = definition.data_type
    if kind in _INTEGERS:
        sign = "u" if wire.unsigned else "i"
        arrow = (_ARROW_UNSIGNED if wire.unsigned else _ARROW)[wire.width]
        return columnar.fixed(values.at(f"<{sign}{wire.width}"), arrow, values.valid)
    match kind:
        case "float":
            return columnar.fixed(values.at("<f4"), pa.float32(), values.valid)
        case "double":
            return columnar.fixed(values.at("<f8"), pa.float64(), values.valid)
        case "year":
            return columnar.fixed(values.at("<u2").astype(np.int16), pa.int16(), values.valid)
        case "date":
            year, month, day, _ = _moments(values)
            return temporal.date_array(values, year, month, day, text=column.type == "VARCHAR")
        case "datetime" | "timestamp":
            found = temporal.datetime_array(
                values, *_moments(values), definition.fsp if column.type == "VARCHAR" else None
            )
            return found.cast(pa.timestamp("us", tz="UTC")) if column.type == "TIMESTAMPTZ" else found
        case "time":
            return temporal.intervals(values, _durations(values))
        case "decimal":
            return _decimals(values, definition)
        case "bit":
            return _bits(values, definition, column)
        case "vector":
            return vectors(_bytes(values), column)
    if wire.type == tablemap.GEOMETRY:
        return geometries(values)
    if column.type == "BLOB":
        return _bytes(values)
    return charsets.decode("utf8mb4", _bytes(values))


def _bytes(values: Values) -> pa.Array:
    """The values as they are. Rows without one have a place among the others, and no length."""
    return values.raw.binary(values.start, values.length, values.valid)


def _field(values: Values, at: Offsets, dtype: str, there: Mask) -> Offsets:
    """One field of date and time values, 0 where a value ends before it."""
    found = values.raw.at(dtype, at).astype(np.int64)
    return found if bool(there.all()) else np.where(there, found, 0)


def _lengths(values: Values, allowed: tuple[int, ...]) -> tuple[Offsets, Offsets]:
    rows = values.valid_rows()
    start, length = values.start[rows], values.length[rows]
    if not bool(np.isin(length, allowed).all()):
        raise DecodeError("a date or time of a result has an impossible length")
    return start, length


def _clock(values: Values, at: Offsets, seconds: Mask, micros: Mask) -> Offsets:
    """Microseconds of hour, minute, second (a byte each) and microseconds."""
    hour = _field(values, at, "u1", seconds)
    minute = _field(values, at + 1, "u1", seconds)
    second = _field(values, at + 2, "u1", seconds)
    fraction = _field(values, at + 3, "<u4", micros) if bool(micros.any()) else np.zeros(len(at), np.int64)
    if len(hour) and max(int(hour.max()) - 23, int(minute.max()) - 59, int(second.max()) - 59) > 0:
        raise DecodeError("a time of a result is out of range")
    if len(fraction) and int(fraction.max()) >= temporal.MICROS:
        raise DecodeError("a fraction of a second is out of range")
    return ((hour * 60 + minute) * 60 + second) * temporal.MICROS + fraction


def _moments(values: Values) -> tuple[Offsets, Offsets, Offsets, Offsets]:
    """Of the rows that have a value: year, month, day, and microseconds of the day."""
    start, length = _lengths(values, (0, _DATE, _SECONDS, _MICROS))
    dated = length >= _DATE
    year = _field(values, start, "<u2", dated)
    month = _field(values, start + 2, "u1", dated)
    day = _field(values, start + 3, "u1", dated)
    return year, month, day, _clock(values, start + _DATE, length >= _SECONDS, length >= _MICROS)


def _durations(values: Values) -> Offsets:
    """Microseconds of the rows that have a value: a sign, days, and a time of day."""
    start, length = _lengths(values, (0, _TIME_SECONDS, _TIME_MICROS))
    there = length >= _TIME_SECONDS
    negative = _field(values, start, "u1", there)
    days = _field(values, start + 1, "<u4", there)
    micros = days * _DAY + _clock(values, start + 5, there, length >= _TIME_MICROS)
    return np.where(negative != 0, -micros, micros)


def _bits(values: Values, definition: Definition, column: Column) -> pa.Array:
    """BIT: its bytes, the most significant one first."""
    width = (definition.dimension + 7) // 8
    rows = values.valid_rows()
    start = values.start[rows]
    if bool((values.length[rows] != width).any()):
        raise DecodeError("a BIT value has another width than its column")
    numbers = np.zeros(len(start), np.uint64)
    for i in range(width):
        numbers = numbers << np.uint64(8) | values.raw.u8[start + i].astype(np.uint64)
    return bits(values.spread(numbers).astype(np.uint64), column, values.valid)


def _decimals(values: Values, definition: Definition) -> pa.Array:
    """DECIMAL's text: to decimal128 up to 18 digits, further ones as text (which DuckDB casts exactly, or keeps)."""
    precision = 10 if definition.precision is None else definition.precision
    scale = definition.scale or 0
    if precision > _SHORT_DECIMAL:
        return _bytes(values).cast(pa.string())
    rows = values.valid_rows()
    start, end = values.start[rows], values.start[rows] + values.length[rows]
    u8 = values.raw.u8
    negative = u8[start] == _MINUS
    start = start + negative
    digits = end - start - (scale + 1 if scale else 0)
    if len(start) and int(digits.min()) < 1:
        raise DecodeError("a decimal is too short")
    if scale and bool((u8[end - scale - 1] != _DOT).any()):
        raise DecodeError("a decimal has another scale than its column")
    total = np.zeros(len(start), np.int64)
    for place in range(scale):
        total += _digit(u8[end - 1 - place]).astype(np.int64) * 10**place
    last = end - (scale + 2 if scale else 1)
    most = int(digits.max()) if len(digits) else 0
    for place in range(most):
        found = u8[np.maximum(last - place, 0)]
        digit = _digit(found if bool((digits > place).all()) else np.where(digits > place, found, np.uint8(_ZERO)))
        if scale + place < _SHORT_DECIMAL:
            total += digit.astype(np.int64) * 10 ** (scale + place)
        elif bool(digit.any()):
            raise DecodeError("a decimal has more digits than its column")
    words = np.zeros((values.count, 2), np.int64)
    words[rows, 0] = np.where(negative, -total, total)
    words[:, 1] = words[:, 0] >> 63
    null = None if values.valid is None else columnar.bitmap(values.valid)
    return pa.Array.from_buffers(pa.decimal128(precision, scale), values.count, [null, pa.py_buffer(words)])


def _digit(characters: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    digits: npt.NDArray[np.uint8] = characters - np.uint8(_ZERO)
    if len(digits) and int(digits.max()) > 9:
        raise DecodeError("a decimal holds what is no digit")
    return digits
