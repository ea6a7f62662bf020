"""A table that is truncated and filled again in one transaction: written once, swapped in, left behind by nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.changes import ChangeBatch, Op, TableChanges
from engine.destination import Copy
from engine.errors import UnsupportedValue
from engine.replica.loads import CHUNK_ROWS
from engine.replica.store import DuckDBReplica
from engine.replica.upkeep import checkpoint
from engine.schema import TableId
from tests.support.replica_items import ITEMS, batch, begin, entry, images, max_number, open_replica, physical, read

LIVE = {ITEMS.id: Copy.LIVE}


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[DuckDBReplica]:
    replica = open_replica(tmp_path / "shop.duckdb")
    begin(replica, ITEMS, (1, "old"), (2, "old"))
    yield replica
    replica.close()


def inserts(first: int, count: int, *, truncate: bool = False, text: bool = False) -> TableChanges:
    ids = np.arange(first, first + count)
    keys = pa.array(ids.astype("U")) if text else pa.array(ids)
    rows = pa.RecordBatch.from_arrays([keys, pa.array([f"new {i}" for i in ids])], names=["id", "name"])
    return TableChanges(ITEMS, pa.array(np.full(count, Op.INSERT, np.int8)), rows, truncate)


def fragment(*changes: TableChanges) -> ChangeBatch:
    return batch(0, *changes, complete=False)


def test_many_fragments_become_whole_row_groups(replica: DuckDBReplica) -> None:
    replica.stage(fragment(inserts(0, 50_000, truncate=True)), LIVE)
    for start in range(50_000, 400_000, 50_000):
        replica.stage(fragment(inserts(start, 50_000, text=start == 200_000)), LIVE)
        assert read(replica, "FROM items") == [(1, "old"), (2, "old")]
    replica.apply(batch(1))
    assert read(replica, "SELECT count(*), sum(id), count(DISTINCT name), min(name) FROM items") == [
        (400_000, 400_000 * 399_999 // 2, 400_000, "new 0")
    ]
    table = f"_reflex.t{max_number(replica)}"
    groups = (
        f"SELECT sum(count) FROM pragma_storage_info('{table}') WHERE column_name = 'c0' AND segment_type = 'BIGINT' "
        "GROUP BY row_group_id ORDER BY row_group_id"
    )
    counts = [int(count) for (count,) in read(replica, groups)]
    # The fragment in another Arrow type ends a row group, and so does the transaction.
    assert counts.count(CHUNK_ROWS) >= 2
    assert checkpoint(replica._writer.con)
    assert physical(replica) == 1


def test_changes_on_top_of_the_new_rows(replica: DuckDBReplica) -> None:
    replica.stage(fragment(entry(ITEMS, Op.INSERT, (1, "a"), (3, "c"), truncate=True)), LIVE)
    replica.stage(fragment(entry(ITEMS, Op.INSERT, (4, "d"))), LIVE)
    replica.stage(fragment(entry(ITEMS, Op.UPDATE, (3, "cc")), entry(ITEMS, Op.DELETE, (4, None))), LIVE)
    kept = TableChanges(
        ITEMS, pa.array([int(Op.UPDATE)], pa.int8()), images(ITEMS, (1, None)), unchanged={"name": pa.array([True])}
    )
    replica.apply(batch(1, kept, entry(ITEMS, Op.INSERT, (5, "e"))))
    assert read(replica, "FROM items ORDER BY id") == [(1, "a"), (3, "cc"), (5, "e")]


def test_truncated_again_and_given_up(replica: DuckDBReplica) -> None:
    replica.stage(fragment(inserts(0, 130_000, truncate=True)), LIVE)
    replica.stage(fragment(inserts(7, 10, truncate=True)), LIVE)
    replica.apply(batch(1, entry(ITEMS, Op.INSERT, truncate=True)))
    assert read(replica, "FROM items") == []
    assert physical(replica) == 1
    replica.stage(fragment(inserts(0, 130_000, truncate=True)), LIVE)
    replica.discard_staged()
    assert physical(replica) == 1
    replica.apply(batch(2, entry(ITEMS, Op.INSERT, (9, "i"))))
    assert read(replica, "FROM items") == [(9, "i")]


def test_what_a_crash_leaves_is_dropped(replica: DuckDBReplica, tmp_path: Path) -> None:
    replica.stage(fragment(inserts(0, 130_000, truncate=True)), LIVE)
    assert physical(replica) == 2
    replica.close()
    again = open_replica(tmp_path / "shop.duckdb")
    assert physical(again) == 1
    assert read(again, "FROM items") == [(1, "old"), (2, "old")]
    again.close()


def test_a_value_that_does_not_fit(replica: DuckDBReplica) -> None:
    rows = pa.RecordBatch.from_arrays([pa.array(["1", "one"]), pa.array(["a", "b"])], names=["id", "name"])
    change = TableChanges(ITEMS, pa.array([1, 1], pa.int8()), rows, truncate=True)
    with pytest.raises(UnsupportedValue) as raised:
        replica.apply(batch(1, change))
    assert raised.value.columns == ("id",)
    assert read(replica, "FROM items") == [(1, "old"), (2, "old")]
    assert physical(replica) == 1
    replica.apply(batch(1, entry(ITEMS, Op.INSERT, (3, "c"), truncate=True)))
    assert read(replica, "FROM items") == [(3, "c")]


def test_many_tables_hold_back_little(replica: DuckDBReplica) -> None:
    """What waits for a whole row group is bounded in sum, however many tables are replaced in one transaction."""
    tables = [replace(ITEMS, id=TableId("shop", f"wide{n}")) for n in range(6)]
    for table in tables:
        begin(replica, table)
    wide = ["x" * 100_000] * 60
    for table in tables:
        change = entry(table, Op.INSERT, *((i, text) for i, text in enumerate(wide)), truncate=True)
        replica.stage(fragment(change), {table.id: Copy.LIVE})
        waiting = [s.replacement for s in replica._staging.tables.values()]
        assert sum(r.waiting_bytes for r in waiting if r is not None) <= replica._writer.memory_limit // 16
    replica.apply(batch(1))
    for table in tables:
        assert read(replica, f"SELECT count(*), sum(length(name)) FROM {table.id.name}") == [(60, 6_000_000)]
