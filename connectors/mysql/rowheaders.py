"""What stands before the rows of a row event: table id, flags, extra data and the bitmaps of columns.

Source: MySQL source documentation, "mysql::binlog::event::Rows_event" (dev.mysql.com); MariaDB Knowledge Base,
"Rows_event_v1/v2". Parsed for many events at once, since a busy source sends one event for each small transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connectors.columnar import Mask, Offsets, Raw
from connectors.mysql.rowrun import DELETE, INSERT, PARTIAL_UPDATE, UPDATE, RowRun
from connectors.mysql.rowshapes import little
from engine.errors import DecodeError

KIND_OF_EVENT = {
    23: INSERT,
    24: UPDATE,
    25: DELETE,
    30: INSERT,
    31: UPDATE,
    32: DELETE,
    39: PARTIAL_UPDATE,
}
"""The row events by type code, versions 1 and 2. MariaDB's compressed ones are inflated into these before."""

STATEMENT_END = 1
"""Flag: the last row event of its statement."""

_SECOND_VERSION = np.zeros(256, bool)
_SECOND_VERSION[[30, 31, 32, 39]] = True
_KINDS = np.zeros(256, np.int8)
_KINDS[list(KIND_OF_EVENT)] = list(KIND_OF_EVENT.values())
_POST_HEADER = 8
_ONE_BYTE = 250


@dataclass(slots=True)
class RowHeaders:
    """The headers of some row events, in stream order: one vector per property.

    `columns` is how many the table map must have; `first` and `second` are where the bitmaps stand (`second`: of an
    update's new image; equal to `first` otherwise); the rows lie from `starts` to `ends`.
    """

    raw: Raw
    data: bytes | bytearray | memoryview
    table_ids: Offsets
    flags: Offsets
    kinds: npt.NDArray[np.int8]
    columns: Offsets
    first: Offsets
    second: Offsets
    starts: Offsets
    ends: Offsets

    def __len__(self) -> int:
        return len(self.starts)

    def run(self, chosen: Offsets, columns: int) -> RowRun:
        """The chosen events, all of one table map of so many columns, as a run to decode."""
        if bool((self.columns[chosen] != columns).any()):
            raise DecodeError("a row event's column count is not its table map's")
        kinds = self.kinds[chosen]
        bitmaps: list[Mask] = []
        known: dict[bytes, int] = {}
        first = _bitmap_numbers(self.raw, self.first[chosen], columns, bitmaps, known)
        updates = (kinds == UPDATE) | (kinds == PARTIAL_UPDATE)
        second = first
        if bool(updates.any()):
            second = first.copy()
            second[updates] = _bitmap_numbers(self.raw, self.second[chosen][updates], columns, bitmaps, known)
        none = np.int32(-1)
        before = np.where(kinds == INSERT, none, first).astype(np.int32)
        after = np.where(kinds == DELETE, none, second).astype(np.int32)
        return RowRun(self.data, self.starts[chosen], self.ends[chosen], kinds, before, after, bitmaps)


def parse_row_headers(
    data: bytes | bytearray | memoryview, types: npt.NDArray[np.uint8], starts: Offsets, ends: Offsets
) -> RowHeaders:
    """Parse row events whose bodies (behind the 19-byte event header, before the checksum) lie so in `data`.

    `types` are the events' type codes, all of `KIND_OF_EVENT`. Raises DecodeError for a body that is too short.
    """
    raw = Raw(data)  # type: ignore[arg-type]
    try:
        return _parse(raw, data, types, starts, ends)
    except IndexError:
        raise DecodeError("a row event ends within its header") from None


def _parse(
    raw: Raw, data: bytes | bytearray | memoryview, types: npt.NDArray[np.uint8], starts: Offsets, ends: Offsets
) -> RowHeaders:
    kinds = _KINDS[types]
    if bool((kinds == 0).any()):
        raise DecodeError("not a row event")
    if len(starts) and bool((starts + _POST_HEADER + 2 > ends).any()):
        raise DecodeError("a row event ends within its header")
    table_ids = little(raw, starts, 6)
    flags = little(raw, starts + 6, 2)
    at = starts + _POST_HEADER
    second_version = _SECOND_VERSION[types]
    if bool(second_version.all()):
        extra = little(raw, at, 2)
    else:
        extra = np.where(second_version, little(raw, at, 2), 2)
    if bool((extra < 2).any()):
        raise DecodeError("a row event's extra data has an impossible length")
    at = at + np.where(second_version, extra, 0)
    columns = raw.u8[at].astype(np.int64)
    wide = columns > _ONE_BYTE
    after_count = at + 1
    if bool(wide.any()):
        if bool((columns[wide] != 252).any()):
            raise DecodeError("a row event's column count is not understood")
        columns[wide] = little(raw, at[wide] + 1, 2)
        after_count = after_count + 2 * wide
    if bool((columns == 0).any()):
        raise DecodeError("a row event without columns")
    width = (columns + 7) >> 3
    updates = (kinds == UPDATE) | (kinds == PARTIAL_UPDATE)
    second = np.where(updates, after_count + width, after_count)
    rows = second + width
    if bool((rows > ends).any()):
        raise DecodeError("a row event ends within its header")
    return RowHeaders(raw, data, table_ids, flags, kinds, columns, after_count, second, rows, ends)


def _bitmap_numbers(
    raw: Raw, at: Offsets, columns: int, bitmaps: list[Mask], known: dict[bytes, int]
) -> npt.NDArray[np.int32]:
    """Number the distinct bitmaps at these places, adding those not yet known."""
    if not len(at):
        return np.zeros(0, np.int32)
    width = (columns + 7) >> 3
    rows = np.lib.stride_tricks.sliding_window_view(raw.u8, width)[at]
    if bool((rows == rows[0]).all()):
        return np.full(len(at), _number(rows[0].tobytes(), columns, bitmaps, known), np.int32)
    distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
    numbers = np.array([_number(d.tobytes(), columns, bitmaps, known) for d in distinct], np.int32)
    return numbers[inverse.reshape(-1)]


def _number(bits: bytes, columns: int, bitmaps: list[Mask], known: dict[bytes, int]) -> int:
    if bits not in known:
        known[bits] = len(bitmaps)
        bitmaps.append(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[:columns].astype(bool))
    return known[bits]
