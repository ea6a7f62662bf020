"""Changes kept where no reader sees them, until the transaction they belong to, or a swap, merges them.

One temporary table per target copy: ``seq``, ``op``, the typed columns ``c<i>``; where the source left values out, also
``u<i>`` (the value of column i is not known here) and ``b<j>`` (key of the row it is kept from, as of before anything
was staged). Temporary tables spill to disk under the memory limit, cost no WAL, and end with the process, which is when
staged changes lose their meaning: a restarted stream delivers them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from engine.changes import Op, TableChanges
from engine.destination import Copy
from engine.errors import ResyncRequired
from engine.replica import ddl
from engine.replica.catalog import Catalog, Stored, fresh
from engine.replica.entries import Entry, key_indexes, same_layout
from engine.replica.replacement import Replacement
from engine.replica.sql import listed
from engine.replica.unchanged import Contradiction, trace
from engine.replica.writer import Writer
from engine.schema import TableId, TableSchema

LOST_BASE = "an update keeps values of a row that the replica does not hold"

Key = tuple[TableId, Copy]


@dataclass(frozen=True, slots=True)
class Staged:
    """What is staged for one copy of a table. `bytes` is the size in Arrow."""

    layout: TableSchema
    relation: str
    rows: int = 0
    bytes: int = 0
    replacement: Replacement | None = None
    """What takes the copy's place, where a TRUNCATE was staged: the changes are on top of it."""
    inserts_only: bool = True
    kept: tuple[int, ...] = ()
    """Indexes of the columns that have a ``u`` column."""


@dataclass(slots=True)
class Staging:
    """The staged changes of all copies. `seq` orders events across entries, batches and fragments.

    Every method runs in the caller's transaction; a caller that rolls back puts `tables` back to what it was.
    """

    writer: Writer
    catalog: Catalog
    tables: dict[Key, Staged] = field(default_factory=dict)
    seq: int = 0

    def add(self, change: TableChanges, copy: Copy) -> None:
        """Stage one entry of a batch."""
        where = (change.table.id, copy)
        staged = self.tables.get(where)
        if staged is None:
            staged = self._create(change.table)
        if not same_layout(staged.layout, change.table):
            raise ResyncRequired(f"{change.table.id} changed its layout among staged changes", [change.table.id])
        if change.truncate:
            self.writer.con.execute(f"DELETE FROM {staged.relation}")
            self._drop_replacement(staged)
            empty = Replacement(fresh(change.table, self.catalog.number()))
            staged = replace(staged, rows=0, bytes=0, inserts_only=True, replacement=empty)
        self.tables[where] = self._insert(staged, change) if len(change.ops) else staged
        self._bound_waiting()

    @property
    def bytes(self) -> int:
        """The size in Arrow of everything that is staged."""
        return sum(staged.bytes for staged in self.tables.values())

    def of(self, copy: Copy) -> list[Key]:
        """The tables with something staged for this kind of copy."""
        return [key for key in self.tables if key[1] is copy]

    def discard(self, keys: Iterable[Key]) -> None:
        """Drop what is staged under `keys`."""
        for key in list(keys):
            staged = self.tables.pop(key, None)
            if staged is not None:
                self.writer.con.execute(f"DROP TABLE IF EXISTS {staged.relation}")
                self._drop_replacement(staged)

    def replaced(self, key: Key) -> Stored | None:
        """Complete the replacement of a copy and hand it over, if there is one."""
        staged = self.tables[key]
        if staged.replacement is None:
            return None
        self.tables[key] = replace(staged, replacement=None)
        return staged.replacement.flush(self.writer).stored

    def _bound_waiting(self) -> None:
        """Write the rows that replacements hold back, when they are many in sum."""
        waiting = [(key, s, s.replacement) for key, s in self.tables.items() if s.replacement is not None]
        if sum(found.waiting_bytes for *_, found in waiting) > self.writer.memory_limit // 16:
            for key, staged, found in waiting:
                if found.waiting:
                    self.tables[key] = replace(staged, replacement=found.flush(self.writer))

    def _drop_replacement(self, staged: Staged) -> None:
        if staged.replacement is not None:
            ddl.drop_table(self.writer.con, staged.replacement.stored.number)

    def _create(self, layout: TableSchema) -> Staged:
        relation = self.writer.temporary()
        columns = listed(f"c{i} {column.type}" for i, column in enumerate(layout.columns))
        self.writer.con.execute(f"CREATE TEMP TABLE {relation} (seq BIGINT, op TINYINT, {columns})")
        return Staged(layout, relation)

    def _insert(self, staged: Staged, change: TableChanges) -> Staged:
        entry = Entry.of(self.writer.binder, [change], self.seq)
        self.seq += len(change.ops)
        if staged.replacement is not None and not staged.rows and change.inserts_only and not entry.unchanged:
            return replace(staged, replacement=staged.replacement.add(self.writer, entry))
        if entry.unchanged:
            staged = self._widen(staged, entry)
            self._insert_incomplete(staged, entry)
        else:
            with entry.diagnosed(self.writer):
                name = self.writer.input(entry.rows)
                values = listed(("seq", "op", *(b.expression for b in entry.bound)))
                columns = listed(("seq", "op", *(f"c{i}" for i in range(len(entry.bound)))))
                self.writer.con.execute(f"INSERT INTO {staged.relation} ({columns}) SELECT {values} FROM {name}")
        return replace(
            staged,
            rows=staged.rows + len(change.ops),
            bytes=staged.bytes + int(entry.rows.nbytes),
            inserts_only=staged.inserts_only and change.inserts_only,
        )

    def _widen(self, staged: Staged, entry: Entry) -> Staged:
        """Add the columns that tell of values left out, where they are not there yet."""
        con = self.writer.con
        if not staged.kept:
            for j, name in enumerate(staged.layout.key):
                con.execute(f"ALTER TABLE {staged.relation} ADD COLUMN b{j} {staged.layout.column(name).type}")
        for i in entry.unchanged:
            if i not in staged.kept:
                con.execute(f"ALTER TABLE {staged.relation} ADD COLUMN u{i} BOOLEAN")
        return replace(staged, kept=tuple(sorted({*staged.kept, *entry.unchanged})))

    def _insert_incomplete(self, staged: Staged, entry: Entry) -> None:
        """Stage an entry with values left out: fill in those that the entry itself or an earlier one holds."""
        con, relation = self.writer.con, staged.relation
        hits = self.writer.temporary()
        rows = _traced(self.writer, entry)
        with entry.diagnosed(self.writer):
            name = self.writer.input(rows)
            bases = listed(f"{b.expression} AS {b.source}" for b in entry.base_bound)
            same_key = " AND ".join(f"s.c{i} = f.b{j}" for j, i in enumerate(key_indexes(staged.layout)))
            con.execute(
                f"CREATE TEMP TABLE {hits} AS SELECT f.seq AS seq, max(s.seq) AS image FROM "
                f"(SELECT seq, {bases} FROM {name} WHERE incomplete) f JOIN {relation} s ON {same_key} GROUP BY f.seq"
            )
            deleted = f"SELECT count(*) FROM {hits} h JOIN {relation} s ON s.seq = h.image WHERE s.op = {Op.DELETE:d}"
            if self.writer.scalar(deleted):
                raise ResyncRequired(LOST_BASE, [entry.table.id])
            values = {"seq": "f.seq", "op": "f.op"}
            for i, bound in enumerate(entry.bound):
                values[f"c{i}"] = bound.over("f")
            for i in entry.unchanged:
                values[f"c{i}"] = f"CASE WHEN f.u{i} AND h.seq IS NOT NULL THEN e.c{i} ELSE {values[f'c{i}']} END"
                values[f"u{i}"] = f"f.u{i} AND (h.seq IS NULL OR coalesce(e.u{i}, FALSE))"
            for b in entry.base_bound:
                values[b.source] = f"CASE WHEN h.seq IS NULL THEN {b.over('f')} ELSE e.{b.source} END"
            con.execute(
                f"INSERT INTO {relation} ({listed(values)}) SELECT {listed(values.values())} FROM {name} f "
                f"LEFT JOIN {hits} h ON h.seq = f.seq LEFT JOIN {relation} e ON e.seq = h.image"
            )
        con.execute(f"DROP TABLE {hits}")


def _traced(writer: Writer, entry: Entry) -> pa.Table:
    """The entry's rows with every value that the entry itself holds in its place, and for the others ``u<i>``,
    ``incomplete`` and the base key ``b<j>`` at which the search ended."""
    ops = entry.rows.column("op").to_numpy()
    keys, bases = _numbered(writer, entry)
    try:
        traced = trace(ops, keys, bases, entry.unchanged)
    except Contradiction as error:
        raise ResyncRequired(LOST_BASE, [entry.table.id]) from error
    rows = entry.rows
    for i, missing in traced.missing.items():
        place = rows.schema.get_field_index(f"c{i}")
        source = pa.array(traced.sources[i], mask=missing)
        rows = rows.set_column(place, f"c{i}", rows.column(place).take(source))
        rows = rows.append_column(f"u{i}", pa.array(missing))
    rows = rows.append_column("incomplete", pa.array(traced.incomplete))
    for j, base in enumerate(entry.base):
        rows = rows.append_column(f"b{j}", base.take(pa.array(traced.roots, mask=~traced.incomplete)))
    return rows


def _numbered(writer: Writer, entry: Entry) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], ...]:
    """Number the distinct keys, compared as the replica's types: of each event, and of its base."""
    count = entry.rows.num_rows
    keys = [entry.bound[i] for i in key_indexes(entry.table)]
    rows = entry.rows.select(["seq", *(b.source for b in keys)])
    keeps = np.logical_or.reduce(list(entry.unchanged.values()))
    for b, array in zip(entry.base_bound, entry.base, strict=True):
        rows = rows.append_column(b.source, array)
    rows = rows.set_column(0, "seq", pa.array(np.arange(count, dtype=np.int64))).append_column("keeps", pa.array(keeps))
    names = listed(f"k{j}" for j in range(len(keys)))
    own = listed(f"{b.expression} AS k{j}" for j, b in enumerate(keys))
    base = listed(f"{b.expression} AS k{j}" for j, b in enumerate(entry.base_bound))
    with entry.diagnosed(writer):
        name = writer.input(rows)
        answer = writer.con.execute(
            f"SELECT place, dense_rank() OVER (ORDER BY {names}) AS number FROM ("
            f"SELECT seq AS place, {own} FROM {name} UNION ALL "
            f"SELECT seq + {count}, {base} FROM {name} WHERE keeps)"
        ).fetchnumpy()
    numbers = np.zeros(2 * count, np.int64)
    numbers[np.asarray(answer["place"], np.int64)] = np.asarray(answer["number"], np.int64)
    return numbers[:count], numbers[count:]
