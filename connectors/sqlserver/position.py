"""Positions in a SQL Server database's log, as change data capture shows it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from engine.changes import Position

_TEXT = re.compile(r"0x([0-9A-F]{20})", re.ASCII)
_COLONS = re.compile(r"([0-9a-f]{8}):([0-9a-f]{8}):([0-9a-f]{4})", re.ASCII | re.IGNORECASE)
_LSN_BYTES = 10


@dataclass(frozen=True, slots=True)
class CdcPosition:
    """Everything that committed up to an LSN (``binary(10)`` as a number, so that it compares like the bytes).

    It need not be the LSN of a commit. Text: ``0x`` and 20 hexadecimal digits, as T-SQL takes it.
    """

    lsn: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lsn < 1 << 8 * _LSN_BYTES:
            raise ValueError("an LSN is a number of ten bytes")

    def __str__(self) -> str:
        return literal(self.lsn)

    def covers(self, other: Position) -> bool:
        """Whether everything in `other` is within this position too. TypeError for a foreign position."""
        if not isinstance(other, CdcPosition):
            raise TypeError(f"cannot compare a position of SQL Server with {type(other).__name__}")
        return self.lsn >= other.lsn

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a position back. Raises ValueError on anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not a position of SQL Server: expected 0x and 20 hexadecimal digits")
        return cls(int(match[1], 16))


def lsn_of(value: object) -> int:
    """The number of a ``binary(10)`` from the server; 0 for NULL. Raises ValueError for anything else."""
    if value is None:
        return 0
    if not isinstance(value, bytes) or len(value) != _LSN_BYTES:
        raise ValueError("not an LSN")
    return int.from_bytes(value)


def lsn_of_text(text: str) -> int:
    """The number of an LSN as views of the log print it (``0000002e:00000168:0003``). Raises ValueError."""
    match = _COLONS.fullmatch(text)
    if match is None:
        raise ValueError("not an LSN: expected three hexadecimal numbers between colons")
    return int(match[1] + match[2] + match[3], 16)


def literal(lsn: int) -> str:
    """An LSN as a T-SQL literal."""
    return f"0x{lsn:0{2 * _LSN_BYTES}X}"
