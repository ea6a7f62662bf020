"""What holds replication, and the threads that wait until nothing does."""

from __future__ import annotations

import enum
import threading

from engine.status import Phase, StatusBoard


class Holder(enum.Enum):
    """Who may hold replication, each for a reason of its own."""

    OPERATOR = "operator"
    MEMORY = "memory"


class Halt:
    """Replication runs while nobody holds it. The board says so (`paused`), and the phase once a thread waits."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board
        self._changed = threading.Condition()
        self._holders: set[Holder] = set()
        self._ended = False
        self._waiting = 0
        self._phase = Phase.STARTING
        """The phase in which the first of those that wait began to."""

    def add(self, holder: Holder) -> None:
        with self._changed:
            self._holders.add(holder)
            self._tell()

    def remove(self, holder: Holder) -> None:
        with self._changed:
            self._holders.discard(holder)
            self._tell()

    def clear(self) -> None:
        """Nobody holds it any more."""
        with self._changed:
            self._holders.clear()
            self._tell()

    def end(self) -> None:
        """Nothing is waited for from now on: the instance stops."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when nobody holds replication, or at the end. Several threads may wait."""
        with self._changed:
            if not self._held():
                return
            if not self._waiting:
                self._phase = self._board.current.phase
                self._board.publish(phase=Phase.PAUSED)
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._held())
            finally:
                self._waiting -= 1
                if not self._waiting:
                    self._board.publish(phase=self._phase)

    def _held(self) -> bool:
        return bool(self._holders) and not self._ended

    def _tell(self) -> None:
        self._board.publish(paused=bool(self._holders))
        self._changed.notify_all()
