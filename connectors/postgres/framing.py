"""Where the server's messages begin in a buffer: a kind byte, then an int32 length that counts itself. Pure.

The messages of one COPY are alike: the same kind, and the same bytes at the beginning of their content (a row's column
count, or the header of a replication message). So the places that look like their beginnings are found all at once,
and taken for such only as far as each message ends where the next one begins; elsewhere they are walked one by one.

Source of the format: PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats".
"""

from __future__ import annotations

import struct

import numpy as np

from connectors.columnar import Offsets
from engine.errors import DecodeError

_LENGTH = struct.Struct(">I")
_HEADER = 5
_LEAST = 4
"""The smallest length that a message can state: that of the length itself."""
_WORTHWHILE = 16_384
"""Bytes from which on the search for likenesses pays."""
_STRAY = 64
"""Messages that are unlike the first one, after which the rest is walked."""


def message_starts(buffer: bytes | bytearray, have: int) -> tuple[Offsets, int]:
    """Where the whole messages among the first `have` bytes begin, and where the last of them ends.

    Raises DecodeError for a length that no message can have.
    """
    if have < _WORTHWHILE:
        starts, end = _walked(buffer, 0, have)
        return np.array(starts, np.int64), end
    return _alike(buffer, have)


def _walked(buffer: bytes | bytearray, at: int, have: int, most: int | None = None) -> tuple[list[int], int]:
    """Walk from `at` over whole messages, `most` of them at the most."""
    starts: list[int] = []
    append, unpack = starts.append, _LENGTH.unpack_from
    while at + _HEADER <= have and (most is None or len(starts) < most):
        length = unpack(buffer, at + 1)[0]
        if length < _LEAST:
            raise DecodeError("a message of the server has an impossible length")
        if at + 1 + length > have:
            break
        append(at)
        at += 1 + length
    return starts, at


def _alike(buffer: bytes | bytearray, have: int) -> tuple[Offsets, int]:
    data = np.frombuffer(buffer, np.uint8, have)
    likely = np.flatnonzero((data[: -_HEADER - 1] == data[0]) & (data[5:-1] == data[5]) & (data[6:] == data[6]))
    lengths = np.ndarray((have - 4,), ">u4", data, offset=1, strides=(1,))[likely].astype(np.int64)
    ends = likely + 1 + lengths
    # The last of each chain: its end is not where the next likely place is.
    breaks = np.append(np.flatnonzero(ends[:-1] != likely[1:]), len(likely) - 1)
    pieces: list[Offsets] = []
    at = stray = 0
    while True:
        first = int(np.searchsorted(likely, at))
        if first < len(likely) and likely[first] == at and stray < _STRAY:
            last = int(breaks[np.searchsorted(breaks, first)])
            if ends[last] > have:
                last -= 1
            if last >= first:
                if int(lengths[first : last + 1].min()) < _LEAST:
                    raise DecodeError("a message of the server has an impossible length")
                pieces.append(likely[first : last + 1])
                at = int(ends[last])
                continue
        stray += 1
        starts, end = _walked(buffer, at, have, 1 if stray < _STRAY else None)
        if starts:
            pieces.append(np.array(starts, np.int64))
        if not starts or stray >= _STRAY:
            return np.concatenate(pieces) if pieces else np.empty(0, np.int64), end
        at = end
