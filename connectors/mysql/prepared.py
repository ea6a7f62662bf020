"""XA transactions that are prepared: their rows are in the binary log at XA PREPARE, and count from XA COMMIT on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from connectors.mysql.events import Xid
from connectors.mysql.pending import Segment
from engine.schema import TableSchema


@dataclass(slots=True)
class Prepared:
    """One of them. `lost` are tables whose rows were too many to be kept: they are reloaded if it commits."""

    segments: Sequence[Segment] = ()
    lost: list[TableSchema] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the row events that are kept."""
        return sum(s.size for s in self.segments)


class PreparedTransactions:
    """Those that were prepared since the stream began, by name; at most `capacity` bytes of rows are kept.

    A transaction that was prepared before the stream began is not here: `take` gives None, and nobody knows what its
    commit changes.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: dict[Xid, Prepared] = {}

    def put(self, xid: Xid, prepared: Prepared, tables: Sequence[TableSchema]) -> None:
        """Keep a transaction, which changes `tables`."""
        if sum(p.size for p in self._held.values()) + prepared.size > self._capacity:
            prepared = Prepared((), list({t.id: t for t in (*prepared.lost, *tables)}.values()))
        self._held[xid] = prepared

    def take(self, xid: Xid) -> Prepared | None:
        """The transaction's rows, which are forgotten here."""
        return self._held.pop(xid, None)
