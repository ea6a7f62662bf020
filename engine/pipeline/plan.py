"""What a session has to do, decided from what the replica holds and what the source has. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.destination import StoredState, StoredTable
from engine.schema import TableId, TableSchema


@dataclass(frozen=True, slots=True)
class Plan:
    """The work of one session. A table is in at most one of the tuples.

    `load`: load now, nothing may advance until they are in. `loaded`: load copies complete from before, waiting to
    be swapped in together with `load`. `beside`: load while the others stream. `gone`: live tables that are no longer
    at the source, and must be loaded again or make room for another: readers keep them until the swap. `forgotten`: such
    tables that readers have never seen. `recreated`: live tables that were dropped and created again.
    """

    load: tuple[TableSchema, ...] = ()
    loaded: tuple[StoredTable, ...] = ()
    beside: tuple[TableSchema, ...] = ()
    gone: tuple[TableId, ...] = ()
    forgotten: tuple[TableId, ...] = ()
    recreated: tuple[TableId, ...] = ()

    @property
    def blocking(self) -> bool:
        """Whether readers stay where they are until a swap."""
        return bool(self.load or self.loaded or self.gone)


def plan_start(found: Sequence[TableSchema], state: StoredState) -> Plan:
    """Everything is loaded anew: there is no position to continue from."""
    here = {t.id for t in found}
    gone, forgotten = _parted(s for s in state.tables.values() if s.id not in here)
    return Plan(load=tuple(found), gone=gone, forgotten=forgotten)


def plan_continue(found: Sequence[TableSchema], state: StoredState) -> Plan:
    """Continue from `state.stream_position`: load only what is missing or marked.

    Before the first swap, and once any table blocks, all loading is done before anything advances: one
    snapshot serves all of it.
    """
    here = {t.id: t for t in found}
    names = {str(t.id).casefold(): t.source_id for t in found}
    gone, forgotten = _parted(
        s for s in state.tables.values() if s.id not in here and (_must_load(s) or _displaced(s, names))
    )
    followed_ids = {s.live.source_id: s.id for s in state.tables.values() if s.live is not None and s.id not in gone}
    recreated = tuple(
        t.id
        for t in found
        if (s := state.tables.get(t.id)) is not None
        and s.live is not None
        and s.live.source_id != t.source_id
        and not s.blocking
    )
    loaded = tuple(s for s in state.tables.values() if s.load is not None and _still_there(s, here))
    waiting_swap = {s.id for s in loaded}
    blocking: list[TableSchema] = []
    beside: list[TableSchema] = []
    for table in found:
        stored = state.tables.get(table.id)
        if table.id in waiting_swap:
            continue
        renamed = followed_ids.get(table.source_id, table.id) != table.id
        if stored is None and renamed:
            continue
        if stored is None or stored.live is None:
            (blocking if state.position is None else beside).append(table)
        elif stored.blocking or table.id in recreated:
            blocking.append(table)
        elif stored.reload_reason is not None:
            beside.append(table)
    if blocking or loaded or gone:
        blocking, beside = [*blocking, *beside], []
    return Plan(tuple(blocking), loaded, tuple(beside), gone, forgotten, recreated)


def _parted(stored: Iterable[StoredTable]) -> tuple[tuple[TableId, ...], tuple[TableId, ...]]:
    """Those that readers see, and those that they do not."""
    tables = list(stored)
    return tuple(s.id for s in tables if s.live is not None), tuple(s.id for s in tables if s.live is None)


def _must_load(stored: StoredTable) -> bool:
    return stored.live is None or stored.reload_reason is not None


def _displaced(stored: StoredTable, names: Mapping[str, str | None]) -> bool:
    """Whether another table has its name now, but for the case, which the replica does not tell apart."""
    other = names.get(str(stored.id).casefold())
    return other is not None and stored.live is not None and stored.live.source_id != other


def _still_there(stored: StoredTable, here: dict[TableId, TableSchema]) -> bool:
    now = here.get(stored.id)
    return now is not None and stored.load is not None and now.source_id == stored.load.source_id
