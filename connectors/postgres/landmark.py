"""How a log is known again: the last transaction that it was seen to hold, remembered with the durable position.

Two histories of one server (it was restored from an older copy of its data and has written on) have the same system
identifier, the same timeline and the same slot, and their logs are as long as one likes. But a transaction that was
seen cannot be in both, unless it is older than their parting: no other has its commit record in the same place with
the same clock. The slot's own position cannot lie either, being one that was confirmed in the history they share. So a
stream begins no later than at the remembered transaction (or at the slot's position, where that is later): what comes
up to the remembered position must be that transaction, or nothing.

After a crash the server's slot may be older than what was confirmed; it still sends the same transaction again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Self

import numpy as np

from connectors.postgres.pgoutput import Commits
from connectors.postgres.position import Lsn
from engine.errors import ResyncRequired


@dataclass(frozen=True, slots=True)
class Landmark:
    """The last transaction that the log held up to `upto`: where its commit record begins and ends, and its clock (µs).

    All three are 0 where there was none since the slot was made.
    """

    upto: int
    commit: int = 0
    end: int = 0
    clock: int = 0

    def to_json(self) -> list[int]:
        """What JSON holds of it; `from_json` reads it back."""
        return list(astuple(self))

    @classmethod
    def from_json(cls, raw: object) -> Self | None:
        """Read `to_json` back; None for nothing. Raises ValueError or TypeError for anything else."""
        if raw is None:
            return None
        if not isinstance(raw, list) or not all(type(n) is int for n in raw):
            raise TypeError("a landmark is a list of four numbers")
        return cls(*raw)


class Trail:
    """Compares the transactions of one stream with a landmark, and gives the landmark of each position. One thread.

    `begins`: the server sends every transaction whose commit record is there or behind. `after`: the position from
    which on transactions are taken. `recognised` is called once what was remembered has been found (at once where
    nothing can be compared): until then nothing may be confirmed to the server, or it could not be found out later.
    """

    def __init__(
        self, remembered: Landmark | None, begins: Lsn, after: Lsn, recognised: Callable[[], None] = lambda: None
    ) -> None:
        if remembered is not None and remembered.upto > after.value:
            remembered = None
        self._remembered = remembered
        self._due = remembered is not None and remembered.commit >= begins.value
        # Up to an older position there may have been more transactions: the first one seen makes a new landmark.
        self._last = remembered if remembered is not None and remembered.upto == after.value else None
        self._recognised = recognised
        self._settled = False
        if remembered is None or remembered.upto <= begins.value:
            self._settle()

    def at(self, position: int) -> Landmark | None:
        """The landmark for a position up to which everything has come; None when nothing better is known than before."""
        last = self._last
        return None if last is None else Landmark(position, last.commit, last.end, last.clock)

    def committed(self, commits: Commits) -> None:
        """Transactions have come, in commit order. Raises ResyncRequired when the log is another."""
        if not self._settled:
            self._compare(commits)
        lsn, end, clock = (int(of[-1]) for of in commits)
        self._last = Landmark(end, lsn, end, clock)

    def passed(self, position: int) -> None:
        """Everything up to `position` has come. Raises ResyncRequired when what was remembered has not."""
        remembered = self._remembered
        if self._settled or remembered is None:
            return
        if self._due and position >= remembered.end:
            raise _another()
        if position >= remembered.upto:
            self._settle()

    def _compare(self, commits: Commits) -> None:
        remembered = self._remembered
        assert remembered is not None
        within = int(np.searchsorted(commits.end_lsn, np.uint64(remembered.upto), side="right"))
        if within:
            found = tuple(int(of[0]) for of in commits)
            if within > 1 or not self._due or found != (remembered.commit, remembered.end, remembered.clock):
                raise _another()
            self._due = False
        if within < len(commits.lsn):
            if self._due:
                raise _another()
            self._settle()

    def _settle(self) -> None:
        self._settled = True
        self._recognised()


def _another() -> ResyncRequired:
    return ResyncRequired(
        "the server's log does not hold what was read from it: it was restored from an older copy of its data"
    )
