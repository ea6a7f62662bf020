"""How many bytes each column of a row image takes, and gathers of little-endian integers of any width.

Source of the widths: MySQL source documentation, "mysql::binlog::event::Table_map_event" and "Rows_event"
(dev.mysql.com); MariaDB's own temporal formats (`mysql56_temporal_format=OFF`) and compressed columns as its servers
write them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from connectors.columnar import Offsets, Raw
from connectors.mysql.tablemap import (
    BIT,
    BLOB,
    BLOB_COMPRESSED,
    DATE,
    DATETIME,
    DATETIME2,
    DOUBLE,
    ENUM,
    FLOAT,
    GEOMETRY,
    INT24,
    JSON,
    LONG,
    LONG_BLOB,
    LONGLONG,
    MEDIUM_BLOB,
    NEWDATE,
    NEWDECIMAL,
    NULL,
    SET,
    SHORT,
    STRING,
    TIME,
    TIME2,
    TIMESTAMP,
    TIMESTAMP2,
    TINY,
    TINY_BLOB,
    VAR_STRING,
    VARCHAR,
    VARCHAR_COMPRESSED,
    VECTOR,
    YEAR,
    WireColumn,
)
from connectors.mysql.types import Definition

_WIDTHS = {
    TINY: 1,
    SHORT: 2,
    INT24: 3,
    LONG: 4,
    LONGLONG: 8,
    FLOAT: 4,
    DOUBLE: 8,
    NULL: 0,
    TIMESTAMP: 4,
    DATE: 3,
    NEWDATE: 3,
    TIME: 3,
    DATETIME: 8,
    YEAR: 1,
}
_WITH_FRACTION = {TIMESTAMP2: 4, DATETIME2: 5, TIME2: 3}
_HIRES = {TIMESTAMP: (4, 5, 5, 6, 6, 7, 7), TIME: (3, 4, 4, 5, 5, 5, 6), DATETIME: (5, 6, 6, 7, 7, 7, 8)}
"""MariaDB's own formats by fractional digits; without any, the width is that of `_WIDTHS`."""
_PREFIXED = frozenset({TINY_BLOB, MEDIUM_BLOB, LONG_BLOB, BLOB, JSON, GEOMETRY, VECTOR, BLOB_COMPRESSED})
_COUNTED = frozenset({VARCHAR, VAR_STRING, VARCHAR_COMPRESSED, STRING})
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


@dataclass(frozen=True, slots=True)
class Shape:
    """A column's bytes in a row image: `width` of them, or `prefix` bytes of length before the value."""

    width: int = 0
    prefix: int = 0


def shape(column: WireColumn, definition: Definition) -> Shape | None:
    """The shape of a column, None for a type whose values cannot be delimited.

    The wire does not say the fractional digits of MariaDB's own temporal formats: the catalog does.
    """
    kind, meta = column.type, column.meta
    if kind in _HIRES and definition.fsp:
        return Shape(_HIRES[kind][definition.fsp])
    if kind in _WIDTHS:
        return Shape(_WIDTHS[kind])
    if kind in _WITH_FRACTION:
        return Shape(_WITH_FRACTION[kind] + (meta + 1) // 2) if meta <= 6 else None
    if kind in _PREFIXED:
        return Shape(prefix=meta) if 1 <= meta <= 4 else None
    if kind in _COUNTED:
        return Shape(prefix=1 if meta < 256 else 2)
    if kind in {ENUM, SET}:
        return Shape(meta) if 1 <= meta <= 8 else None
    if kind == BIT:
        return Shape((meta >> 8) + (1 if meta & 0xFF else 0))
    if kind == NEWDECIMAL:
        return Shape(sum(decimal_bytes(meta >> 8, meta & 0xFF)))
    return None


def decimal_bytes(precision: int, scale: int) -> tuple[int, int]:
    """Bytes of the integer and the fractional part of a packed DECIMAL."""
    whole, fraction = divmod(precision - scale, 9), divmod(scale, 9)
    return 4 * whole[0] + _DIGIT_BYTES[whole[1]], 4 * fraction[0] + _DIGIT_BYTES[fraction[1]]


def little(raw: Raw, at: Offsets, width: int) -> Offsets:
    """Unsigned little-endian integers of 1 to 8 bytes, as int64 (of 8 bytes: the same bits)."""
    if width == 1:
        return raw.u8[at].astype(np.int64)
    if width in {2, 4, 8}:
        return raw.at(f"<u{width}", at).astype(np.int64)
    if width == 3:
        return raw.at("<u2", at).astype(np.int64) | raw.u8[at + 2].astype(np.int64) << 16
    if width == 5:
        return little(raw, at, 4) | little(raw, at + 4, 1) << 32
    return little(raw, at, 4) | little(raw, at + 4, width - 4) << 32


def big(raw: Raw, at: Offsets, width: int) -> Offsets:
    """Unsigned big-endian integers of 1 to 8 bytes, as int64 (of 8 bytes: the same bits)."""
    if width == 1:
        return raw.u8[at].astype(np.int64)
    if width in {2, 4, 8}:
        return raw.at(f">u{width}", at).astype(np.int64)
    if width == 3:
        return raw.u8[at].astype(np.int64) << 16 | raw.at(">u2", at + 1).astype(np.int64)
    high = width - 4
    return big(raw, at, high) << 32 | big(raw, at + high, 4)
