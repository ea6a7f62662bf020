"""Which TABLE_MAP event each row event is under."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from connectors.columnar import Offsets
from connectors.mysql.eventruns import Events
from engine.errors import DecodeError

_NO_TABLE = frozenset({0xFFFFFF, 0xFFFFFFFFFFFF})
"""Table ids of a row event without rows, which only ends its statement."""


class Mapped:
    """Remembers the newest TABLE_MAP event of every table id, over any number of runs."""

    def __init__(self) -> None:
        self._known: dict[int, bytes] = {}

    def look(self, run: Events, maps: Offsets, rows: Offsets) -> tuple[list[bytes], Offsets]:
        """The bodies of the TABLE_MAP events at `maps` (and of earlier ones that are needed), and for each row event
        at `rows` which of them it is under; -1 for one that has no rows.

        Raises DecodeError for a row event whose table id was never described.
        """
        data = run.data
        bodies = [data[a:b] for a, b in zip(run.body[maps].tolist(), run.end[maps].tolist(), strict=True)]
        map_ids = _table_ids(run.u8, run.body[maps], run.end[maps])
        row_ids = _table_ids(run.u8, run.body[rows], run.end[rows])
        which = np.searchsorted(maps, rows) - 1
        # Mostly it is the one just before; a statement that opens several tables describes all of them first.
        open_rows = np.flatnonzero(which >= 0)
        open_rows = open_rows[map_ids[which[open_rows]] != row_ids[open_rows]]
        while len(open_rows):
            which[open_rows] -= 1
            open_rows = open_rows[which[open_rows] >= 0]
            open_rows = open_rows[map_ids[which[open_rows]] != row_ids[open_rows]]
        self._carried(bodies, which, row_ids)
        for table_id, body in zip(map_ids.tolist(), bodies, strict=False):
            self._known[table_id] = body
        return bodies, which

    def _carried(self, bodies: list[bytes], which: Offsets, row_ids: Offsets) -> None:
        """Find the others among what is remembered, which is added to `bodies`."""
        added: dict[int, int] = {}
        for row in np.flatnonzero(which < 0).tolist():
            table_id = int(row_ids[row])
            if table_id in _NO_TABLE:
                continue
            if table_id not in added:
                body = self._known.get(table_id)
                if body is None:
                    raise DecodeError("a row event refers to a table that was never described")
                added[table_id] = len(bodies)
                bodies.append(body)
            which[row] = added[table_id]


def _table_ids(u8: npt.NDArray[np.uint8], body: Offsets, end: Offsets) -> Offsets:
    """The table ids at the beginning of these events."""
    if bool((end - body < 8).any()):
        raise DecodeError("a table map or row event ends too early")
    octets = np.zeros((len(body), 8), np.uint8)
    if len(body):
        octets[:, :6] = u8[body[:, None] + np.arange(6)]
    return octets.view("<i8").reshape(-1).astype(np.int64)


__all__: Sequence[str] = ("Mapped",)
