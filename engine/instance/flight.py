"""One query in flight: a worker thread makes its bytes, the event loop sends them, and either can end it.

The worker waits while the client has not taken what is there (so a large answer never piles up in memory); the client
leaving, the time running out and the instance stopping all cancel the query in DuckDB itself.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

from starlette.types import Receive

from engine.errors import EngineError
from engine.instance.encoding import Tally
from engine.replica.reads import QueryCancelled, ReadSession

_AHEAD = 4
"""Chunks that may wait for the client."""
_REPEAT = 0.05
"""Seconds between two interrupts: one that falls between two statements of a session has no effect."""


@dataclass(frozen=True, slots=True)
class Started:
    """The query runs; `position` is the answer's."""

    position: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """Everything is made."""

    tally: Tally


Item = Started | bytes | Ended | EngineError
Work = Callable[["Flight"], None]


class Flight:
    """Carries items from the worker's thread to the event loop. Made in the loop."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Item] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._session: ReadSession | None = None
        self._timer = self._loop.call_later(seconds, self.cancel, "timeout")
        self._watch: asyncio.Task[None] | None = None
        self.cancelled: str | None = None
        """Why the flight was ended before its end: ``timeout``, ``disconnect`` or ``shutdown``."""

    # -- in the event loop -------------------------------------------------------------------------------------

    def launch(self, executor: Executor, work: Work) -> asyncio.Future[None]:
        """Start the worker. The future is done when its thread is free again."""

        def run() -> None:
            try:
                work(self)
            except EngineError as error:
                self._hand_over(error)
            except Exception as error:  # noqa: BLE001 - told by its kind; its message may hold anything
                failure = EngineError(f"unexpected {type(error).__name__}")
                failure.__cause__ = error
                self._hand_over(failure)

        return self._loop.run_in_executor(executor, run)

    def watch_client(self, receive: Receive) -> None:
        """Cancel when the client goes away. The request's body must have been read."""

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.cancel("disconnect")

        self._watch = self._loop.create_task(gone())

    async def next(self) -> Item:
        """The worker's next item."""
        item = await self._items.get()
        self._room.release()
        return item

    def cancel(self, why: str) -> None:
        """End the flight: whoever waits for an item gets QueryCancelled, DuckDB stops."""
        if self.cancelled is None:
            self.cancelled = why
            self._items.put_nowait(QueryCancelled(f"The query was cancelled ({why})."))
        if self._session is not None:
            self._session.interrupt()
        self._timer.cancel()
        self._timer = self._loop.call_later(_REPEAT, self.cancel, why)

    def land(self) -> None:
        """Nobody wants anything of the flight any more; a worker that still runs is stopped."""
        self.cancelled = self.cancelled or "landed"
        if self._session is not None:
            self._session.interrupt()
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    # -- in the worker's thread --------------------------------------------------------------------------------

    def board(self, session: ReadSession) -> None:
        """Make the session the one that `cancel` interrupts."""
        self._session = session
        if self.cancelled is not None:
            session.interrupt()

    def send(self, item: Started | Ended) -> None:
        """Hand over one item."""
        self._wait_for_room()
        self._hand_over(item)

    def send_all(self, chunks: Iterator[bytes]) -> None:
        """Hand over chunks as the client takes them. Raises QueryCancelled when the flight has ended."""
        for chunk in chunks:
            self._wait_for_room()
            self._hand_over(chunk)

    def _wait_for_room(self) -> None:
        while not self._room.acquire(timeout=0.1):
            if self.cancelled is not None:
                raise QueryCancelled("The query was cancelled.")
        if self.cancelled is not None:
            raise QueryCancelled("The query was cancelled.")

    def _hand_over(self, item: Item) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:
            # The loop is closed: the server has stopped, nobody waits.
            self.cancelled = self.cancelled or "shutdown"
