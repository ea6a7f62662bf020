"""Values that the source did not send because an UPDATE left them as they were (PostgreSQL TOAST).

Within one entry of a batch, every such value is traced back to the image that last held it: a chain through the earlier
images of the row, also across changes of its key. What the chain does not find in the entry is left to be found in what
was staged before, or else in the replica, under the key that the chain ends at. Vectorised: pointers to the previous
image, then pointer doubling, so that a row changed n times costs log n steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.changes import Op

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Contradiction(Exception):
    """The entry keeps values of a row that it has itself deleted: the stream and the replica have diverged."""


@dataclass(frozen=True, slots=True)
class Traced:
    """For each event of an entry, where its kept values are.

    `sources`: per column index, the event whose image holds the value. `missing`: per column index, true where no event
    of the entry holds it. `roots`: the event at which a chain with a missing value ends; the value is that of the row
    that had its base key before this entry. For an event without missing values, itself.
    """

    sources: Mapping[int, Ints]
    missing: Mapping[int, Bools]
    roots: Ints

    @property
    def incomplete(self) -> Bools:
        """Which events have a value that is not in the entry."""
        result = np.zeros(len(self.roots), np.bool_)
        for column in self.missing.values():
            result |= column
        return result


def trace(ops: npt.NDArray[np.int8], keys: Ints, bases: Ints, unchanged: Mapping[int, Bools]) -> Traced:
    """Trace the kept values of an entry's events.

    `keys` and `bases` number the distinct keys: of the image, and of the row that unchanged values are kept from.
    `unchanged`: per column index, which events do not have the value. Raises Contradiction.
    """
    count = len(ops)
    keeps = np.zeros(count, np.bool_)
    for flags in unchanged.values():
        keeps |= flags
    before = _previous(ops, keys, bases, keeps)
    here = np.arange(count, dtype=np.int64)
    roots = here.copy()
    sources: dict[int, Ints] = {}
    missing: dict[int, Bools] = {}
    for column, flags in unchanged.items():
        follow = np.where(flags & (before >= 0), before, here)
        while True:
            further = follow[follow]
            if np.array_equal(further, follow):
                break
            follow = further
        sources[column] = follow
        missing[column] = flags[follow]
        # All missing values of one event are of one row, so every column that misses one ends at the same root.
        roots = np.where(missing[column], follow, roots)
    return Traced(sources, missing, roots)


def _previous(ops: npt.NDArray[np.int8], keys: Ints, bases: Ints, keeps: Bools) -> Ints:
    """For each event that keeps values, the last image of its base row before it; -1 where the entry has none."""
    count = len(ops)
    result = np.full(count, -1, np.int64)
    events = np.flatnonzero(keeps)
    if not events.size:
        return result
    codes = np.sort(keys * count + np.arange(count, dtype=np.int64))
    place = np.searchsorted(codes, bases[events] * count + events) - 1
    found = _event_at(codes, place, bases[events], count)
    deleted = (found >= 0) & (ops[found] == Op.DELETE)
    # The DELETE is the first half of this very change of key. With an unchanged key it must stand right before.
    if (deleted & (keys[events] == bases[events]) & (found != events - 1)).any():
        raise Contradiction
    earlier = _event_at(codes, place - 1, bases[events], count)
    found = np.where(deleted, earlier, found)
    if ((found >= 0) & (ops[found] == Op.DELETE)).any():
        raise Contradiction
    result[events] = found
    return result


def _event_at(codes: Ints, place: Ints, bases: Ints, count: int) -> Ints:
    """The event at `place` among the sorted (key, event) codes, -1 where that is of another key."""
    code = codes[np.maximum(place, 0)]
    return np.where((place >= 0) & (code // count == bases), code % count, -1)
