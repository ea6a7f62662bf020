"""The Source protocol over MySQL and MariaDB: who calls what, on which connection."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from connectors.kept import Kept
from connectors.leftout import LeftOut, refuse
from connectors.mysql import check, history, selection
from connectors.mysql.assembler import Assembler
from connectors.mysql.binlog import Framer
from connectors.mysql.connection import Connections
from connectors.mysql.dumping import Dumping
from connectors.mysql.inspect import compare
from connectors.mysql.landmark import Landmark
from connectors.mysql.position import BinlogPosition
from connectors.mysql.receiver import Receiver
from connectors.mysql.snapshot import MysqlSnapshot
from connectors.mysql.stream import batches
from engine.changes import ChangeBatch, Position, SchemaChange
from engine.errors import EngineError, ResyncRequired, TransientError
from engine.schema import TableSchema
from engine.source import Check, Follow, SourceOptions, SourceStatus, StreamState

_INBOX_BATCHES = 1
_CHOSEN_IDS = (1 << 31, (1 << 32) - 1)
"""Server ids to choose from: large ones, which people do not give to servers."""


class MysqlSource:
    """A MySQL (8.0 and later) or MariaDB (10.5 and later) server. See `engine.source.Source` for the contract.

    Nothing is made at the server. It keeps its binary log by its own rules: `confirm` has nothing to tell it.
    """

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._connections = Connections(options)
        self.server_id = options.server_id or random.randint(*_CHOSEN_IDS)
        """The server id under which this source streams: as configured, or chosen."""
        self._node: history.Node | None = None
        self._landmark: Landmark | None = None
        self._proven: str | None = None
        """The server in whose log the landmark was found: there, the place of the position is the right one, too."""
        self._receiver: Receiver | None = None
        self._receiver_lock = threading.Lock()
        self._confirmed: BinlogPosition | None = None
        self._missing: BinlogPosition | None = None
        """What was confirmed, and is not in the server's log."""
        self._left_out: list[LeftOut] = []
        self._kept = Kept(self._connections.open, self._connections.release)

    def check(self) -> Sequence[Check]:
        return check.check(self._connections, self._options)

    def discover(self, known: Sequence[TableSchema] = ()) -> Sequence[TableSchema]:
        with self._connections.session("discovering tables") as connection:
            tables, self._left_out = selection.select(connection, self._options, known, read=False)
        return [t.schema for t in tables]

    def prepare(self, tables: Sequence[TableSchema], after: Position | None, identity: str | None) -> StreamState:
        del tables
        stored = history.History.parse(identity)
        with self._connections.session("preparing the source") as connection:
            node = self._node = history.look(connection)
            check.refuse_unsuitable(connection)
            if identity is None:
                refuse(self._left_out)
            if after is None:
                return StreamState(None, "nothing is loaded yet")
            state = history.resume_state(connection, node, _position(after), stored)
        self._landmark = stored.landmark if stored is not None and stored.name == node.name else None
        if state.position is not None and self._landmark is not None and not self._finds(self._landmark):
            reason = "the server's log is another one than that which was read: it was restored to an earlier time"
            return StreamState(None, reason)
        return state

    def _finds(self, landmark: Landmark) -> bool:
        """Whether the server's log holds this transaction, or does not reach back so far."""
        with self._connections.session("looking for the last transaction in the binary log") as connection:
            name = history.look(connection).name
            if not landmark.reachable or not history.has_file(connection, landmark.file):
                return True
            found = landmark.is_at(connection, random.randint(*_CHOSEN_IDS))
        self._proven = name if found else None
        return found

    def identity(self) -> str:
        with self._connections.session("asking the server who it is") as connection:
            self._node = history.look(connection)
        return history.History.of(self._node, self._landmark).to_text()

    @contextmanager
    def snapshot(self, tables: Sequence[TableSchema], *, start: bool) -> Iterator[MysqlSnapshot]:
        if start:
            self._landmark = self._proven = None
        snapshot = MysqlSnapshot(self._connections, self._options, tables)
        try:
            yield snapshot
        finally:
            snapshot.close()

    def stream(
        self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position] = ()
    ) -> Iterator[ChangeBatch | SchemaChange]:
        start = _position(after)
        followed = [f.table.id for f in follow]
        dumping = Dumping(self._connections, self._options, self.server_id, start, followed, self._proven)
        try:
            receiver = dumping.begin(_INBOX_BATCHES * self._options.batch_bytes)
        except EngineError as error:
            dumping.close()
            if self._connections.closed and isinstance(error, TransientError):
                return
            raise
        with self._receiver_lock:
            self._receiver = receiver
        try:
            boundaries = [_position(c) for c in cuts]
            assembler = Assembler(
                *(start, follow, boundaries, self._options.batch_bytes),
                *(dumping.describe, dumping.cascades, self._identified),
            )  # fmt: skip
            framer = Framer(file=start.file, offset=start.offset)
            yield from batches(receiver, framer, assembler, self._options, dumping.refused)
        except EngineError:
            if not self._connections.closed:
                raise
        finally:
            receiver.close()
            dumping.close()
            with self._receiver_lock:
                self._receiver = None

    def _identified(self, landmark: Landmark | None) -> str | None:
        """What is stored of the source with a position whose last transaction is `landmark`."""
        return None if self._node is None else history.History.of(self._node, landmark).to_text()

    def confirm(self, position: Position) -> None:
        self._confirmed = _position(position)

    def inspect(self, known: Sequence[TableSchema]) -> Sequence[SchemaChange]:
        with self._connections.session("inspecting the source") as connection:
            tables, self._left_out = selection.select(connection, self._options, known)
            # Asked afterwards: whatever was found is in the log before it.
            position = history.log_position(connection, history.look(connection))
        return compare(known, [t.schema for t in tables], position)

    def status(self) -> SourceStatus:
        doing = "asking for the end of the log"
        with self._kept.use(doing) as connection:
            with self._connections.translated(doing):
                if self._node is None:
                    self._node = history.look(connection)
                position = history.log_position(connection, self._node)
                lag = history.lag_bytes(connection, position, self._confirmed)
            self._notice_reset(position)
        return SourceStatus(position, lag, tuple(each.check() for each in self._left_out))

    def _notice_reset(self, end: BinlogPosition) -> None:
        """End the stream when the log has lost what was read of it: the server does not say so itself.

        A transaction may reach us a moment before it counts as committed, so the same one must be missing twice.
        """
        confirmed, missing = self._confirmed, self._missing
        self._missing = None if confirmed is None or end.covers(confirmed) else confirmed
        if missing is None or self._missing is None or end.covers(missing):
            return
        with self._receiver_lock:
            if self._receiver is not None:
                reason = "the server's log does not hold what was read of it any more: it was reset, or restored"
                self._receiver.inbox.end(ResyncRequired(reason))

    def parse_position(self, text: str) -> BinlogPosition:
        if text != text.strip():
            raise ValueError("not a binary log position: it begins or ends with white space")
        return BinlogPosition.parse(text)

    def teardown(self) -> Sequence[str]:
        return []

    def close(self) -> None:
        self._connections.close()
        with self._receiver_lock:
            receiver = self._receiver
        if receiver is not None:
            receiver.close()
        self._kept.close()


def _position(position: Position) -> BinlogPosition:
    if not isinstance(position, BinlogPosition):
        raise TypeError("a position of MySQL is a place in its binary log")
    return position
