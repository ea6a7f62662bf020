"""The live tables of a session: what is followed, kept in step with the replica and with the status board."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import structlog

from engine.changes import Position
from engine.destination import Replica
from engine.pipeline.control import Control, Replan
from engine.pipeline.plan import Plan
from engine.schema import ColumnChange, TableId, TableSchema
from engine.status import StatusBoard, TableState

log = structlog.get_logger(__name__)


class LiveTables:
    """Layouts of the live copies by table. Every change goes to the replica first, then here, then to the board."""

    def __init__(self, replica: Replica, board: StatusBoard, control: Control) -> None:
        self._replica = replica
        self._board = board
        self._control = control
        self._live: dict[TableId, TableSchema] = {}

    def refresh(self) -> None:
        """Read the live layouts from the replica."""
        state = self._replica.state()
        self._live = {s.id: s.live for s in state.tables.values() if s.live is not None}

    def __contains__(self, table: TableId) -> bool:
        return table in self._live

    def __iter__(self) -> Iterator[TableId]:
        return iter(self._live)

    def get(self, table: TableId) -> TableSchema | None:
        return self._live.get(table)

    def layouts(self) -> tuple[TableSchema, ...]:
        return tuple(self._live.values())

    def unfollow(self, tables: Iterable[TableId]) -> None:
        """Readers keep them as they are until a swap; the stream is not asked for them any more."""
        for table in tables:
            self._live.pop(table, None)

    def swap(
        self,
        tables: Sequence[TableId],
        position: Position,
        identity: str | None = None,
        gone: Sequence[TableId] = (),
    ) -> None:
        """Swap complete load copies in, and what is `gone` out; readers are at `position` from now on."""
        self._replica.swap(tables, str(position), identity, gone)
        self.refresh()
        self._forget(gone)
        for table in tables:
            self._board.set_table(table, state=TableState.LIVE, reason=None)
        self._board.count(swaps=1)
        self._board.publish(ready=True, position=position, applied_at=time.time(), last_error=None)
        self._control.advanced()
        log.info("tables_swapped_in", tables=len(tables), position=str(position))

    def alter(self, old: TableSchema, new: TableSchema, steps: Sequence[ColumnChange]) -> None:
        """Change a live table's layout (and name) in place."""
        self._replica.alter(old, new, steps)
        del self._live[old.id]
        self._live[new.id] = new
        if new.id != old.id:
            self._board.forget_table(old.id)
            self._board.set_table(new.id, state=TableState.LIVE)

    def drop(self, tables: Sequence[TableId]) -> None:
        """Remove tables that are no longer at the source (or no longer replicated)."""
        for table in tables:
            self._replica.drop(table)
            self._live.pop(table, None)
        self._forget(tables)

    def _forget(self, tables: Sequence[TableId]) -> None:
        for table in tables:
            self._board.forget_table(table)
            log.info("table_dropped", table=str(table))

    def reload(self, table: TableId, reason: str) -> None:
        """The table cannot be followed from here: nothing advances until it is loaded anew. Ends the session."""
        log.warning("table_reload", table=str(table), reason=reason)
        self._board.count(reloads=1)
        self._board.set_table(table, state=TableState.RELOADING, reason=reason)
        self._replica.mark_reload([table], reason, blocking=True)
        raise Replan

    def show(self, plan: Plan) -> None:
        """Publish the state of every table under this plan."""
        loading = {t.id for t in (*plan.load, *plan.beside)}
        stored = self._replica.state().tables
        for table in loading | stored.keys():
            known = stored.get(table)
            if known is not None and known.live is not None:
                state = TableState.RELOADING if table in loading else TableState.LIVE
            else:
                state = TableState.LOADED if known is not None and known.load is not None else TableState.WAITING
            self._board.set_table(table, state=state, reason=known.reload_reason if known is not None else None)
