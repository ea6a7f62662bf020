"""Rows of ``COPY (SELECT …) TO STDOUT (FORMAT binary)``, decoded column by column: the snapshot's way of reading.

Source of the formats: PostgreSQL documentation, COPY, "Binary Format", and the types' send functions. Types whose
binary form is simple are sent in it; everything else is sent as the text of the type's output function, which is
what the stream carries too, and goes through the same text decoders.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columnar
from connectors.columnar import Mask, Offsets, Raw
from connectors.postgres.copystream import Payloads
from connectors.postgres.scalar_text import uuid_array
from connectors.postgres.temporal_text import interval_array
from connectors.postgres.text_values import decode_text
from connectors.postgres.type_text import Scalar, parse_type
from connectors.postgres.types import quoted
from connectors.postgres.unfit import Unfit
from engine.errors import DecodeError, UnsupportedValue
from engine.schema import Column, TableSchema

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = len(_SIGNATURE) + 8
_TRAILER = b"\xff\xff"
_EPOCH_DAYS = 10957
_EPOCH_MICROS = _EPOCH_DAYS * 86_400_000_000
_INT32_MAX, _INT64_MAX = (1 << 31) - 1, (1 << 63) - 1
_SHORT_DECIMAL = 18
_PLAIN_TEXT = re.compile(r"text|name|json|bpchar|character varying(\(\d+\))?|character(\(\d+\))?")
_POWERS = 10 ** np.arange(19, dtype=np.int64)
_POSITIVE, _NEGATIVE = 0x0000, 0x4000


class _Form(Enum):
    """How a column's values are sent."""

    FIXED = auto()
    """The type's own binary form, always of one width."""
    NUMERIC = auto()
    BYTES = auto()
    TEXT = auto()


def _form(column: Column) -> _Form:
    node = parse_type(column.type)
    if not isinstance(node, Scalar):
        return _Form.TEXT
    if node.name in _FIXED:
        return _Form.FIXED
    if node.name == "DECIMAL" and node.arguments[0] <= _SHORT_DECIMAL:
        return _Form.NUMERIC
    if node.name == "BLOB" and column.source_type == "bytea":
        return _Form.BYTES
    return _Form.TEXT


def snapshot_select(column: Column) -> str:
    """The SQL expression that reads this column in a snapshot's COPY, as `CopyDecoder` expects it.

    The identifier is quoted and not qualified by a table. ``format('%s', …)`` calls the type's output function, where
    a cast to text may do something else (char(n), inet, xml).
    """
    name = quoted(column.name)
    node = parse_type(column.type)
    if isinstance(node, Scalar) and node.name == "DECIMAL":
        # for a numeric column of this very precision and scale the cast is nothing; for money it is exact
        name = f"{name}::pg_catalog.numeric({node.arguments[0]},{node.arguments[1]})"
    if _form(column) is not _Form.TEXT or _PLAIN_TEXT.fullmatch(column.source_type):
        return name
    return f"CASE WHEN {name} IS NOT DISTINCT FROM NULL THEN NULL ELSE pg_catalog.format('%s', {name}) END"


class CopyDecoder:
    """Decodes the CopyData messages of one COPY, in the order in which they come.

    The SELECT lists `snapshot_select` of every column of `table`, in that order. Every message is one whole row, as
    the server sends them; the first also holds the header, the last is the trailer.
    """

    def __init__(self, table: TableSchema) -> None:
        self._table = table
        self._forms = [_form(c) for c in table.columns]
        self._names = [c.name for c in table.columns]
        self._begun = False
        self.complete = False
        """Whether the trailer was seen. Without it at the end of the data, rows are missing."""

    def decode(self, messages: Payloads) -> pa.RecordBatch:
        """Decode some messages' rows (there may be none); columns as `TableChanges.rows` has them.

        Raises DecodeError for malformed data, UnsupportedValue for a value that its replica type cannot hold.
        """
        raw = Raw(messages.data)
        try:
            return self._rows(raw, *self._framed(raw, messages.starts, messages.ends))
        except IndexError:
            raise DecodeError("a row of COPY data ends too early") from None

    def _framed(self, raw: Raw, start: Offsets, end: Offsets) -> tuple[Offsets, Offsets]:
        """Take off the header and the trailer."""
        if not len(start):
            return start, end
        if self.complete:
            raise DecodeError("COPY data continues behind its end")
        if not self._begun:
            self._begun = True
            start = start.copy()
            start[0] += self._header(raw.u8[int(start[0]) : int(end[0])].tobytes())
        if raw.u8[int(start[-1]) : int(end[-1])].tobytes() == _TRAILER:
            self.complete = True
            start, end = start[:-1], end[:-1]
        filled = end > start
        return start[filled], end[filled]

    @staticmethod
    def _header(first: bytes) -> int:
        """Length of the header. Its flags must be 0 (no oids), its extension is passed over as the format says."""
        if len(first) < _HEADER or not first.startswith(_SIGNATURE):
            raise DecodeError("COPY data does not begin with its header")
        flags = int.from_bytes(first[11:15], "big")
        extension = int.from_bytes(first[15:19], "big")
        if flags or _HEADER + extension > len(first):
            raise DecodeError("the header of COPY data is not understood")
        return _HEADER + extension

    def _rows(self, raw: Raw, at: Offsets, end: Offsets) -> pa.RecordBatch:
        _require(at + 2 <= end)
        if bool((raw.i16(at) != len(self._names)).any()):
            raise DecodeError("a row of COPY data has another number of columns")
        at = at + 2
        arrays = []
        for column, form in zip(self._table.columns, self._forms, strict=True):
            _require(at + 4 <= end)
            length = raw.i32(at)
            at = at + 4
            valid: Mask | None = None
            if len(length) and int(length.min()) < 0:
                valid = length >= 0
                if bool((length[~valid] != -1).any()):
                    raise DecodeError("a value of COPY data has a negative length")
                length = np.where(valid, length, 0)
            _require(at + length <= end)
            arrays.append(self._column(column, form, raw, at, length, valid))
            at = at + length
        if bool((at != end).any()):
            raise DecodeError("a row of COPY data is longer than its columns")
        return pa.RecordBatch.from_arrays(arrays, names=self._names)

    def _column(
        self, column: Column, form: _Form, raw: Raw, at: Offsets, length: Offsets, valid: Mask | None
    ) -> pa.Array:
        try:
            match form:
                case _Form.FIXED:
                    return _fixed(column, raw, at, length, valid)
                case _Form.NUMERIC:
                    return _numeric(column, raw, at, length, valid)
                case _Form.BYTES:
                    return raw.binary(at, length, valid)
                case _:
                    return decode_text(self._table.id, column, raw.binary(at, length, valid))
        except Unfit as unfit:
            raise UnsupportedValue(self._table.id, [column.name], str(unfit)) from None


def _require(holds: Mask) -> None:
    if not bool(holds.all()):
        raise DecodeError("a row of COPY data ends too early")


def _fixed(column: Column, raw: Raw, at: Offsets, length: Offsets, valid: Mask | None) -> pa.Array:
    width, dtype, wrap = _FIXED[column.type]
    if valid is None:
        if bool((length != width).any()):
            raise DecodeError(f"a value of column {column.name} has the wrong length")
        return wrap(raw.at(dtype, at), None)
    if bool((length[valid] != width).any()):
        raise DecodeError(f"a value of column {column.name} has the wrong length")
    values = np.zeros(len(at), dtype)
    values[valid] = raw.at(dtype, at[valid])
    return wrap(values, valid)


_Values = npt.NDArray[np.generic]
_Wrap = Callable[[_Values, Mask | None], pa.Array]


def _plain(kind: pa.DataType) -> _Wrap:
    return lambda values, valid: columnar.fixed(values.astype(values.dtype.newbyteorder("=")), kind, valid)


def _booleans(values: _Values, valid: Mask | None) -> pa.Array:
    return columnar.booleans(values != 0, valid)


def _dates(values: _Values, valid: Mask | None) -> pa.Array:
    days = values.astype(np.int64)
    moved = days + _EPOCH_DAYS
    moved[days == _INT32_MAX] = _INT32_MAX
    moved[days == -_INT32_MAX - 1] = -_INT32_MAX
    return columnar.fixed(moved.astype(np.int32), pa.date32(), valid)


def _timestamps(kind: pa.DataType) -> _Wrap:
    def wrap(values: _Values, valid: Mask | None) -> pa.Array:
        micros = values.astype(np.int64)
        late = micros > _INT64_MAX - 1 - _EPOCH_MICROS
        infinite = micros == _INT64_MAX
        if bool((late & ~infinite).any()):
            raise Unfit("the time lies outside of the replica's range")
        moved = micros + np.where(late, 0, _EPOCH_MICROS)
        moved[micros == -_INT64_MAX - 1] = -_INT64_MAX
        return columnar.fixed(moved, kind, valid)

    return wrap


def _intervals(values: _Values, valid: Mask | None) -> pa.Array:
    parts = values.view(np.dtype([("micros", ">i8"), ("days", ">i4"), ("months", ">i4")]))
    micros, days = parts["micros"].astype(np.int64), parts["days"].astype(np.int64)
    months = parts["months"].astype(np.int64)
    # PostgreSQL 17: all three parts at the same end of their ranges
    top = (micros == _INT64_MAX) & (days == _INT32_MAX) & (months == _INT32_MAX)
    bottom = (micros == -_INT64_MAX - 1) & (days == -_INT32_MAX - 1) & (months == -_INT32_MAX - 1)
    if bool((top | bottom).any()):
        raise Unfit("INTERVAL has no infinity")
    return interval_array(months, days, micros, valid)


def _uuids(values: _Values, valid: Mask | None) -> pa.Array:
    return uuid_array(values.view(np.uint8).reshape(-1, 16), valid)


_FIXED: dict[str, tuple[int, str, _Wrap]] = {
    "BOOLEAN": (1, "u1", _booleans),
    "SMALLINT": (2, ">i2", _plain(pa.int16())),
    "INTEGER": (4, ">i4", _plain(pa.int32())),
    "BIGINT": (8, ">i8", _plain(pa.int64())),
    "UINTEGER": (4, ">u4", _plain(pa.uint32())),
    "FLOAT": (4, ">f4", _plain(pa.float32())),
    "DOUBLE": (8, ">f8", _plain(pa.float64())),
    "DATE": (4, ">i4", _dates),
    "TIME": (8, ">i8", _plain(pa.time64("us"))),
    "TIMESTAMP": (8, ">i8", _timestamps(pa.timestamp("us"))),
    "TIMESTAMPTZ": (8, ">i8", _timestamps(pa.timestamp("us", tz="UTC"))),
    "INTERVAL": (16, "V16", _intervals),
    "UUID": (16, "V16", _uuids),
}
"""Per replica type: bytes per value, how they are gathered, and how they become Arrow."""


def _numeric(column: Column, raw: Raw, at: Offsets, length: Offsets, valid: Mask | None) -> pa.Array:
    """Numeric of at most 18 digits: base-10000 digits with a weight, a sign and a display scale."""
    node = parse_type(column.type)
    assert isinstance(node, Scalar)
    precision, scale = node.arguments
    rows = np.arange(len(at)) if valid is None else np.flatnonzero(valid)
    start, size = at[rows], length[rows]
    _require(size >= 8)
    digits, weight = raw.i16(start), raw.i16(start + 2)
    sign = raw.at(">u2", start + 4)
    if bool(((sign != _POSITIVE) & (sign != _NEGATIVE)).any()):
        raise Unfit("NaN and infinity are no DECIMAL")
    if bool(((digits < 0) | (size != 8 + 2 * digits)).any()):
        raise DecodeError(f"a value of column {column.name} has the wrong length")
    total = np.zeros(len(rows), np.int64)
    for place in range(int(digits.max(initial=0))):
        some = digits > place
        which = slice(None) if bool(some.all()) else np.flatnonzero(some)
        digit = raw.i16(start[which] + (8 + 2 * place))
        power = 4 * (weight[which] - place) + scale
        if bool(((digit < 0) | (digit > 9999) | (power < -4) | (power >= _SHORT_DECIMAL)).any()) or bool(
            (digit >= _POWERS[_SHORT_DECIMAL - np.maximum(power, 0)]).any()
        ):
            raise DecodeError(f"a value of column {column.name} is no numeric of its precision")
        total[which] += _scaled(digit, power)
    if bool((total >= _POWERS[precision]).any()):
        raise DecodeError(f"a value of column {column.name} is no numeric of its precision")
    total = np.where(sign == _NEGATIVE, -total, total)
    words = np.zeros((len(at), 2), np.int64)
    words[rows, 0], words[rows, 1] = total, total >> 63
    null = None if valid is None or bool(valid.all()) else columnar.bitmap(valid)
    return pa.Array.from_buffers(pa.decimal128(precision, scale), len(at), [null, pa.py_buffer(words)])


def _scaled(digit: Offsets, power: Offsets) -> Offsets:
    """Digit · 10^power, exactly; a negative power must leave nothing behind."""
    if int(power.min(initial=0)) >= 0:
        return digit * _POWERS[power]
    divisor = _POWERS[np.maximum(-power, 0)]
    if bool((digit % divisor != 0).any()):
        raise DecodeError("a numeric has more digits than its scale")
    return digit // divisor * _POWERS[np.maximum(power, 0)]
