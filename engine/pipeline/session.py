"""One session: plan from durable state, load what must be loaded, then stream until a new plan is needed.

How a table is loaded exactly, while readers always see one committed position:

- *Blocking*: the live copy cannot be followed past the checkpoint D (or there is none yet). A snapshot at P ≥ D fills a
  load copy; the stream from D to P is staged where no reader sees it; one transaction applies it to the other
  tables, swaps the load copy in and moves the checkpoint from D to P. Readers stay at D until then.
- *Beside*: the live copy is still good, or the table is new. The stream is cut at P; from there the table's changes
  go to the live copy as ever and are staged for the load copy too. When the load is complete, one transaction at a
  batch boundary merges them and swaps.

Where a source has no exact view, rows may be later than P: they are a committed state once the stream has brought them
to where the snapshot *settled* (S ≥ P), and S takes P's place as the position before which there is no swap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack

import structlog

from engine.changes import ChangeBatch, Position, SchemaChange
from engine.destination import Copy, Replica, StoredState, StoredTable
from engine.pipeline.beside import BesideLoad
from engine.pipeline.control import Control, Pace, Replan, Stopped
from engine.pipeline.feed import Feed
from engine.pipeline.loading import TableLoad
from engine.pipeline.plan import Plan, plan_continue, plan_start
from engine.pipeline.streaming import POLL, Streaming, heed
from engine.pipeline.tables import LiveTables
from engine.schema import Identity, TableId, TableSchema, evolve
from engine.source import Follow, Snapshot, Source
from engine.status import Phase, StatusBoard

log = structlog.get_logger(__name__)

GATHER = 10.0
"""Seconds that a catch-up which must be given up goes on looking for more tables that have changed."""


class Session:
    """Runs one source into one replica until Replan, Stopped or an error ends it. The source is closed with it."""

    def __init__(self, source: Source, replica: Replica, board: StatusBoard, control: Control, pace: Pace) -> None:
        self._source = source
        self._replica = replica
        self._board = board
        self._control = control
        self._pace = pace
        self._tables = LiveTables(replica, board, control)

    def run(self, *, start_over: str | None = None) -> None:
        """Run. `start_over`: why everything must be loaded anew, if it must."""
        self._replica.discard_staged()
        state = self._replica.state()
        found = self._source.discover([s.live for s in state.tables.values() if s.live is not None])
        self._say_whether_any(found)
        after = None
        if state.stream_position is not None and start_over is None:
            after = self._source.parse_position(state.stream_position)
        prepared = self._source.prepare(found, after, state.identity)
        self._board.publish(source_seen_at=time.time())
        if prepared.position is None:
            self._start(found, state, start_over or prepared.reason)
        else:
            self._continue(found, prepared.position)

    def _say_whether_any(self, found: Sequence[TableSchema]) -> None:
        """An instance that replicates nothing runs on, since tables may come; but it says so."""
        if not found:
            log.warning("no_tables")
            detail = "no table is replicated: nothing matches `tables.include`, or the role sees no table"
            self._board.set_check("tables", "degraded", detail)
        elif "tables" in self._board.current.checks:
            self._board.set_check("tables", "ok")

    def _start(self, found: Sequence[TableSchema], state: StoredState, reason: str) -> None:
        """Load everything; streaming begins at the snapshot's own position."""
        if state.position is not None:
            log.warning("resync", reason=reason)
            self._board.count(resyncs=1)
            self._board.set_check("resync", "degraded", reason)
        heed(self._control)
        plan = plan_start(found, state)
        self._tables.drop(plan.forgotten)
        self._tables.show(plan)
        self._board.publish(phase=Phase.SNAPSHOT)
        with self._source.snapshot(plan.load, start=True) as snapshot:
            position, identity = snapshot.position, self._source.identity()
            self._replica.start_over(str(position), identity)
            gone = self._load_all(snapshot, plan)
        self._complete(position, gone, identity)

    def _continue(self, found: Sequence[TableSchema], after: Position) -> None:
        """Continue the stream, after loading what is missing or marked."""
        self._remember_identity()
        self._drop_outrun(after)
        if plan_continue(found, self._replica.state()).blocking:
            self._mark_stale(found)
        state = self._replica.state()
        plan = plan_continue(found, state)
        if plan.recreated:
            self._replica.mark_reload(plan.recreated, "dropped and created again", blocking=True)
        self._tables.drop(plan.forgotten)
        self._tables.refresh()
        self._tables.show(plan)
        if plan.blocking:
            self._load_blocking(plan, after)
        elif plan.beside:
            self._load_beside(after, plan.beside)
        else:
            self._stream(after)

    def _remember_identity(self) -> None:
        """Store who the source is now: after a fail-over that could be followed, positions belong to its new history."""
        state = self._replica.state()
        if state.position is None or state.position != state.stream_position:
            return
        identity = self._source.identity()
        if identity != state.identity:
            log.info("source_identity_changed", position=state.position)
            self._replica.swap((), state.position, identity)

    def _drop_outrun(self, after: Position) -> None:
        """Give up load copies that the stream has passed: what was staged for them went with the last session."""
        for stored in self._replica.state().tables.values():
            if stored.loaded_at is None or self._source.parse_position(stored.loaded_at).covers(after):
                continue
            reason = stored.reload_reason or "its load was cut short"
            self._replica.mark_reload([stored.id], reason, blocking=stored.blocking)

    def _mark_stale(self, found: Sequence[TableSchema]) -> None:
        """Find the other tables that will need a reload anyway, so that one snapshot serves them all."""
        now = {t.source_id: t for t in found}
        for stored in self._replica.state().tables.values():
            if stored.live is None or stored.blocking or stored.load is not None:
                continue
            current = now.get(stored.live.source_id)
            if current is not None and current != stored.live and evolve(stored.live, current) is None:
                self._replica.mark_reload([stored.id], "definition changed", blocking=True)

    # Loading

    def _load(self, snapshot: Snapshot, stopping: Callable[[], bool]) -> None:
        workers = self._pace.workers

        def wait_or_end() -> None:
            self._control.wait_while_paused()
            if stopping():
                raise Stopped

        TableLoad(snapshot, snapshot.tables, self._replica, self._board, workers=workers, heed=wait_or_end).run()

    def _load_all(self, snapshot: Snapshot, plan: Plan) -> tuple[TableId, ...]:
        """Load the tables that nothing may advance without; returns those that readers see and that are gone by now."""
        here = {t.id for t in snapshot.tables}
        self._load(snapshot, self._control.stopping)
        return *plan.gone, *(t.id for t in plan.load if t.id not in here)

    def _load_blocking(self, plan: Plan, after: Position) -> None:
        """Load `plan.load`, then bring every copy to one position."""
        gone = plan.gone
        heed(self._control)
        if plan.load:
            self._board.publish(phase=Phase.SNAPSHOT)
            with self._source.snapshot(plan.load, start=False) as snapshot:
                gone = self._load_all(snapshot, plan)
        self._complete(after, gone)

    def _complete(self, after: Position, gone: Sequence[TableId], identity: str | None = None) -> None:
        """All is loaded: bring every copy to one position, swap, and go on streaming from there.

        What is gone at the source was there at `after`: readers keep it until they are where it is not.
        """
        self._tables.unfollow(gone)
        stored = self._replica.state().tables.values()
        incoming = {s.id: s for s in stored if s.load is not None and s.id not in gone}
        barrier = self._settled(after, incoming.values(), gone)
        if after.covers(barrier):
            self._swap_in(incoming, gone, barrier, identity)
            self._stream(barrier)
            return
        self._board.publish(phase=Phase.CATCH_UP)
        feed = self._open(after, self._follow(incoming), [barrier])
        try:
            self._catch_up(feed, barrier, incoming)
            self._swap_in(incoming, gone, barrier, identity)
            self._source.confirm(barrier)
            self._streaming().run(feed)
        finally:
            self._close(feed)

    def _settled(self, after: Position, incoming: Iterable[StoredTable], gone: Sequence[TableId]) -> Position:
        """The first position, at or after `after`, at which every load copy can be shown, and what is gone is gone."""
        latest = after
        positions = [_position(self._source, stored.settled_at) for stored in incoming]
        if gone:
            positions.append(self._source.status().position)
        for position in positions:
            if position is not None and not latest.covers(position):
                latest = position
        return latest

    def _swap_in(
        self, incoming: Collection[TableId], gone: Sequence[TableId], position: Position, identity: str | None
    ) -> None:
        heed(self._control)
        self._tables.swap(list(incoming), position, identity, gone)
        self._board.set_check("resync", "ok")

    def _follow(self, incoming: Mapping[TableId, StoredTable]) -> list[Follow]:
        live = [Follow(t) for t in self._tables.layouts() if t.id not in incoming]
        loaded = [(s.load, _position(self._source, s.loaded_at)) for s in incoming.values()]
        return live + [Follow(load, since) for load, since in loaded if load is not None]

    def _catch_up(self, feed: Feed, barrier: Position, incoming: Mapping[TableId, StoredTable]) -> None:
        """Stage the stream up to `barrier` for the copies that will be live after the swap.

        Layouts must not change between staging and swap: tables that do change on the way join those that are loaded
        anew. They are gathered first, so that one new plan serves them all.
        """
        targets = {**dict.fromkeys(self._tables, Copy.LIVE), **dict.fromkeys(incoming, Copy.LOAD)}
        changed: set[TableId] = set()
        gather_until = 0.0
        while True:
            heed(self._control)
            item = feed.get(POLL)
            reached = isinstance(item, ChangeBatch) and item.complete and item.position.covers(barrier)
            if isinstance(item, SchemaChange):
                table = item.old if item.old is not None else item.new
                if table is not None and table.id in targets:
                    gather_until = gather_until or time.monotonic() + GATHER
                    changed.add(table.id)
            elif isinstance(item, ChangeBatch):
                self._board.publish(source_seen_at=time.time())
                if item.changes and not changed:
                    self._replica.stage(item, targets)
            if changed and (reached or time.monotonic() > gather_until):
                self._load_together(changed, incoming)
            if reached:
                return

    def _load_together(self, tables: Collection[TableId], incoming: Mapping[TableId, StoredTable]) -> None:
        """Give up this catch-up and load `tables` too. Load copies that cannot be caught up join their new snapshot."""
        stuck = [t for t, s in incoming.items() if s.load is not None and s.load.identity is Identity.RELOAD]
        log.info("catch_up_given_up", tables=len(tables))
        self._replica.mark_reload(sorted({*tables, *stuck}), "changed during catch-up", blocking=True)
        raise Replan

    def _load_beside(self, after: Position, tables: Sequence[TableSchema]) -> None:
        """Stream from `after` while these tables load. The load closes its view: the stream may go on for years."""
        heed(self._control)
        with ExitStack() as opened:
            snapshot = opened.enter_context(self._source.snapshot(tables, start=False))
            loading = {t.id: t for t in snapshot.tables}
            changed = [i for i, t in loading.items() if (live := self._tables.get(i)) is not None and live != t]
            if changed:
                self._replica.mark_reload(changed, "definition changed", blocking=True)
                raise Replan

            def load(stopping: Callable[[], bool]) -> None:
                with opened:
                    self._load(snapshot, stopping)

            new = [Follow(t, snapshot.position) for t in loading.values() if t.id not in self._tables]
            beside = BesideLoad(list(loading), snapshot.position, load)
            try:
                self._stream(after, new, beside)
            finally:
                beside.abandon()

    # Streaming

    def _stream(self, after: Position, also: Sequence[Follow] = (), beside: BesideLoad | None = None) -> None:
        self._board.publish(ready=True, position=after)
        follow = [*(Follow(t) for t in self._tables.layouts()), *also]
        feed = self._open(after, follow, [] if beside is None else [beside.position])
        try:
            self._source.confirm(after)
            if beside is not None:
                beside.reached = after.covers(beside.position)
                beside.start()
            self._streaming(beside).run(feed)
        finally:
            self._close(feed)

    def _streaming(self, beside: BesideLoad | None = None) -> Streaming:
        return Streaming(
            self._source, self._replica, self._board, self._control, self._pace, self._tables, beside=beside
        )

    def _open(self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position]) -> Feed:
        log.info("streaming_from", position=str(after), tables=len(follow))
        return Feed(self._source.stream(after, follow, cuts))

    def _close(self, feed: Feed) -> None:
        self._source.close()
        feed.close()


def _position(source: Source, text: str | None) -> Position | None:
    return None if text is None else source.parse_position(text)
