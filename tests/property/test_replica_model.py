"""The replica against a model: whatever is sent, however it is cut, staged, loaded and swapped, both hold the same rows."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from engine.changes import ChangeBatch, Op, TableChanges
from engine.destination import Copy
from engine.replica.loads import TableLoader
from engine.replica.store import DuckDBReplica
from engine.schema import Column, Identity, TableId, TableSchema

KEYED = (
    ("k1", "BIGINT"),
    ("big", "VARCHAR"),
    ("price", "DECIMAL(10,2)"),
    ("k2", "VARCHAR"),
    ("d", "DOUBLE"),
    ("doc", "JSON"),
)
KEY = ("k1", "k2")
UNKEYED = (("a", "BIGINT"), ("d", "DOUBLE"), ("span", "INTERVAL"))

VALUES: dict[str, list[str | None]] = {
    "BIGINT": ["1", None],
    "VARCHAR": ["", "x", "it's", "NULL", None],
    "DECIMAL(10,2)": ["0.00", "-1.50", "99999999.99", None],
    "DOUBLE": ["0.0", "-0.0", "nan", None],
    "INTERVAL": ["1 month", "30 days"],
    "JSON": ['{"a": 1}', "[]", "null", None],
}
KEYS = [(k1, k2) for k1 in ("1", "-3") for k2 in ("a", "B")]
TYPED = {"BIGINT": pa.int64(), "DOUBLE": pa.float64(), "DECIMAL(10,2)": pa.decimal128(10, 2), "JSON": None}

Row = tuple[str | None, ...]


@dataclass
class Event:
    op: Op
    row: Row
    kept: frozenset[int] = frozenset()
    base: tuple[str, str] | None = None


@dataclass
class Pending:
    """One entry of the batch in the making."""

    table: TableSchema
    truncate: bool
    typed: bool
    events: list[Event] = field(default_factory=list)

    def changes(self) -> TableChanges:
        columns = self.table.columns
        rows = [tuple(None if i in e.kept else v for i, v in enumerate(e.row)) for e in self.events]
        arrays = [column_array(c.type, [row[i] for row in rows], self.typed) for i, c in enumerate(columns)]
        unchanged = {}
        for i, column in enumerate(columns):
            if any(i in e.kept for e in self.events):
                unchanged[column.name] = pa.array([i in e.kept for e in self.events])
        base = None
        if any(e.base is not None for e in self.events):
            places = [self.table.column_names.index(k) for k in self.table.key]
            keys = [e.base or tuple(e.row[p] for p in places) for e in self.events]
            base = pa.RecordBatch.from_arrays(
                [column_array(columns[p].type, [k[j] for k in keys], self.typed) for j, p in enumerate(places)],
                names=list(self.table.key),
            )
        return TableChanges(
            self.table,
            pa.array([int(e.op) for e in self.events], pa.int8()),
            pa.RecordBatch.from_arrays(arrays, names=list(self.table.column_names)),
            self.truncate,
            unchanged,
            base,
        )


def column_array(kind: str, values: list[Any], typed: bool) -> pa.Array:
    arrow = TYPED.get(kind) if typed else None
    text = pa.array(values, pa.string())
    return text if arrow is None else text.cast(arrow)


def layout(name: str, columns: tuple[tuple[str, str], ...], identity: Identity) -> TableSchema:
    key = KEY if identity is Identity.KEY else ()
    return TableSchema(TableId("model", name), tuple(Column(c, t, t) for c, t in columns), key, identity)


class Model:
    """The source: rows of a keyed table (by key) and of one without a key (a multiset)."""

    def __init__(self) -> None:
        self.keyed: dict[tuple[str, str], Row] = {}
        self.unkeyed: Counter[Row] = Counter()

    def content(self, table: TableSchema) -> Counter[Row]:
        return Counter(self.keyed.values()) if table.identity is Identity.KEY else +self.unkeyed


EXAMPLES = int(os.environ.get("REPLICA_MODEL_EXAMPLES", "25"))
"""More of them find rarer sequences: set it when the merge, staging or tracing of kept values changes."""

numbers = itertools.count(1)


class Machine(RuleBasedStateMachine):
    replica: DuckDBReplica

    @initialize(load=st.booleans())
    def begin(self, load: bool) -> None:
        n = next(numbers)
        self.model = Model()
        self.tables = [layout(f"K{n}", KEYED, Identity.KEY), layout(f"R{n}", UNKEYED, Identity.ROW)]
        self.position = 0
        self.entries: list[Pending] = []
        self.loads: dict[TableId, tuple[TableLoader, Counter[Row]]] = {}
        self.dirty = False
        for table in self.tables:
            self.replica.load(table).finish("0")
        self.replica.swap([t.id for t in self.tables], "0", "source")

    # What happens at the source

    def emit(self, table: TableSchema, *events: Event) -> None:
        self.dirty = True
        last = self.entries[-1] if self.entries else None
        if last is None or last.table is not table:
            last = Pending(table, truncate=False, typed=False)
            self.entries.append(last)
        last.events.extend(events)

    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        keyed = [self.insert, self.update, self.upsert, self.replace, self.change_key, self.swap_keys, self.delete]
        every = [*keyed, self.insert_unkeyed, self.delete_unkeyed]
        for act in data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=8)):
            act(data)

    def insert(self, data: st.DataObject) -> None:
        free = [k for k in KEYS if k not in self.model.keyed]
        if free:
            key = data.draw(st.sampled_from(free))
            row = self.row(data, KEYED, key)
            self.model.keyed[key] = row
            self.emit(self.tables[0], Event(Op.INSERT, row))

    def update(self, data: st.DataObject) -> None:
        if not self.model.keyed:
            return
        key = data.draw(st.sampled_from(sorted(self.model.keyed)))
        row, kept = self.changed(data, key, key)
        self.model.keyed[key] = row
        self.emit(self.tables[0], Event(Op.UPDATE, row, kept))

    def upsert(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(KEYS))
        self.model.keyed[key] = self.row(data, KEYED, key)
        self.emit(self.tables[0], Event(Op.UPDATE, self.model.keyed[key]))

    def change_key(self, data: st.DataObject) -> None:
        free = [k for k in KEYS if k not in self.model.keyed]
        if self.model.keyed and free:
            self.move(data, data.draw(st.sampled_from(sorted(self.model.keyed))), data.draw(st.sampled_from(free)))

    def swap_keys(self, data: st.DataObject) -> None:
        free = [k for k in KEYS if k not in self.model.keyed]
        if len(self.model.keyed) >= 2 and free:
            one, other = data.draw(st.permutations(sorted(self.model.keyed)))[:2]
            self.move(data, one, free[0])
            self.move(data, other, one)
            self.move(data, free[0], other)

    def move(self, data: st.DataObject, old: tuple[str, str], new: tuple[str, str]) -> None:
        gone = self.model.keyed[old]
        row, kept = self.changed(data, old, new)
        del self.model.keyed[old]
        self.model.keyed[new] = row
        self.emit(self.tables[0], Event(Op.DELETE, gone), Event(Op.UPDATE, row, kept, old))

    def delete(self, data: st.DataObject) -> None:
        if self.model.keyed:
            row = self.model.keyed.pop(data.draw(st.sampled_from(sorted(self.model.keyed))))
            self.emit(self.tables[0], Event(Op.DELETE, row))

    def replace(self, data: st.DataObject) -> None:
        if self.model.keyed:
            key = data.draw(st.sampled_from(sorted(self.model.keyed)))
            gone, self.model.keyed[key] = self.model.keyed[key], self.row(data, KEYED, key)
            self.emit(self.tables[0], Event(Op.DELETE, gone), Event(Op.INSERT, self.model.keyed[key]))

    def insert_unkeyed(self, data: st.DataObject) -> None:
        row, copies = self.row(data, UNKEYED), data.draw(st.integers(1, 3))
        self.model.unkeyed[row] += copies
        self.emit(self.tables[1], *[Event(Op.INSERT, row)] * copies)

    def delete_unkeyed(self, data: st.DataObject) -> None:
        rows = list((+self.model.unkeyed).elements())
        if rows:
            row = data.draw(st.sampled_from(rows))
            self.model.unkeyed[row] -= 1
            self.emit(self.tables[1], Event(Op.DELETE, row))

    @rule(which=st.integers(0, 1), then=st.booleans())
    def truncate(self, which: int, then: bool) -> None:
        if which:
            self.model.unkeyed.clear()
        else:
            self.model.keyed.clear()
        self.entries.append(Pending(self.tables[which], truncate=True, typed=then))
        self.dirty = True

    def row(self, data: st.DataObject, columns: Any, key: tuple[str, str] | None = None) -> Row:
        drawn = [data.draw(st.sampled_from(VALUES[kind])) for _, kind in columns]
        return self.keyed(tuple(drawn), key) if key is not None else tuple(drawn)

    def keyed(self, row: Row, key: tuple[str, str]) -> Row:
        named = dict(zip(KEY, key, strict=True))
        return tuple(named.get(name, value) for (name, _), value in zip(KEYED, row, strict=True))

    def changed(self, data: st.DataObject, old: tuple[str, str], new: tuple[str, str]) -> tuple[Row, frozenset[int]]:
        """A new image of row `old` under key `new`, and which of its columns the source does not send."""
        drawn = self.row(data, KEYED, new)
        before = self.model.keyed[old]
        kept = frozenset(i for i in (1, 2, 5) if data.draw(st.booleans()))
        return self.keyed(tuple(before[i] if i in kept else drawn[i] for i in range(len(drawn))), new), kept

    # How it arrives

    @rule(which=st.integers(0, 1), typed=st.booleans())
    def new_entry(self, which: int, typed: bool) -> None:
        self.entries.append(Pending(self.tables[which], truncate=False, typed=typed))

    def batch(self, complete: bool) -> ChangeBatch:
        self.position += complete
        changes = tuple(e.changes() for e in self.entries)
        self.entries = []
        return ChangeBatch(str(self.position), changes, complete=complete)  # type: ignore[arg-type]

    @rule()
    def fragment(self) -> None:
        batch = self.batch(complete=False)
        self.replica.stage(batch, dict.fromkeys(self.loads, Copy.LOAD))
        self.replica.stage(batch, {t.id: Copy.LIVE for t in self.tables})

    @rule()
    def commit(self) -> None:
        batch = self.batch(complete=True)
        self.replica.stage(batch, dict.fromkeys(self.loads, Copy.LOAD))
        self.replica.apply(batch)
        self.dirty = False
        self.compare()

    @precondition(lambda self: not self.dirty)
    @rule(which=st.integers(0, 1))
    def begin_load(self, which: int) -> None:
        table = self.tables[which]
        if table.id in self.loads:
            self.replica.mark_reload([table.id], "again", blocking=False)
        self.loads[table.id] = (self.replica.load(table), self.model.content(table))

    @precondition(lambda self: not self.dirty and self.loads)
    @rule(catch_up=st.booleans())
    def swap(self, catch_up: bool) -> None:
        tables = {t.id: t for t in self.tables}
        for table, (loader, rows) in self.loads.items():
            columns = tables[table].columns
            images = list(rows.elements())
            arrays = [column_array(c.type, [r[i] for r in images], catch_up) for i, c in enumerate(columns)]
            assert loader.append([pa.RecordBatch.from_arrays(arrays, names=[c.name for c in columns])]) == len(images)
            loader.finish(str(self.position))
        self.replica.swap(list(self.loads), str(self.position))
        self.loads = {}
        self.compare()

    def compare(self) -> None:
        assert self.replica.position == str(self.position)
        cursor = self.replica.cursor()
        try:
            for table in self.tables:
                columns = ", ".join(f'CAST("{c.name}" AS VARCHAR)' for c in table.columns)
                rows = cursor.execute(f'SELECT {columns} FROM model."{table.id.name}"').fetchall()
                assert Counter(rows) == self.model.content(table)
        finally:
            cursor.close()

    def teardown(self) -> None:
        if hasattr(self, "tables"):
            self.replica.discard_staged()
            for table in self.tables:
                self.replica.drop(table.id)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBReplica]:
    path: Path = tmp_path_factory.mktemp("model") / "model.duckdb"
    replica = DuckDBReplica.open(path, instance="model", memory_limit_bytes=200 << 20, threads=2)
    yield replica
    replica.close()


@pytest.mark.parametrize("straight_rows", [400_000, 0], ids=["straight", "staged"])
def test_replica_equals_the_model(replica: DuckDBReplica, straight_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.replica.apply._STRAIGHT_ROWS", straight_rows)
    if straight_rows == 0:
        monkeypatch.setattr("engine.replica.merge._parts", lambda writer, staged: 3)
    machine = type("ReplicaMachine", (Machine,), {"replica": replica})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
