"""The replica alone: `python -m benchmarks.profile_replica [a|b]` loads `orders` and applies decoded batches to it.

The batches are decoded beforehand, so that what is timed is DuckDB and the code around it: seconds per batch, and with
`--profile` where Python's part of it goes (cProfile).
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from benchmarks.profile_decode import SLOT, Stages
from benchmarks.server import Server
from benchmarks.workloads import Orders
from engine.changes import ChangeBatch
from engine.replica.store import DuckDBReplica
from engine.sizes import SIZES


def batches_of(stages: Stages) -> list[ChangeBatch]:
    """Everything in the backlog, decoded."""
    _, got = stages.receive()
    assembler = stages.assembler()
    out: list[object] = []
    for frames in got:
        out += assembler.feed(frames.frames)
    out.append(assembler.flush())
    return [batch for batch in out if isinstance(batch, ChangeBatch)]


def load(replica: DuckDBReplica, stages: Stages, orders: Orders, part: int = 200_000) -> tuple[float, float]:
    """Fill the live copy with what the source holds, as text; seconds of appending, seconds of finish and swap."""
    loader = replica.load(stages.table)
    appending = 0.0
    with orders.con.cursor() as cursor:
        for first in range(orders.first, orders.last + 1, part):
            cursor.execute("SELECT * FROM orders WHERE id >= %s AND id < %s", [first, first + part])
            columns = zip(*cursor.fetchall(), strict=True)
            arrays = [pa.array([None if v is None else str(v) for v in column]) for column in columns]
            batch = pa.RecordBatch.from_arrays(arrays, names=list(stages.table.column_names))
            began = time.perf_counter()
            loader.append([batch])
            appending += time.perf_counter() - began
    began = time.perf_counter()
    loader.finish(str(stages.start))
    replica.swap([stages.table.id], str(stages.start), "bench")
    return appending, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="a", choices=["a", "b"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--changes", type=int, default=300_000)
    parser.add_argument("--transactions", type=int, default=50_000)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    size = SIZES[given.size]
    with Server() as server, server.connect() as con, tempfile.TemporaryDirectory() as folder:
        orders = Orders.create(con, given.rows)
        con.execute(f"CREATE PUBLICATION {SLOT} FOR TABLE orders")
        con.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
        replica = DuckDBReplica.open(
            Path(folder) / "replica.duckdb",
            instance="bench",
            memory_limit_bytes=size.duckdb_bytes,
            threads=size.threads(),
        )
        replica.start_over("0/1", "bench")
        stages = Stages(server, 0, size.batch_bytes)
        appending, finishing = load(replica, stages, orders)
        print(f"load: {appending:.2f} s in append, {finishing:.2f} s to finish and swap")
        if given.what == "a":
            orders.large_transactions(given.changes)
        else:
            orders.single_rows(given.transactions)
        stages.end = server.end_of_wal()
        batches = batches_of(stages)
        profiler = cProfile.Profile()
        if given.profile:
            profiler.enable()
        total = 0.0
        for batch in batches:
            began = time.perf_counter()
            replica.apply(batch)
            took = time.perf_counter() - began
            began = time.perf_counter()
            replica.maintain()
            upkeep = time.perf_counter() - began
            total += took + upkeep
            print(f"batch of {batch.row_count:>7,} rows: apply {took * 1000:6.1f} ms, maintain {upkeep * 1000:6.1f} ms")
        profiler.disable()
        print(f"{len(batches)} batches, {total:.2f} s")
        if given.profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(15)
        replica.close()
        stages.connections.close()


if __name__ == "__main__":
    main()
