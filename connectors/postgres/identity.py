"""How the changes of a table name its rows: from replica identity and keys to `engine.schema.Identity`. Pure.

A table whose UPDATE the server would refuse once updates are published (it has no replica identity) must only ever be
in a publication of inserts: the engine never makes an application's statement fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.schema import Identity


@dataclass(frozen=True, slots=True)
class IndexKey:
    """A unique, valid index that is the primary key or the replica identity; `columns` in index order."""

    columns: tuple[str, ...]
    primary: bool
    replica: bool
    immediate: bool = True


@dataclass(frozen=True, slots=True)
class Marking:
    """pg_class.relreplident of one relation that holds rows (or of a partitioned root), with its key indexes."""

    replica_identity: str
    indexes: tuple[IndexKey, ...] = field(default=())

    @property
    def full(self) -> bool:
        return self.replica_identity == "f"

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The primary key's columns, unless it is deferrable: then it may be violated within a transaction."""
        return next((i.columns for i in self.indexes if i.primary and i.immediate), ())

    @property
    def named(self) -> tuple[str, ...]:
        """The columns by which the stream names old rows; empty when it sends them whole, or not at all."""
        if self.replica_identity == "d":
            return self.primary_key
        if self.replica_identity == "i":
            return next((i.columns for i in self.indexes if i.replica), ())
        return ()

    @property
    def usable(self) -> bool:
        """Whether the server lets rows be updated and deleted while updates and deletes are published."""
        return self.full or bool(self.named)


class Addressing(NamedTuple):
    """How a table is followed: see `Identity`. `publishes_updates`: it may be published with updates and deletes."""

    identity: Identity
    key: tuple[str, ...]
    publishes_updates: bool


_INSERTS_ONLY = Addressing(Identity.INSERTS, (), publishes_updates=False)


def identity_of(table: Marking, leaves: Sequence[Marking] = (), *, incomplete: bool = False) -> Addressing:
    """How changes of a table are followed.

    Of a partitioned table the server sends rows under the root's marking, with what the partition's own marking put
    into the log: every partition must give at least what the root promises, or only inserts are followed.
    `incomplete`: the stream lacks columns (generated ones before PostgreSQL 18), so that every change asks for a reload.
    """
    how = _addressing(table)
    if how.publishes_updates:
        for leaf in leaves:
            if not leaf.full and (table.full or set(leaf.named) != set(table.named)):
                how = _INSERTS_ONLY
                break
    if incomplete:
        return Addressing(Identity.RELOAD, how.key, how.publishes_updates)
    return how


def _addressing(table: Marking) -> Addressing:
    if table.full:
        key = table.primary_key
        return Addressing(Identity.KEY if key else Identity.ROW, key, publishes_updates=True)
    if table.named:
        return Addressing(Identity.KEY, table.named, publishes_updates=True)
    return _INSERTS_ONLY
