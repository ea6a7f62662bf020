"""MySQL and MariaDB: snapshot, change backlogs and freshness, beside connectorx and python-mysql-replication.

The clock of a backlog starts when the engine says that it begins to stream (or the peer opens its stream) and stops when
`POST /query` with `after` the workload's end has answered; for the peer, when it has counted the last row.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.instance import Instance
from benchmarks.mysql_debezium import debezium
from benchmarks.mysql_server import BenchServer, MySqlOrders
from benchmarks.peers import environment
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.snapshot import EXACT
from benchmarks.workloads import COLUMNS, DIGEST

TYPES = {**EXACT, "flag": "TINYINT"}


def measure(run: Run) -> Result:
    """Snapshot, then both backlogs, on the server that `run.options.mysql` names."""
    options = run.options
    result = Result("mysql", f"{options.mysql}: a table of {options.rows:,} rows, {options.size}")
    with BenchServer(options.mysql) as bench:
        result.title = f"{bench.version()}: a table of {options.rows:,} rows, {options.size}"
        orders = MySqlOrders.create(bench, options.rows)
        _snapshots(run, result, orders)
        instance = _instance(run, bench, run.folder / "streaming")
        try:
            instance.start()
            instance.wait_ready(300)
            instance.visible(bench.end())
            instance.stop()
            large = _backlog(run, result, orders, instance, "a", lambda: orders.large_transactions(options.changes))
            _backlog(run, result, orders, instance, "b", lambda: orders.single_rows(options.transactions))
            if options.debezium:
                debezium(run, result, orders, large)
        finally:
            instance.stop()
    return result


def _instance(run: Run, bench: BenchServer, folder: Path) -> Instance:
    # The peers speak without TLS, too.
    connection = {**bench.database.connection_config("bench"), "tls": {"mode": "disable"}}
    return Instance(run.server, folder, size=run.options.size, connection=connection)


def _snapshots(run: Run, result: Result, orders: MySqlOrders) -> None:
    bench, digest = orders.bench, orders.digest()
    engine: list[dict[str, float]] = []
    connectorx: list[dict[str, Any]] = []
    for number in range(run.options.passes):
        folder = run.folder / f"snapshot-{number}"
        engine.append(_snapshot(run, bench, folder, digest))
        peer = bench.peer()
        arguments = {
            "url": f"mysql://{peer['user']}:{peer['password']}@{peer['host']}:{peer['port']}/shop",
            "table": "orders",
            "columns": COLUMNS,
            "batch_size": 10_000,
            "path": str(folder / "connectorx.duckdb"),
        }
        connectorx.append(environment.run(environment.python(), "connectorx_snapshot", arguments, timeout=300))
        run.say(f"snapshot {number + 1}: engine {engine[-1]}, connectorx {connectorx[-1]['wall_s']:.2f} s")
    ours, theirs = [e["process_s"] for e in engine], [peer["wall_s"] for peer in connectorx]
    result.add("snapshot: engine, process start to /readyz", ours)
    result.add(
        "snapshot: connectorx arrow_stream to DuckDB, whole process", theirs, note="decimal(38,10), ints widened"
    )
    result.ratio("snapshot: engine process / connectorx process", ours, theirs, bar=1.2)
    result.add("snapshot: engine processor time", [e["cpu_s"] for e in engine])
    result.add("snapshot: connectorx processor time", [peer["cpu_s"] for peer in connectorx])
    result.add("snapshot: engine peak memory", [e["peak_mb"] for e in engine], "MB")


def _snapshot(run: Run, bench: BenchServer, folder: Path, digest: list[str]) -> dict[str, float]:
    instance = _instance(run, bench, folder)
    try:
        instance.start()
        ready = instance.wait_ready(300)
        peak, used = instance.peak_mb(), instance.cpu_s()
        _verify(instance, digest)
        types = {row[0]: row[1] for row in instance.query("DESCRIBE orders")["rows"]}
        if types != TYPES:
            raise AssertionError(f"types differ: {types}")
    finally:
        instance.stop()
    return {"process_s": ready - instance.started_at, "peak_mb": peak, "cpu_s": used}


def _verify(instance: Instance, digest: list[str]) -> None:
    found = [str(value) for value in instance.query(DIGEST)["rows"][0]]
    if found != digest:
        raise AssertionError(f"the replica differs from the source: {found} is not {digest}")


def _backlog(
    run: Run, result: Result, orders: MySqlOrders, instance: Instance, name: str, workload: Callable[[], int]
) -> list[float]:
    """Both read the same changes, in turns first; returns the engine's seconds."""
    engine: list[dict[str, float]] = []
    peer: list[dict[str, Any]] = []
    changes = 0
    for number in range(run.options.passes):
        file, offset = orders.bench.place()
        changes = workload()
        arguments = {"connection": orders.bench.peer(), "file": file, "offset": offset, "rows": changes}
        for turn in ("peer", "engine") if number % 2 else ("engine", "peer"):
            if turn == "engine":
                engine.append(_engine(instance, orders))
            else:
                peer.append(environment.run(environment.python(), "binlog_reader", arguments, timeout=300))
        run.say(f"backlog {name} {number + 1}: peer {peer[-1]['seconds']:.2f} s, engine {engine[-1]}")
    ours, theirs = [e["seconds"] for e in engine], [p["seconds"] for p in peer]
    what = "1,000-row transactions" if name == "a" else "single-row transactions"
    result.add(f"{name}: engine, {changes:,} changes in {what}, until visible", ours)
    result.add(f"{name}: python-mysql-replication, only counting", theirs)
    bar = 10.0 if name == "a" else 15.0
    result.ratio(f"{name}: python-mysql-replication / engine", theirs, ours, bar=bar, at_least=True)
    result.add(f"{name}: engine, rate", [changes / s / 1000 for s in ours], "k/s")
    result.add(f"{name}: engine, process start to visible", [e["process_s"] for e in engine])
    result.add(f"{name}: engine, processor time, start included", [e["cpu_s"] for e in engine])
    result.add(f"{name}: engine peak memory", [e["peak_mb"] for e in engine], "MB")
    return ours


def _engine(instance: Instance, orders: MySqlOrders) -> dict[str, float]:
    before = instance.log.stat().st_size
    instance.start()
    try:
        instance.wait_alive()
        ended = instance.visible(orders.bench.end())
        peak, used = instance.peak_mb(), instance.cpu_s()
        _verify(instance, orders.digest())
    finally:
        instance.stop()
    return {
        "seconds": ended - _began(instance.log, before),
        "process_s": ended - instance.started_at,
        "peak_mb": peak,
        "cpu_s": used,
    }


def _began(log: Path, since: int) -> float:
    """When the engine began to stream, by its own log (seconds since the epoch)."""
    for line in log.read_bytes()[since:].decode().splitlines():
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "streaming_from":
            return dt.datetime.fromisoformat(event["time"]).timestamp()
    raise LookupError("the engine has not begun to stream")
