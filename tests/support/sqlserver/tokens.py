"""TDS tokens: errors, DONEs, and a result's columns and rows (MS-TDS 2.2.5 and 2.2.7)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from itertools import starmap
from typing import Any

from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.types import MAX, SqlType, make
from tests.support.sqlserver.values import (
    DAY,
    EPOCH_1900,
    MINUTE,
    encode,
    read_guid,
    read_moment,
    rounded,
    unpack_offset,
    wire_guid,
)

COLLATION = bytes.fromhex("0904d00034")  # SQL_Latin1_General_CP1_CI_AS
_EXACT = Context(prec=60)
MORE, ERROR, IN_TRANSACTION, COUNT, ATTENTION = 0x01, 0x02, 0x04, 0x10, 0x20
SERVER = "emulator"


def _short_text(text: str) -> bytes:
    return struct.pack("<B", len(text)) + text.encode("utf-16-le")


def _long_text(text: str) -> bytes:
    data = text.encode("utf-16-le")
    return struct.pack("<H", len(data) // 2) + data


def message(error: SqlError, line: int = 1, procedure: str = "") -> bytes:
    """An ERROR token, or INFO for severities below 11."""
    body = struct.pack("<iBB", error.number, error.state, error.severity)
    body += _long_text(error.message) + _short_text(SERVER) + _short_text(procedure) + struct.pack("<I", line)
    return struct.pack("<BH", 0xAB if error.severity < 11 else 0xAA, len(body)) + body


def done(status: int, rows: int = 0, *, token: int = 0xFD) -> bytes:
    """DONE (0xFD), DONEPROC (0xFE) or DONEINPROC (0xFF)."""
    return struct.pack("<BHHQ", token, status, 0xC1 if status & COUNT else 0, rows)


def changed(kind: int, new: str | bytes, old: str | bytes = "") -> bytes:
    """An ENVCHANGE."""
    body = struct.pack("<B", kind)
    for value in (new, old):
        body += _short_text(value) if isinstance(value, str) else struct.pack("<B", len(value)) + value
    return struct.pack("<BH", 0xE3, len(body)) + body


def login_ack() -> bytes:
    """LOGINACK of a server 16.0 that speaks TDS 7.4."""
    body = b"\x01" + struct.pack(">I", 0x74000004) + _short_text("Microsoft SQL Server") + bytes((16, 0, 3, 232))
    return struct.pack("<BH", 0xAD, len(body)) + body


def columns(names: Sequence[str], kinds: Sequence[SqlType]) -> bytes:
    """COLMETADATA."""
    body = struct.pack("<BH", 0x81, len(names))
    for name, kind in zip(names, kinds, strict=True):
        body += struct.pack("<IH", 0x50 if kind.name == "rowversion" else 0, 0x01 | 0x08)
        body += _type_info(kind)
        if kind.name in ("text", "ntext", "image"):
            body += b"\x01" + _long_text("t")
        body += _short_text(name[:128])
    return body


def _type_info(kind: SqlType) -> bytes:
    name = kind.name
    if kind.family in ("hierarchy", "shape"):
        raise Unknown(f"{name} as it is on the wire")
    fixed = {"int": 4, "bigint": 8, "smallint": 2, "tinyint": 1, "null": 4}
    if name in fixed:
        return bytes((0x26, fixed[name]))
    if name == "bit":
        return b"\x68\x01"
    if name in ("float", "real"):
        return bytes((0x6D, 8 if name == "float" else 4))
    if name in ("money", "smallmoney"):
        return bytes((0x6E, 8 if name == "money" else 4))
    if name in ("datetime", "smalldatetime"):
        return bytes((0x6F, 8 if name == "datetime" else 4))
    if name == "uniqueidentifier":
        return b"\x24\x10"
    if name in ("decimal", "numeric"):
        return bytes((0x6A if name == "decimal" else 0x6C, kind.max_length, kind.precision, kind.scale))
    if name == "date":
        return b"\x28"
    if name in ("time", "datetime2", "datetimeoffset"):
        return bytes(({"time": 0x29, "datetime2": 0x2A, "datetimeoffset": 0x2B}[name], kind.scale))
    if name in ("text", "ntext"):
        return struct.pack("<BI", 0x23 if name == "text" else 0x63, 0x7FFFFFFE) + COLLATION
    if name == "image":
        return struct.pack("<BI", 0x22, 0x7FFFFFFF)
    if name == "xml":
        return b"\xf1\x00"
    if name == "sql_variant":
        return struct.pack("<BI", 0x62, 8009)
    if name == "rowversion":
        return struct.pack("<BH", 0xAD, 8)
    token = {"varchar": 0xA7, "char": 0xAF, "nvarchar": 0xE7, "nchar": 0xEF, "sysname": 0xE7}.get(name)
    size = 0xFFFF if kind.length == MAX else max(1, kind.max_length)
    if token is None:
        return struct.pack("<BH", 0xA5 if name == "varbinary" else 0xAD, size)
    return struct.pack("<BH", token, size) + COLLATION


def _length_first(form: str) -> Callable[[Any], bytes]:
    packer = struct.Struct("<B" + form)
    size = packer.size - 1
    return lambda value: packer.pack(size, value)


def _short(value: bytes) -> bytes:
    return struct.pack("<H", len(value)) + value


def _plp(value: bytes) -> bytes:
    if not value:
        return b"\x00" * 12
    return struct.pack("<QI", len(value), len(value)) + value + b"\x00\x00\x00\x00"


def _blob(value: bytes) -> bytes:
    return b"\x10" + b"p" * 16 + b"s" * 8 + struct.pack("<I", len(value)) + value


def _decimal(kind: SqlType) -> Callable[[Any], bytes]:
    size = kind.max_length

    def pack(value: Any) -> bytes:
        number = (
            int(_EXACT.scaleb(Decimal(value), kind.scale)) if not isinstance(value, int) else value * 10**kind.scale
        )
        return bytes((size, int(number >= 0))) + abs(number).to_bytes(size - 1, "little")

    return pack


def _clock(ticks: int, scale: int) -> bytes:
    return (ticks // 10 ** (7 - scale)).to_bytes(3 if scale < 3 else 4 if scale < 5 else 5, "little")


def _moment(kind: SqlType) -> Callable[[int], bytes]:
    name, scale = kind.name, kind.scale
    if name == "date":
        return lambda ticks: b"\x03" + (ticks // DAY).to_bytes(3, "little")
    if name == "time":
        return lambda ticks: (data := _clock(ticks, scale)) and bytes((len(data),)) + data
    if name == "datetime":
        return lambda ticks: struct.pack("<BiI", 8, ticks // DAY - EPOCH_1900, rounded(ticks % DAY * 3, 100_000))
    if name == "smalldatetime":
        return lambda ticks: struct.pack("<BHH", 4, ticks // DAY - EPOCH_1900, ticks % DAY // MINUTE)

    def pack(stored: int) -> bytes:
        ticks, zone = stored, b""
        if name == "datetimeoffset":
            ticks, offset = unpack_offset(stored)
            zone = struct.pack("<h", offset)
        data = _clock(ticks % DAY, scale) + (ticks // DAY).to_bytes(3, "little") + zone
        return bytes((len(data),)) + data

    return pack


def _money(size: int) -> Callable[[Any], bytes]:
    def pack(value: Any) -> bytes:
        number = int(_EXACT.scaleb(Decimal(value), 4))
        if size == 4:
            return struct.pack("<Bi", 4, number)
        return struct.pack("<BiI", 8, number >> 32, number & 0xFFFFFFFF)

    return pack


def _variant(value: str) -> bytes:
    """``type:text`` as a sql_variant: the base type's token, its properties, its value."""
    kind, text = split_variant(value)
    info = _type_info(kind)
    if kind.family == "text":
        properties = COLLATION + struct.pack("<H", max(1, kind.max_length))
        data = encode(text, kind.unicode)
    elif kind.family == "binary":
        properties, data = struct.pack("<H", max(1, kind.max_length)), bytes.fromhex(text)
    else:
        token, size = info[0], info[1] if len(info) > 1 else 0
        body = encoder(kind)(python_value(kind, text))[1:]
        fixed = {(0x26, 1): 0x30, (0x26, 2): 0x34, (0x26, 4): 0x38, (0x26, 8): 0x7F, (0x68, 1): 0x32}
        fixed |= {(0x6D, 4): 0x3B, (0x6D, 8): 0x3E, (0x6E, 8): 0x3C, (0x6E, 4): 0x7A, (0x6F, 8): 0x3D, (0x6F, 4): 0x3A}
        properties = b""
        if kind.family == "decimal" and token in (0x6A, 0x6C):
            properties = info[2:4]
        elif token in (0x29, 0x2A, 0x2B):
            properties = info[1:2]
        info = bytes((fixed.get((token, size), token),))
        data = body
    data = info[:1] + bytes((len(properties),)) + properties + data
    return struct.pack("<I", len(data)) + data


def split_variant(value: str) -> tuple[SqlType, str]:
    """A stored variant's base type and its value as text."""
    head, _, text = value.partition(":")
    name, _, arguments = head.rstrip(")").partition("(")
    return make(name, [int(part) for part in arguments.split(",")] if arguments else []), text


def python_value(kind: SqlType, text: str) -> Any:
    """A variant's text as the stored value of its base type."""
    if kind.family == "int":
        return int(text)
    if kind.family == "decimal":
        return Decimal(text)
    if kind.family == "float":
        return float(text)
    if kind.family in ("moment", "time", "offset"):
        return read_moment(text, kind.name, kind.scale)
    if kind.family == "guid":
        return read_guid(text)
    raise Unknown(f"a sql_variant of {kind.name}")


_INTEGERS = {"tinyint": "B", "bit": "B", "smallint": "h", "int": "i", "bigint": "q", "null": "i"}


def encoder(kind: SqlType) -> Callable[[Any], bytes]:
    """What makes a stored value (not NULL) the wire's bytes."""
    if kind.name in _INTEGERS:
        return _length_first(_INTEGERS[kind.name])
    if kind.family == "float":
        return _length_first("d" if kind.name == "float" else "f")
    if kind.name in ("money", "smallmoney"):
        return _money(8 if kind.name == "money" else 4)
    if kind.family == "decimal":
        return _decimal(kind)
    if kind.family in ("moment", "time", "offset"):
        return _moment(kind)
    if kind.family == "guid":
        return lambda value: b"\x10" + wire_guid(value)
    if kind.family == "variant":
        return _variant
    frame = _frame(kind)
    if kind.family == "binary":
        return frame
    if kind.unicode:
        return lambda value: frame(value.encode("utf-16-le", "surrogatepass"))
    return lambda value: frame(value.encode("cp1252", "replace"))


def _frame(kind: SqlType) -> Callable[[bytes], bytes]:
    if kind.name in ("text", "ntext", "image"):
        return _blob
    return _plp if kind.lob else _short


class RowEncoder:
    """A result's rows as ROW tokens, or NBCROW ones where a row has NULLs."""

    def __init__(self, kinds: Sequence[SqlType]) -> None:
        self._encoders = [encoder(kind) for kind in kinds]
        self._bits = [(index // 8, 1 << index % 8) for index in range(len(kinds))]

    def __call__(self, rows: Sequence[tuple[Any, ...]]) -> bytes:
        cells = [
            [None if value is None else encode_one(value) for value in column]
            for encode_one, column in zip(self._encoders, zip(*rows, strict=True), strict=True)
        ]
        return b"".join(starmap(self._row, zip(*cells, strict=True)))

    def _row(self, *cells: bytes | None) -> bytes:
        if None not in cells:
            return b"\xd1" + b"".join(cells)  # type: ignore[arg-type]
        bitmap = bytearray((len(cells) + 7) // 8)
        for (byte, bit), cell in zip(self._bits, cells, strict=True):
            if cell is None:
                bitmap[byte] |= bit
        return b"\xd2" + bytes(bitmap) + b"".join(cell for cell in cells if cell is not None)
