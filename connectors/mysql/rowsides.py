"""The rows of a run of row events, in stream order, with the old and new images that they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from connectors.columnar import Mask, Offsets, Raw
from connectors.mysql.rowimages import Cells, ImageGroup, ImageShape, read_cells
from connectors.mysql.rowrun import DELETE, INSERT, PARTIAL_UPDATE, UPDATE, Kinds, Layout, RowRun
from connectors.mysql.rowscan import ImagePlan, scan
from connectors.mysql.rowshapes import shape
from connectors.mysql.tablemap import JSON
from engine.errors import DecodeError, ResyncRequired


@dataclass(slots=True)
class Side:
    """The old or the new images of a run: the row of each (ascending), and the images in groups of one shape."""

    rows: Offsets
    groups: list[ImageGroup]
    missing: frozenset[int]
    """Ordinals that some image does not carry."""

    def cells(self, layout: Layout, raw: Raw, needed: set[int]) -> dict[int, Cells]:
        if not len(self.rows) or not needed:
            return {o: Cells.absent(len(self.rows)) for o in needed}
        columns = layout.map.columns
        numbers = {o: n for n, o in enumerate(o for o, c in enumerate(columns) if c.type == JSON)}
        return read_cells(raw, self.groups, len(self.rows), needed, numbers)


def _shape(layout: Layout, present: Mask, *, partial: bool) -> ImageShape:
    known = (present.tobytes(), partial)
    found = layout.shapes.get(known)
    if found is None:
        columns = layout.map.columns
        if len(present) != len(columns) or len(layout.definitions) != len(columns):
            raise DecodeError("a row event's columns are not its table map's")
        ordinals = tuple(int(o) for o in np.flatnonzero(present))
        shapes = []
        for ordinal in ordinals:
            known_shape = shape(columns[ordinal], layout.definitions[ordinal])
            if known_shape is None:
                reason = f"column {layout.definitions[ordinal].name} has a type that is not understood"
                raise ResyncRequired(reason, [layout.table.id])
            shapes.append(known_shape)
        jsons = sum(c.type == JSON for c in columns)
        found = layout.shapes[known] = ImageShape(ordinals, ImagePlan(shapes, jsons=jsons, partial=partial))
    return found


@dataclass(slots=True)
class Images:
    """All images of a run. `kinds` is per row, in stream order; `old` and `new` hold the images that rows have."""

    raw: Raw
    kinds: Kinds
    old: Side
    new: Side


@dataclass(slots=True)
class _Found:
    """The rows of the events that share a kind and bitmaps."""

    events: Offsets
    shapes: list[ImageShape]
    options: Offsets
    heads: list[Offsets]
    kind: int


def find_images(layout: Layout, run: RowRun) -> Images:
    """Walk a run's events. Raises DecodeError for malformed rows, ResyncRequired for a type that is not understood."""
    raw = Raw(cast("bytes", run.data))
    sort = (
        (run.kinds.astype(np.int64) << 40) + ((run.present_before.astype(np.int64) + 1) << 20) + run.present_after + 1
    )
    kinds = [int(sort[0])] if bool((sort == sort[0]).all()) else np.unique(sort).tolist()
    found = []
    for one in kinds:
        events = np.flatnonzero(sort == one) if len(kinds) > 1 else np.arange(len(run))
        kind, numbers = one >> 40, ((one >> 20 & 0xFFFFF) - 1, (one & 0xFFFFF) - 1)
        shapes = [
            _shape(layout, run.bitmaps[n], partial=kind == PARTIAL_UPDATE and side == 1)
            for side, n in enumerate(numbers)
            if n >= 0
        ]
        if len(shapes) != (2 if kind in {UPDATE, PARTIAL_UPDATE} else 1):
            raise DecodeError("a row event lacks a bitmap of columns")
        rows = scan(raw, run.starts[events], run.ends[events], [s.plan for s in shapes])
        found.append(_Found(events[rows.events], shapes, rows.options, rows.images, kind))
    return Images(raw, *_ordered(len(layout.map.columns), found))


def _ordered(columns: int, found: list[_Found]) -> tuple[Kinds, Side, Side]:
    """Number the rows of all groups in stream order, and part their images into old and new ones."""
    counts = [len(f.events) for f in found]
    kinds = np.concatenate([np.full(n, f.kind, np.int8) for n, f in zip(counts, found, strict=True)])
    order = np.argsort(np.concatenate([f.events for f in found]), kind="stable") if len(found) > 1 else None
    place = np.arange(len(kinds))
    if order is not None:
        place = np.empty(len(kinds), np.int64)
        place[order] = np.arange(len(kinds))
        kinds = kinds[order]
    begins = np.cumsum([0, *counts])
    sides = []
    for takes_old in (True, False):
        parts = [
            (place[begins[i] : begins[i + 1]], f, 0 if takes_old else -1)
            for i, f in enumerate(found)
            if f.kind != (INSERT if takes_old else DELETE)
        ]
        sides.append(_side(columns, parts))
    return kinds, sides[0], sides[1]


def _side(columns: int, parts: list[tuple[Offsets, _Found, int]]) -> Side:
    if not parts:
        return Side(np.zeros(0, np.int64), [], frozenset())
    rows = np.sort(np.concatenate([p for p, _, _ in parts]))
    groups, missing = [], set[int]()
    for place, found, which in parts:
        places = None if len(parts) == 1 else np.searchsorted(rows, place)
        options = found.options if found.kind == PARTIAL_UPDATE and which else None
        groups.append(ImageGroup(places, found.shapes[which], found.heads[which], options))
        missing |= set(range(columns)) - set(found.shapes[which].ordinals)
    return Side(rows, groups, frozenset(missing))
