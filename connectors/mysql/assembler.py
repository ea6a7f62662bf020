"""From binary log events to change batches: transactions, boundaries, schema changes. Pure: no sockets, no clock."""

from __future__ import annotations

import numpy as np

from connectors.mysql import events as kinds
from connectors.mysql.eventruns import Events
from connectors.mysql.events import Query, Role, parse_query, parse_rotate, parse_xa_prepare
from connectors.mysql.groups import mark_roles, single_group
from connectors.mysql.landmark import Landmark
from connectors.mysql.prepared import Prepared
from connectors.mysql.progress import Groups
from connectors.mysql.statements import Kind, Statement, read_statement, statement_xid
from connectors.mysql.stretches import Output, Stretches
from connectors.mysql.transactions import parse_mariadb_gtid
from engine.errors import DecodeError, ResyncRequired


class Assembler(Stretches):
    """Turns events, in the order in which they arrive, into batches and schema changes, in commit order.

    One thread. `start` is the position behind which the stream began. `follow` names the tables; one whose `since` lies
    ahead is passed over until then. No batch crosses a `since` or one of `cuts`: the batch before it has a position
    that covers it (it may be empty). `batch_bytes` bounds the source bytes of one batch: more whole transactions make a
    batch of their own, and a single larger transaction goes out in fragments. `describe` looks a table up in the
    catalog of now, `cascades` reads what changes unlogged there. `identify` says what to store of the source with a batch
    whose last transaction is the given one.

    Every method raises DecodeError for bytes that are not valid, ResyncRequired or UnsupportedValue where rows cannot
    be given exactly; the assembler is of no use after that (continue with a new one at the last position).
    """

    def feed(self, events: Events) -> list[Output]:
        """Take in a run of events; returns what must go out now, in order.

        That is: full batches, fragments of a large transaction, batches that end at a `since` or cut, schema changes
        (after the batch with everything before them).
        """
        for part in self._slices(self._behind_start(events)):
            try:
                self._run(part)
                self._limit()
            except IndexError:
                raise DecodeError("an event refers to bytes beyond its end") from None
        return self._sent()

    def _run(self, run: Events) -> None:
        roles = mark_roles(run)
        lo = 0
        for i in np.flatnonzero((roles == Role.RARE) | (roles == Role.STATEMENT)).tolist():
            self._stretch(run.pick(slice(lo, i)), roles[lo:i])
            self._rare(run, i)
            lo = i + 1
        self._stretch(run.pick(slice(lo, None)), roles[lo:])

    # Events that are looked at one by one

    def _rare(self, run: Events, index: int) -> None:
        kind, clock = int(run.types[index]), float(run.timestamps[index])
        match kind:
            case kinds.GTID_TAGGED | kinds.MARIADB_GTID:
                self._begin(run, index)
            case kinds.QUERY | kinds.EXECUTE_LOAD_QUERY:
                self._statement(parse_query(run.body_of(index), kind), clock)
            case kinds.XA_PREPARE:
                self._prepare(run.body_of(index), clock)
            case kinds.INCIDENT:
                raise ResyncRequired("the server says that changes may be missing from its binary log (INCIDENT)")
            case kinds.ROTATE:
                self._cut_off()
                rotate = parse_rotate(run.body_of(index))
                self._progress.move(rotate.file, rotate.offset)
                return
            case kinds.FORMAT_DESCRIPTION:
                self._cut_off()
        if self._open is None:
            self._progress.move(run.file, int(run.ends_at[index]))

    def _begin(self, run: Events, index: int) -> None:
        """A transaction of an uncommon kind begins."""
        if self._open is not None:
            raise DecodeError("a transaction begins within another one")
        self._reach()
        self._open = single_group(run, index, self._progress)
        self._opened_at = Landmark.of(run, index)
        if int(run.types[index]) == kinds.MARIADB_GTID:
            gtid = parse_mariadb_gtid(run.body_of(index))
            self._begun = not (gtid.standalone or gtid.completed)
            self._xa = gtid.prepared

    def _opened(self) -> Groups:
        if self._open is None:
            raise DecodeError("an event lies outside of a transaction")
        return self._open

    def _cut_off(self) -> None:
        """A file ends or begins. What is open then was never committed: the server crashed while it wrote it."""
        if self._open is None:
            return
        if self._fragmented:
            raise ResyncRequired("the server crashed while it wrote a large transaction", list(self._fragmented))
        self._pending.detach()
        self._open, self._begun, self._xa = None, False, False
        self._lost.clear()

    def _statement(self, query: Query, clock: float) -> None:
        """A statement that is no plain BEGIN or COMMIT. Without BEGIN it is a transaction by itself."""
        group = self._opened()
        statement = read_statement(query)
        match statement.kind:
            case Kind.BEGIN:
                self._begun = True
                return
            case Kind.XA_START:
                self._begun = self._xa = True
                return
            case Kind.COMMIT:
                self._begun = False
            case Kind.ROLLBACK:
                self._reload_open("a transaction that had changed it was rolled back in the binary log")
                self._pending.detach()
                self._begun = False
            case Kind.ROLLBACK_TO:
                self._reload_open("a transaction that had changed it was rolled back in part in the binary log")
            case Kind.XA_COMMIT:
                self._xa_commit(statement)
            case Kind.XA_ROLLBACK:
                self._prepared.take(statement_xid(statement))
            case Kind.TRUNCATE:
                for table in self._tables.open_tables(statement.touches):
                    self._pending.truncate(table)
            case Kind.DML:
                for table in self._tables.open_tables(statement.touches):
                    self._changed(self._tables.refuse(table, "a statement changed it that was logged as text"))
            case Kind.DDL | Kind.UNKNOWN:
                self._define(statement, query)
        if not self._begun:
            self._committed(group, clock)

    def _define(self, statement: Statement, query: Query) -> None:
        """Definitions may have changed: look each table up that the statement may touch."""
        reason = f"a statement may have changed its definition or its rows ({statement.verb})"
        harmless = self._leaves_rows(statement, query)
        for table in self._tables.open_tables(statement.touches):
            self._changed(self._tables.redefined(table, harmless=harmless, reason=reason))
            self._cascades = self._read_cascades()
        for name in statement.tables:
            self._changed(self._tables.appeared(name))

    def _leaves_rows(self, statement: Statement, query: Query) -> bool:
        """Whether tables that are there before and after it, alike, hold the same rows.

        Names that move say nothing about the rows under them. CREATE TABLE of one that is there does nothing to it.
        """
        if len(statement.tables) != 1 or not (statement.harmless or statement.verb == "CREATE TABLE"):
            return False
        text = query.statement.upper()
        # Under a foreign key that is dropped now, rows may have changed before without the log.
        return not (self._cascades.unlogged and b"DROP" in text and (b"FOREIGN" in text or b"CONSTRAINT" in text))

    def _prepare(self, body: bytes, clock: float) -> None:
        """XA PREPARE (or a commit in one phase): the rows of the open transaction end here."""
        group, prepare = self._opened(), parse_xa_prepare(body)
        if not prepare.one_phase:
            tables = self._open_tables()
            self._prepared.put(prepare.xid, Prepared(self._pending.detach(), list(self._lost.values())), tables)
        self._committed(group, clock)

    def _xa_commit(self, statement: Statement) -> None:
        prepared = self._prepared.take(statement_xid(statement))
        if prepared is None:
            raise ResyncRequired("an XA transaction was committed that had been prepared before the stream began")
        for table in prepared.lost:
            self._changed(self._tables.refuse(table, "an XA transaction was too large to be held until its commit"))
        self._pending.attach(prepared.segments)
