"""How much may be asked: requests per minute and per key, failed logins per address, bytes per body."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

BODY_LIMIT: Final = 1 << 20
"""Bytes of a request's body."""
BODY_TIMEOUT: Final = 30.0
"""Seconds in which a body has to arrive."""
PROBES_AT_ONCE: Final = 8
"""Sources that are tried at a time: each takes a thread for as long as half a minute, and others want to be answered."""
REFUSALS_PER_MINUTE: Final = 6000
"""Requests without a valid token that one address may make."""

_BURST_SECONDS: Final = 10
_REMEMBERED: Final = 10_000


class RateLimit:
    """A token bucket per name: `per_minute` on average, and what ten seconds allow at once. 0 is no limit.

    Used from one thread. The buckets that were not used for longest are forgotten beyond ten thousand names.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_minute / 60
        self._burst = max(1.0, self._rate * _BURST_SECONDS)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str) -> float:
        """0 when a request may be made now, which is counted, else the seconds until one may be."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, since = self._buckets.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        allowed = level >= 1
        self._buckets[name] = (level - 1 if allowed else level, now)
        while len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - level) / self._rate
