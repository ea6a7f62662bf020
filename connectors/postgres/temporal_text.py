"""Text of dates, times and intervals (DateStyle ISO, IntervalStyle postgres, TimeZone UTC), a column at a time.

Arrow parses the usual form. What it does not know (``infinity``, years before Christ or beyond 9999, 24:00:00) is
looked at only when it occurs.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columnar
from connectors.postgres.unfit import Unfit

_USUAL = r"^\d{4}-\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d{1,6})?(?:\+00)?)?$"
_ANY = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?( BC)?", re.ASCII)
_DAY = 86_400_000_000
_INT64_MAX = (1 << 63) - 1
_INT32_MAX = (1 << 31) - 1
_INTERVAL = (
    r"^(?:(?P<years>[+-]?\d+) years? ?)?(?:(?P<months>[+-]?\d+) mons? ?)?(?:(?P<days>[+-]?\d+) days? ?)?"
    r"(?:(?P<sign>[+-]?)(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)(?:\.(?P<fraction>\d{1,6}))?)?$"
)
_INTERVAL_ROW = np.dtype([("months", np.int32), ("days", np.int32), ("nanos", np.int64)])


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the proleptic Gregorian calendar (year 0 is 1 BC)."""
    shifted = year - (month <= 2)
    era, of_era = divmod(shifted, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + day_of_year - 719468


def _micros(value: str) -> int:
    match = _ANY.fullmatch(value)
    if match is None:
        raise ValueError("not a date")
    year = int(match[1])
    days = _days(1 - year if match[8] else year, int(match[2]), int(match[3]))
    seconds = int(match[4] or 0) * 3600 + int(match[5] or 0) * 60 + int(match[6] or 0)
    return days * _DAY + seconds * 1_000_000 + int((match[7] or "").ljust(6, "0"))


def _unusual(text: pa.Array, kind: pa.DataType, unit: int, infinity: int) -> npt.NDArray[np.int64]:
    """Values of text that Arrow does not parse as a whole, in `unit` µs; ±`infinity` for the infinities."""
    result = np.zeros(len(text), np.int64)
    known = np.zeros(len(text), bool)
    for word, value in (("infinity", infinity), ("-infinity", -infinity)):
        is_word = pc.fill_null(pc.equal(text, word), fill_value=False).to_numpy(zero_copy_only=False)
        result[is_word] = value
        known |= is_word
    usual = pc.fill_null(pc.match_substring_regex(text, _USUAL), fill_value=False).to_numpy(zero_copy_only=False)
    result[usual] = text.filter(pa.array(usual)).cast(kind).cast(_integer(kind)).to_numpy()
    known |= usual | text.is_null().to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(~known):
        value = _micros(text[int(row)].as_py()) // unit
        if not -infinity < value < infinity:
            raise Unfit("the time lies outside of the replica's range")
        result[row] = value
    return result


def _integer(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if pa.types.is_date32(kind) else pa.int64()


def dates(text: pa.Array) -> pa.Array:
    """Dates; infinities as DuckDB's (the ends of the 32-bit range)."""
    try:
        return text.cast(pa.date32())
    except pa.ArrowInvalid:
        days = _unusual(text, pa.date32(), _DAY, _INT32_MAX).astype(np.int32)
        return columnar.fixed(days, pa.date32(), columnar.valid_mask(text))


def timestamps(text: pa.Array, kind: pa.DataType) -> pa.Array:
    """Timestamps, with time zone if `kind` has one; infinities as DuckDB's (the ends of the 64-bit range)."""
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:
        return columnar.fixed(_unusual(text, kind, 1, _INT64_MAX), kind, columnar.valid_mask(text))


def times(text: pa.Array) -> pa.Array:
    """Times of day, 24:00:00 included."""
    end_of_day = pc.equal(text, "24:00:00")
    plain = pc.if_else(end_of_day, "00:00:00", text).cast(text.type)
    moment = pc.binary_join_element_wise(pa.scalar("1970-01-01", text.type), plain, pa.scalar(" ", text.type))
    micros = moment.cast(pa.timestamp("us")).cast(pa.int64())
    if pc.any(end_of_day).as_py():
        micros = pc.if_else(end_of_day, pa.scalar(_DAY, pa.int64()), micros)
    return micros.cast(pa.time64("us")) if len(text) == 0 else micros.view(pa.time64("us"))


def intervals(text: pa.Array) -> pa.Array:
    """Intervals as months, days and microseconds, each exact.

    Arrow counts nanoseconds, which end at 292 years; a column with a longer time part is given as text that DuckDB
    casts without loss.
    """
    if pc.any(pc.is_in(text, pa.array(["infinity", "-infinity"], text.type))).as_py():
        raise Unfit("INTERVAL has no infinity")
    parts = pc.extract_regex(text, _INTERVAL)
    if parts.null_count != text.null_count or pc.any(pc.equal(pc.binary_length(text), 0)).as_py():
        raise ValueError("not an interval")
    months = _part(parts, "years") * 12 + _part(parts, "months")
    days = _part(parts, "days")
    micros = (_part(parts, "hours") * 3600 + _part(parts, "minutes") * 60 + _part(parts, "seconds")) * 1_000_000
    fraction = pc.utf8_rpad(parts.field("fraction"), 6, "0")
    micros += pc.fill_null(fraction, "0").cast(pa.int64()).to_numpy()
    negative = pc.fill_null(pc.equal(parts.field("sign"), "-"), fill_value=False).to_numpy(zero_copy_only=False)
    micros = np.where(negative, -micros, micros)
    return interval_array(months, days, micros, columnar.valid_mask(text))


def _part(parts: pa.StructArray, name: str) -> npt.NDArray[np.int64]:
    """One number of the parsed intervals; what is not there counts 0."""
    digits = pc.fill_null(pc.utf8_ltrim(parts.field(name), "+"), "")
    numbers: npt.NDArray[np.int64] = pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64()).to_numpy()
    return numbers


def interval_array(
    months: npt.NDArray[np.int64],
    days: npt.NDArray[np.int64],
    micros: npt.NDArray[np.int64],
    valid: columnar.Mask | None,
) -> pa.Array:
    """Wrap intervals as Arrow month-day-nano values, or as text when a time part exceeds 64-bit nanoseconds."""
    limit = _INT64_MAX // 1000
    if not bool(((micros >= -limit) & (micros <= limit)).all()):
        return _interval_text(months, days, micros, valid)
    rows = np.zeros(len(months), _INTERVAL_ROW)
    rows["months"], rows["days"], rows["nanos"] = months, days, micros * 1000
    null = None if valid is None or bool(valid.all()) else columnar.bitmap(valid)
    return pa.Array.from_buffers(pa.month_day_nano_interval(), len(rows), [null, pa.py_buffer(rows)])


def _interval_text(
    months: npt.NDArray[np.int64],
    days: npt.NDArray[np.int64],
    micros: npt.NDArray[np.int64],
    valid: columnar.Mask | None,
) -> pa.Array:
    if bool((micros == -_INT64_MAX - 1).any()):
        raise Unfit("the interval's time part is the one that cannot be negated")
    parts = [
        pc.binary_join_element_wise(pa.array(v).cast(pa.string()), u, " ")
        for v, u in ((months, "months"), (days, "days"), (micros, "microseconds"))
    ]
    return columnar.with_validity(pc.binary_join_element_wise(*parts, " "), valid)
