"""A replica in a dict: what a correct consumer of a source makes of its snapshot and stream."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.changes import ChangeBatch, Op, Position, SchemaChange, TableChanges
from engine.schema import Identity, TableId, TableSchema
from engine.source import Follow, Snapshot, Source
from tests.support.waiting import wait_until

Row = tuple[Any, ...]


class Rows:
    """The rows of one table: by key, or as a multiset where there is none."""

    def __init__(self, table: TableSchema) -> None:
        self.table = table
        self.keyed: dict[Row, Row] = {}
        self.bag: Counter[Row] = Counter()
        self.settled = True
        """Whether the rows are a committed state: until then an insert may find its row, of a later state, there."""
        self._moved: dict[Row, Row] = {}

    def _key(self, row: Row) -> Row:
        names = self.table.column_names
        return tuple(row[names.index(k)] for k in self.table.key)

    @property
    def by_key(self) -> bool:
        return self.table.identity is Identity.KEY

    def load(self, rows: list[Row]) -> None:
        for row in rows:
            if self.by_key:
                assert self._key(row) not in self.keyed, "a snapshot gave a row twice"
                self.keyed[self._key(row)] = row
            else:
                self.bag[row] += 1

    def apply(self, changes: TableChanges) -> None:
        assert changes.table.column_names == tuple(changes.rows.schema.names)
        if changes.truncate:
            self.keyed.clear()
            self.bag.clear()
        self.table = changes.table
        self._moved = {}
        rows = _tuples(changes.rows)
        bases = None if changes.base is None else _tuples(changes.base)
        for i, (op, row) in enumerate(zip(changes.ops.to_pylist(), rows, strict=True)):
            if not self.by_key:
                self._apply_row(op, row)
                continue
            kept = {n for n, mask in changes.unchanged.items() if mask[i].as_py()}
            base = bases[i] if bases is not None else self._key(row)
            self._apply_key(op, self._kept(row, kept, base) if kept else row)

    def _kept(self, row: Row, kept: set[str], base: Row) -> Row:
        """The row with the values that the source did not send taken from the row that it was before."""
        old = self._before(base)
        return tuple(o if n in kept else v for n, v, o in zip(self.table.column_names, row, old, strict=True))

    def _before(self, key: Row) -> Row:
        """The row that had this key before, also when this batch has just moved it to another one."""
        return self.keyed[key] if key in self.keyed else self._moved[key]

    def _apply_key(self, op: int, row: Row) -> None:
        key = self._key(row)
        if op == Op.DELETE:
            gone = self.keyed.pop(key, None)
            if gone is not None:
                self._moved[key] = gone
        else:
            assert op == Op.UPDATE or not self.settled or key not in self.keyed, "an insert of a key that is there"
            self.keyed[key] = row

    def _apply_row(self, op: int, row: Row) -> None:
        assert op in (Op.INSERT, Op.DELETE)
        self.bag[row] += 1 if op == Op.INSERT else -1
        assert self.bag[row] >= 0, "a row was deleted that is not there"

    def content(self) -> list[Row]:
        """All rows, sorted by their text."""
        return sorted(self.keyed.values() if self.by_key else self.bag.elements(), key=repr)


class Replay:
    """Loads a snapshot, follows the stream in a thread, and remembers every batch and schema change."""

    def __init__(self, source: Source, *, confirm: bool = True) -> None:
        self.source = source
        self.tables: dict[TableId, Rows] = {}
        self.batches: list[ChangeBatch] = []
        self.changes: list[SchemaChange] = []
        self.position: Position | None = None
        self.identity: str | None = None
        """What is stored of the source's identity: as of the start, then what the batches tell."""
        self.settled: Position | None = None
        """From here on the content is a committed state."""
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._confirm = confirm
        self._thread: threading.Thread | None = None
        self._staged: list[TableChanges] = []

    def load(self, snapshot: Snapshot) -> Position:
        for table in snapshot.tables:
            rows = self.tables[table.id] = Rows(table)
            for part in snapshot.split(table):
                for batch in snapshot.read(part):
                    rows.load(_tuples(batch))
        self.position = snapshot.position
        self.settled = snapshot.settled()
        if not snapshot.position.covers(self.settled):
            for rows in self.tables.values():
                rows.settled = False
        return snapshot.position

    def start(self, tables: Sequence[TableSchema] | None = None) -> Position:
        """Prepare, load and begin to follow; returns the snapshot's position."""
        found = self.source.discover() if tables is None else tables
        self.source.prepare(found, None, None)
        with self.source.snapshot(found, start=True) as snapshot:
            position = self.load(snapshot)
            self.identity = self.source.identity()
        self.follow(position)
        return position

    def follow(self, after: Position, follow: Sequence[Follow] | None = None, cuts: Sequence[Position] = ()) -> None:
        wanted = [Follow(r.table) for r in self.tables.values()] if follow is None else follow
        self.position = after
        stream = self.source.stream(after, wanted, cuts)
        self._thread = threading.Thread(target=self._run, args=(stream,), daemon=True)
        self._thread.start()

    def _run(self, stream: Iterator[ChangeBatch | SchemaChange]) -> None:
        try:
            for item in stream:
                self.gate.wait()
                self.take(item)
        except BaseException as error:
            self.error = error

    def take(self, item: ChangeBatch | SchemaChange) -> None:
        if isinstance(item, SchemaChange):
            self.changes.append(item)
            if item.old is not None and item.new is not None and not item.reload:
                self._relayout(item.old, item.new)
            return
        if self.position is not None:
            assert item.position.covers(self.position), "the position went back"
        self.batches.append(item)
        self._staged += item.changes
        if not item.complete:
            return
        for changes in self._staged:
            self.tables.setdefault(changes.table.id, Rows(changes.table)).apply(changes)
        self._staged = []
        self.position = item.position
        if self.settled is not None and item.position.covers(self.settled):
            for rows in self.tables.values():
                rows.settled = True
        self.identity = item.identity or self.identity
        if self._confirm:
            self.source.confirm(item.position)

    def _relayout(self, old: TableSchema, new: TableSchema) -> None:
        """Bring the rows to the new layout: NULL in added columns, which is what `evolve` stands for."""
        rows = self.tables.pop(old.id)
        places = {c.id: i for i, c in enumerate(old.columns)}
        take = [places.get(c.id) for c in new.columns]

        def moved(row: Row) -> Row:
            return tuple(None if i is None else row[i] for i in take)

        rows.table = new
        rows.keyed = {k: moved(r) for k, r in rows.keyed.items()}
        rows.bag = Counter({moved(r): n for r, n in rows.bag.items()})
        self.tables[new.id] = rows

    def wait(self, condition: Callable[[], object], timeout: float = 20.0, message: str = "") -> None:
        def holds() -> object:
            if self.error is not None:
                raise self.error
            return condition()

        wait_until(holds, timeout, message=message)

    def reach(self, position: Position, timeout: float = 20.0) -> None:
        """Wait until everything up to `position` is applied."""
        self.wait(
            lambda: self.position is not None and self.position.covers(position),
            timeout,
            f"position {position} reached",
        )

    def content(self, table: TableId) -> list[Row]:
        return self.tables[table].content()

    def close(self) -> None:
        self.gate.set()
        self.source.close()
        if self._thread is not None:
            self._thread.join(5)
            assert not self._thread.is_alive(), "the stream did not end"


def _tuples(batch: Any) -> list[Row]:
    return [tuple(r.values()) for r in batch.to_pylist()]
