"""Scalars of MySQL's JSON as the text that the server prints for them.

Source: MySQL Reference Manual, "The JSON Data Type" (dev.mysql.com); the rules for doubles and opaque values are those
of the server's `my_gcvt` and `Json_wrapper::to_string`, and are tested against a real server.
"""

from __future__ import annotations

import base64
import math
import re
import struct

from engine.errors import DecodeError

DATE, TIME, DATETIME, TIMESTAMP, NEWDATE, NEWDECIMAL = 10, 11, 12, 7, 14, 246

_SPECIAL = re.compile(r'["\\\x00-\x1f]')
_ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(0x20)} | {
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\f": "\\f",
    "\r": "\\r",
    '"': '\\"',
    "\\": "\\\\",
}
_DIGITS_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
"""Bytes that hold so many decimal digits."""
_MOST_FIXED = 15
"""Digits before the point (or zeros behind it) up to which a double is printed without an exponent."""
_BASE64_LINE = 76


def quoted(raw: bytes) -> str:
    """A string in quotes, escaped as the server does it."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise DecodeError("a JSON string is not UTF-8") from None
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text)
    return f'"{text}"'


def double(value: float) -> str:
    """The shortest digits that give the same number; an exponent only far from 1; always a point or an exponent."""
    if not math.isfinite(value):
        raise DecodeError("a JSON number is not finite")
    if 1e-4 <= abs(value) < 1e15:
        return repr(value)  # there both rules agree
    # repr gives the shortest digits; where the point goes is the server's own rule.
    mantissa, _, exponent = f"{value!r}".lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if not digits:
        return f"{sign}0.0"
    if point < 1 - _MOST_FIXED or (point > _MOST_FIXED and len(digits) <= point):
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{rest}e{point - 1}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    return f"{sign}{digits[:point].ljust(point, '0')}.{digits[point:] or '0'}"


def opaque(type: int, data: bytes) -> str:
    """A value that JSON has no type for: decimals as a number, times as strings, others as base64 with their type."""
    if type == NEWDECIMAL:
        return _decimal(data)
    if type in {DATE, NEWDATE, DATETIME, TIMESTAMP, TIME}:
        if len(data) != 8:
            raise DecodeError("a time in a JSON value has the wrong length")
        (packed,) = struct.unpack("<q", data)
        return f'"{_time(packed) if type == TIME else _moment(packed, date=type in {DATE, NEWDATE})}"'
    encoded = base64.b64encode(data).decode()
    lines = "\\n".join(encoded[i : i + _BASE64_LINE] for i in range(0, len(encoded), _BASE64_LINE))
    return f'"base64:type{type}:{lines}"'


def _time(packed: int) -> str:
    rest = abs(packed)
    second, micro = rest >> 24, rest & 0xFFFFFF
    sign = "-" if packed < 0 else ""
    return f"{sign}{second >> 12 & 1023:02}:{second >> 6 & 63:02}:{second & 63:02}.{micro:06}"


def _moment(packed: int, *, date: bool) -> str:
    rest = abs(packed)
    day, second, micro = rest >> 41, rest >> 24 & 0x1FFFF, rest & 0xFFFFFF
    year, month = divmod(day >> 5, 13)
    text = f"{year:04}-{month:02}-{day & 31:02}"
    if date:
        return text
    return f"{text} {second >> 12:02}:{second >> 6 & 63:02}:{second & 63:02}.{micro:06}"


def _decimal(data: bytes) -> str:
    """Precision, scale, then the packed decimal: groups of nine digits in four bytes, complemented when negative."""
    if len(data) < 2:
        raise DecodeError("a decimal in a JSON value is too short")
    precision, scale = data[0], data[1]
    if not 0 < precision <= 81 or scale > min(precision, 38):
        raise DecodeError("a decimal in a JSON value is malformed")
    whole, lead = divmod(precision - scale, 9)
    parts, trail = divmod(scale, 9)
    size = 4 * (whole + parts) + _DIGITS_BYTES[lead] + _DIGITS_BYTES[trail]
    packed = bytearray(data[2:])
    if len(packed) != size or not size:
        raise DecodeError("a decimal in a JSON value has the wrong length")
    negative = not packed[0] & 0x80
    packed[0] ^= 0x80
    if negative:
        packed = bytearray(byte ^ 0xFF for byte in packed)
    digits, at = "", 0
    for count in ([lead] if lead else []) + [9] * (whole + parts) + ([trail] if trail else []):
        width = _DIGITS_BYTES[count]
        group = int.from_bytes(packed[at : at + width], "big")
        if group >= 10**count:
            raise DecodeError("a decimal in a JSON value is malformed")
        digits += f"{group:0{count}}"
        at += width
    split = len(digits) - scale
    text = digits[:split].lstrip("0") or "0"
    if scale:
        text += f".{digits[split:]}"
    return f"-{text}" if negative else text
