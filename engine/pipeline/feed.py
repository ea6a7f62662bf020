"""A stream read ahead by a thread of its own, so that decoding and applying overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from engine.changes import ChangeBatch, SchemaChange

Item = ChangeBatch | SchemaChange


class FeedEnded(Exception):
    """The stream came to its end (it was closed)."""


class Feed:
    """Iterates a source's stream in a thread, at most `depth` items ahead of the consumer.

    Backpressure is the point: while the consumer applies, the stream gathers, and its next batch is larger.
    """

    def __init__(self, stream: Iterator[Item], *, depth: int = 2) -> None:
        self._stream = stream
        self._items: queue.Queue[Item | BaseException] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def get(self, timeout: float) -> Item | None:
        """The next item, or None if none came within `timeout` seconds. Raises what the stream raised, once."""
        try:
            item = self._items.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    @property
    def waiting(self) -> bool:
        """Whether more is there already: the consumer is behind."""
        return not self._items.empty()

    def close(self) -> None:
        """Stop reading. The source's own `close` must come first: it ends the stream."""
        self._closing.set()
        while self._thread.is_alive():
            try:
                self._items.get(timeout=0.05)
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _run(self) -> None:
        end: BaseException = FeedEnded()
        try:
            for item in self._stream:
                self._put(item)
                if self._closing.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, who raises it)
            end = error
        self._put(end)

    def _put(self, item: Item | BaseException) -> None:
        while True:
            try:
                self._items.put(item, timeout=0.2)
            except queue.Full:
                if self._closing.is_set():
                    return
            else:
                return
