"""Dates and times of a day as the server prints them: what keeps apart those that no calendar has, in a key.

Text of the forms ``2024-00-10`` and ``0000-00-00 00:00:00.000``, in UTC for TIMESTAMP.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columnar
from connectors.columnar import Offsets
from connectors.mysql.cellvalues import Values

_MICROS = 1_000_000
_DAY = 86_400 * _MICROS


def dates(values: Values, year: Offsets, month: Offsets, day: Offsets) -> pa.Array:
    """The texts of these parts, of the rows that have a value."""
    return _texts(values, _date(year, month, day))


def datetimes(values: Values, year: Offsets, month: Offsets, day: Offsets, clock: Offsets, fsp: int) -> pa.Array:
    """`clock` is in µs of the day; `fsp` digits of a second are printed."""
    seconds, micros = clock // _MICROS, clock % _MICROS
    parts = [*_date(year, month, day), " ", (seconds // 3600, 2), ":", (seconds // 60 % 60, 2), ":", (seconds % 60, 2)]
    if fsp:
        parts += [".", (micros // 10 ** (6 - fsp), fsp)]
    return _texts(values, parts)


def timestamps(values: Values, micros: Offsets, fsp: int) -> pa.Array:
    """`micros` since 1970; 0 is the zero date."""
    days = (micros // _DAY).astype("M8[D]")
    months = days.astype("M8[M]")
    there = micros != 0
    year = (months.astype("M8[Y]").astype(np.int64) + 1970) * there
    month = (months.astype(np.int64) % 12 + 1) * there
    day = ((days - months).astype(np.int64) + 1) * there
    return datetimes(values, year, month, day, micros % _DAY, fsp)


_Parts = list[str | tuple[Offsets, int]]


def _date(year: Offsets, month: Offsets, day: Offsets) -> _Parts:
    return [(year, 4), "-", (month, 2), "-", (day, 2)]


def _texts(values: Values, parts: _Parts) -> pa.Array:
    """Numbers of fixed widths between signs, in ASCII."""
    width = sum(1 if isinstance(part, str) else part[1] for part in parts)
    letters: npt.NDArray[np.uint8] = np.zeros((values.count, width), np.uint8)
    at = 0
    for part in parts:
        if isinstance(part, str):
            letters[:, at] = ord(part)
            at += 1
            continue
        number, digits = part
        spread = values.spread(number)
        for place in range(digits):
            letters[:, at + digits - 1 - place] = spread // 10**place % 10 + ord("0")
        at += digits
    offsets = np.arange(values.count + 1, dtype=np.int64) * width
    null = None if values.valid is None else columnar.bitmap(values.valid)
    buffers = [null, pa.py_buffer(offsets), pa.py_buffer(letters)]
    return pa.Array.from_buffers(pa.large_string(), values.count, buffers).cast(pa.string())
