"""A reader that never stops asking: what it sees must at every moment be one committed state of the source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx

from tests.support.live import lsn


class Witness:
    """Polls one query through ``/query`` in a thread; every answer's rows must have equal values in all columns.

    Answers' positions must never go back (`rank` makes a number of one), except to a lower one after `forget_position` (a source restored from an
    older copy). Refused connections (the engine is down) and 503 (no snapshot yet) are no answers; anything else that
    is not 200 is a violation. Leaving the block asserts that there was none, and at least `least` answers.
    """

    def __init__(
        self, url: str, sql: str, *, least: int = 5, pause: float = 0.05, rank: Callable[[str], int] = lsn
    ) -> None:
        self.answers = 0
        self.values: set[tuple[Any, ...]] = set()
        self.longest_silence = 0.0
        self.violations: list[str] = []
        self._url = url
        self._sql = sql
        self._least = least
        self._pause = pause
        self._rank = rank
        self._position = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(60)
        assert not self.violations, f"{len(self.violations)} answers were wrong, first: {self.violations[:5]}"
        if kind is None:
            assert self.answers >= self._least, f"only {self.answers} answers"

    def forget_position(self) -> None:
        """From now on, any position is fine again."""
        self._position = 0

    def _run(self) -> None:
        last = time.monotonic()
        with httpx.Client(base_url=self._url, timeout=60, trust_env=False, verify=False) as http:
            while not self._end.wait(self._pause):
                try:
                    answer = http.post("/query", json={"sql": self._sql})
                except httpx.TransportError:
                    continue
                if answer.status_code == 503:
                    continue
                if answer.status_code != 200:
                    self.violations.append(f"{answer.status_code}: {answer.text[:500]}")
                    continue
                self._see(answer.json())
                now = time.monotonic()
                self.longest_silence, last = max(self.longest_silence, now - last), now

    def _see(self, body: dict[str, Any]) -> None:
        self.answers += 1
        for row in body["rows"]:
            values = list(row.values()) if isinstance(row, dict) else row
            if len({str(value) for value in values}) != 1:
                self.violations.append(f"at {body['position']}: {values}")
            self.values.add(tuple(map(str, values)))
        position = self._rank(body["position"])
        if position < self._position:
            self.violations.append(f"the position went back to {body['position']} from {self._position:X}")
        self._position = position
