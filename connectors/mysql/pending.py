"""Row events that wait for their batch to be closed: raw bytes and offset vectors, decoded per table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.columnar import Offsets, Raw
from connectors.mysql.rowheaders import parse_row_headers
from connectors.mysql.rows import Layout, decode_rows
from engine.changes import TableChanges
from engine.schema import TableSchema

Types = npt.NDArray[np.uint8]

_SPARSE = 1 << 16
"""Buffers of at least so many bytes are copied together when less than a quarter of them is wanted."""


@dataclass(slots=True)
class Rows:
    """Row events (types and bodies, without checksums) of one buffer, with the layout that each is decoded by."""

    data: bytes
    types: Types
    starts: Offsets
    ends: Offsets
    layouts: Offsets

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return int((self.ends - self.starts).sum())

    def span(self, lo: int, hi: int) -> Rows:
        """Events `lo` to `hi` (exclusive)."""
        cut = slice(lo, hi)
        return Rows(self.data, self.types[cut], self.starts[cut], self.ends[cut], self.layouts[cut])


@dataclass(frozen=True, slots=True)
class Truncate:
    """The table is emptied here. It counts as one event."""

    table: TableSchema
    size = 0

    def __len__(self) -> int:
        return 1


Segment = Rows | Truncate


class Pending:
    """The row events of committed transactions, then those of the open one. Counts are of events, sizes of bytes."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._layouts = layouts
        self._segments: list[Segment] = []
        self._total = 0
        self.committed = 0
        self.size = 0
        """Bytes of memory that is held."""
        self.open_bytes = 0
        """Bytes of the open transaction's row events."""

    def add(self, rows: Rows) -> None:
        """Append row events of the open transaction."""
        if not len(rows):
            return
        if len(rows.data) > _SPARSE and 4 * rows.size < len(rows.data):
            rows = _compact(rows)
        last = self._segments[-1] if self._segments else None
        if not (isinstance(last, Rows) and last.data is rows.data):
            self.size += len(rows.data)
        self._append(rows)

    def truncate(self, table: TableSchema) -> None:
        """Append a TRUNCATE of the open transaction."""
        self._append(Truncate(table))

    def _append(self, segment: Segment) -> None:
        self._segments.append(segment)
        self._total += len(segment)
        self.open_bytes += segment.size

    def commit(self, behind: int = 0) -> None:
        """Everything but the last `behind` events is committed now."""
        self.committed = self._total - behind
        self.open_bytes = sum(s.size for s in self._behind(self.committed))

    def open_layouts(self) -> set[int]:
        """The layouts of the open transaction's rows that are still here."""
        found: set[int] = set()
        for segment in self._behind(self.committed):
            if isinstance(segment, Rows):
                found.update(np.unique(segment.layouts).tolist())
        return found

    def detach(self) -> list[Segment]:
        """Take the open transaction's events out, undecoded."""
        open_segments = self._behind(self.committed)
        self._segments, _ = _split(self._segments, self.committed)
        self._measure()
        return [_compact(s) if isinstance(s, Rows) else s for s in open_segments]

    def attach(self, segments: Sequence[Segment]) -> None:
        """Append what was detached, to the open transaction."""
        for segment in segments:
            if isinstance(segment, Rows):
                self.size += len(segment.data)
            self._append(segment)

    def take(self, *, fragment: bool) -> tuple[tuple[TableChanges, ...], int]:
        """Decode and forget the committed events (`fragment`: the open ones, too); the changes and their source bytes."""
        count = self._total if fragment else self.committed
        segments, self._segments = _split(self._segments, count)
        self.committed = 0
        self._measure()
        return self._decode(segments), sum(s.size for s in segments)

    def _measure(self) -> None:
        self._total = sum(len(s) for s in self._segments)
        self.size = sum({id(s.data): len(s.data) for s in self._segments if isinstance(s, Rows)}.values())
        self.open_bytes = sum(s.size for s in self._behind(self.committed))

    def _behind(self, count: int) -> list[Segment]:
        return _split(self._segments, count)[1] if count < self._total else []

    def _decode(self, segments: Sequence[Segment]) -> tuple[TableChanges, ...]:
        out: list[TableChanges] = []
        emptied: dict[TableSchema, None] = {}
        run: list[Rows] = []
        for segment in segments:
            if isinstance(segment, Rows):
                run.append(segment)
                continue
            # What came before in the same batch is gone with the TRUNCATE; a table empties only once.
            out += self._decode_rows(run, emptied)
            out = [c for c in out if c.table.id != segment.table.id]
            emptied[segment.table] = None
            run = []
        out += self._decode_rows(run, emptied)
        return (*out, *map(_only_truncate, emptied))

    def _decode_rows(self, segments: list[Rows], emptied: dict[TableSchema, None]) -> list[TableChanges]:
        """Decode; the first changes of a table that is in `emptied` carry its truncation, and it is taken out."""
        if not segments:
            return []
        rows = _join(segments)
        out: list[TableChanges] = []
        headers = parse_row_headers(rows.data, rows.types, rows.starts, rows.ends)
        for layout_id, which in _runs(rows.layouts, self._layouts):
            layout = self._layouts[layout_id]
            changes = decode_rows(layout, headers.run(which, len(layout.map.columns)))
            if changes and layout.table in emptied:
                del emptied[layout.table]
                first = changes[0]
                changes[0] = TableChanges(first.table, first.ops, first.rows, True, first.unchanged, first.base)
            out += changes
        return out


def _only_truncate(table: TableSchema) -> TableChanges:
    nothing = pa.array([], pa.string())
    rows = pa.RecordBatch.from_arrays([nothing] * len(table.columns), names=[c.name for c in table.columns])
    return TableChanges(table, pa.array([], pa.int8()), rows, truncate=True)


def _split(segments: Sequence[Segment], count: int) -> tuple[list[Segment], list[Segment]]:
    """The first `count` events and the others."""
    head: list[Segment] = []
    tail: list[Segment] = []
    for segment in segments:
        inside = min(count, len(segment))
        count -= inside
        if inside == len(segment):
            head.append(segment)
        elif inside == 0:
            tail.append(segment)
        else:
            assert isinstance(segment, Rows)
            head.append(segment.span(0, inside))
            tail.append(segment.span(inside, len(segment)))
    return head, tail


def _compact(rows: Rows) -> Rows:
    """The same events in a buffer that holds nothing else."""
    lengths = rows.ends - rows.starts
    ends = np.cumsum(lengths)
    array = Raw(rows.data).binary(rows.starts, lengths)
    data: pa.Buffer = array.buffers()[2]
    content = data.to_pybytes() if data is not None else b""
    first = int(np.frombuffer(array.buffers()[1], np.int32 if array.type == pa.binary() else np.int64)[array.offset])
    content = content[first : first + int(ends[-1])]
    return Rows(content, rows.types, ends - lengths, ends, rows.layouts)


def _join(segments: list[Rows]) -> Rows:
    """All segments over one buffer."""
    if len(segments) == 1:
        return segments[0]
    shifts: dict[int, int] = {}
    buffers: list[bytes] = []
    size = 0
    for segment in segments:
        if id(segment.data) not in shifts:
            shifts[id(segment.data)] = size
            buffers.append(segment.data)
            size += len(segment.data)
    return Rows(
        buffers[0] if len(buffers) == 1 else b"".join(buffers),
        np.concatenate([s.types for s in segments]),
        np.concatenate([s.starts + shifts[id(s.data)] for s in segments]),
        np.concatenate([s.ends + shifts[id(s.data)] for s in segments]),
        np.concatenate([s.layouts for s in segments]),
    )


def _runs(ids: Offsets, layouts: Sequence[Layout]) -> list[tuple[int, Offsets]]:
    """Per table, runs of events in one layout, each in stream order: the layout and where its events are."""
    if bool((ids == ids[0]).all()):
        return [(int(ids[0]), np.arange(len(ids)))]
    order = np.argsort(ids, kind="stable")
    found, first = np.unique(ids[order], return_index=True)
    groups = dict(zip(found.tolist(), np.split(order, first[1:]), strict=True))
    tables: dict[object, list[int]] = {}
    for layout in groups:
        tables.setdefault(layouts[layout].table.id, []).append(layout)
    runs: list[tuple[int, Offsets]] = []
    for members in tables.values():
        if len(members) == 1:
            runs.append((members[0], groups[members[0]]))
            continue
        # One table in several layouts: they may alternate.
        which = np.sort(np.concatenate([groups[m] for m in members]))
        kinds = ids[which]
        edges = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
        runs += [(int(ids[part[0]]), part) for part in np.split(which, edges)]
    return runs
