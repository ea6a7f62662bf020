"""Dates and times of row images, in every format that MySQL and MariaDB have had, to Arrow.

Source: MySQL source documentation of ``my_datetime_packed_to_binary`` and its siblings (types 17, 18, 19 with 0 to 6
digits of a second); MariaDB's own formats (types 7, 11, 12 with `mysql56_temporal_format=OFF`) as its servers write
them. Zero dates, partial dates and days that no calendar has (`ALLOW_INVALID_DATES`) become NULL, or, with `text`, all
become text.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columnar
from connectors.columnar import Mask, Offsets
from connectors.mysql import momenttexts
from connectors.mysql.cellvalues import Values
from connectors.mysql.rowshapes import big, little
from engine.errors import DecodeError

MICROS = 1_000_000
_DAY = 86_400 * MICROS
_INTERVAL_ROW = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanos", "<i8")])
_HIRES_ZERO = (838 * 3600 + 59 * 60 + 59 + 1) * MICROS
_HIRES_TIME = (3, 4, 4, 5, 5, 5, 6)
_HIRES_DATETIME = (5, 6, 6, 7, 7, 7, 8)
_SECOND_PART = (0, 1, 1, 2, 2, 3, 3)
_LAST_YEAR = 9999
_HUNDREDTHS = (0, 10_000, 100, 1)
"""Microseconds of a fraction's unit, by its bytes."""
_SCALE = (MICROS, 100_000, 10_000, 1_000, 100, 10, 1)
"""Microseconds of a fraction's last digit, by its digits."""


@cache
def _calendar() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    """Per ``year << 4 | month``: the days from 1970 to the month's first, and how many days it has (0: no month)."""
    months = np.arange((_LAST_YEAR + 1) * 12 + 1)
    first = (months - 1970 * 12).astype("M8[M]").astype("M8[D]").astype(np.int64)
    starts = np.zeros((_LAST_YEAR + 1, 16), np.int32)
    lengths = np.zeros((_LAST_YEAR + 1, 16), np.int8)
    starts[:, 1:13] = first[:-1].reshape(-1, 12)
    lengths[:, 1:13] = np.diff(first).reshape(-1, 12)
    return starts.reshape(-1), lengths.reshape(-1)


def civil_days(year: Offsets, month: Offsets, day: Offsets) -> tuple[Offsets, Mask]:
    """Days since 1970-01-01, and which of the dates there are. Raises DecodeError for a year or month out of range."""
    if len(year) and (int(year.max()) > _LAST_YEAR or int(month.max()) > 15 or int(year.min()) < 0):
        raise DecodeError("a date is out of range")
    starts, lengths = _calendar()
    place = year << 4 | month
    real: Mask = (day >= 1) & (day <= lengths[place])
    return starts[place].astype(np.int64) + day - 1, real


def _nulled(values: Values, real: Mask) -> Mask | None:
    """Validity of the rows, less values that are not `real` (a vector over the rows that have one)."""
    if values.valid is None:
        return None if bool(real.all()) else real
    valid = values.valid.copy()
    valid[values.valid_rows()] = real
    return valid


def wrapped(values: Values, result: npt.NDArray[np.generic], real: Mask, kind: pa.DataType) -> pa.Array:
    """Values of the rows that have one, NULL where not `real`, as an Arrow array of `kind`."""
    return columnar.fixed(values.spread(np.where(real, result, np.zeros(1, result.dtype))), kind, _nulled(values, real))


def dates(values: Values, *, text: bool = False) -> pa.Array:
    """DATE: three bytes, ``year << 9 | month << 5 | day``."""
    packed = little(values.raw, values.starts(), 3)
    return date_array(values, packed >> 9, packed >> 5 & 15, packed & 31, text=text)


def date_array(values: Values, year: Offsets, month: Offsets, day: Offsets, *, text: bool) -> pa.Array:
    """Dates of these parts (of the rows that have a value); with `text` as the server prints them, also if none."""
    days, real = civil_days(year, month, day)
    if text:
        return momenttexts.dates(values, year, month, day)
    return wrapped(values, days.astype(np.int32), real, pa.date32())


def datetime_array(
    values: Values, year: Offsets, month: Offsets, day: Offsets, clock: Offsets, text: int | None
) -> pa.Array:
    """Likewise with µs of the day; `text`: how many digits of a second are printed, None for timestamps."""
    days, real = civil_days(year, month, day)
    if text is not None:
        return momenttexts.datetimes(values, year, month, day, clock, text)
    return wrapped(values, days * _DAY + clock, real, pa.timestamp("us"))


def _timestamp_array(values: Values, micros: Offsets, text: int | None) -> pa.Array:
    if text is not None:
        return momenttexts.timestamps(values, micros, text)
    return wrapped(values, micros, micros != 0, pa.timestamp("us", tz="UTC"))


def _clock(hour: Offsets, minute: Offsets, second: Offsets, hours: int = 24) -> Offsets:
    """Microseconds of a time of day. Raises DecodeError for parts that no clock shows."""
    if len(hour) and (int(hour.max()) >= hours or int(minute.max()) >= 60 or int(second.max()) >= 60):
        raise DecodeError("a time is out of range")
    return ((hour * 60 + minute) * 60 + second) * MICROS


def _fraction(values: Values, at: Offsets, fsp: int) -> Offsets:
    """Microseconds from one to three big-endian bytes of hundredths, ten-thousandths or millionths."""
    width = (fsp + 1) // 2
    if not width:
        return np.zeros(len(at), np.int64)
    micros = big(values.raw, at, width) * _HUNDREDTHS[width]
    if len(micros) and int(micros.max()) >= MICROS:
        raise DecodeError("a fraction of a second is out of range")
    return micros


def datetimes(values: Values, fsp: int, *, text: bool = False) -> pa.Array:
    """DATETIME2: five bytes with a sign bit, then the fraction."""
    at = values.starts()
    packed = big(values.raw, at, 5) - (1 << 39)
    if len(packed) and int(packed.min()) < 0:
        raise DecodeError("a datetime is negative")
    months = packed >> 22
    clock = _clock(packed >> 12 & 31, packed >> 6 & 63, packed & 63) + _fraction(values, at + 5, fsp)
    parts = months // 13, months % 13, packed >> 17 & 31
    return datetime_array(values, *parts, clock, fsp if text else None)


def timestamps(values: Values, fsp: int, *, text: bool = False) -> pa.Array:
    """TIMESTAMP2: big-endian seconds since 1970 without a sign (MariaDB reaches 2106), then the fraction; 0 is the
    zero date (MariaDB stores fractions of the first second of 1970)."""
    at = values.starts()
    seconds = big(values.raw, at, 4)
    micros = seconds * MICROS + _fraction(values, at + 4, fsp)
    return _timestamp_array(values, micros, fsp if text else None)


def times(values: Values, fsp: int) -> pa.Array:
    """TIME2: three bytes with a sign bit and the fraction, together one number that is negated as a whole."""
    width = (fsp + 1) // 2
    packed = big(values.raw, values.starts(), 3 + width) - (0x800000 << 8 * width)
    size = np.abs(packed)
    clock = size >> 8 * width
    fraction = (size & ((1 << 8 * width) - 1)) * _HUNDREDTHS[width]
    if len(fraction) and int(fraction.max()) >= MICROS:
        raise DecodeError("a fraction of a second is out of range")
    micros = _clock(clock >> 12, clock >> 6 & 63, clock & 63, hours=839) + fraction
    return intervals(values, np.where(packed < 0, -micros, micros))


def intervals(values: Values, micros: Offsets) -> pa.Array:
    """Microseconds of the rows that have a value, as intervals without months and days."""
    rows = np.zeros(values.count, _INTERVAL_ROW)
    rows["nanos"][values.valid_rows()] = micros * 1000
    null = None if values.valid is None else columnar.bitmap(values.valid)
    return pa.Array.from_buffers(pa.month_day_nano_interval(), len(rows), [null, pa.py_buffer(rows)])


def old_timestamps(values: Values, fsp: int, *, text: bool = False) -> pa.Array:
    """TIMESTAMP of MariaDB's own format: little-endian seconds; with a fraction big-endian, then its bytes."""
    at = values.starts()
    if not fsp:
        seconds = little(values.raw, at, 4)
        return _timestamp_array(values, seconds * MICROS, 0 if text else None)
    seconds = big(values.raw, at, 4)
    micros = seconds * MICROS + _scaled(big(values.raw, at + 4, _SECOND_PART[fsp]), fsp)
    return _timestamp_array(values, micros, fsp if text else None)


def _scaled(part: Offsets, fsp: int) -> Offsets:
    micros = part * _SCALE[fsp]
    if len(micros) and int(micros.max()) >= MICROS:
        raise DecodeError("a fraction of a second is out of range")
    return micros


def old_times(values: Values, fsp: int) -> pa.Array:
    """TIME of MariaDB's own format: HHMMSS in three bytes; with a fraction the distance from the smallest time."""
    at = values.starts()
    if fsp:
        zero = _HIRES_ZERO // _SCALE[fsp]
        micros = (big(values.raw, at, _HIRES_TIME[fsp]) - zero) * _SCALE[fsp]
        if len(micros) and int(np.abs(micros).max()) >= _HIRES_ZERO:
            raise DecodeError("a time is out of range")
        return intervals(values, micros)
    packed = little(values.raw, at, 3)
    packed = np.where(packed >= 1 << 23, packed - (1 << 24), packed)
    size = np.abs(packed)
    micros = _clock(size // 10000, size // 100 % 100, size % 100, hours=839)
    return intervals(values, np.where(packed < 0, -micros, micros))


def old_datetimes(values: Values, fsp: int, *, text: bool = False) -> pa.Array:
    """DATETIME of MariaDB's own format: YYYYMMDDHHMMSS in eight bytes; with a fraction mixed-radix, big-endian."""
    at = values.starts()
    if not fsp:
        packed = little(values.raw, at, 8)
        if len(packed) and int(packed.min()) < 0:
            raise DecodeError("a datetime is negative")
        date, clock = packed // 1_000_000, packed % 1_000_000
        parts = date // 10000, np.minimum(date // 100 % 100, 15), date % 100
        micros = _clock(clock // 10000, clock // 100 % 100, clock % 100)
        return datetime_array(values, *parts, micros, 0 if text else None)
    packed = big(values.raw, at, _HIRES_DATETIME[fsp])
    if len(packed) and int(packed.min()) < 0:
        raise DecodeError("a datetime is negative")
    seconds, part = packed // 10**fsp, packed % 10**fsp
    date, clock = seconds // 86_400, seconds % 86_400
    months = date // 32
    micros = clock * MICROS + part * _SCALE[fsp]
    return datetime_array(values, months // 13, months % 13, date % 32, micros, fsp if text else None)
