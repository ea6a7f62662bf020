"""Which relations of the stream are followed, in which layout their rows come, and what to do when it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from connectors.postgres.pgoutput import RelationInfo
from connectors.postgres.position import Lsn
from connectors.postgres.rows import Layout
from engine.errors import DecodeError
from engine.schema import Identity, TableSchema, evolve
from engine.source import Follow

IGNORED = -1
"""Rows of this relation are passed over."""
UNCHECKED = -2
"""The relation's layout must be compared with the catalog before its next row."""


@dataclass(frozen=True, slots=True)
class Described:
    """A relation as the catalog has it now.

    `layout` holds name, type oid (pg_attribute.atttypid) and typmod (atttypmod) of every live column, replicated or
    not, so that a Relation message that was overtaken by another ALTER is recognised. `dropped` are the attnums of
    columns that are no more: no attnum is given twice.
    """

    table: TableSchema
    layout: tuple[tuple[str, int, int], ...]
    dropped: frozenset[int] = frozenset()


Describe = Callable[[RelationInfo], Described | None]


class Change(NamedTuple):
    """What the check of a relation found; see `engine.changes.SchemaChange`."""

    old: TableSchema | None
    new: TableSchema | None
    reload: bool
    reason: str


@dataclass(slots=True)
class _Followed:
    table: TableSchema
    since: int
    oid: int | None


class Relations:
    """The followed tables by relation oid. `layouts` only grows; a state is an index into it, IGNORED or UNCHECKED."""

    def __init__(self, follow: Sequence[Follow], describe: Describe, start: int) -> None:
        self._describe = describe
        self._horizon = -1
        self._announced: dict[int, RelationInfo] = {}
        self._state: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._closed: set[int] = set()
        self.layouts: list[Layout] = []
        self._followed = [_Followed(f.table, _since(f, start), _oid(f.table)) for f in follow]
        self._by_oid = {f.oid: f for f in self._followed if f.oid is not None}
        self.sinces = sorted({f.since for f in self._followed} | {start})

    def advance(self, horizon: int) -> None:
        """Tables whose `since` is at or before `horizon` are followed from here on."""
        self._horizon = max(self._horizon, horizon)

    def tables_since(self, since: int) -> list[TableSchema]:
        """The tables that are followed from exactly `since`."""
        return [f.table for f in self._followed if f.since == since]

    def announce(self, info: RelationInfo) -> None:
        """Take note of a Relation message; the relation is checked at its next use.

        Also when it says what the one before said: the server repeats it after any change to the table, and a column
        dropped and added again looks as it did before.
        """
        self._announced[info.oid] = info
        self._state[info.oid] = UNCHECKED

    def state(self, oid: int) -> int:
        """What to do with the rows of this relation. DecodeError if no Relation message came before."""
        state = self._state.get(oid)
        if state is None:
            raise DecodeError("a row refers to a relation that was never described")
        if oid in self._closed or self._horizon < 0:
            return IGNORED
        followed = self._by_oid.get(oid)
        if followed is not None and followed.since > self._horizon:
            return IGNORED
        return state

    def inserts_only(self, oid: int) -> bool:
        """Whether updates and deletes of this relation cannot be followed."""
        followed = self._by_oid.get(oid)
        return followed is not None and followed.table.identity is Identity.INSERTS

    def refuse(self, oid: int, reason: str) -> Change:
        """Follow this relation no further: it needs a reload."""
        self._closed.add(oid)
        table = self._by_oid[oid].table
        return Change(table, table, True, reason)

    def check(self, oid: int, *, touched: bool) -> Change | None:
        """Compare the relation's announced layout with the catalog. None: its rows can be taken from here on.

        `touched`: the transaction at hand already changed the table in another layout.
        """
        info = self._announced[oid]
        described = self._describe(info)
        followed = self._by_oid.get(oid)
        if followed is None:
            return self._check_new(oid, described)
        old = followed.table
        if described is None:
            self._closed.add(oid)
            return Change(old, None, False, "the table is gone, or is replicated no more")
        new = described.table
        problem = _mismatch(info, described) or _hindrance(old, described, touched=touched)
        if problem:
            self._closed.add(oid)
            return Change(old, new, True, problem)
        followed.table = new
        layout = Layout(info, new)
        last = self._last.get(oid)
        if last is None or self.layouts[last] != layout:
            last = self._last[oid] = len(self.layouts)
            self.layouts.append(layout)
        self._state[oid] = last
        return None if new == old else Change(old, new, False, "the table's definition changed")

    def _check_new(self, oid: int, described: Described | None) -> Change | None:
        self._state[oid] = IGNORED
        if described is None:
            return None
        self._closed.add(oid)
        for followed in self._followed:
            if followed.table.id == described.table.id:
                if followed.oid is not None:
                    self._closed.add(followed.oid)
                return Change(followed.table, described.table, True, "the table was dropped and created again")
        return Change(None, described.table, False, "a table that was not replicated before")


def _since(follow: Follow, start: int) -> int:
    if follow.since is None:
        return start
    if not isinstance(follow.since, Lsn):
        raise TypeError("a PostgreSQL table is followed from an LSN")
    return max(follow.since.value, start)


def _oid(table: TableSchema) -> int | None:
    return None if table.source_id is None else int(table.source_id)


def _mismatch(info: RelationInfo, described: Described) -> str:
    """Why rows sent as `info` says cannot be decoded as the described table, or nothing."""
    sent = {c.name: c for c in info.columns}
    # Also in their order: a column that was added again under its old name is the last one.
    if info.layout != tuple(column for column in described.layout if column[0] in sent):
        return "the table's definition changed again before its rows arrived"
    table = described.table
    if table.identity is Identity.RELOAD:
        return "the stream cannot give this table's content"
    if any(c.name not in sent for c in table.columns):
        return "a column is not in the stream"
    whole = info.replica_identity == "f"
    if table.identity is Identity.KEY and not whole and {c.name for c in info.columns if c.key} != set(table.key):
        return "the replica identity is not the key"
    if table.identity is Identity.ROW and not whole:
        return "the replica identity does not hold the whole row"
    return ""


def _hindrance(old: TableSchema, described: Described, *, touched: bool) -> str:
    """Why the replica of `old` cannot become one of the described table in place, or nothing."""
    new = described.table
    if old == new:
        return ""
    if touched:
        return "the table's definition changed within a transaction that had changed its rows"
    if old.storage != new.storage:
        return "the table was rewritten"
    if evolve(old, new) is None:
        return "the table's definition changed in a way that only a reload can follow"
    if _may_hide_another(old, described):
        return "columns were dropped and added: which of them the rows hold cannot be told"
    return ""


def _may_hide_another(old: TableSchema, described: Described) -> bool:
    """Whether one of the columns added since `old` may have had a forerunner, dropped since, that looked like it.

    Rows name their columns by name and place, not by attnum. Where nothing was dropped, or nothing added, as many
    columns in the same order are the same columns.
    """
    before = {c.id for c in old.columns if c.id is not None}
    if all(c.id in before for c in described.table.columns):
        return False
    return bool(before & described.dropped) or any(n > max(before, default=0) for n in described.dropped)
