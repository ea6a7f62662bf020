"""Transactions that the server sends before they commit (pgoutput protocol 2, `streaming`), kept until they do.

Not the engine's default: the whole transaction is held in memory here, while without streaming the server keeps it.
"""

from __future__ import annotations

import numpy as np

from connectors.columnar import Offsets
from connectors.postgres import pgoutput
from connectors.postgres.pgoutput import Messages, StreamAbort, StreamStart
from engine.errors import DecodeError


class _Transaction:
    """The messages of one transaction so far, with the (sub)transaction each belongs to."""

    __slots__ = ("aborted", "blocks", "size")

    def __init__(self) -> None:
        self.blocks: list[tuple[Offsets, Messages]] = []
        self.size = 0

    def drop(self, subxid: int) -> None:
        """Forget what subtransaction `subxid` did so far (its id is never used again)."""
        kept = []
        for xids, run in self.blocks:
            stay = xids != subxid
            kept.append((xids, run) if bool(stay.all()) else (xids[stay], run.pick(stay)))
        self.blocks = [(xids, run) for xids, run in kept if len(run)]


class StreamedTransactions:
    """Open streamed transactions by id. `current` is the one whose block is being received."""

    def __init__(self) -> None:
        self._open: dict[int, _Transaction] = {}
        self.current: int | None = None

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(t.size for t in self._open.values())

    def start(self, message: StreamStart) -> None:
        """A block begins."""
        if message.first == (message.xid in self._open):
            raise DecodeError("a streamed block is out of order")
        self._open.setdefault(message.xid, _Transaction())
        self.current = message.xid

    def stop(self) -> None:
        """The block ends."""
        if self.current is None:
            raise DecodeError("a streamed block ends that never began")
        self.current = None

    def add(self, run: Messages) -> None:
        """Keep messages of the current block."""
        assert self.current is not None
        allowed = [pgoutput.INSERT, pgoutput.UPDATE, pgoutput.DELETE, pgoutput.RELATION, pgoutput.TYPE]
        allowed += [pgoutput.TRUNCATE, pgoutput.MESSAGE, pgoutput.ORIGIN]
        if not bool(np.isin(run.kinds, allowed).all()):
            raise DecodeError("a streamed block holds a message that cannot be in one")
        transaction = self._open[self.current]
        xids, stripped = run.with_xid()
        transaction.blocks.append((xids, stripped))
        transaction.size += int((run.end - run.body).sum())

    def abort(self, message: StreamAbort) -> None:
        """A transaction, or one subtransaction of it, is rolled back."""
        transaction = self._open.get(message.xid)
        if transaction is None:
            raise DecodeError("a transaction is rolled back that was never streamed")
        if message.subxid == message.xid:
            del self._open[message.xid]
        else:
            transaction.drop(message.subxid)

    def commit(self, xid: int) -> list[Messages]:
        """The messages of a transaction that commits, in order, less what was rolled back."""
        transaction = self._open.pop(xid, None)
        if transaction is None:
            raise DecodeError("a transaction commits that was never streamed")
        return [run for _, run in transaction.blocks]
