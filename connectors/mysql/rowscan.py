"""Where the row images of many row events lie. Rows follow each other without lengths, so they must be walked.

An image is a bitmap of NULLs (one bit per column that the event carries) and the values that are not NULL. Its length
follows from that bitmap and from the length prefixes within. Two walks: all events in step, row k of each at once
(many events), and one event after the other with a plan remembered per bitmap (few events of many rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from connectors.columnar import Mask, Offsets, Raw
from connectors.mysql.rowshapes import Shape, little
from engine.errors import DecodeError

_IN_STEP = 40
"""From so many events on, a row of each at once costs less than one row after another."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """Fixed-width columns between two of variable length: their bytes if none is NULL, less, per byte of the bitmap,
    what the NULLs in it leave out."""

    width: int
    less: tuple[tuple[int, Offsets], ...]


class ImagePlan:
    """How to walk the images of one bitmap of present columns. `jsons` counts the map's JSON columns, for partial
    updates' bitmaps (0: no partial update)."""

    __slots__ = ("_steps", "bits", "gaps", "jsons", "null_bytes", "partial", "prefixes", "shapes")

    def __init__(self, shapes: Sequence[Shape], *, jsons: int = 0, partial: bool = False) -> None:
        self.shapes = tuple(shapes)
        self.null_bytes = (len(shapes) + 7) >> 3
        self.partial = partial
        self.jsons = jsons
        self.bits = [i for i, s in enumerate(shapes) if s.prefix]
        self.prefixes = [shapes[i].prefix for i in self.bits]
        bounds = [-1, *self.bits, len(shapes)]
        self.gaps = [self._gap(a + 1, b) for a, b in pairwise(bounds)]
        self._steps: dict[bytes, tuple[int, tuple[tuple[int, int], ...]]] = {}

    def _gap(self, first: int, last: int) -> _Gap:
        less = []
        for byte in range(first >> 3, (last + 7) >> 3) if last > first else ():
            table = np.zeros(256, np.int64)
            values = np.arange(256)
            for i in range(max(first, byte << 3), min(last, (byte + 1) << 3)):
                table += (values >> (i & 7) & 1) * self.shapes[i].width
            less.append((byte, table))
        return _Gap(sum(s.width for s in self.shapes[first:last]), tuple(less))

    def advance(self, raw: Raw, at: Offsets) -> tuple[Offsets, Offsets]:
        """Walk one image at each place; returns where the bitmaps of NULLs stand and where the images end.

        An image that leaves its event runs on in what follows; the caller looks at the ends.
        """
        head = self._head(raw, at) if self.partial else at
        null = self.nulls(raw, head)
        end = head + self.null_bytes
        some = [bool(n.any()) for n in null]
        for i, gap in enumerate(self.gaps):
            if gap.width:
                end = end + gap.width
                for byte, table in gap.less:
                    if some[byte]:
                        end -= table[null[byte]]
            if i < len(self.bits):
                bit, prefix = self.bits[i], self.prefixes[i]
                has = (null[bit >> 3] >> np.uint8(bit & 7) & 1) == 0 if some[bit >> 3] else None
                if has is None or bool(has.all()):
                    end = end + (little(raw, end, prefix) + prefix)
                else:
                    which = np.flatnonzero(has)
                    end = end.copy()
                    end[which] += little(raw, end[which], prefix) + prefix
        return head, end

    def nulls(self, raw: Raw, heads: Offsets) -> list[npt.NDArray[np.uint8]]:
        """The bytes of the bitmaps of NULLs at these places. MariaDB sets the bits behind the last column."""
        null = [raw.u8[heads + i] for i in range(self.null_bytes)]
        if len(self.shapes) & 7:
            null[-1] = null[-1] & np.uint8((1 << (len(self.shapes) & 7)) - 1)
        return null

    def _head(self, raw: Raw, at: Offsets) -> Offsets:
        """Pass over a partial update's options and its bitmap of partial JSON columns."""
        options = raw.u8[at]
        if bool((options > 1).any()):
            raise DecodeError("a partial update has options that are not understood")
        return at + 1 + np.where(options == 1, (self.jsons + 7) >> 3, 0)

    def steps(self, null: bytes) -> tuple[int, tuple[tuple[int, int], ...]]:
        """For one bitmap of NULLs: bytes up to the first length prefix, then each prefix's width with the bytes from
        behind its value up to the next prefix (the prefix's own bytes are counted there)."""
        bits = np.unpackbits(np.frombuffer(null, np.uint8), bitorder="little")[: len(self.shapes)]
        first, rest, gap = self.null_bytes, [], 0
        prefix = 0
        for shape, is_null in zip(self.shapes, bits, strict=True):
            if is_null:
                continue
            if not shape.prefix:
                gap += shape.width
                continue
            if prefix:
                rest.append((prefix, gap))
            else:
                first += gap
            prefix, gap = shape.prefix, shape.prefix
        if prefix:
            rest.append((prefix, gap))
        else:
            first += gap
        found = self._steps[null] = first, tuple(rest)
        return found

    def walk(self, data: bytes, at: int) -> tuple[int, int]:
        """`advance` of one image."""
        if self.partial:
            if data[at] > 1:
                raise DecodeError("a partial update has options that are not understood")
            at += 1 + (((self.jsons + 7) >> 3) if data[at] else 0)
        null = data[at : at + self.null_bytes]
        if len(null) < self.null_bytes:
            raise IndexError
        first, rest = self._steps.get(null) or self.steps(null)
        end = at + first
        for prefix, gap in rest:
            if prefix == 1:
                end += data[end] + gap
            else:
                end += int.from_bytes(data[end : end + prefix], "little") + gap
        return at, end


@dataclass(slots=True)
class Scanned:
    """The rows of some events: which event each is of and where its images are, in stream order.

    `options` is where a row's last image begins (differs from `images[-1]` in partial updates), `images` where the
    bitmaps of NULLs of its one or two images stand.
    """

    events: Offsets
    options: Offsets
    images: list[Offsets]


def scan(raw: Raw, starts: Offsets, ends: Offsets, plans: Sequence[ImagePlan]) -> Scanned:
    """Find the rows of events of one kind, each row one image per plan. Raises DecodeError where they do not fit."""
    if not any(p.null_bytes or p.partial for p in plans):
        raise DecodeError("a row event without columns")
    if bool((ends > raw.size).any()):
        raise DecodeError("a row event ends beyond its data")
    try:
        return _Scan(raw, starts, ends, plans).run()
    except IndexError:
        raise DecodeError("a row ends beyond its event") from None


class _Scan:
    def __init__(self, raw: Raw, starts: Offsets, ends: Offsets, plans: Sequence[ImagePlan]) -> None:
        self.raw, self.starts, self.ends, self.plans = raw, starts, ends, plans
        self.found: list[tuple[Offsets, Offsets, list[Offsets]]] = []

    def run(self) -> Scanned:
        active = np.flatnonzero(self.starts < self.ends)
        at = self.starts[active]
        while len(active) >= _IN_STEP:
            images, options = [], at
            for plan in self.plans:
                options = at
                head, at = plan.advance(self.raw, at)
                images.append(head)
            limit = self.ends[active]
            self._within(at <= limit)
            self.found.append((active, options, images))
            more = at < limit
            if not bool(more.all()):
                active, at = active[more], at[more]
        for event, start in zip(active.tolist(), at.tolist(), strict=True):
            self._one(event, start)
        return self._ordered()

    @staticmethod
    def _within(holds: Mask) -> None:
        if not bool(holds.all()):
            raise DecodeError("a row ends beyond its event")

    def _one(self, event: int, at: int) -> None:
        # as bytes of its own: those are the fastest to index, and end where the event ends
        data = self.raw.u8[at : int(self.ends[event])].tobytes()
        base, end = at, len(data)
        at = 0
        images: list[list[int]] = [[] for _ in self.plans]
        options: list[int] = []
        walks = [(plan.walk, found.append) for plan, found in zip(self.plans, images, strict=True)]
        while at < end:
            start = at
            for walk, note in walks:
                start = at
                head, at = walk(data, at)
                note(head)
            options.append(start)
        if at > end:
            raise DecodeError("a row ends beyond its event")
        found = [np.array(i, np.int64) + base for i in images]
        self.found.append((np.full(len(options), event), np.array(options, np.int64) + base, found))

    def _ordered(self) -> Scanned:
        """Put what was found in stream order: the passes went across the events."""
        if not self.found:
            none = np.zeros(0, np.int64)
            return Scanned(none, none, [none for _ in self.plans])
        if len(self.found) == 1:
            return Scanned(*self.found[0])
        events = np.concatenate([f[0] for f in self.found])
        # within an event the passes found the rows in order
        order = np.argsort(events, kind="stable")
        options = np.concatenate([f[1] for f in self.found])[order]
        images = [np.concatenate([f[2][i] for f in self.found])[order] for i in range(len(self.plans))]
        return Scanned(events[order], options, images)
