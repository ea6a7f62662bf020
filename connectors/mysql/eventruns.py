"""Many events of a binary log in vectors over one buffer: what the framing gives out and the stream works on.

Source: MySQL source documentation, "Binlog Event Header" (dev.mysql.com).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from connectors.columnar import Mask, Offsets
from connectors.mysql.events import HEADER
from engine.errors import DecodeError

Types = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Events:
    """A run of events of one binary log file, in one buffer. All vectors have one element per event.

    A ROTATE or a FORMAT_DESCRIPTION is the only event of its run.
    """

    data: bytes
    u8: Types
    """`data` once more, as a vector."""
    file: str
    """The file that they are in (``""`` before the server has said)."""
    types: Types
    timestamps: Offsets
    """Seconds since 1970."""
    servers: Offsets
    """Server ids of where the events were first written."""
    flags: Offsets
    ends_at: Offsets
    """Offset in the file behind the event, in 64 bits. Events that say none (artificial ones, those within a
    transaction on MariaDB 11.8) have that of the event before; inflated ones that of the event they came in."""
    body: Offsets
    """Where each body begins in `data` (behind the event header)."""
    end: Offsets
    """Where each body ends (before the checksum)."""

    def __len__(self) -> int:
        return len(self.types)

    def body_of(self, index: int) -> bytes:
        """The body of one event."""
        return self.data[int(self.body[index]) : int(self.end[index])]

    def span(self, lo: int, hi: int) -> Events:
        """The events `lo` (included) to `hi` (excluded), without copying."""
        return self.pick(slice(lo, hi))

    def pick(self, which: Offsets | Mask | slice) -> Events:
        """The chosen events, sharing the buffer."""
        return replace(
            self,
            types=self.types[which],
            timestamps=self.timestamps[which],
            servers=self.servers[which],
            flags=self.flags[which],
            ends_at=self.ends_at[which],
            body=self.body[which],
            end=self.end[which],
        )


@dataclass(frozen=True, slots=True)
class Headers:
    """The event headers at many places of a buffer, in vectors. `positions` has the 32 bits of the header."""

    types: Types
    timestamps: Offsets
    servers: Offsets
    lengths: Offsets
    positions: Offsets
    flags: Offsets


def headers(u8: Types, starts: Offsets) -> Headers:
    """Gather the headers that begin at `starts`. DecodeError when one passes the buffer's end."""
    if len(starts) and int(starts.max()) + HEADER > len(u8):
        raise DecodeError("an event is shorter than its header")
    if len(starts) == 0:
        none = np.zeros(0, np.int64)
        return Headers(np.zeros(0, np.uint8), none, none, none, none, none)
    # Elements that overlap (stride 1), so that one index per field does it.
    u32 = np.ndarray((len(u8) - 3,), "<u4", u8.data, strides=(1,))
    u16 = np.ndarray((len(u8) - 1,), "<u2", u8.data, strides=(1,))

    def number(at: int) -> Offsets:
        return u32[starts + at].astype(np.int64)

    flags = u16[starts + 17].astype(np.int64)
    return Headers(u8[starts + 4], number(0), number(5), number(9), number(13), flags)
