"""The row images of one table map, from row events to Arrow: all rows of many events at once, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columnar
from connectors.columnar import Mask, Offsets, Raw
from connectors.mysql import json_binary
from connectors.mysql.cellvalues import Values
from connectors.mysql.columnvalues import Unfit, decode_column
from connectors.mysql.defaults import default_value
from connectors.mysql.rowimages import ABSENT, NULL, PARTIAL, VALUE, Cells
from connectors.mysql.rowrun import DELETE, INSERT, PARTIAL_UPDATE, UPDATE, Layout, RowRun
from connectors.mysql.rowsides import Images, find_images
from connectors.mysql.tablemap import JSON
from connectors.mysql.types import NO_SUCH_DAY
from engine.changes import Op, TableChanges, with_nulled
from engine.errors import DecodeError, ResyncRequired, UnsupportedValue
from engine.schema import Column, Identity, TableSchema

__all__ = ["DELETE", "INSERT", "PARTIAL_UPDATE", "UPDATE", "Layout", "RowRun", "decode_rows"]


def decode_rows(layout: Layout, run: RowRun) -> list[TableChanges]:
    """Decode the row events of one table, in stream order, into its changes.

    Raises DecodeError for malformed rows, ResyncRequired when a value is needed that the source did not send,
    UnsupportedValue when a value does not fit its column.
    """
    if not len(run):
        return []
    images = find_images(layout, run)
    if not len(images.kinds):
        return []
    table = layout.table
    by_row = table.identity is not Identity.KEY
    key = [layout.places[table.column_names.index(k)] for k in table.key]
    picked = _Picked.make(layout, images, key, by_row=by_row)
    arrays, unchanged = [], {}
    for column, place in zip(table.columns, layout.places, strict=True):
        cells = picked.output(place, values_of_deleted=by_row or place in key)
        if place in key and cells.any(NULL):
            raise DecodeError("a key column is NULL")
        left = picked.left(layout, cells)
        if left is not None:
            if by_row or place in key:
                raise ResyncRequired("the source did not send the whole old row", [table.id])
            unchanged[column.name] = columnar.booleans(left)
        arrays.append(picked.column(layout, column, place, cells))
        if place in key and arrays[-1].null_count:
            raise UnsupportedValue(table.id, [column.name], NO_SUCH_DAY)
    rows = with_nulled(pa.RecordBatch.from_arrays(arrays, names=list(table.column_names)), picked.nulled)
    base = picked.base(table, rows) if unchanged else None
    return [TableChanges(table, columnar.fixed(picked.ops, pa.int8()), rows, unchanged=unchanged, base=base)]


@dataclass(slots=True)
class _Picked:
    """Which images become which rows of the result.

    `ops` per row of the result; `moved` marks those that follow the DELETE of their old key or row. Old images
    `old_from` go to the rows `old_to`, new ones to `new_to`. `earlier` says for every row of the result which old
    image its row had before, -1 if none.
    """

    raw: Raw
    ops: npt.NDArray[np.int8]
    moved: Mask
    old_to: Offsets
    old_from: Offsets
    new_to: Offsets
    earlier: Offsets
    old: dict[int, Cells]
    new: dict[int, Cells]
    nulled: dict[str, int] = field(default_factory=dict)
    """Per column, how many values of rows that are there now became NULL by its rule."""

    @classmethod
    def make(cls, layout: Layout, images: Images, key: list[int], *, by_row: bool) -> _Picked:
        raw, kinds, old, new = images.raw, images.kinds, images.old, images.new
        wanted = set(layout.places)
        partial = (
            {o for o, c in enumerate(layout.map.columns) if c.type == JSON}
            if bool((kinds == PARTIAL_UPDATE).any())
            else set()
        )
        updates = (kinds == UPDATE) | (kinds == PARTIAL_UPDATE)
        needed = wanted if by_row else wanted & (set(key) | new.missing | partial)
        computed = {o: layout.inputs_of(o) for o in sorted(wanted & new.missing) if _left_to_compute(layout, o)}
        origins = set[int]().union(*computed.values())
        new_cells = new.cells(layout, raw, wanted | origins)
        old_cells = old.cells(layout, raw, needed | origins)
        ops = np.full(len(kinds), Op.UPDATE, np.int8)
        ops[kinds == INSERT] = Op.INSERT
        ops[kinds == DELETE] = Op.DELETE
        count = len(kinds)
        if not len(old.rows):
            none = np.zeros(0, np.int64)
            everything = np.arange(count)
            return cls(raw, ops, np.zeros(count, bool), none, none, everything, everything * 0 - 1, {}, new_cells)
        in_old = np.flatnonzero(updates[old.rows])
        in_new = np.searchsorted(new.rows, old.rows[in_old])
        if len(in_old):
            for place, of in computed.items():
                absent = new_cells[place].at(in_new).has(ABSENT)
                if any(
                    bool((absent & _changed(raw, old_cells[o].at(in_old), new_cells[o].at(in_new))).any()) for o in of
                ):
                    reason = f"an update changed what column {layout.definitions[place].name} is computed from"
                    raise ResyncRequired(f"{reason}, and the source left its value out", [layout.table.id])
            for place in wanted & new.missing:
                if place in old_cells:
                    _fill(new_cells[place], old_cells[place], in_new, in_old)
        moved = np.zeros(count, bool)
        moved[old.rows[in_old]] = True
        if not by_row and len(in_old):
            same = np.ones(len(in_old), bool)
            for place in key:
                same &= _same(raw, new_cells[place].at(in_new), old_cells[place].at(in_old))
            moved[old.rows[in_old[same]]] = False
        repeats = 1 + moved
        ops_out = np.repeat(ops, repeats)
        last = np.cumsum(repeats) - 1
        first = last - moved
        ops_out[first[moved]] = Op.DELETE
        if by_row:
            ops_out[last[moved]] = Op.INSERT
        emitted = np.flatnonzero((ops[old.rows] == Op.DELETE) | moved[old.rows])
        moved_out = np.zeros(len(ops_out), bool)
        moved_out[last[moved]] = True
        earlier = np.full(len(ops_out), -1, np.int64)
        earlier[last[old.rows[in_old]]] = in_old
        return cls(
            raw, ops_out, moved_out, first[old.rows[emitted]], emitted, last[new.rows], earlier, old_cells, new_cells
        )

    def output(self, place: int, *, values_of_deleted: bool) -> Cells:
        """One column of the result; deleted rows are NULL in it unless `values_of_deleted`."""
        if not len(self.old_to):
            return self.new[place]
        count = len(self.ops)
        out = Cells(np.zeros(count, np.int64), np.zeros(count, np.int64), np.full(count, NULL, np.uint8))
        assert out.state is not None
        if values_of_deleted:
            old = self.old[place].at(self.old_from)
            out.start[self.old_to], out.length[self.old_to] = old.start, old.length
            out.state[self.old_to] = old.states()
        if len(self.new_to):
            new = self.new[place]
            out.start[self.new_to], out.length[self.new_to] = new.start, new.length
            out.state[self.new_to] = new.states()
        return out

    def left(self, layout: Layout, cells: Cells) -> Mask | None:
        """The updates that left the column as it was without saying how. Raises where that cannot be the reason."""
        if not cells.any(ABSENT):
            return None
        absent = cells.has(ABSENT)
        updated = absent & (self.ops == Op.UPDATE)
        deleted = absent & (self.ops == Op.DELETE)
        if bool(deleted.any()) or bool((absent & self.moved & (self.ops == Op.INSERT)).any()):
            raise ResyncRequired("the source did not send the whole old row", [layout.table.id])
        return updated if bool(updated.any()) else None

    def column(self, layout: Layout, column: Column, place: int, cells: Cells) -> pa.Array:
        """Decode one column of the result."""
        definition, wire = layout.definitions[place], layout.map.columns[place]
        changes = cells.has(PARTIAL) if cells.any(PARTIAL) else None
        try:
            values = Values(self.raw, cells.start, cells.length, cells.valid())
            array = decode_column(definition, wire, column, values)
            if array.null_count and array.null_count != values.absent:
                # Of rows that are gone nothing is NULL any more.
                lost = array.is_null().to_numpy(zero_copy_only=False) & (self.ops != Op.DELETE)
                self.nulled[column.name] = int((lost if values.valid is None else lost & values.valid).sum())
            if changes is not None:
                changed = self._changed(layout, column, place, cells.at(np.flatnonzero(changes)), changes)
                array = pc.replace_with_mask(array, pa.array(changes), changed)
            if cells.any(ABSENT):
                omitted = cells.has(ABSENT) & (self.ops == Op.INSERT)
                if bool(omitted.any()):
                    array = pc.if_else(
                        pa.array(omitted), default_value(layout.table.id, definition, column, array.type), array
                    )
        except Unfit as unfit:
            raise UnsupportedValue(layout.table.id, [column.name], str(unfit)) from None
        except (IndexError, ValueError, OverflowError, pa.ArrowException):
            # the original error is dropped on purpose: it may quote the value
            raise DecodeError(f"a value of {layout.table.id}, column {column.name}, is none of its type") from None
        return array

    def _changed(self, layout: Layout, column: Column, place: int, cells: Cells, changes: Mask) -> pa.Array:
        """Apply partial changes of JSON values to the values that their rows had before."""
        earlier = self.earlier[changes]
        old = self.old[place]
        if bool((earlier < 0).any()) or bool((old.at(earlier).states() != VALUE).any()):
            reason = f"column {column.name} was changed in part, and the source did not send the whole"
            raise ResyncRequired(reason, [layout.table.id])
        before = Values(self.raw, old.start[earlier], old.length[earlier], None).binary()
        change = Values(self.raw, cells.start, cells.length, None).binary()
        pairs = zip(before.to_pylist(), change.to_pylist(), strict=True)
        return pa.array([json_binary.apply_partial(*pair) for pair in pairs], pa.string())

    def base(self, table: TableSchema, rows: pa.RecordBatch) -> pa.RecordBatch | None:
        """The key under which each row was known before: its own, or for a changed key the one just deleted."""
        if not bool(self.moved.any()):
            return None
        picks = np.arange(len(self.ops))
        picks[self.moved] -= 1
        return rows.select(list(table.key)).take(pa.array(picks))


def _left_to_compute(layout: Layout, place: int) -> bool:
    """Whether the column's absence from an image does not say that its value stayed."""
    definition = layout.definitions[place]
    return definition.generated and definition.mariadb


def _fill(new: Cells, old: Cells, in_new: Offsets, in_old: Offsets) -> None:
    """Take what new images do not carry from the old images of their rows, where those do."""
    if new.state is None:
        return
    missing = (new.state[in_new] == ABSENT) & (old.states()[in_old] != ABSENT)
    to, source = in_new[missing], in_old[missing]
    new.state[to], new.start[to], new.length[to] = old.states()[source], old.start[source], old.length[source]


def _same(raw: Raw, a: Cells, b: Cells) -> Mask:
    """Where two columns hold the same bytes (or both NULL)."""
    same: Mask = (a.states() == b.states()) & (a.length == b.length)
    rows = np.flatnonzero(same & (a.states() == VALUE))
    if len(rows):
        left, right = (Values(raw, c.start[rows], c.length[rows], None).binary() for c in (a, b))
        same[rows] &= pc.equal(left, right).to_numpy(zero_copy_only=False)
    return same


def _changed(raw: Raw, old: Cells, new: Cells) -> Mask:
    """Where an image has another value than the one before it. What it does not carry has not changed."""
    changed: Mask = ~new.has(ABSENT) & ~_same(raw, new, old)
    return changed
