"""The PostgreSQL stream's stages one by one: `python -m benchmarks.profile_decode [a|b]`.

Prints seconds for: receiving alone (libpq, frames kept), the connector's receiver thread into its inbox, the assembler
on frames in memory (no socket, no server running beside it), and both together as the connector uses them; with
`--profile`, where the assembler's time goes (cProfile).
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence

from benchmarks.server import Server
from benchmarks.workloads import Orders
from connectors.postgres.assembler import Assembler
from connectors.postgres.connection import Connections, fetch
from connectors.postgres.layouts import Described
from connectors.postgres.pgoutput import RelationInfo
from connectors.postgres.position import Lsn
from connectors.postgres.receiver import Frames, Receiver
from engine.schema import Column, Identity, TableId, TableSchema
from engine.source import Follow, Secret, SourceOptions

TYPES = ("BIGINT", "INTEGER", "VARCHAR", "DECIMAL(12,2)", "TIMESTAMP", "VARCHAR", "SMALLINT", "BOOLEAN")
SLOT = "bench_decode"


class Stages:
    """One server with a backlog, and the ways to read it."""

    def __init__(self, server: Server, end: int, batch_bytes: int) -> None:
        self.end = end
        self.batch_bytes = batch_bytes
        options = SourceOptions("127.0.0.1", server.port, "reflex", Secret(""), "shop")
        self.connections = Connections(options)
        with self.connections.session("looking") as con:
            names = fetch(con, "SELECT attname, atttypid, atttypmod, attrelid, attnum FROM pg_attribute "
                               "WHERE attrelid = 'public.orders'::regclass AND attnum > 0 ORDER BY attnum")  # fmt: skip
            self.start = Lsn.parse(
                fetch(con, f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'")[0][0]
            )
        columns = tuple(
            Column(name, kind, kind, id=number) for (name, _, _, _, number), kind in zip(names, TYPES, strict=True)
        )
        self.table = TableSchema(TableId("public", "orders"), columns, ("id",), Identity.KEY, str(names[0][3]))
        self.layout = tuple((name, int(kind), int(mod)) for name, kind, mod, *_ in names)

    def receiver(self) -> Receiver:
        return Receiver(self.connections, SLOT, [SLOT], self.start, 1 << 30)

    def assembler(self) -> Assembler:
        def describe(info: RelationInfo) -> Described:
            assert info.name == "orders"
            return Described(self.table, self.layout)

        return Assembler(self.start, [Follow(self.table, self.start)], [], self.batch_bytes, describe)

    def receive(self) -> tuple[float, list[Frames]]:
        """The receiver alone: seconds until the end has arrived, and everything that came."""
        began = time.perf_counter()
        receiver = self.receiver()
        got: list[Frames] = []
        while True:
            for item in receiver.inbox.take(1.0) or []:
                if isinstance(item, Frames):
                    got.append(item)
                elif item.wal_end.value >= self.end:
                    took = time.perf_counter() - began
                    receiver.close()
                    return took, got

    def both(self) -> tuple[float, int]:
        """Receiver and assembler as the stream uses them: seconds, and rows decoded."""
        began = time.perf_counter()
        receiver, assembler, rows = self.receiver(), self.assembler(), 0
        while True:
            for item in receiver.inbox.take(1.0) or []:
                if isinstance(item, Frames):
                    rows += _rows(assembler.feed(item.frames))
                    continue
                assembler.keepalive(item.wal_end)
                if item.wal_end.value >= self.end:
                    rows += _rows([assembler.flush()])
                    took = time.perf_counter() - began
                    receiver.close()
                    return took, rows


def _rows(out: Sequence[object]) -> int:
    return sum(getattr(batch, "row_count", 0) for batch in out if batch is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="a", choices=["a", "b"])
    parser.add_argument("--changes", type=int, default=300_000)
    parser.add_argument("--transactions", type=int, default=50_000)
    parser.add_argument("--batch-bytes", type=int, default=5 << 20)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with Server() as server, server.connect() as con:
        orders = Orders.create(con, max(given.changes * 2, 100_000))
        con.execute(f"CREATE PUBLICATION {SLOT} FOR TABLE orders")
        con.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
        if given.what == "a":
            orders.large_transactions(given.changes)
        else:
            orders.single_rows(given.transactions)
        stages = Stages(server, server.end_of_wal(), given.batch_bytes)
        for _ in range(3):
            alone, got = stages.receive()
            chunks, frames, size = len(got), sum(len(g.frames) for g in got), sum(g.size for g in got)
            print(f"receiver alone    {alone:.3f} s ({frames:,} frames, {size >> 20} MiB counted, {chunks} hand-overs)")
            assembler = stages.assembler()
            began = time.perf_counter()
            rows = sum(_rows(assembler.feed(g.frames)) for g in got) + _rows([assembler.flush()])
            print(f"assembler alone   {time.perf_counter() - began:.3f} s ({rows:,} rows)")
            took, rows = stages.both()
            print(f"both              {took:.3f} s ({rows:,} rows)")
        if given.profile:
            profiler = cProfile.Profile()
            assembler = stages.assembler()
            profiler.enable()
            for g in got:
                assembler.feed(g.frames)
            assembler.flush()
            profiler.disable()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
        stages.connections.close()


if __name__ == "__main__":
    main()
