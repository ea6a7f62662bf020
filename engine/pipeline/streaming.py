"""The streaming loop: apply each batch, confirm it, and carry out schema changes at exactly their place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import structlog

from engine.changes import ChangeBatch, SchemaChange, TableChanges, nulled
from engine.destination import Copy, Replica
from engine.pipeline.beside import BesideLoad
from engine.pipeline.control import Control, Pace, Replan, Stopped
from engine.pipeline.feed import Feed
from engine.pipeline.tables import LiveTables
from engine.pipeline.watch import Watch, once
from engine.schema import Identity, TableId, TableSchema, evolve
from engine.source import Source
from engine.status import Phase, StatusBoard, TableState

log = structlog.get_logger(__name__)

POLL_MODE = "poll"
POLL = 0.2
"""Seconds that the loop waits for the next item before it looks at commands and findings."""
OUTDATED = 5.0
"""Seconds after which it is not known any more where the source's log ends: it may have grown far beyond."""


def heed(control: Control) -> None:
    """Wait while paused; raise Stopped when the instance is stopping."""
    control.wait_while_paused()
    if control.stopping():
        raise Stopped


@dataclass(slots=True)
class Streaming:
    """Applies a feed until a new plan is needed (Replan), the instance stops (Stopped) or something fails.

    `beside`: tables loading while the others stream, if any.
    """

    source: Source
    replica: Replica
    board: StatusBoard
    control: Control
    pace: Pace
    tables: LiveTables
    beside: BesideLoad | None = None
    _pending: list[SchemaChange] = field(default_factory=list)
    _mid_transaction: bool = False
    _touched: set[TableId] = field(default_factory=set)
    _maintained_at: float = 0.0

    def run(self, feed: Feed) -> None:
        """Run the loop. The feed stays open: whoever opened it closes it."""
        watch = Watch(
            self.source,
            self.board,
            self.tables.layouts,
            status_every=self.pace.status_every,
            inspect_every=self.pace.inspect_every,
        )
        self.board.publish(phase=Phase.POLLING if self._polling else Phase.STREAMING)
        try:
            while True:
                heed(self.control)
                self._take_requests()
                item = feed.get(POLL)
                self._pending = once([*self._pending, *watch.findings()])
                if isinstance(item, ChangeBatch):
                    self._apply(item)
                    self._maintain(feed)
                elif isinstance(item, SchemaChange):
                    self._change_schema(item)
                if not self._mid_transaction:
                    self._settle_findings()
                    self._swap_beside()
        finally:
            watch.close()

    @property
    def _polling(self) -> bool:
        """Whether what is read is the source as it was at times, of which no position tells how it has gone on."""
        return self.board.current.sync_mode == POLL_MODE

    # Batches

    def _apply(self, batch: ChangeBatch) -> None:
        started = time.monotonic()
        self._refuse_unfollowable(batch)
        beside = self.beside
        if beside is not None and beside.reached and batch.changes:
            self.replica.stage(batch, dict.fromkeys(beside.ids, Copy.LOAD))
        live = replace(batch, changes=tuple(c for change in batch.changes if (c := self._for_live(change)) is not None))
        if not batch.complete:
            self.replica.stage(live, dict.fromkeys(self.tables, Copy.LIVE))
            self._mid_transaction = True
            self._touched.update(c.table.id for c in live.changes)
            self._count_nulled(live)
            self.board.publish(source_seen_at=time.time())
            self._count(batch, started)
            return
        self.replica.apply(live)
        self._mid_transaction = False
        self.source.confirm(batch.position)
        self.control.advanced()
        if beside is not None and batch.position.covers(beside.position):
            beside.reached = True
        self._publish(live)
        self._count_nulled(live)
        self._count(batch, started)

    def _for_live(self, change: TableChanges) -> TableChanges | None:
        """The changes as the live copy takes them; None when there is none.

        Inspection may have renamed a table that the stream, which has read ahead, still calls by its old name.
        """
        table = change.table
        if table.id in self.tables or table.source_id is None:
            return change if table.id in self.tables else None
        renamed = next((t for t in self.tables.layouts() if t.source_id == table.source_id), None)
        if renamed is None:
            return None
        if renamed.columns != table.columns or renamed.identity is not table.identity:
            self.tables.reload(renamed.id, "its definition changed ahead of its rows")
        return replace(change, table=replace(table, id=renamed.id))

    def _maintain(self, feed: Feed) -> None:
        """Upkeep of the replica's file, in the moments when nothing waits: it must not slow a catch-up down."""
        if not feed.waiting and time.monotonic() - self._maintained_at >= self.pace.maintain_every:
            self.replica.maintain()
            self._maintained_at = time.monotonic()

    def _refuse_unfollowable(self, batch: ChangeBatch) -> None:
        """A connector must not send row changes of a table that the stream cannot give: reload it instead."""
        for change in batch.changes:
            if change.table.identity is Identity.RELOAD:
                self.tables.reload(change.table.id, "changed, and the stream cannot give its content")

    def _publish(self, batch: ChangeBatch) -> None:
        now = time.time()
        for table in self._touched.union(c.table.id for c in batch.changes):
            self.board.set_table(table, last_change=now, skipped_at=None)
        self._touched.clear()
        for table in batch.skipped:
            self.board.set_table(table, skipped_at=now)
        status = self.board.current
        fields: dict[str, object] = {"position": batch.position, "applied_at": now, "source_seen_at": now}
        if batch.commit_time is not None:
            fields["commit_time"] = batch.commit_time
        end = status.source_position
        if self._polling:
            fields["lag_bytes"] = None
        elif end is None or batch.position.covers(end):
            at = status.source_position_at
            outdated = at is not None and now - at > max(OUTDATED, 5 * self.pace.status_every)
            fields["caught_up_at"] = now if not (batch.changes or outdated) else at
            fields["lag_bytes"] = None if outdated else 0
        if status.last_error is not None:
            fields["last_error"] = None
        self.board.publish(**fields)

    def _count(self, batch: ChangeBatch, started: float) -> None:
        if batch.changes:
            self.board.count(
                batches=1,
                transactions=batch.transactions,
                row_changes=batch.row_count,
                bytes=batch.size,
                apply_seconds=time.monotonic() - started,
            )

    def _count_nulled(self, batch: ChangeBatch) -> None:
        for change in batch.changes:
            known = self.board.current.tables.get(change.table.id)
            if change.truncate and known is not None and known.nulled:
                self.board.set_table(change.table.id, nulled={})
            counts = nulled(change.rows)
            if counts:
                self.board.count_nulled(change.table.id, counts)

    def _swap_beside(self) -> None:
        """Swap in the tables loaded beside the stream, once complete and once the stream has passed their snapshot."""
        beside, position = self.beside, self.board.current.position
        if beside is None or position is None or not beside.complete() or not beside.reached:
            return
        stored = self.replica.state().tables
        settled = (s.settled_at for i in beside.ids if (s := stored.get(i)) is not None)
        if all(position.covers(self.source.parse_position(at)) for at in settled if at is not None):
            self.beside = None
            self.tables.swap(beside.ids, position)

    # Schema changes and findings

    def _change_schema(self, change: SchemaChange) -> None:
        """Carry out one schema change here and now, or end the session for a reload."""
        old, new = change.old, change.new
        if old is None:
            self._new_table(change)
            return
        loading = self.beside is not None and old.id in self.beside.ids
        current = self.tables.get(old.id)
        if current is not None and (current != new or change.reload):
            self._change_live(current, change)
        elif current is not None:
            return
        if loading:
            # What is being loaded has another definition now: a new snapshot has the right one.
            raise Replan

    def _change_live(self, current: TableSchema, change: SchemaChange) -> None:
        """Follow a change in place where that is exact; reload the table where it is not."""
        old, new = current, change.new
        self.board.count(schema_changes=1)
        log.info("schema_change", old=str(old.id), new=new and str(new.id), reload=change.reload, reason=change.reason)
        if new is None:
            self.tables.drop([old.id])
            return
        steps = None if change.reload else evolve(current, new)
        if steps is None or self._is_taken(new.id, old.id):
            self.tables.reload(old.id, change.reason or "definition changed")
        else:
            self.tables.alter(current, new, steps)

    def _is_taken(self, name: TableId, own: TableId) -> bool:
        """Whether another live table has this name, but for the case, which readers cannot tell apart."""
        return any(other != own and str(other).casefold() == str(name).casefold() for other in self.tables)

    def _new_table(self, change: SchemaChange) -> None:
        new = change.new
        if new is None or self._is_followed(new):
            return
        log.info("new_table", table=str(new.id))
        if new.id in self.tables:
            self.tables.reload(new.id, change.reason or "dropped and created again")
        raise Replan

    def _settle_findings(self) -> None:
        """Carry out what inspection found, as far as the replica has reached the position where it holds."""
        position = self.board.current.position
        if not self._pending or position is None:
            return
        due = [c for c in self._pending if position.covers(c.position)]
        self._pending = [c for c in self._pending if not position.covers(c.position)]
        # All of them before a new plan: one session then reloads every table that needs it.
        replan = False
        for change in due:
            if change.old is None or self.tables.get(change.old.id) == change.old:
                try:
                    self._change_schema(change)
                except Replan:
                    replan = True
        if replan:
            raise Replan

    def _is_followed(self, table: TableSchema) -> bool:
        if self.beside is not None and table.id in self.beside.ids:
            return True
        live = self.tables.get(table.id)
        return live is not None and live.source_id == table.source_id

    # Commands

    def _take_requests(self) -> None:
        wanted: set[TableId] = set()
        for request in self.control.reload_requests():
            wanted.update(self.tables if request is None else [request])
        loading = set(self.beside.ids) if self.beside is not None else set()
        wanted = {t for t in wanted - loading if t in self.tables}
        if not wanted:
            return
        self.replica.mark_reload(sorted(wanted), "requested", blocking=False)
        self.board.count(reloads=len(wanted))
        for table in wanted:
            self.board.set_table(table, state=TableState.RELOADING, reason="requested")
        raise Replan
