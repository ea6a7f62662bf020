"""Readers beside large merges: no scan of any query sees a row that its transaction should not.

DuckDB 1.5 and 2.0.0 fail here with the first merge: a scan counts the rows that a transaction is still appending.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.changes import ChangeBatch, Op, TableChanges
from engine.destination import Copy
from engine.replica.reads import ReplicaReads
from engine.replica.store import DuckDBReplica
from engine.schema import Column, Identity, TableId, TableSchema
from tests.support.replica_items import batch, open_replica

ROWS = 300_000
BIG = TableSchema(
    TableId("shop", "big"),
    (
        Column("id", "BIGINT", "bigint", id=1),
        Column("v", "BIGINT", "bigint", id=2),
        Column("s", "VARCHAR", "text", id=3),
    ),
    ("id",),
    Identity.KEY,
    source_id="1",
)
QUESTION = (
    "SELECT (SELECT sum(v) FROM big) - (SELECT sum(id) FROM big) AS moved, "
    f"(SELECT {ROWS} * min(v - id) FROM big) AS least, (SELECT {ROWS} * max(v - id) FROM big) AS most, "
    "(SELECT count(*) FROM big) AS rows"
)


def moved(version: int) -> pa.RecordBatch:
    ids = np.arange(1, ROWS + 1, dtype=np.int64)
    texts = pa.array(np.char.add(ids.astype("U"), f" version {version}"))
    return pa.RecordBatch.from_arrays([pa.array(ids), pa.array(ids + version), texts], names=["id", "v", "s"])


def fragments(version: int, pieces: int = 6) -> list[ChangeBatch]:
    """One transaction that updates every row, in fragments; the last one is its commit."""
    rows, size = moved(version), ROWS // pieces
    ops = pa.array(np.full(size, Op.UPDATE, np.int8))
    entries = [TableChanges(BIG, ops, rows.slice(start, size)) for start in range(0, ROWS, size)]
    last = len(entries) - 1
    return [batch(version if i == last else version - 1, e, complete=i == last) for i, e in enumerate(entries)]


def load(replica: DuckDBReplica) -> None:
    loader = replica.load(BIG)
    loader.append([moved(0)])
    loader.finish("0")
    replica.swap([BIG.id], "0", "source")


def test_no_scan_sees_half_a_merge(tmp_path: Path) -> None:
    replica = open_replica(tmp_path / "shop.duckdb")
    load(replica)
    reads, done = ReplicaReads(replica.cursor), threading.Event()
    answers: list[tuple[object, ...]] = []

    def look() -> None:
        while not done.is_set():
            with reads.session() as session:
                answer = session.query(QUESTION)
                (row,) = [row for rows in answer.rows for row in rows.to_pylist()]
            answers.append((int(answer.position or 0), *row.values()))

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for version in range(1, 6):
            *parts, last = fragments(version)
            for part in parts:
                replica.stage(part, {BIG.id: Copy.LIVE})
            replica.apply(last)
            replica.maintain()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    wrong = [a for a in answers if a[1:] != (ROWS * int(str(a[0])), ROWS * int(str(a[0])), ROWS * int(str(a[0])), ROWS)]
    assert not wrong, f"{len(wrong)} of {len(answers)} answers are of no committed state, first: {wrong[0]}"
    assert len({position for position, *_ in answers}) > 1
    replica.close()
