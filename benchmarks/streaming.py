"""Backlog: changes made while nobody listened, and how long until all of them are visible.

a: 300,000 row changes in 1,000-row transactions; b: 50,000 transactions of one row. The clock starts when the server
receives START_REPLICATION (its own log says when) and stops, for the engine, when `POST /query` with `after` the
workload's end has answered; for the reference, when it has parsed everything up to there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.instance import Instance
from benchmarks.peers import environment
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.server import lsn
from benchmarks.workloads import DIGEST, Orders

PUBLICATION = "bench_reference"
SLOT = "bench_reference"
DEBEZIUM_SLOT = "bench_debezium"


def measure(run: Run) -> Result:
    """Each pass of each workload: the change run once, then the engine and the reference read it, in turns first."""
    options, server = run.options, run.server
    result = Result("streaming", f"Change backlog on a table of {options.rows:,} rows, {options.size}")
    instance = Instance(server, run.folder / "streaming", size=options.size)
    con = server.connect()
    try:
        orders = Orders.create(con, options.rows)
        con.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE orders")
        con.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [SLOT])
        if options.engine:
            instance.start()
            instance.wait_ready(300)
            instance.visible(lsn(server.end_of_wal()))
            instance.stop()
        large = _backlog(run, result, orders, instance, "a", lambda: orders.large_transactions(options.changes))
        _backlog(run, result, orders, instance, "b", lambda: orders.single_rows(options.transactions))
        if options.debezium:
            _debezium(run, result, orders, large)
    finally:
        instance.stop()
        if options.engine:
            instance.teardown()
        con.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ANY(%s)",
            [[SLOT, DEBEZIUM_SLOT]],
        )
        con.execute(f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
        con.close()
    return result


def _backlog(
    run: Run, result: Result, orders: Orders, instance: Instance, name: str, workload: Callable[[], int]
) -> list[float]:
    engine: list[dict[str, float]] = []
    reference: list[dict[str, Any]] = []
    changes = 0
    for number in range(run.options.passes):
        run.server.checkpoint()
        orders.con.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [SLOT])
        changes = workload()
        end = run.server.end_of_wal()
        turns = [lambda end=end: reference.append(_reference(run, end))]
        if run.options.engine:
            turns.append(lambda end=end: engine.append(_engine(run, instance, orders, end)))
        for turn in turns if number % 2 else reversed(turns):
            turn()
        run.say(
            f"backlog {name} {number + 1}: reference {reference[-1]['seconds']:.2f} s, engine {engine[-1:]}, reference cpu {reference[-1]['cpu_s']:.2f}"
        )
    ours = [e["seconds"] for e in engine]
    theirs = [r["seconds"] for r in reference]
    what = "1,000-row transactions" if name == "a" else "single-row transactions"
    result.add(f"{name}: engine, {changes:,} changes in {what}, until visible", ours)
    result.add(f"{name}: psycopg2 + parse in Python, only counting", theirs)
    result.ratio(f"{name}: engine / reference", ours, theirs, bar=2.0)
    result.add(f"{name}: engine, process start to visible", [e["process_s"] for e in engine])
    result.add(f"{name}: engine, rate", [changes / s / 1000 for s in ours], "k/s")
    result.add(f"{name}: engine, processor time, start included", [e["cpu_s"] for e in engine])
    result.add(f"{name}: reference, processor time", [r["cpu_s"] for r in reference])
    result.add(f"{name}: engine peak memory", [e["peak_mb"] for e in engine], "MB")
    return ours


def _engine(run: Run, instance: Instance, orders: Orders, end: int) -> dict[str, float]:
    mark = run.server.mark()
    instance.start()
    try:
        instance.wait_alive()
        ended = instance.visible(lsn(end))
        began = run.server.command_time("START_REPLICATION", mark)
        peak, used = instance.peak_mb(), instance.cpu_s()
        found = [str(value) for value in instance.query(DIGEST)["rows"][0]]
        wanted = orders.digest()
        if found != wanted:
            raise AssertionError(f"the replica differs from the source: {found} is not {wanted}")
    finally:
        instance.stop()
    return {"seconds": ended - began, "process_s": ended - instance.started_at, "peak_mb": peak, "cpu_s": used}


def _reference(run: Run, end: int) -> dict[str, Any]:
    mark = run.server.mark()
    arguments = {"dsn": run.server.dsn, "slot": SLOT, "publication": PUBLICATION, "target": end}
    answer = environment.run(environment.python(), "pgoutput_reader", arguments, timeout=300)
    began = run.server.command_time("START_REPLICATION", mark, containing=SLOT)
    return {**answer, "seconds": answer["ended"] - began}


def _debezium(run: Run, result: Result, orders: Orders, ours: list[float]) -> None:
    """Debezium on workload a, once counting and once into DuckDB, on a slot of its own; compared to the engine's median."""
    figures: dict[str, float] = {}
    orders.con.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [DEBEZIUM_SLOT])
    for name, path in (("counting", None), ("into DuckDB", str(run.folder / "debezium.duckdb"))):
        orders.con.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [DEBEZIUM_SLOT])
        changes = orders.large_transactions(run.options.changes)
        run.server.end_of_wal()
        mark = run.server.mark()
        settings = {
            "database.hostname": "127.0.0.1",
            "database.port": str(run.server.port),
            "database.user": "reflex",
            "database.password": "unused",
            "slot.name": DEBEZIUM_SLOT,
            "publication.name": PUBLICATION,
        }
        folder = run.folder / f"debezium-{name.split()[0]}"
        folder.mkdir()
        arguments = {
            "source": "postgres",
            "settings": settings,
            "folder": str(folder),
            "events": changes,
            "path": path,
        }
        answer = environment.run(environment.python("debezium"), "debezium_consumer", arguments, timeout=600)
        figures[name] = answer["ended"] - run.server.command_time("START_REPLICATION", mark, containing=DEBEZIUM_SLOT)
        run.say(f"Debezium {name}: {figures[name]:.2f} s of {answer['wall_s']:.2f} s")
        result.add(f"a: Debezium {name}, from the start of streaming", [figures[name]])
        result.add(f"a: Debezium {name}, whole process", [answer["wall_s"]])
        result.add(f"a: Debezium {name}, peak memory", [answer["peak_mb"]], "MB")
    if ours:
        into = figures["into DuckDB"]
        result.add("a: Debezium into DuckDB / engine", [into / s for s in ours], "x", bar=8.0, at_least=True)
