"""Row images taken apart into columns: for every image of a run, where each column's value lies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from connectors.columnar import Mask, Offsets, Raw
from connectors.mysql.rowscan import ImagePlan
from connectors.mysql.rowshapes import little

States = npt.NDArray[np.uint8]
NULL, VALUE, ABSENT, PARTIAL = 0, 1, 2, 3
"""What an image holds of a column: NULL, a value, nothing (the event does not carry the column), or a change of it."""


@dataclass(slots=True)
class Cells:
    """One column of many images. `state` None: a value in every image. Starts and lengths count for values only."""

    start: Offsets
    length: Offsets
    state: States | None

    def at(self, rows: Offsets | slice) -> Cells:
        return Cells(self.start[rows], self.length[rows], None if self.state is None else self.state[rows])

    def states(self) -> States:
        return np.full(len(self.start), VALUE, np.uint8) if self.state is None else self.state

    def has(self, state: int) -> Mask:
        has: Mask = self.states() == state
        return has

    def any(self, state: int) -> bool:
        return self.state is not None and bool((self.state == state).any())

    def valid(self) -> Mask | None:
        return None if self.state is None else self.state == VALUE

    @classmethod
    def absent(cls, count: int) -> Cells:
        nothing = np.zeros(count, np.int64)
        return cls(nothing, nothing.copy(), np.full(count, ABSENT, np.uint8))


@dataclass(frozen=True, slots=True)
class ImageShape:
    """The images of one bitmap of present columns: the ordinals that are in them, and how to walk them."""

    ordinals: tuple[int, ...]
    plan: ImagePlan


@dataclass(slots=True)
class ImageGroup:
    """Images of one shape: their places among all (None: they are all), where their bitmaps of NULLs stand, and for
    partial updates where they begin."""

    places: Offsets | None
    shape: ImageShape
    heads: Offsets
    options: Offsets | None = None


def read_cells(
    raw: Raw, groups: Collection[ImageGroup], count: int, needed: Collection[int], jsons: Mapping[int, int]
) -> dict[int, Cells]:
    """The needed columns (ordinals of the table map) of `count` images.

    `jsons`: per JSON column its number among the JSON columns, by which partial updates mark it. The images were
    scanned before: their columns lie within their events.
    """
    if len(groups) == 1:
        (group,) = groups
        if group.places is None:
            found = _walk(raw, group, needed, jsons)
            return {o: found.get(o) or Cells.absent(count) for o in needed}
    cells = {o: Cells.absent(count) for o in needed}
    for group in groups:
        places = np.arange(count) if group.places is None else group.places
        for ordinal, part in _walk(raw, group, needed, jsons).items():
            whole = cells[ordinal]
            whole.start[places], whole.length[places] = part.start, part.length
            assert whole.state is not None
            whole.state[places] = part.states()
    return cells


def _walk(raw: Raw, group: ImageGroup, needed: Collection[int], jsons: Mapping[int, int]) -> dict[int, Cells]:
    plan, heads = group.shape.plan, group.heads
    null = plan.nulls(raw, heads)
    some = [bool(n.any()) for n in null]
    at = heads + plan.null_bytes
    found: dict[int, Cells] = {}
    last = max((i for i, o in enumerate(group.shape.ordinals) if o in needed), default=-1)
    for bit, (ordinal, shape) in enumerate(zip(group.shape.ordinals, plan.shapes, strict=True)):
        if bit > last:
            break
        state: States | None = None
        which: Offsets | None = None
        if some[bit >> 3]:
            valued = (null[bit >> 3] >> np.uint8(bit & 7) & np.uint8(1)) ^ np.uint8(1)
            if not bool(valued.all()):
                state, which = valued, np.flatnonzero(valued)
        if not shape.prefix:
            length = np.full(len(at), shape.width, np.int64)
        elif which is None:
            length = little(raw, at, shape.prefix)
        else:
            length = np.zeros(len(at), np.int64)
            length[which] = little(raw, at[which], shape.prefix)
        start = at + shape.prefix if shape.prefix else at
        at = start + length
        if which is not None:
            assert state is not None
            at = np.where(state != NULL, at, start - shape.prefix)
        if ordinal in needed:
            if group.options is not None and ordinal in jsons:
                state = _partial(raw, group.options, jsons[ordinal], state)
            found[ordinal] = Cells(start, length, state)
    return found


def _partial(raw: Raw, options: Offsets, number: int, state: States | None) -> States | None:
    """Mark the values of a JSON column that are changes to the old one."""
    marked = np.flatnonzero(raw.u8[options] == 1)
    marked = marked[(raw.u8[options[marked] + 1 + (number >> 3)] >> np.uint8(number & 7) & 1) == 1]
    if not len(marked):
        return state
    state = np.full(len(options), VALUE, np.uint8) if state is None else state.copy()
    state[marked] = np.where(state[marked] == VALUE, PARTIAL, state[marked])
    return state
