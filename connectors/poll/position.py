"""Positions of a polled source: which round, and the source's clock when its view was opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from engine.changes import Position

_TEXT = re.compile(r"poll/([0-9]{1,18})@(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOST = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""


@dataclass(frozen=True, slots=True)
class Round:
    """A round's number, and when its view was opened, in microseconds since the epoch by the source's clock.

    Printed as ``poll/17@2024-01-31T12:00:00.000000Z``. Rounds are ordered by their number alone.
    """

    number: int
    at: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < 10**18 or not 0 <= self.at <= _MOST:
            raise ValueError("a round is a number of at most 18 digits and a moment from 1970 to 9999")

    @classmethod
    def of(cls, number: int, seconds: float) -> Self:
        """The round whose view was opened `seconds` after the epoch."""
        return cls(number, round(seconds * 1e6))

    @property
    def seconds(self) -> float:
        """When the view was opened, in seconds since the epoch."""
        return self.at / 1e6

    def __str__(self) -> str:
        when = (_EPOCH + self.at * _MICROSECOND).replace(tzinfo=None)
        return f"poll/{self.number}@{when.isoformat(timespec='microseconds')}Z"

    def covers(self, other: Position) -> bool:
        """Whether it is `other` or a later round. TypeError for a position of another kind."""
        if not isinstance(other, Round):
            raise TypeError(f"cannot compare a round with {type(other).__name__}")
        return self.number >= other.number

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text back. Raises ValueError on anything else."""
        match = _TEXT.fullmatch(text)
        if match is None or (match[1] != "0" and match[1].startswith("0")):
            raise ValueError("not a round: expected a number and a moment, like poll/17@2024-01-31T12:00:00.000000Z")
        when = datetime.fromisoformat(match[2]).replace(tzinfo=UTC)
        return cls(int(match[1]), (when - _EPOCH) // _MICROSECOND)
