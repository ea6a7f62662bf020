"""What a batch answers: result sets, counts, messages, in TDS tokens."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.support.sqlserver import tokens
from tests.support.sqlserver.errors import SqlError
from tests.support.sqlserver.packets import Channel
from tests.support.sqlserver.types import SqlType


class Response:
    """Tokens of one request. A DONE is held back until it is known whether another one follows."""

    def __init__(self, channel: Channel, *, procedure: bool = False) -> None:
        self._channel = channel
        self._procedure = procedure
        self._pending: tuple[int, int] | None = None
        self.in_transaction = False

    def _more(self) -> None:
        if self._pending is not None:
            status, count = self._pending
            self._pending = None
            self._channel.write(tokens.done(status | tokens.MORE, count, token=0xFF if self._procedure else 0xFD))

    def done(self, *, count: int | None = None, error: bool = False) -> None:
        """The end of a statement."""
        self._more()
        status = (tokens.ERROR if error else 0) | (tokens.COUNT if count is not None else 0)
        self._pending = (status, count or 0)

    def message(self, error: SqlError) -> None:
        """An ERROR or INFO."""
        self._more()
        self._channel.write(tokens.message(error))

    def change(self, kind: int, new: str | bytes, old: str | bytes = "") -> None:
        """An ENVCHANGE."""
        self._more()
        self._channel.write(tokens.changed(kind, new, old))

    def columns(self, names: Sequence[str], kinds: Sequence[SqlType]) -> None:
        """The head of a result set."""
        self._more()
        self._channel.write(tokens.columns(names, kinds))

    def rows(self, data: bytes) -> None:
        """Rows, encoded."""
        self._channel.write(data)

    def check(self) -> None:
        """Raise when the client cancelled or left."""
        self._channel.check()

    def finish(self, *, cancelled: bool = False) -> None:
        """The request's last DONE."""
        if cancelled:
            self._more()
            self._channel.write(tokens.done(tokens.ATTENTION))
        else:
            if self._procedure:
                self._more()
                self._channel.write(struct.pack("<Bi", 0x79, 0))
            status, count = self._pending or (0, 0)
            status |= tokens.IN_TRANSACTION if self.in_transaction else 0
            self._channel.write(tokens.done(status, count, token=0xFE if self._procedure else 0xFD))
        self._pending = None
        self._channel.flush()
