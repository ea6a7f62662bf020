"""A connection that is kept from call to call, for what the source is asked again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Connection = TypeVar("Connection")


class Kept(Generic[Connection]):
    """Opened when it is first needed, and again after an error; one thread uses it at a time.

    `open` gives a connection, named after what it is for, and raises the engine's errors; `release` closes one.
    """

    def __init__(self, open: Callable[[str], Connection], release: Callable[[Connection], None]) -> None:
        self._open, self._release = open, release
        self._connection: Connection | None = None
        self._turn = threading.Lock()

    @contextmanager
    def use(self, doing: str) -> Iterator[Connection]:
        """The connection for one block. A block that raises leaves nobody knows what behind: the connection is closed."""
        with self._turn:
            if self._connection is None:
                self._connection = self._open(doing)
            try:
                yield self._connection
            except BaseException:
                self._drop()
                raise

    def close(self) -> None:
        """Close it, once whoever uses it has done so. Another use would open another one."""
        with self._turn:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection)
