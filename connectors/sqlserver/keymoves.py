"""Keys that change: which row a change takes away, where a transaction has put another one under the same key.

A server checks keys at the end of a statement, and tells a statement row by row where the rows stay in their places (a
heap; a table that is clustered by something else). So ``SET id = id + 1`` may be told as 1 to 2, and then 2 to 3: what goes
from 2 is the row that was there before the statement, and not the one that has just come; and a MERGE may be told to insert
a row before it is told to delete the one whose key that takes. Read one after the other, these changes would lose it.

`__$command_id` does not help: it numbers the changes (the two halves of one update of a key have different ones), not the
statements. The rows' other values do. Where they differ, the row from before has gone, and the one that has come stays.
Where they are equal, the two changes together leave the key as it was, whether a row came and went or took an equal one's
place: neither is told on. When the first of them has been told on already, on an earlier page of the transaction, the
table is loaded again.
"""

from __future__ import annotations

import enum
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import ResyncRequired
from engine.schema import TableId

MOST = 100_000
"""Changed keys of one transaction that are remembered; what has more is loaded again."""
MOST_INSERTED = 1_000_000
"""Inserted rows of one transaction whose keys are remembered; behind more, any row that goes asks for a reload."""

Key = tuple[Any, ...]
Image = tuple[Any, ...]
Hashes = npt.NDArray[np.int64]
"""Of keys, sorted where they are remembered. Two keys with one hash cost a reload at most."""


class Gone(enum.Enum):
    """Which row has gone from a key."""

    ONLY = enum.auto()
    """The only one: the key is empty."""
    OLD = enum.auto()
    """The one from before. The key has the row that the transaction has put there."""
    EITHER = enum.auto()
    """One of two equal ones, if there were two: the key is as it was before this one was put there."""


class _Put(NamedTuple):
    """A row that the transaction has put under a key. `moved`: it came from another key.

    `image`: its values but for large ones, or what is kept of them behind the page that told it. `alone`: it is the key's
    only row for certain, and the image is not looked at any more.
    """

    image: Image | bytes
    moved: bool
    alone: bool = False


class KeyMoves:
    """Follows the keys of one table through a transaction. Changes are told in the order of the log.

    `settled`: the table is clustered by its key, so that a key is never told as taken before it is told as left.
    """

    def __init__(self, table: TableId, *, settled: bool) -> None:
        self._table = table
        self._settled = settled
        self._lsn = b""
        self._puts: dict[Key, _Put | None] = {}
        """By key; None: the key is empty for certain."""
        self._fresh: set[Key] = set()
        """Those that were looked at since the last page."""
        self._inserted: Hashes = np.empty(0, np.int64)
        """What earlier pages inserted, where a row from before may still be there. Sorted."""
        self._countless = False
        """There were more of them."""

    def under_way(self, lsn: bytes) -> bool:
        """Whether keys were changed before in this transaction."""
        return bool(self._puts) and lsn == self._lsn

    def begin(self, lsn: bytes) -> None:
        """What follows belongs to this transaction: in another one than before, every key has one row."""
        if lsn != self._lsn:
            self._lsn = lsn
            self._puts.clear()
            self._fresh.clear()
            self._inserted, self._countless = np.empty(0, np.int64), False

    def inserted_before(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Which of these keys an earlier page of the transaction may have inserted."""
        if self._countless or not len(self._inserted):
            return np.full(len(hashes), self._countless)
        places = np.searchsorted(self._inserted, hashes).clip(max=len(self._inserted) - 1)
        return np.asarray(self._inserted[places] == hashes)

    def put(self, key: Key, image: Image, *, moved: bool) -> None:
        """A row was inserted, or has come from another key."""
        self._puts[key] = _Put(image, moved, alone=self._puts.get(key, _UNKNOWN) is None)
        self._fresh.add(key)

    def changed(self, key: Key) -> None:
        """The row of a key was updated. That is another statement than the one which put it there."""
        put = self._puts.get(key)
        self._puts[key] = (put or _UNKNOWN)._replace(image=b"", alone=True)
        self._fresh.add(key)

    def gone(self, key: Key, image: Image) -> Gone:
        """A row has gone from a key. Raises ResyncRequired where nothing tells which."""
        put = self._puts.get(key, _UNKNOWN)
        self._fresh.add(key)
        if put is _UNKNOWN and self.inserted_before(hashes([key]))[0]:
            self._resync(
                "rows of one key were inserted and deleted, too far apart in a transaction to tell in which order"
            )
        if put is not None and put is not _UNKNOWN and not put.alone:
            if put.image != (image if isinstance(put.image, tuple) else _digest(image)):
                self._puts[key] = put._replace(image=b"", alone=True)
                return Gone.OLD
            if not self._settled:
                if isinstance(put.image, bytes):
                    self._resync("keys were changed to and fro in one transaction, and equal rows do not tell which")
                del self._puts[key]
                return Gone.EITHER
        self._puts[key] = None
        return Gone.ONLY

    def end_page(self, inserted: Hashes) -> None:
        """Keep of each moved row no more than tells it from others; of rows that were inserted, keep the keys.

        `inserted` are those that nothing else on the page has touched. The page is one of a transaction's; where it holds
        whole ones, what is kept is not asked for any more. Raises ResyncRequired when too many have moved.
        """
        unsure = []
        for key in self._fresh:
            put = self._puts.get(key)
            if put is not None and put.moved:
                if isinstance(put.image, tuple):
                    self._puts[key] = put._replace(image=_digest(put.image))
                continue
            if put is not None and not put.alone:
                unsure.append(key)
            self._puts.pop(key, None)
        self._fresh.clear()
        if len(self._puts) > MOST:
            self._resync("more keys than can be followed were changed in one transaction")
        if self._settled or self._countless or not (len(inserted) or unsure):
            return
        self._inserted = np.concatenate((self._inserted, inserted, hashes(unsure)))
        self._inserted.sort(kind="stable")
        if len(self._inserted) > MOST_INSERTED:
            self._inserted, self._countless = np.empty(0, np.int64), True

    def _resync(self, reason: str) -> None:
        raise ResyncRequired(f"{self._table}: {reason}", [self._table])


_UNKNOWN = _Put(b"", moved=False)
"""Of a key that was not looked at."""


def hashes(keys: list[Key]) -> Hashes:
    """A number per key, for as long as the process lives."""
    return np.fromiter(map(hash, keys), np.int64, len(keys))


def _digest(image: Image) -> bytes:
    return blake2b(repr(image).encode(errors="surrogatepass"), digest_size=16).digest()
