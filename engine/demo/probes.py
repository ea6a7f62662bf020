"""What the demo measures while it runs: freshness, and that no reader ever sees half a transaction."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import psycopg

from engine.client import ClientError, InstanceClient
from engine.demo.shop import INVARIANT

ATTEMPTS = 240
"""Measurements kept for the percentiles."""


class Probe:
    """About four times a second: commits at the source, and asks the replica until the commit is visible.

    `freshness` are the latest times between the two, in seconds; `seen` and `broken` count how often the shop's
    invariant was looked at, and found broken, in the very same queries.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection], client: InstanceClient, *, every: float = 0.25
    ) -> None:
        self._connect = connect
        self._client = client
        self._every = every
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self.freshness: deque[float] = deque(maxlen=ATTEMPTS)
        self.seen = 0
        self.broken = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def percentile(self, share: float) -> float | None:
        """The freshness that `share` of the measurements do not exceed, in milliseconds."""
        ordered = sorted(self.freshness)
        if not ordered:
            return None
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def _run(self) -> None:
        with self._connect() as connection:
            while not self._ending.wait(self._every):
                try:
                    self._measure(connection)
                except ClientError:
                    # The instance is starting or stopping; what it does is shown by the display.
                    continue

    def _measure(self, connection: psycopg.Connection) -> None:
        connection.execute("UPDATE products SET stock = stock + 1 WHERE id = 1")
        committed = time.monotonic()
        end = current_position(connection)
        answer = self._client.query(INVARIANT, after=end, timeout_ms=10_000)
        self.freshness.append(time.monotonic() - committed)
        self.seen += 1
        if answer["rows"] != [[True]]:
            self.broken += 1


def current_position(connection: psycopg.Connection) -> str:
    """Where the source's log ends, which is at or behind every commit made so far."""
    row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])
