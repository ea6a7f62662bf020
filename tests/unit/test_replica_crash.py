"""The replica under `kill -9`, and under readers that look while it is written to."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa

from engine.changes import ChangeBatch, Op, TableChanges
from engine.destination import Copy
from engine.replica.store import DuckDBReplica
from engine.schema import AddColumn, Column, ColumnChange, DropColumn, Fill, Identity, TableId, TableSchema

KEYED = TableSchema(
    TableId("bank", "accounts"), (Column("id", "BIGINT", "bigint", id=1), Column("total", "BIGINT", "bigint", id=2)), ("id",),
    Identity.KEY, "1",
)  # fmt: skip
LOG = TableSchema(TableId("bank", "log"), (Column("at", "BIGINT", "bigint", id=1),), (), Identity.ROW, "2")
ACCOUNTS = 50


def open_replica(path: Path) -> DuckDBReplica:
    return DuckDBReplica.open(path, instance="t", memory_limit_bytes=100 << 20, threads=1, search_schema="bank")


def changes(table: TableSchema, op: Op, *rows: tuple[int | None, ...]) -> TableChanges:
    arrays = [pa.array([r[i] for r in rows], pa.int64()) for i in range(len(table.columns))]
    return TableChanges(
        table, pa.array([int(op)] * len(rows), pa.int8()), pa.RecordBatch.from_arrays(arrays, list(table.column_names))
    )


def batch(position: int, *entries: TableChanges, complete: bool = True) -> ChangeBatch:
    return ChangeBatch(str(position), entries, complete=complete)  # type: ignore[arg-type]


def step(replica: DuckDBReplica, n: int, live: TableSchema) -> TableSchema:
    """Go from position n - 1 to n in one of the ways there are. At n: every total is n, and the log holds 1 to n."""
    totals = changes(live, Op.UPDATE, *((i, n, *(None,) * (len(live.columns) - 2)) for i in range(ACCOUNTS)))
    logged = changes(LOG, Op.INSERT, (n,))
    match n % 5:
        case 0:
            replica.stage(batch(n - 1, totals, complete=False), {KEYED.id: Copy.LIVE})
            replica.apply(batch(n, logged))
        case 1:
            loader = replica.load(KEYED)
            loader.append([changes(KEYED, Op.INSERT, *((i, n - 1) for i in range(ACCOUNTS))).rows])
            loader.finish(str(n - 1))
            replica.stage(
                batch(n, changes(KEYED, Op.UPDATE, *((i, n) for i in range(ACCOUNTS)))), {KEYED.id: Copy.LOAD}
            )
            replica.stage(batch(n, logged), {LOG.id: Copy.LIVE})
            replica.swap([KEYED.id], str(n))
            return KEYED
        case 2:
            replica.apply(batch(n, totals, logged))
            wide = TableSchema(
                KEYED.id,
                (*KEYED.columns, Column("x", "BIGINT", "bigint", id=3, fill=Fill.NULL)),
                ("id",),
                Identity.KEY,
                "1",
            )
            there: list[ColumnChange] = [AddColumn(wide.columns[2])] if live == KEYED else [DropColumn("x")]
            target = wide if live == KEYED else KEYED
            replica.alter(live, target, there)
            return target
        case _:
            replica.apply(batch(n, totals, logged))
    return live


def begin(replica: DuckDBReplica) -> None:
    loader = replica.load(KEYED)
    loader.append([changes(KEYED, Op.INSERT, *((i, 0) for i in range(ACCOUNTS))).rows])
    loader.finish("0")
    replica.load(LOG).finish("0")
    replica.swap([KEYED.id, LOG.id], "0", "source")


INVARIANT = (
    "SELECT (SELECT CAST(position AS BIGINT) FROM _reflex.checkpoint), (SELECT count(*) FROM accounts), "
    "(SELECT min(total) FROM accounts), (SELECT max(total) FROM accounts), "
    "(SELECT count(*) FROM log), (SELECT coalesce(max(at), 0) FROM log)"
).replace("max(at)", 'max("at")')


def look(replica: DuckDBReplica) -> int:
    """Check that all tables and the checkpoint agree; returns the position."""
    cursor = replica.cursor()
    try:
        row = cursor.execute(INVARIANT).fetchone()
    finally:
        cursor.close()
    assert row is not None
    position = int(row[0])
    assert row == (position, ACCOUNTS, position, position, position, position)
    return position


def child(path: Path) -> None:
    """Go on from what is in the file until killed, saying each position that is durable."""
    replica = open_replica(path)
    if replica.position is None:
        begin(replica)
    live = replica.tables()[KEYED.id]
    n = int(replica.position or 0)
    while True:
        n += 1
        live = step(replica, n, live)
        if n % 7 == 0:
            replica.maintain()
        print(n, flush=True)


def test_rows_and_checkpoint_agree_after_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "bank.duckdb"
    rng = random.Random(11)
    code = f"from pathlib import Path; from {__name__} import child; child(Path({str(path)!r}))"
    durable = 0
    for _ in range(12):
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            steps = rng.randint(1, 25)
            for line in process.stdout:
                durable = int(line)
                steps -= 1
                if steps <= 0:
                    break
            # Somewhere within the next step: the child does not wait for this.
            threading.Event().wait(rng.random() * 0.02)
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split()
            durable = int(said[-1]) if said else durable
        replica = open_replica(path)
        position = look(replica)
        assert position in {durable, durable + 1}
        replica.close()
    assert durable > 12


def test_no_reader_sees_half_of_anything(tmp_path: Path) -> None:
    replica = open_replica(tmp_path / "bank.duckdb")
    begin(replica)
    done = threading.Event()
    seen: list[list[int]] = [[], []]
    failures: list[BaseException] = []

    def watch(positions: list[int]) -> None:
        try:
            while not done.is_set():
                positions.append(look(replica))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=watch, args=(positions,)) for positions in seen]
    for reader in readers:
        reader.start()
    live = KEYED
    for n in range(1, 101):
        live = step(replica, n, live)
        if n % 10 == 0:
            replica.maintain()
        if failures:
            break
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    for positions in seen:
        assert positions == sorted(positions)
        assert len(set(positions)) > 3
    assert look(replica) == 100
    replica.close()
