"""The row images of one relation, from pgoutput tuples to Arrow: all rows at once, column by column.

A tuple is an int16 column count, then per column a kind byte (``n`` null, ``u`` unchanged TOAST value, ``t`` text)
and, for text, an int32 length and the bytes. Updates carry an old key (``K``) or old row (``O``) before the new
tuple (``N``) when the replica identity asks for it; deletes carry only the old one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columnar
from connectors.columnar import Mask, Offsets, Raw
from connectors.postgres.pgoutput import DELETE, INSERT, UPDATE, Kinds, Messages, RelationInfo
from connectors.postgres.text_values import decode_text
from engine.changes import Op, TableChanges
from engine.errors import DecodeError, ResyncRequired
from engine.schema import Column, Identity, TableSchema

_TEXT, _NULL, _UNCHANGED = ord("t"), ord("n"), ord("u")
_KEY, _OLD, _NEW = ord("K"), ord("O"), ord("N")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one relation are sent (`info`) and what is replicated of them (`table`)."""

    info: RelationInfo
    table: TableSchema

    def sources(self) -> list[int]:
        """For each column of the table, its place in the relation's tuples."""
        places = {c.name: i for i, c in enumerate(self.info.columns)}
        return [places[c.name] for c in self.table.columns]


@dataclass(slots=True)
class _Field:
    """One column of many tuples: kind byte, where the value starts, its length (0 unless text)."""

    kind: Kinds
    start: Offsets
    length: Offsets

    def at(self, rows: Offsets) -> _Field:
        return _Field(self.kind[rows], self.start[rows], self.length[rows])

    def values(self, raw: Raw) -> pa.Array:
        return raw.binary(self.start, self.length, self.kind == _TEXT)


def _require(holds: Mask, what: str) -> None:
    if not bool(holds.all()):
        raise DecodeError(what)


def _walk(raw: Raw, at: Offsets, limit: Offsets, columns: int) -> tuple[list[_Field], Offsets]:
    """Walk tuples that start at `at` and must lie before `limit`; returns the fields and where the tuples end."""
    _require(at + 2 <= limit, "a tuple ends before its column count")
    _require(raw.i16(at) == columns, "a tuple's column count is not the relation's")
    at = at + 2
    fields = []
    for _ in range(columns):
        _require(at < limit, "a tuple ends before its last column")
        kind = raw.u8[at]
        text = kind == _TEXT
        if bool(text.all()):
            _require(at + 5 <= limit, "a column ends before its length")
            length = raw.i32(at + 1)
            start = at + 5
        else:
            _require(text | (kind == _NULL) | (kind == _UNCHANGED), "a column has an unknown kind")
            which = np.flatnonzero(text)
            _require(at[which] + 5 <= limit[which], "a column ends before its length")
            length = np.zeros(len(at), np.int64)
            length[which] = raw.i32(at[which] + 1)
            start = np.where(text, at + 5, at + 1)
        at = start + length
        _require((length >= 0) & (at <= limit), "a column's length is beyond its message")
        fields.append(_Field(kind, start, length))
    return fields, at


@dataclass(slots=True)
class _Images:
    """The tuples of a run of row messages. `old_rows` and `new_rows` say which message each tuple belongs to."""

    old_rows: Offsets
    old_kind: Kinds
    old: list[_Field]
    new_rows: Offsets
    new: list[_Field]


def _images(run: Messages, columns: int) -> _Images:
    raw, kinds, end = run.raw, run.kinds, run.end
    at = run.body + 4
    marker = raw.u8[at]
    has_old = (marker == _KEY) | (marker == _OLD)
    has_new = marker == _NEW
    _require(has_old | has_new, "a row message has an unknown tuple kind")
    _require(np.where(kinds == INSERT, has_new, True), "an insert carries an old tuple")
    deletes = kinds == DELETE
    _require(np.where(deletes, has_old, True), "a delete carries a new tuple")
    start = at + 1
    old_rows = np.flatnonzero(has_old)
    old: list[_Field] = []
    if len(old_rows):
        old, old_end = _walk(raw, start[old_rows], end[old_rows], columns)
        gone = deletes[old_rows]
        _require(old_end[gone] == end[old_rows][gone], "a delete is longer than its tuple")
        kept, behind = old_rows[~gone], old_end[~gone]
        _require(behind < end[kept], "an update ends before its new tuple")
        _require(raw.u8[behind] == _NEW, "an update's new tuple is missing")
        start = start.copy()
        start[kept] = behind + 1
    new_rows = np.flatnonzero(~deletes)
    new: list[_Field] = []
    if len(new_rows):
        new, new_end = _walk(raw, start[new_rows], end[new_rows], columns)
        _require(new_end == end[new_rows], "a row message is longer than its tuple")
        inserts = kinds[new_rows] == INSERT
        for field in new:
            _require(~(inserts & (field.kind == _UNCHANGED)), "an insert leaves a value unchanged")
    return _Images(old_rows, marker[old_rows], old, new_rows, new)


def _fill_from_old(field: _Field, old: _Field, pairs: tuple[Offsets, Offsets], known: Mask) -> _Field:
    """Take values that an update left unchanged from its old tuple, where that tuple has them."""
    in_new, in_old = pairs
    missing = (field.kind[in_new] == _UNCHANGED) & known & (old.kind[in_old] != _UNCHANGED)
    if not bool(missing.any()):
        return field
    to, source = in_new[missing], in_old[missing]
    filled = _Field(field.kind.copy(), field.start.copy(), field.length.copy())
    filled.kind[to], filled.start[to], filled.length[to] = old.kind[source], old.start[source], old.length[source]
    return filled


def _same(raw: Raw, a: _Field, b: _Field) -> Mask:
    """Where two columns hold the same bytes (or both NULL)."""
    same: Mask = (a.kind == b.kind) & (a.length == b.length)
    rows = np.flatnonzero(same & (a.kind == _TEXT))
    if len(rows):
        equal = pc.equal(a.at(rows).values(raw), b.at(rows).values(raw))
        same[rows] &= equal.to_numpy(zero_copy_only=False)
    return same


def decode_rows(layout: Layout, run: Messages) -> TableChanges:
    """Decode row messages of one relation, in stream order, into the changes of its table.

    Raises DecodeError for malformed tuples, ResyncRequired when an old row is needed that the source did not send,
    UnsupportedValue when a value does not fit its column's replica type.
    """
    table = layout.table
    sources = layout.sources()
    images = _images(run, len(layout.info.columns))
    by_row = table.identity is Identity.ROW
    if by_row:
        _require(images.old_kind == _OLD, "a change of a table without a key carries only a key")
    plan = _Plan.make(run, images, [sources[table.column_names.index(k)] for k in table.key], by_row=by_row)
    key = frozenset(table.key)
    arrays, unchanged = [], {}
    for column, source in zip(table.columns, sources, strict=True):
        field = plan.output(source, values_of_deleted=by_row or column.name in key)
        left = field.kind == _UNCHANGED
        if bool(left.any()):
            if by_row or bool(left[plan.ops == Op.DELETE].any()) or column.name in key:
                raise ResyncRequired("the source did not send the whole old row", [table.id])
            unchanged[column.name] = columnar.booleans(left)
        if column.name in key:
            _require(field.kind == _TEXT, "a key column is NULL")
        arrays.append(_column(table, column, field, run.raw))
    rows = pa.RecordBatch.from_arrays(arrays, names=[c.name for c in table.columns])
    base = _base(layout, plan, rows) if unchanged else None
    return TableChanges(table, columnar.fixed(plan.ops, pa.int8()), rows, unchanged=unchanged, base=base)


def _column(table: TableSchema, column: Column, field: _Field, raw: Raw) -> pa.Array:
    return decode_text(table.id, column, field.values(raw))


def _base(layout: Layout, plan: _Plan, rows: pa.RecordBatch) -> pa.RecordBatch | None:
    """The key under which each row was known before: the row's own, or for a changed key the one just deleted."""
    if not bool(plan.moved.any()):
        return None
    # a moved row directly follows the DELETE of the key it had
    picks = np.arange(len(plan.ops))
    picks[plan.moved] -= 1
    return rows.select(list(layout.table.key)).take(pa.array(picks))


@dataclass(slots=True)
class _Plan:
    """Which tuples become which rows of the result. `moved` marks updates that follow the DELETE of their old key."""

    ops: np.ndarray[tuple[int], np.dtype[np.int8]]
    moved: Mask
    old_to: Offsets
    old_from: Offsets
    new_to: Offsets
    old: list[_Field]
    new: list[_Field]

    @classmethod
    def make(cls, run: Messages, images: _Images, key: list[int], *, by_row: bool) -> _Plan:
        ops = np.full(len(run), Op.UPDATE, np.int8)
        ops[run.kinds == INSERT] = Op.INSERT
        ops[run.kinds == DELETE] = Op.DELETE
        if not len(images.old_rows):
            none = np.zeros(0, np.int64)
            return cls(ops, np.zeros(len(ops), bool), none, none, np.arange(len(ops)), [], images.new)
        updated = np.flatnonzero(run.kinds[images.old_rows] == UPDATE)
        pairs = np.searchsorted(images.new_rows, images.old_rows[updated]), updated
        new = cls._filled(images, pairs, key)
        moved = np.zeros(len(run), bool)
        moved[images.old_rows[updated]] = True
        if not by_row and len(updated):
            same = np.ones(len(updated), bool)
            for column in key:
                same &= _same(run.raw, new[column].at(pairs[0]), images.old[column].at(pairs[1]))
            moved[images.old_rows[updated[same]]] = False
        ops_out = np.repeat(ops, 1 + moved)
        first = np.cumsum(1 + moved) - 1 - moved
        ops_out[first[moved]] = Op.DELETE
        last = first + moved
        if by_row:
            ops_out[last[moved]] = Op.INSERT
        emitted = np.flatnonzero((ops[images.old_rows] == Op.DELETE) | moved[images.old_rows])
        moved_out = np.zeros(len(ops_out), bool)
        moved_out[last[moved]] = True
        to = first[images.old_rows[emitted]]
        return cls(ops_out, moved_out, to, emitted, last[images.new_rows], images.old, new)

    @staticmethod
    def _filled(images: _Images, pairs: tuple[Offsets, Offsets], key: list[int]) -> list[_Field]:
        if not len(pairs[0]):
            return images.new
        whole = images.old_kind[pairs[1]] == _OLD
        everything = np.ones(len(whole), bool)
        return [
            _fill_from_old(field, images.old[i], pairs, everything if i in key else whole)
            for i, field in enumerate(images.new)
        ]

    def output(self, source: int, *, values_of_deleted: bool) -> _Field:
        """One column of the result; deleted rows are NULL in it unless `values_of_deleted`."""
        if not len(self.old_to):
            return self.new[source]
        count = len(self.ops)
        out = _Field(np.full(count, _NULL, np.uint8), np.zeros(count, np.int64), np.zeros(count, np.int64))
        old = self.old[source].at(self.old_from)
        out.start[self.old_to] = old.start
        if values_of_deleted:
            out.kind[self.old_to], out.length[self.old_to] = old.kind, old.length
        if self.new:
            new = self.new[source]
            out.kind[self.new_to], out.start[self.new_to], out.length[self.new_to] = new.kind, new.start, new.length
        return out
