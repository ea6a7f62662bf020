"""Text of types without parts, a column at a time.

Every decoder takes a string array and returns an array of equal length with the same NULLs. It raises ValueError (or
an Arrow error) for what is no text of the type, and `Unfit` for a value that the replica type cannot hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columnar
from connectors.columnar import Offsets, Raw
from connectors.postgres import temporal_text
from connectors.postgres.unfit import Reshaped, Unfit

__all__ = ["SCALARS", "Reshaped", "Unfit", "decimals", "hex_bytes", "spans", "uuids"]

Decoder = Callable[[pa.Array, tuple[int, ...]], pa.Array]

_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[[ord(c) for c in "0123456789abcdef"]] = range(16)
_NIBBLES[[ord(c) for c in "ABCDEF"]] = range(10, 16)
_DASHES = (8, 13, 18, 23)
_HEX_OF_UUID = np.array([i for i in range(36) if i not in _DASHES])
_SURROGATE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def spans(text: pa.Array) -> tuple[Raw, Offsets, Offsets]:
    """A string or binary array as its bytes with the start and end of each value; a NULL has no bytes."""
    width = np.int64 if pa.types.is_large_string(text.type) or pa.types.is_large_binary(text.type) else np.int32
    _, offsets, data = text.buffers()
    if len(text) == 0 or offsets is None:
        nothing = np.zeros(0, np.int64)
        return Raw(b""), nothing, nothing
    bounds = np.frombuffer(offsets, width)[text.offset : text.offset + len(text) + 1].astype(np.int64)
    start, end = bounds[:-1], bounds[1:]
    valid = columnar.valid_mask(text)
    return Raw(data if data is not None else b""), start, end if valid is None else np.where(valid, end, start)


def _number(arrow_type: pa.DataType) -> Decoder:
    return lambda text, _: text.cast(arrow_type)


def booleans(text: pa.Array, _: tuple[int, ...]) -> pa.Array:
    """``t`` and ``f``."""
    true = pc.equal(text, "t")
    if not pc.all(pc.or_(true, pc.equal(text, "f")), min_count=0).as_py():
        raise ValueError("not a boolean")
    return true


def decimals(text: pa.Array, arguments: tuple[int, ...]) -> pa.Array:
    """Numeric text; money as the C locale prints it (``-$1,234.56``)."""
    kind = pa.decimal128(*arguments)
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:
        if pc.any(pc.is_in(text, pa.array(["NaN", "Infinity", "-Infinity"], text.type))).as_py():
            raise Unfit("NaN and infinity are no DECIMAL") from None
        return pc.replace_substring_regex(text, "[$,]", "").cast(kind)


def hex_bytes(text: pa.Array, _: tuple[int, ...]) -> pa.Array:
    r"""Bytes in hexadecimal: bytea with its ``\x``, PostGIS values without."""
    raw, start, end = spans(text)
    if not len(start):
        return pa.array([], pa.binary())
    filled = np.flatnonzero(end - start >= 2)
    marked = np.zeros(len(start), bool)
    marked[filled] = (raw.u8[start[filled]] == ord("\\")) & (raw.u8[start[filled] + 1] == ord("x"))
    start = start + 2 * marked
    digits = end - start
    if bool((digits & 1).any()):
        raise ValueError("half a byte")
    packed = raw.binary(start, digits).buffers()[2]
    nibbles = _NIBBLES[np.frombuffer(packed, np.uint8)] if packed is not None else np.zeros(0, np.uint8)
    if bool((nibbles == 255).any()):
        raise ValueError("not hexadecimal")
    data = nibbles[0::2] << 4 | nibbles[1::2]
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(digits >> 1)))
    small = offsets[-1] < 1 << 31
    array = pa.Array.from_buffers(
        pa.binary() if small else pa.large_binary(),
        len(text),
        [None, pa.py_buffer(offsets.astype(np.int32) if small else offsets), pa.py_buffer(data)],
    )
    return columnar.with_validity(array, columnar.valid_mask(text))


def uuids(text: pa.Array, _: tuple[int, ...]) -> pa.Array:
    """UUIDs in their 36-character form."""
    raw, start, end = spans(text)
    valid = columnar.valid_mask(text)
    rows = np.arange(len(start)) if valid is None else np.flatnonzero(valid)
    if bool((end[rows] - start[rows] != 36).any()):
        raise ValueError("not a UUID")
    storage = np.zeros((len(start), 16), np.uint8)
    if len(rows):
        window = np.lib.stride_tricks.sliding_window_view(raw.u8, 36)[start[rows]]
        nibbles = _NIBBLES[window[:, _HEX_OF_UUID]]
        if bool((nibbles == 255).any()) or bool((window[:, _DASHES] != ord("-")).any()):
            raise ValueError("not a UUID")
        storage[rows] = nibbles[:, 0::2] << 4 | nibbles[:, 1::2]
    return uuid_array(storage, valid)


def uuid_array(storage: npt.NDArray[np.uint8], valid: columnar.Mask | None) -> pa.Array:
    """Wrap 16-byte rows as Arrow's UUID type."""
    null = None if valid is None or bool(valid.all()) else columnar.bitmap(valid)
    flat = pa.Array.from_buffers(pa.binary(16), len(storage), [null, pa.py_buffer(np.ascontiguousarray(storage))])
    return pa.ExtensionArray.from_storage(pa.uuid(), flat)


def json(text: pa.Array, _: tuple[int, ...]) -> pa.Array:
    """JSON stays text. The server lets lone surrogates pass in type json, which are no text anywhere else."""
    doubtful = pc.match_substring_regex(text, r"\\u[dD][89a-fA-F]")
    if pc.any(doubtful).as_py() and any(map(_lone_surrogate, text.filter(doubtful).to_pylist())):
        raise Unfit("a JSON string holds half a surrogate pair")
    return text


def _lone_surrogate(value: str) -> bool:
    """Whether an escaped surrogate in JSON text lacks its other half right beside it."""
    high_end = -1
    for escape in _SURROGATE.finditer(value):
        code = int(escape[1], 16) if escape[1] else 0
        if high_end >= 0 and not (0xDC00 <= code <= 0xDFFF and escape.start() == high_end):
            return True
        if 0xDC00 <= code <= 0xDFFF and high_end < 0:
            return True
        high_end = escape.end() if 0xD800 <= code <= 0xDBFF else -1
    return high_end >= 0


def bits(text: pa.Array, _: tuple[int, ...]) -> pa.Array:
    """Bit strings stay text; the empty one has no counterpart (DuckDB would read it as ``0``)."""
    if pc.any(pc.equal(pc.binary_length(text), 0)).as_py():
        raise Unfit("an empty bit string is no BIT")
    return text


SCALARS: Mapping[str, Decoder] = {
    "BOOLEAN": booleans,
    "SMALLINT": _number(pa.int16()),
    "INTEGER": _number(pa.int32()),
    "BIGINT": _number(pa.int64()),
    "UINTEGER": _number(pa.uint32()),
    "FLOAT": _number(pa.float32()),
    "DOUBLE": _number(pa.float64()),
    "DECIMAL": decimals,
    "DATE": lambda text, _: temporal_text.dates(text),
    "TIME": lambda text, _: temporal_text.times(text),
    "TIMESTAMP": lambda text, _: temporal_text.timestamps(text, pa.timestamp("us")),
    "TIMESTAMPTZ": lambda text, _: temporal_text.timestamps(text, pa.timestamp("us", tz="UTC")),
    "INTERVAL": lambda text, _: temporal_text.intervals(text),
    "UUID": uuids,
    "BLOB": hex_bytes,
    "JSON": json,
    "BIT": bits,
}
"""Decoder by the replica type's name; types that are not here are kept as text."""
