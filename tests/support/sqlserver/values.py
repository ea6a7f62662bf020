"""Conversions of stored values in Python: dates, GUIDs and variants to and from text (CONVERT's styles)."""

from __future__ import annotations

import datetime as dt
import math
import re
import uuid

from tests.support.sqlserver.errors import SqlError, Unknown

SECOND = 10_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
EPOCH_1900 = dt.date(1900, 1, 1).toordinal() - 1
LAST = dt.date.max.toordinal() * DAY
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})|(\d{4})(\d{2})(\d{2})(?=$|[T ])")
_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?\s*([AaPp][Mm])?")
_ZONE = re.compile(r"\s*(?:([+-])(\d{2}):(\d{2})|(Z))$")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
GUID_ORDER = (10, 11, 12, 13, 14, 15, 8, 9, 6, 7, 4, 5, 0, 1, 2, 3)


def failed(kind: str) -> SqlError:
    """The error of text that is no such date."""
    if kind == "datetimeoffset" or kind in ("datetime2", "date", "time", "datetime", "smalldatetime"):
        return SqlError(241, "Conversion failed when converting date and/or time from character string.")
    return SqlError(8114, f"Error converting data type varchar to {kind}.")


def fit(ticks: int, kind: str, scale: int) -> int:
    """Round ticks to what a type holds; error 242 outside a type's range."""
    if kind == "datetime":
        day, rest = divmod(ticks, DAY)
        rest = rounded(rounded(rest * 300, SECOND) * SECOND, 300)
        ticks = day * DAY + rest
        if day + 1 < dt.date(1753, 1, 1).toordinal():
            raise SqlError(242, "The conversion of a type to a datetime resulted in an out-of-range value.")
    elif kind == "smalldatetime":
        ticks = rounded(ticks, MINUTE) * MINUTE
        if not EPOCH_1900 <= ticks // DAY <= EPOCH_1900 + 65535:
            raise SqlError(242, "The conversion of a type to a smalldatetime resulted in an out-of-range value.")
    elif kind == "date":
        ticks = ticks // DAY * DAY
    else:
        unit = 10 ** (7 - scale)
        # Rounding never leaves the last day that there is.
        limit = DAY if kind == "time" else LAST
        up = rounded(ticks, unit) * unit
        ticks = up if up < limit else ticks // unit * unit
    if ticks < 0 or (ticks >= LAST and kind != "time"):
        raise SqlError(517, "Adding a value to a column caused an overflow.")
    return ticks


def rounded(number: int, unit: int) -> int:
    """`number` / `unit`, halves up."""
    return (2 * number + unit) // (2 * unit)


def read_moment(text: str, kind: str, scale: int) -> int:
    """Text as ticks of `kind` (for `datetimeoffset`: as stored)."""
    rest = text.strip()
    day, offset = 0, 0
    found = _DATE.match(rest)
    if found:
        groups = [int(part) for part in found.groups() if part is not None]
        try:
            day = dt.date(*groups).toordinal() - 1
        except ValueError:
            raise failed(kind) from None
        rest = rest[found.end() :].lstrip("T ")
    elif kind != "time":
        day = EPOCH_1900
    zone = _ZONE.search(rest)
    if zone and (":" in rest[: zone.start()] or zone[4]):
        if kind in ("datetime", "smalldatetime") and not zone[4]:
            raise failed(kind)
        offset = 0 if zone[4] else (int(zone[2]) * 60 + int(zone[3])) * (-1 if zone[1] == "-" else 1)
        rest = rest[: zone.start()]
    ticks = day * DAY
    if rest:
        time = _TIME.fullmatch(rest.strip())
        if not time:
            raise failed(kind)
        hour, minute, second = (int(part or 0) for part in time.groups()[:3])
        if time[5]:
            hour = hour % 12 + (12 if time[5].lower() == "pm" else 0)
        fraction = time[4] or ""
        if hour > 23 or minute > 59 or second > 59 or (kind in ("datetime", "smalldatetime") and len(fraction) > 3):
            raise failed(kind)
        ticks += ((hour * 60 + minute) * 60 + second) * SECOND + rounded(int(fraction.ljust(9, "0")), 100)
    elif not found and text.strip():
        raise failed(kind)
    if kind == "time":
        return fit(ticks % DAY, kind, scale)
    if kind == "datetimeoffset":
        return pack_offset(fit(ticks, kind, scale) - offset * MINUTE, offset)
    return fit(ticks, kind, scale)


def pack_offset(utc: int, offset: int) -> int:
    """A datetimeoffset as stored."""
    return utc * 4096 + offset + 2048


def unpack_offset(stored: int) -> tuple[int, int]:
    """UTC ticks and offset in minutes."""
    return stored // 4096, stored % 4096 - 2048


def _clock(ticks: int, scale: int) -> str:
    seconds, fraction = divmod(ticks % DAY, SECOND)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{f'{fraction:07}'[:scale]}" if scale else text


def write_moment(stored: int, kind: str, scale: int, style: int) -> str:
    """CONVERT(varchar, value, style). Style -1 is a CAST: 0 for datetime and smalldatetime, 121 for the others."""
    zone = ""
    ticks = stored
    if kind == "datetimeoffset":
        utc, offset = unpack_offset(stored)
        if style == 127:
            ticks, zone = utc, "Z"
        else:
            ticks = utc + offset * MINUTE
            zone = f" {'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
            zone = zone.lstrip() if style == 126 else zone
    if kind in ("datetime", "smalldatetime"):
        scale = 3
        # 1/300 s shows as .000, .003, .007.
        ticks = ticks // DAY * DAY + rounded(ticks % DAY, 10_000) * 10_000
    if kind == "date":
        scale = 0
    if style == -1:
        style = 0 if kind in ("datetime", "smalldatetime") else 121
    if kind == "time":
        if style not in (0, 100, 108, 114, 121, 126, 127, 21, 25):
            raise Unknown(f"CONVERT of a time with style {style}")
        return _clock(ticks, 0 if style == 108 else scale)
    day = dt.date.fromordinal(ticks // DAY + 1)
    if style in (112, 12):
        return day.strftime("%Y%m%d") if style == 112 else day.strftime("%y%m%d")
    if style == 23:
        return day.isoformat()
    if style == 108:
        return _clock(ticks, 0)
    if style in (20, 120):
        return f"{day.isoformat()} {_clock(ticks, 0)}{zone}" if kind != "date" else day.isoformat()
    if style in (21, 25, 121):
        return f"{day.isoformat()} {_clock(ticks, scale)}{zone}" if kind != "date" else day.isoformat()
    if style in (126, 127):
        if kind == "date":
            return day.isoformat()
        clock = _clock(ticks, scale)
        if kind in ("datetime", "smalldatetime") and ticks % SECOND == 0:
            clock = _clock(ticks, 0)
        return f"{day.isoformat()}T{clock}{zone}"
    if style in (0, 100):
        seconds = ticks % DAY // SECOND
        hour = seconds // 3600
        half = f"{hour % 12 or 12:2}:{seconds // 60 % 60:02}{'PM' if hour >= 12 else 'AM'}"
        return f"{_MONTHS[day.month - 1]} {day.day:2} {day.year} {half}"
    raise Unknown(f"CONVERT of a {kind} with style {style}")


def read_guid(text: str) -> bytes:
    """Text as the 16 bytes in sorting order; error 8169 for what is none."""
    try:
        raw = uuid.UUID(text.strip()[:38].strip("{}")[:36]).bytes_le
    except ValueError:
        raise SqlError(8169, "Conversion failed when converting from a character string to uniqueidentifier.") from None
    return sort_guid(raw)


def sort_guid(wire: bytes) -> bytes:
    """The wire's bytes as stored."""
    return bytes(wire[index] for index in GUID_ORDER)


def wire_guid(stored: bytes) -> bytes:
    """The stored bytes as sent."""
    raw = bytearray(16)
    for place, index in enumerate(GUID_ORDER):
        raw[index] = stored[place]
    return bytes(raw)


def write_guid(stored: bytes) -> str:
    """As SQL Server shows it: capitals."""
    return str(uuid.UUID(bytes_le=wire_guid(stored))).upper()


def write_float(value: float, style: int, real: bool) -> str:
    """CONVERT(varchar, float, style): 0 six digits, 1 eight, 2 sixteen, 3 what reads back."""
    if style in (1, 2):
        text = f"{value:.{7 if style == 1 or real else 15}e}"
        mantissa, exponent = text.split("e")
        return f"{mantissa}e{exponent[0]}{exponent[1:].zfill(3)}"
    if style == 3:
        text = f"{value:.{9 if real else 17}g}"
    else:
        text = f"{value:.6g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        return f"{mantissa}e{exponent[0]}{exponent[1:].zfill(3)}"
    return "0" if value == 0 else text


def code_page(text: str) -> str:
    """Text as varchar holds it: what the database's code page lacks becomes a question mark."""
    return text.encode("cp1252", "replace").decode("cp1252")


def encode(text: str, unicode: bool) -> bytes:
    """Text as varbinary holds it."""
    return text.encode("utf-16-le", "surrogatepass") if unicode else text.encode("cp1252", "replace")


def decode(data: bytes, unicode: bool) -> str:
    """Binary cast to text."""
    if unicode:
        return data[: len(data) // 2 * 2].decode("utf-16-le", "replace")
    return "".join(bytes([byte]).decode("cp1252", "replace") for byte in data)


def parse_hex(text: str, style: int) -> bytes:
    """CONVERT(varbinary, '0x..', 1) and style 2; error 8114 for what is no hexadecimal text."""
    digits = text[2:] if style == 1 else text
    if style == 1 and text[:2].lower() != "0x":
        raise SqlError(8114, "Error converting data type varchar to varbinary.")
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise SqlError(8114, "Error converting data type varchar to varbinary.") from None


def checked_float(value: float) -> float:
    """SQL Server has neither infinity nor NaN: error 8115."""
    if not math.isfinite(value):
        raise SqlError(8115, "Arithmetic overflow error converting expression to data type float.")
    return value
