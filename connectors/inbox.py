"""Between the thread that reads a stream and the one that decodes it: what has arrived and was not taken yet."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from engine.errors import EngineError

Item = TypeVar("Item")

PLENTY = 64 << 10
"""Bytes that are worth taking in by themselves: what decoding costs per run does not matter beside them."""


class Inbox(Generic[Item]):
    """Items in order, bounded by their bytes. One thread puts, one takes; any may end it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[Item] = deque()
        self._size = 0
        self._ended = False
        self._error: EngineError | None = None
        self._changed = threading.Condition()

    @property
    def size(self) -> int:
        """Bytes waiting."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether as much waits as may."""
        return self._size >= self._capacity

    def put(self, item: Item, size: int, *, instead_of: type[Item] | None = None) -> None:
        """Add an item of `size` bytes, whether there is room or not; in place of the last one if that is of this type."""
        with self._changed:
            if instead_of is not None and self._items and isinstance(self._items[-1], instead_of):
                self._items[-1] = item
            else:
                self._items.append(item)
            self._size += size
            self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Wait while it is full; returns at once when it has ended."""
        with self._changed:
            while self.full and not self._ended:
                self._changed.wait()

    def end(self, error: EngineError | None) -> None:
        """Nothing more will come, because of `error` or because the stream was closed. The first call counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def take(self, timeout: float | None, *, gather: float = 0.0) -> list[Item] | None:
        """All that waits; an empty list after `timeout` seconds. Once it is empty: raise the error, or None at the end.

        What has come is let gather for `gather` seconds, unless there is plenty.
        """
        with self._changed:
            if not self._items and not self._ended:
                self._changed.wait(timeout)
            if gather > 0 and self._size:
                self._changed.wait_for(lambda: self._size >= PLENTY or self.full or self._ended, gather)
            if self._items:
                items, self._size = list(self._items), 0
                self._items.clear()
                self._changed.notify_all()
                return items
            if self._error is not None:
                raise self._error
            return None if self._ended else []
