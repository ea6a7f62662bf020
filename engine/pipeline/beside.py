"""A load that runs beside the stream, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from engine.changes import Position
from engine.schema import TableId


class BesideLoad:
    """Loads `ids` from a snapshot at `position` while the stream goes on.

    `reached` is set by the stream once it has passed `position`: from then on these tables' changes are staged for
    their load copies too.
    """

    def __init__(self, ids: Sequence[TableId], position: Position, load: Callable[[Callable[[], bool]], None]) -> None:
        self.ids = tuple(ids)
        self.position = position
        self.reached = False
        self._load = load
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-beside", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def complete(self) -> bool:
        """Whether every table is loaded. Raises what the load raised."""
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def abandon(self) -> None:
        """End the load and wait for it; what is complete stays until the next plan."""
        self._abandoned.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._load(self._abandoned.is_set)
        except Exception as error:  # noqa: BLE001 (raised by complete, in the session's thread)
            self._error = error
