"""Row messages that wait for their batch to be closed: raw bytes and offset vectors, decoded per table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from connectors.columnar import Offsets, Raw
from connectors.postgres.pgoutput import TRUNCATE, Messages
from connectors.postgres.rows import Layout, decode_rows
from connectors.postgres.text_values import decode_text
from engine.changes import TableChanges
from engine.schema import TableId, TableSchema

_SPARSE = 1 << 16
_EMPTY = Raw(b"")


@dataclass(slots=True)
class _Segment:
    """Row messages (or truncates) of one buffer with the layout that each is to be decoded by."""

    run: Messages
    layouts: Offsets

    def split(self, at: int) -> tuple[_Segment, _Segment]:
        count = len(self.run)
        return (
            _Segment(self.run.span(0, at), self.layouts[:at]),
            _Segment(self.run.span(at, count), self.layouts[at:]),
        )


class Pending:
    """The rows of committed transactions, then those of the open one. Counts are of row messages, sizes of bytes."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._layouts = layouts
        self._segments: list[_Segment] = []
        self._total = 0
        self.committed = 0
        self.size = 0
        """Bytes of memory that is held."""
        self.open_bytes = 0
        """Bytes of the open transaction's row messages."""

    def add(self, run: Messages, layouts: Offsets) -> None:
        """Append row messages of the open transaction."""
        if not len(run):
            return
        size = int((run.end - run.body).sum())
        if run.raw.size > _SPARSE and 4 * size < run.raw.size:
            run = _compact(run)
        if not any(s.run.raw is run.raw for s in self._segments[-1:]):
            self.size += run.raw.size
        self._segments.append(_Segment(run, layouts))
        self._total += len(run)
        self.open_bytes += size

    def add_truncates(self, layouts: list[int]) -> None:
        """Append a TRUNCATE of these layouts' tables."""
        nowhere = np.zeros(len(layouts), np.int64)
        run = Messages(_EMPTY, np.full(len(layouts), TRUNCATE, np.uint8), nowhere, nowhere)
        self.add(run, np.array(layouts, np.int64))

    def commit(self, rows_behind: int) -> None:
        """Everything but the last `rows_behind` row messages is committed now."""
        self.committed = self._total - rows_behind
        self.open_bytes = self._bytes_behind(self.committed)

    def open_layouts(self) -> set[int]:
        """The layouts of the open transaction's rows that are still here."""
        found: set[int] = set()
        for segment in self._behind(self.committed):
            found.update(np.unique(segment.layouts).tolist())
        return found

    def take(self, *, fragment: bool) -> tuple[tuple[TableChanges, ...], int]:
        """Decode and forget the committed rows (`fragment`: the open ones, too); the changes and their source bytes."""
        count = self._total if fragment else self.committed
        segments: list[_Segment] = []
        rest: list[_Segment] = []
        for segment in self._segments:
            inside = min(count, len(segment.run))
            count -= inside
            head, tail = segment.split(inside)
            segments += [head] if len(head.run) else []
            rest += [tail] if len(tail.run) else []
        self._segments = rest
        self._total = sum(len(s.run) for s in rest)
        self.committed = 0
        self.size = sum({id(s.run.raw): s.run.raw.size for s in rest}.values())
        self.open_bytes = sum(int((s.run.end - s.run.body).sum()) for s in rest)
        size = sum(int((s.run.end - s.run.body).sum()) for s in segments)
        return self._decode(segments), size

    def _behind(self, count: int) -> list[_Segment]:
        """The segments less their first `count` row messages."""
        behind: list[_Segment] = []
        left = self._total - count
        for segment in reversed(self._segments):
            if left <= 0:
                break
            inside = min(left, len(segment.run))
            behind.append(segment.split(len(segment.run) - inside)[1])
            left -= inside
        return behind[::-1]

    def _bytes_behind(self, count: int) -> int:
        return sum(int((s.run.end - s.run.body).sum()) for s in self._behind(count))

    def _decode(self, segments: list[_Segment]) -> tuple[TableChanges, ...]:
        if not segments:
            return ()
        run, layouts = _join(segments)
        changes: dict[TableId, list[TableChanges]] = {}
        emptied: dict[TableId, TableSchema] = {}
        for layout_id, which in _groups(layouts):
            layout = self._layouts[layout_id]
            name = layout.table.id
            truncates = np.flatnonzero(run.kinds[which] == TRUNCATE)
            if len(truncates):
                emptied[name] = layout.table
                changes[name] = []
            rows = which[int(truncates[-1]) + 1 :] if len(truncates) else which
            if len(rows):
                changes.setdefault(name, []).append(decode_rows(layout, run.pick(rows)))
        out: list[TableChanges] = []
        for name, parts in changes.items():
            if name not in emptied:
                out += parts
            elif parts:
                out += [_truncated(parts[0]), *parts[1:]]
            else:
                out.append(_only_truncate(emptied[name]))
        return tuple(out)


def _truncated(changes: TableChanges) -> TableChanges:
    return TableChanges(changes.table, changes.ops, changes.rows, True, changes.unchanged, changes.base)


def _only_truncate(table: TableSchema) -> TableChanges:
    nothing = pa.array([], pa.binary())
    arrays = [decode_text(table.id, column, nothing) for column in table.columns]
    rows = pa.RecordBatch.from_arrays(arrays, names=[c.name for c in table.columns])
    return TableChanges(table, pa.array([], pa.int8()), rows, truncate=True)


def _compact(run: Messages) -> Messages:
    """The same messages in a buffer that holds nothing else."""
    lengths = run.end - run.body
    end = np.cumsum(lengths)
    data = run.raw.binary(run.body, lengths).buffers()[2]
    return Messages(Raw(data.to_pybytes()), run.kinds, end - lengths, end)


def _join(segments: list[_Segment]) -> tuple[Messages, Offsets]:
    """All segments over one buffer."""
    if len(segments) == 1:
        return segments[0].run, segments[0].layouts
    shifts: dict[int, int] = {}
    raws: list[Raw] = []
    size = 0
    for segment in segments:
        raw = segment.run.raw
        if id(raw) not in shifts:
            shifts[id(raw)] = size
            raws.append(raw)
            size += raw.size
    raw = raws[0] if len(raws) == 1 else Raw(b"".join(memoryview(r.buffer) for r in raws))
    run = Messages(
        raw,
        np.concatenate([s.run.kinds for s in segments]),
        np.concatenate([s.run.body + shifts[id(s.run.raw)] for s in segments]),
        np.concatenate([s.run.end + shifts[id(s.run.raw)] for s in segments]),
    )
    return run, np.concatenate([s.layouts for s in segments])


def _groups(layouts: Offsets) -> list[tuple[int, Offsets]]:
    """Per layout, in ascending order, where its rows are (in stream order)."""
    if len(layouts) and bool((layouts == layouts[0]).all()):
        return [(int(layouts[0]), np.arange(len(layouts)))]
    order = np.argsort(layouts, kind="stable")
    found, first = np.unique(layouts[order], return_index=True)
    return list(zip(found.tolist(), np.split(order, first[1:]), strict=True))
