"""Positions in PostgreSQL's write-ahead log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from engine.changes import Position

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """A log sequence number: a byte offset into the WAL, printed as the server prints it (``0/1A2B3C8``)."""

    value: int

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << 64:
            raise ValueError("an LSN is an unsigned 64-bit number")

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __int__(self) -> int:
        return self.value

    def covers(self, other: Position) -> bool:
        """Whether everything committed up to `other` is within this position too. TypeError for a foreign position."""
        if not isinstance(other, Lsn):
            raise TypeError(f"cannot compare an LSN with {type(other).__name__}")
        return self.value >= other.value

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``X/Y`` (hexadecimal) back. Raises ValueError on anything else."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not an LSN: expected two hexadecimal numbers of at most 8 digits, like 0/1A2B3C8")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))
