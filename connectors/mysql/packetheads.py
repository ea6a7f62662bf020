"""Where the packets of MySQL's protocol begin in what has arrived.

A packet says how long it is, so the next one is found from it, and a stretch has to be walked. One step for each of many
packets takes Python long; so a long stretch is walked from many places at once, each walk up to where the next one began.
Those places are guessed: a guess is right where the walk before meets it, since the first walk is right. Where one is
missed, the stretch is walked again, packet by packet.

Source: MySQL source documentation, "Protocol Basics: Packets" (dev.mysql.com).
"""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from connectors.columnar import Offsets

_HEADER = 4
_LENGTH = struct.Struct("<I").unpack_from
_LONGEST = 0xFFFFFF
_WALKS = 256
_WINDOW = 384
"""Bytes that each guess is looked for in."""
_SURE = 3
"""Further packets, numbered one after the other, that a guess must lead to."""
_PAYING = 1 << 17
"""From so many bytes on it pays, if packets are `_SHORT` on the average."""
_SHORT = 500


def packet_heads(data: bytes | bytearray) -> tuple[Offsets, int]:
    """Where the packets begin whose header has arrived, the first at 0, and where the one behind them would begin."""
    if len(data) >= _PAYING and len(_one_walk(data, 16 * _SHORT)[0]) >= 16:
        found = _many_walks(data)
        if found is not None:
            return found
    return _one_walk(data, len(data))


def _one_walk(data: bytes | bytearray, size: int) -> tuple[Offsets, int]:
    at, last = 0, size - _HEADER
    found: list[int] = []
    append = found.append
    while at <= last:
        append(at)
        at += _HEADER + (_LENGTH(data, at)[0] & _LONGEST)
    return np.array(found, np.int64), at


def _many_walks(data: bytes | bytearray) -> tuple[Offsets, int] | None:
    """None where a guess was wrong."""
    u8 = np.frombuffer(data, np.uint8)
    words = np.ndarray((len(data) - _HEADER + 1,), "<u4", u8.data, strides=(1,))
    at = _guesses(u8, words)
    ends = np.append(at[1:], len(words))
    steps = []
    while True:
        steps.append(at)
        at = at + (words[at] & _LONGEST) + _HEADER
        if bool((at >= ends).any()):
            break
    # From here on, some walks have arrived.
    arrived = at >= ends
    while not arrived.all():
        steps.append(np.where(arrived, -1, at))
        here = np.where(arrived, 0, at)
        at = np.where(arrived, at, at + (words[here] & _LONGEST) + _HEADER)
        arrived = at >= ends
    if bool((at[:-1] != ends[:-1]).any()):
        return None
    by_walk = np.stack(steps, axis=1).ravel()
    return by_walk[by_walk >= 0], int(at[-1])


def _guesses(u8: npt.NDArray[np.uint8], words: npt.NDArray[np.uint32]) -> Offsets:
    """Where walks begin: at 0, and at the first place in each window that leads to several packets numbered in turn."""
    begins = np.arange(1, _WALKS) * (len(words) // _WALKS)
    places = (begins[:, None] + np.arange(_WINDOW)).ravel()
    at, numbers = places, u8[places + 3]
    for _ in range(_SURE):
        at = at + (words[at] & _LONGEST) + _HEADER
        inside = np.flatnonzero(at < len(words))
        numbers = numbers[inside] + np.uint8(1)
        right = u8[at[inside] + 3] == numbers
        inside = inside[right]
        places, at, numbers = places[inside], at[inside], numbers[right]
    _, first = np.unique(np.searchsorted(begins, places, "right"), return_index=True)
    return np.append(0, places[first])
