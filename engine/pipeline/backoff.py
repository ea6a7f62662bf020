"""Pauses between attempts: growing, jittered, and cut short by a stop."""

from __future__ import annotations

import random


class Backoff:
    """Exponential back-off with full jitter (each pause is uniform between half and all of the current limit).

    Pauses in seconds: the limit begins at `first` and doubles up to `most`; `reset` begins anew after a success.
    """

    def __init__(self, first: float = 0.25, most: float = 30.0) -> None:
        self._first = first
        self._most = most
        self.attempts = 0

    def next(self) -> float:
        """The pause before the next attempt."""
        limit = min(self._most, self._first * 2.0 ** min(self.attempts, 16))
        self.attempts += 1
        return limit * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self.attempts = 0
