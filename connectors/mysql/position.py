"""Positions in a MySQL or MariaDB server's binary log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from connectors.mysql.gtids import GtidSet, MariadbGtids
from engine.changes import Position

_PLACE = re.compile(r"(?P<base>[^;\n]+)\.(?P<number>\d{1,18}):(?P<offset>\d{1,20})", re.ASCII)
_FILE = re.compile(r"[^;\n]+\.\d{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BinlogPosition:
    """A place in the binary log: a file and byte offset of this server, the GTIDs committed so far, or both.

    `file` is empty when only the GTIDs are known. `gtids` is None when the server assigns none. An empty set has no
    flavour (`GtidSet()`). Text: ``file:offset``, ``file:offset;gtids``, or the GTIDs alone (``;`` when none).
    """

    file: str = ""
    offset: int = 0
    gtids: GtidSet | MariadbGtids | None = None

    def __post_init__(self) -> None:
        if isinstance(self.gtids, MariadbGtids) and not self.gtids:
            object.__setattr__(self, "gtids", GtidSet())
        if not 0 <= self.offset < 1 << 64:
            raise ValueError("a binary log offset is an unsigned 64-bit number")
        if self.file and _FILE.fullmatch(self.file) is None:
            raise ValueError("not a binary log file: expected a name that ends in a dot and a number")
        if not self.file and (self.offset or self.gtids is None):
            raise ValueError("a binary log position needs a file or GTIDs")

    def __str__(self) -> str:
        if not self.file:
            return str(self.gtids) or ";"
        place = f"{self.file}:{self.offset}"
        return place if self.gtids is None else f"{place};{self.gtids}"

    def covers(self, other: Position) -> bool:
        """Whether everything committed up to `other` is within this position too. TypeError for a foreign position.

        GTIDs decide where both have them (they hold on every server), else file and offset. Positions that cannot be
        compared (file names of another series) cover each other in neither direction.
        """
        if not isinstance(other, BinlogPosition):
            raise TypeError(f"cannot compare a binary log position with {type(other).__name__}")
        if self.gtids is not None and other.gtids is not None:
            if not other.gtids:
                return True
            if isinstance(self.gtids, GtidSet) and isinstance(other.gtids, GtidSet):
                return self.gtids.contains(other.gtids)
            if isinstance(self.gtids, MariadbGtids) and isinstance(other.gtids, MariadbGtids):
                return self.gtids.contains(other.gtids)
            return False
        if not self.file or not other.file:
            return False
        base, number = self.file.rsplit(".", 1)
        other_base, other_number = other.file.rsplit(".", 1)
        return base == other_base and (int(number), self.offset) >= (int(other_number), other.offset)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a position back; also a bare GTID set as either server prints it. Raises ValueError on anything else."""
        place, semicolon, gtids = text.strip().rpartition(";")
        if not semicolon and _PLACE.fullmatch(gtids):
            place, gtids = gtids, ""
            return cls._at(place, None)
        known = _gtids(gtids)
        if not place and (semicolon or known):
            return cls(gtids=known)
        return cls._at(place, known)

    @classmethod
    def _at(cls, place: str, gtids: GtidSet | MariadbGtids | None) -> Self:
        match = _PLACE.fullmatch(place)
        if match is None:
            raise ValueError("not a binary log position: expected file:offset, a GTID set, or file:offset;GTID set")
        return cls(f"{match['base']}.{match['number']}", int(match["offset"]), gtids)


def _gtids(text: str) -> GtidSet | MariadbGtids:
    """Read GTIDs of either flavour: MySQL's have a colon behind the UUID, MariaDB's have none."""
    return GtidSet.parse(text) if ":" in text or not text.strip() else MariadbGtids.parse(text)
