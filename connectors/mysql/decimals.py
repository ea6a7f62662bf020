"""Packed DECIMAL values: groups of up to nine decimal digits, big-endian, with a sign bit on top.

Source: MySQL source documentation of ``decimal2bin`` (dev.mysql.com): the leftmost and the rightmost group may be
shorter, the topmost bit is 1 for positive values, and negative values have every bit inverted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors import columnar
from connectors.mysql.cellvalues import Values
from connectors.mysql.rowshapes import big
from engine.errors import DecodeError

_BYTES_OF_DIGITS = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_SHORT, _LONG = 18, 38
_LIMB, _LIMBS = np.uint64(32), 4
_LOW = np.uint64((1 << 32) - 1)


def decimals(values: Values, precision: int, scale: int) -> pa.Array:
    """Decode to decimal128; beyond 38 digits to text as the server prints it."""
    start = values.starts()
    negative, groups = _groups(values, start, precision, scale)
    if precision > _LONG:
        return _text(values, negative, groups, precision, scale)
    words = np.zeros((values.count, 2), np.int64)
    if precision <= _SHORT:
        total = np.zeros(len(start), np.int64)
        for digits, group in groups:
            total = total * 10**digits + group
        total = np.where(negative, -total, total)
        words[values.valid_rows(), 0] = total
        words[values.valid_rows(), 1] = total >> 63
    else:
        low, high = _wide(groups, len(start))
        flipped = np.where(low == 0, ~high + np.uint64(1), ~high)
        low = np.where(negative, ~low + np.uint64(1), low)
        high = np.where(negative, flipped, high)
        words[values.valid_rows(), 0] = low.view(np.int64)
        words[values.valid_rows(), 1] = high.view(np.int64)
    null = None if values.valid is None else columnar.bitmap(values.valid)
    return pa.Array.from_buffers(pa.decimal128(precision, scale), values.count, [null, pa.py_buffer(words)])


def _layout(precision: int, scale: int) -> Iterator[int]:
    """The digits of each group from left to right, those of the integer part first."""
    whole, fraction = divmod(precision - scale, 9), divmod(scale, 9)
    if whole[1]:
        yield whole[1]
    yield from [9] * (whole[0] + fraction[0])
    if fraction[1]:
        yield fraction[1]


_Groups = list[tuple[int, npt.NDArray[np.int64]]]


def _groups(
    values: Values, start: npt.NDArray[np.int64], precision: int, scale: int
) -> tuple[npt.NDArray[np.bool_], _Groups]:
    """The sign and, per group, its number of digits with the values."""
    negative = values.raw.u8[start] < 0x80
    flip = bool(negative.any())
    groups: _Groups = []
    at = start
    for digits in _layout(precision, scale):
        width = _BYTES_OF_DIGITS[digits]
        group = big(values.raw, at, width)
        if flip:
            group = np.where(negative, group ^ ((1 << 8 * width) - 1), group)
        if not groups:
            group ^= 0x80 << 8 * (width - 1)
        if len(group) and int(group.max()) >= 10**digits:
            raise DecodeError("a DECIMAL has a group of too many digits")
        groups.append((digits, group))
        at = at + width
    return negative, groups


def _wide(groups: _Groups, count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """The absolute value as two 64-bit words, by long multiplication in 32-bit limbs."""
    limbs = [np.zeros(count, np.uint64) for _ in range(_LIMBS)]
    for digits, group in groups:
        carry = group.astype(np.uint64)
        factor = np.uint64(10**digits)
        for i in range(_LIMBS):
            product = limbs[i] * factor + carry
            limbs[i] = product & _LOW
            carry = product >> _LIMB
    return limbs[0] | limbs[1] << _LIMB, limbs[2] | limbs[3] << _LIMB


def _text(values: Values, negative: npt.NDArray[np.bool_], groups: _Groups, precision: int, scale: int) -> pa.Array:
    """Digits without leading zeros (but one before the point), with all digits of the scale."""
    whole = precision - scale
    characters = np.zeros((len(negative), precision), np.uint8)
    right = 0
    for digits, group in groups:
        rest = group
        for i in range(right + digits - 1, right - 1, -1):
            rest, characters[:, i] = np.divmod(rest, 10)
        right += digits
    seen = np.logical_or.accumulate(characters[:, :whole] != 0, axis=1)
    kept = np.ones((len(negative), precision + 3), bool)
    drawn = np.full((len(negative), precision + 3), ord("0"), np.uint8)
    drawn[:, 0], kept[:, 0] = ord("-"), negative
    kept[:, 1] = ~seen[:, -1] if whole else True
    drawn[:, 2 : 2 + whole] += characters[:, :whole]
    kept[:, 2 : 2 + whole] = seen
    drawn[:, 2 + whole], kept[:, 2 + whole] = ord("."), scale > 0
    drawn[:, 3 + whole :] += characters[:, whole:]
    lengths = np.zeros(values.count, np.int64)
    lengths[values.valid_rows()] = kept.sum(axis=1)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    null = None if values.valid is None else columnar.bitmap(values.valid)
    buffers = [null, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(drawn[kept]))]
    return pa.Array.from_buffers(pa.large_string(), values.count, buffers).cast(pa.string())
