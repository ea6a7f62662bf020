"""The Source protocol over PostgreSQL: who calls what, on which connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from connectors.kept import Kept
from connectors.leftout import LeftOut, refuse
from connectors.postgres import catalog, check, exposure, inspect, publication, selection, slot
from connectors.postgres.connection import Connection, Connections
from connectors.postgres.failures import translated
from connectors.postgres.landmark import Landmark, Trail
from connectors.postgres.position import Lsn
from connectors.postgres.published import Published
from connectors.postgres.receiver import Receiver
from connectors.postgres.snapshot import PostgresSnapshot
from connectors.postgres.stream import Accepted, Descriptions, batches
from engine.changes import ChangeBatch, Position, SchemaChange
from engine.errors import EngineError, TransientError
from engine.schema import TableSchema
from engine.source import Check, Follow, SourceOptions, SourceStatus, StreamState

_INBOX_BATCHES = 2
_IDLE_SHARE = 50
"""How much longer than the look for refused updates takes is waited until the next."""


class PostgresSource:
    """A PostgreSQL database, 12 to 18. See `engine.source.Source` for the contract."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._connections = Connections(options)
        self._name = slot.object_name(options.instance)
        self._publications: tuple[str, ...] = publication.publication_names(self._name)
        self._receiver: Receiver | None = None
        self._receiver_lock = threading.Lock()
        self._confirmed = Lsn(0)
        self._recognised = False
        self._history: slot.History | None = None
        self._landmark: Landmark | None = None
        self._accepted: Accepted = {}
        self._traces: dict[int, str] = {}
        self._left_out: list[LeftOut] = []
        self._kept = Kept(self._connections.open, self._connections.release)
        self._exposed_at = 0.0

    def check(self) -> Sequence[Check]:
        return check.check(self._connections, self._options, self._name)

    def discover(self, known: Sequence[TableSchema] = ()) -> Sequence[TableSchema]:
        del known
        with self._connections.session("discovering tables") as connection:
            catalog.require_schema(connection, self._options.schema)
            tables, self._left_out = selection.select(connection, self._options, self._name)
            tables = catalog.with_touched(tables, catalog.touched(connection, tables))
        return [t.schema for t in tables]

    def prepare(self, tables: Sequence[TableSchema], after: Position | None, identity: str | None) -> StreamState:
        with self._connections.session("preparing the source") as connection:
            check.refuse_unsuitable(connection)
            if identity is None:
                refuse(self._left_out)
            self._publish(connection, tables, remove=True)
        if after is None:
            return StreamState(None, "nothing is loaded yet")
        receiver = self._receiver
        own_pid = None if receiver is None else receiver.backend_pid
        stored = slot.History.parse(identity)
        with self._connections.session("verifying the replication slot", replication=True) as connection:
            self._history = slot.read_history(connection, self._name)
            state = slot.resume_state(connection, self._history, _lsn(after), stored, own_pid)
        self._landmark = None if stored is None else stored.landmark
        return state

    def identity(self) -> str:
        with self._connections.session("asking the server who it is", replication=True) as connection:
            self._history = slot.read_history(connection, self._name)
        return self._identified(self._landmark)

    def _identified(self, landmark: Landmark | None) -> str:
        assert self._history is not None
        return replace(self._history, landmark=landmark).to_text()

    @contextmanager
    def snapshot(self, tables: Sequence[TableSchema], *, start: bool) -> Iterator[PostgresSnapshot]:
        with self._connections.session("preparing a snapshot") as connection:
            published, traces = self._publish(connection, tables, remove=False)
            # Counted before the view is taken: what is updated later must show as a difference.
            counts = catalog.touched(connection, published)
            if start:
                slot.drop_slot(connection, self._name)
        name = self._name if start else f"{self._name}_{os.urandom(3).hex()}"
        with self._connections.session("opening a snapshot", replication=True) as exporter:
            position, exported = slot.create_slot(exporter, name, temporary=not start)
            if start:
                self._landmark = Landmark(position.value)
            snapshot = PostgresSnapshot(self._connections, self._options, position, exported, counts)
            try:
                snapshot.look([t.id for t in tables], self._publications, traces)
                yield snapshot
            finally:
                snapshot.close()

    def stream(
        self, after: Position, follow: Sequence[Follow], cuts: Sequence[Position] = ()
    ) -> Iterator[ChangeBatch | SchemaChange]:
        start = _lsn(after)
        capacity = _INBOX_BATCHES * self._options.batch_bytes
        followed = [f.table for f in follow]
        descriptions = Descriptions(self._connections, self._options, self._publications, followed, self._accepted)
        try:
            receiver, trail = self._receive(start, descriptions, capacity)
        except EngineError as error:
            descriptions.close()
            if self._connections.closed and isinstance(error, TransientError):
                return
            raise
        try:
            published = Published(descriptions.connection, self._publications, followed, self._traces)
            boundaries = [_lsn(c) for c in cuts]
            yield from batches(
                receiver, start, follow, boundaries, self._options, descriptions, published, trail, self._identified
            )
        except EngineError:
            if not self._connections.closed:
                raise
        finally:
            receiver.close()
            descriptions.close()
            with self._receiver_lock:
                self._receiver = None

    def confirm(self, position: Position) -> None:
        with self._receiver_lock:
            self._confirmed = max(self._confirmed, _lsn(position))
            if self._receiver is not None:
                self._report(self._receiver)

    def _report(self, receiver: Receiver) -> None:
        """Nothing is confirmed to a server whose log may be another one: the slot would no longer tell."""
        if self._recognised:
            receiver.confirm(self._confirmed)

    def _receive(self, after: Lsn, descriptions: Descriptions, capacity: int) -> tuple[Receiver, Trail]:
        """Begin to stream, no later than at the remembered transaction unless the slot itself is past it."""
        if self._history is None:
            self.identity()
        connection = descriptions.connection()
        landmark, begins = self._landmark, after
        if landmark is not None and landmark.upto <= after.value:
            begins = min(after, max(Lsn(landmark.commit), self._slot_position(connection)))
        receiver = Receiver(self._connections, self._name, self._publications, begins, capacity)
        try:
            # The server begins at the slot's position if that is later; nobody moves it any more before `_report`.
            begins = max(begins, self._slot_position(connection))
            with self._receiver_lock:
                self._receiver, self._recognised = receiver, False
            return receiver, Trail(landmark, begins, after, self._recognise)
        except BaseException:
            receiver.close()
            raise

    def _slot_position(self, connection: Connection) -> Lsn:
        with translated("looking at the replication slot"):
            found = slot.read_slot(connection, self._name)
        return Lsn(0) if found is None or found.confirmed is None else found.confirmed

    def _recognise(self) -> None:
        with self._receiver_lock:
            self._recognised = True
            if self._receiver is not None:
                self._report(self._receiver)

    def inspect(self, known: Sequence[TableSchema]) -> Sequence[SchemaChange]:
        with self._connections.session("inspecting the source") as connection:
            findings, self._left_out = inspect.inspect(connection, self._options, self._name, known)
        for finding in findings:
            if finding.old is not None and finding.new is not None and not finding.reload:
                self._accepted[finding.new.source_id] = finding.new.storage
        return findings

    def status(self) -> SourceStatus:
        doing = "asking for the end of the log"
        with self._kept.use(doing) as connection:
            with translated(doing):
                position = slot.wal_position(connection)
            with translated("looking for tables whose updates are refused"):
                self._release_exposed(connection)
        confirmed = self._confirmed
        lag = position.value - confirmed.value if confirmed.value else None
        problems = tuple(each.check() for each in self._left_out)
        return SourceStatus(position, None if lag is None else max(0, lag), problems)

    def _release_exposed(self, connection: Connection) -> None:
        """Each time the status is asked for, unless there are so many tables that this would be work for the server."""
        began = time.monotonic()
        if began >= self._exposed_at:
            exposure.release(connection, self._name)
            self._exposed_at = began + _IDLE_SHARE * (time.monotonic() - began)

    def parse_position(self, text: str) -> Lsn:
        return Lsn.parse(text)

    def teardown(self) -> Sequence[str]:
        lines = []
        with self._connections.session("tearing down") as connection:
            if slot.drop_slot(connection, self._name):
                lines.append(f"replication slot {self._name}")
            lines += [f"publication {name}" for name in publication.drop(connection, self._name)]
        return lines

    def close(self) -> None:
        self._connections.close()
        receiver = self._receiver
        if receiver is not None:
            receiver.close()
        self._kept.close()

    def _publish(
        self, connection: Connection, tables: Sequence[TableSchema], *, remove: bool
    ) -> tuple[list[catalog.CatalogTable], Mapping[int, str]]:
        """Have exactly these tables published (or at least these), as they are now; returns them, and the traces of it."""
        chosen = {t.id for t in tables}
        found = [t for t in catalog.Catalog(connection, self._options).tables() if t.id in chosen]
        ensured = publication.ensure(connection, self._name, found, remove=remove)
        self._publications = ensured.names
        # What was found right first stays what is expected: what was mended since may be missing from the stream.
        self._traces = {**ensured.traces, **self._traces}
        return found, ensured.traces


def _lsn(position: Position) -> Lsn:
    if not isinstance(position, Lsn):
        raise TypeError("a position of PostgreSQL is an LSN")
    return position
