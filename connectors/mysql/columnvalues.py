"""The values of one column of many row images, to Arrow: which decoder a column's values take.

What the bytes are follows from the table map's type; what they mean (BINARY(16) or UUID, a sign, labels, a character
set) from the catalog, except where the table map says so itself.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columnar
from connectors.mysql import charsets, decimals, json_binary, tablemap, temporal
from connectors.mysql.cellvalues import Values
from connectors.mysql.rowshapes import big, little
from connectors.mysql.tablemap import WireColumn
from connectors.mysql.types import Definition
from engine.errors import DecodeError
from engine.schema import Column


class Unfit(Exception):
    """The replica type cannot hold this value exactly; the message is the stated rule and holds no value."""


_SIGNED = {1: pa.int8(), 2: pa.int16(), 3: pa.int32(), 4: pa.int32(), 8: pa.int64()}
_UNSIGNED = {1: pa.uint8(), 2: pa.uint16(), 3: pa.uint32(), 4: pa.uint32(), 8: pa.uint64()}
_INTEGERS = {tablemap.TINY: 1, tablemap.SHORT: 2, tablemap.INT24: 3, tablemap.LONG: 4, tablemap.LONGLONG: 8}
_COMPRESSED = frozenset({tablemap.BLOB_COMPRESSED, tablemap.VARCHAR_COMPRESSED})
_STRINGS = _COMPRESSED | {
    *(tablemap.VARCHAR, tablemap.VAR_STRING, tablemap.STRING),
    *(tablemap.TINY_BLOB, tablemap.BLOB, tablemap.MEDIUM_BLOB, tablemap.LONG_BLOB),
}
_MOMENTS = {tablemap.TIMESTAMP2: temporal.timestamps, tablemap.DATETIME2: temporal.datetimes}
_OLD_MOMENTS = {tablemap.TIMESTAMP: temporal.old_timestamps, tablemap.DATETIME: temporal.old_datetimes}
_SRID_BYTES = 4
_YEAR_OF_ZERO = 1900


def decode_column(definition: Definition, wire: WireColumn, column: Column, values: Values) -> pa.Array:
    """Decode values to an Arrow type that DuckDB reads as the column's replica type, or to strings that it casts.

    Raises DecodeError (or IndexError, ValueError, an Arrow error) for bytes that are none of the type, `Unfit` for a
    value that the replica type cannot hold.
    """
    kind = wire.type
    if kind in _INTEGERS:
        return _integers(values, _INTEGERS[kind], unsigned=_is_unsigned(definition, wire))
    if kind in _STRINGS:
        return _strings(definition, wire, column, values)
    if kind == tablemap.NEWDECIMAL:
        return decimals.decimals(values, wire.meta >> 8, wire.meta & 0xFF)
    if kind in _MOMENTS:
        return _MOMENTS[kind](values, wire.meta, text=column.type == "VARCHAR")
    if kind in _OLD_MOMENTS:
        return _OLD_MOMENTS[kind](values, definition.fsp, text=column.type == "VARCHAR")
    match kind:
        case tablemap.FLOAT:
            return columnar.fixed(values.at("<f4"), pa.float32(), values.valid)
        case tablemap.DOUBLE:
            return columnar.fixed(values.at("<f8"), pa.float64(), values.valid)
        case tablemap.DATE | tablemap.NEWDATE:
            return temporal.dates(values, text=column.type == "VARCHAR")
        case tablemap.TIME2:
            return temporal.times(values, wire.meta)
        case tablemap.TIME:
            return temporal.old_times(values, definition.fsp)
        case tablemap.YEAR:
            years = values.at("u1").astype(np.int16)
            return columnar.fixed(years + np.where(years, _YEAR_OF_ZERO, 0).astype(np.int16), pa.int16(), values.valid)
        case tablemap.ENUM:
            return _enums(definition, wire, values)
        case tablemap.SET:
            return _sets(definition, wire, values)
        case tablemap.BIT:
            numbers = values.spread(big(values.raw, values.starts(), _bit_bytes(wire.meta)))
            return bits(numbers.view(np.uint64), column, values.valid)
        case tablemap.JSON:
            return json_binary.decode(values.binary())
        case tablemap.GEOMETRY:
            return geometries(values)
        case tablemap.VECTOR:
            return vectors(values.binary(), column)
        case tablemap.NULL:
            return pa.nulls(values.count)
    raise DecodeError("a column has a type that is not understood")


def _is_unsigned(definition: Definition, wire: WireColumn) -> bool:
    return definition.unsigned if wire.unsigned is None else wire.unsigned


def _integers(values: Values, width: int, *, unsigned: bool) -> pa.Array:
    if width == 3:
        wide = little(values.raw, values.starts(), 3)
        if not unsigned:
            wide = (wide ^ 1 << 23) - (1 << 23)
        return columnar.fixed(
            values.spread(wide.astype("u4" if unsigned else "i4")), _of(width, unsigned), values.valid
        )
    return columnar.fixed(values.at(f"<{'u' if unsigned else 'i'}{width}"), _of(width, unsigned), values.valid)


def _of(width: int, unsigned: bool) -> pa.DataType:
    return (_UNSIGNED if unsigned else _SIGNED)[width]


def _bit_bytes(meta: int) -> int:
    return (meta >> 8) + (1 if meta & 0xFF else 0)


def bits(numbers: npt.NDArray[np.uint64], column: Column, valid: columnar.Mask | None) -> pa.Array:
    """BIT values as numbers: BIT(1) is a truth value."""
    if column.type == "BOOLEAN":
        return columnar.booleans(numbers != 0, valid)
    return columnar.fixed(numbers, pa.uint64(), valid)


def _strings(definition: Definition, wire: WireColumn, column: Column, values: Values) -> pa.Array:
    kind = definition.data_type
    data = values.binary()
    if wire.type in _COMPRESSED:
        data = _inflated(data)
    match kind:
        case "binary":
            return _padded(data, definition.octets or 0)
        case "uuid":
            return _uuids(_padded(data, 16))
        case "inet4":
            return _per_distinct(_padded(data, 4), socket.inet_ntoa)
        case "inet6":
            return _per_distinct(_padded(data, 16), lambda b: socket.inet_ntop(socket.AF_INET6, b))
        case "vector":
            return vectors(data, column)
    if column.type == "BLOB":
        return data
    name = charset_of(definition, wire)
    return charsets.decode(name, data)


def charset_of(definition: Definition, wire: WireColumn) -> str:
    """The character set of a text column: the table map's word counts, then the catalog's."""
    if wire.collation is not None:
        return charsets.of_collation(wire.collation)
    if definition.character_set is None:
        raise DecodeError("a text column without a character set")
    return definition.character_set


def _padded(data: pa.Array, width: int) -> pa.Array:
    """Put back the trailing zero bytes that the binary log leaves out of fixed-width binary values."""
    missing = pc.subtract(width, pc.binary_length(data).cast(pa.int64()))
    if not len(data) or not pc.any(pc.not_equal(missing, 0), min_count=0).as_py():
        return data
    if pc.min(missing).as_py() < 0:
        raise DecodeError("a binary value is longer than its column")
    zeros = pa.array([bytes(n) for n in range(width + 1)], data.type).take(missing)
    nothing = pa.scalar(b"", data.type)
    return pc.binary_join_element_wise(data, zeros, nothing)


def _uuids(data: pa.Array) -> pa.Array:
    null = data.buffers()[0] if data.null_count else None
    filled = data.fill_null(bytes(16)) if data.null_count else data
    plain = filled.cast(pa.binary(16))
    storage = pa.Array.from_buffers(pa.binary(16), len(data), [null, plain.buffers()[1]], offset=plain.offset)
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _per_distinct(data: pa.Array, printed: Callable[[bytes], str]) -> pa.Array:
    encoded = data.dictionary_encode()
    texts = pa.array([printed(value) for value in encoded.dictionary.to_pylist()], pa.string())
    return texts.take(encoded.indices)


def _inflated(data: pa.Array) -> pa.Array:
    """MariaDB's compressed columns: a header byte says how, and how many bytes of length follow."""
    return pa.array([None if value is None else _inflate(value) for value in data.to_pylist()], data.type)


def _inflate(value: bytes) -> bytes:
    if not value:
        return value
    method, lengths = value[0] >> 4, value[0] & 7
    if method == 0:
        return value[1:]
    if method != 8:
        raise DecodeError("a compressed column uses a method that is not understood")
    try:
        # bit 3: the deflated bytes stand without a zlib header
        plain = zlib.decompress(value[1 + lengths :], -15 if value[0] & 8 else 15)
    except zlib.error:
        raise DecodeError("a compressed column cannot be inflated") from None
    if len(plain) != int.from_bytes(value[1 : 1 + lengths], "big"):
        raise DecodeError("a compressed column has another length than it says")
    return plain


def _enums(definition: Definition, wire: WireColumn, values: Values) -> pa.Array:
    labels = definition.labels
    numbers = little(values.raw, values.starts(), wire.meta)
    if len(numbers) and int(numbers.max()) > len(labels):
        raise DecodeError("an ENUM value has no label")
    return _labelled(pa.array(["", *labels], pa.string()), numbers, values)


def _labelled(texts: pa.Array, numbers: columnar.Offsets, values: Values) -> pa.Array:
    picks = columnar.fixed(values.spread(numbers.astype(np.int64)), pa.int64(), values.valid)
    return texts.take(picks)


def _sets(definition: Definition, wire: WireColumn, values: Values) -> pa.Array:
    labels = definition.labels
    members = little(values.raw, values.starts(), wire.meta)
    distinct, numbers = np.unique(members.view(np.uint64), return_inverse=True)
    texts = []
    for member in distinct.tolist():
        if member >> len(labels):
            raise DecodeError("a SET value has no label")
        texts.append(",".join(label for i, label in enumerate(labels) if member >> i & 1))
    return _labelled(pa.array(texts, pa.string()), numbers.reshape(-1), values)


def geometries(values: Values) -> pa.Array:
    """WKB behind a four-byte SRID."""
    lengths = values.length[values.valid_rows()]
    if len(lengths) and int(lengths.min()) < _SRID_BYTES:
        raise DecodeError("a geometry is too short")
    return values.binary(_SRID_BYTES)


def vectors(data: pa.Array, column: Column) -> pa.Array:
    """Little-endian floats; MySQL stores vectors of fewer elements than the column's number too."""
    if column.type == "VARCHAR":
        return _per_distinct(data, _vector_text)
    size = int(column.type.removeprefix("FLOAT[").removesuffix("]"))
    lengths = pc.binary_length(data)
    if pc.any(pc.not_equal(lengths, 4 * size), min_count=0).as_py():
        raise Unfit("a vector has fewer elements than its column")
    null = data.buffers()[0] if data.null_count else None
    filled = data.fill_null(bytes(4 * size)) if data.null_count else data
    plain = filled.cast(pa.binary(4 * size))
    flat = plain.buffers()[1]
    floats = pa.Array.from_buffers(pa.float32(), len(data) * size, [None, flat], offset=plain.offset * size)
    validity = None if null is None else columnar.booleans(data.is_null().to_numpy(zero_copy_only=False))
    return pa.FixedSizeListArray.from_arrays(floats, size, mask=validity)


def _vector_text(value: bytes) -> str:
    if len(value) % 4:
        raise DecodeError("a vector has half an element")
    return "[" + ",".join(str(f) for f in np.frombuffer(value, "<f4")) + "]"
