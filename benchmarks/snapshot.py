"""Snapshot: one table into a DuckDB file, by the engine and by what loads the same table in one go."""

from __future__ import annotations

from typing import Any

from benchmarks.instance import Instance
from benchmarks.peers import environment
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.workloads import COLUMNS, DIGEST, Orders

EXACT = {
    "id": "BIGINT",
    "customer_id": "INTEGER",
    "status": "VARCHAR",
    "amount": "DECIMAL(12,2)",
    "created_at": "TIMESTAMP",
    "note": "VARCHAR",
    "qty": "SMALLINT",
    "flag": "BOOLEAN",
}


def measure(run: Run) -> Result:
    """Each pass: the engine with a new replica, connectorx, DuckDB's extension, one after the other."""
    options, server = run.options, run.server
    result = Result("snapshot", f"Snapshot of {options.rows:,} rows (8 columns) from PostgreSQL, {options.size}")
    with server.connect() as con:
        orders = Orders.create(con, options.rows)
        digest = orders.digest()
        engine: list[dict[str, float]] = []
        connectorx: list[dict[str, Any]] = []
        extension: list[dict[str, Any]] = []
        for number in range(options.passes):
            folder = run.folder / f"snapshot-{number}"
            folder.mkdir(parents=True)
            if options.engine:
                engine.append(_engine(run, folder, digest))
                run.say(f"snapshot {number + 1}: engine {engine[-1]}")
            arguments = {
                "url": server.url(),
                "dsn": server.dsn,
                "table": "orders",
                "columns": COLUMNS,
                "batch_size": 10_000,
            }
            connectorx.append(
                environment.run(
                    environment.python(),
                    "connectorx_snapshot",
                    {**arguments, "path": str(folder / "connectorx.duckdb")},
                    timeout=300,
                )
            )
            run.say(f"snapshot {number + 1}: connectorx {connectorx[-1]['wall_s']:.2f} s")
            if options.extension:
                extension.append(
                    environment.run(
                        environment.python("extension"),
                        "extension_snapshot",
                        {**arguments, "path": str(folder / "extension.duckdb")},
                        timeout=300,
                    )
                )
                run.say(f"snapshot {number + 1}: extension {extension[-1]['wall_s']:.2f} s")
    _summarize(result, engine, connectorx, extension)
    return result


def _engine(run: Run, folder: Any, digest: list[str]) -> dict[str, float]:
    mark = run.server.mark()
    instance = Instance(run.server, folder, size=run.options.size)
    try:
        instance.start()
        ready = instance.wait_ready(300)
        slot = run.server.command_time("CREATE_REPLICATION_SLOT", mark)
        peak, used = instance.peak_mb(), instance.cpu_s()
        found = [str(value) for value in instance.query(DIGEST)["rows"][0]]
        if found != digest:
            raise AssertionError(f"the replica differs from the source: {found} is not {digest}")
        described = instance.query("DESCRIBE orders")["rows"]
        types = {row[0]: row[1] for row in described}
        if types != EXACT:
            raise AssertionError(f"types differ: {types}")
    finally:
        instance.stop()
        instance.teardown()
    return {"process_s": ready - instance.started_at, "phase_s": ready - slot, "peak_mb": peak, "cpu_s": used}


def _summarize(
    result: Result, engine: list[dict[str, float]], connectorx: list[dict[str, Any]], extension: list[dict[str, Any]]
) -> None:
    wall = [peer["wall_s"] for peer in connectorx]
    result.add("engine, process start to /readyz", [e["process_s"] for e in engine])
    result.add("engine, slot created to /readyz", [e["phase_s"] for e in engine])
    result.add("connectorx arrow_stream to DuckDB, whole process", wall, note="decimal(38,10), ints widened")
    result.add("DuckDB postgres extension, whole process", [peer["wall_s"] for peer in extension], note="exact types")
    result.ratio("engine process / connectorx process", [e["process_s"] for e in engine], wall, bar=1.2)
    result.ratio("engine snapshot / connectorx process", [e["phase_s"] for e in engine], wall)
    result.ratio(
        "engine process / extension process",
        [e["process_s"] for e in engine],
        [p["wall_s"] for p in extension],
        note="stretch: 1.0",
    )
    result.add("engine processor time", [e["cpu_s"] for e in engine])
    result.add("connectorx processor time", [peer["cpu_s"] for peer in connectorx])
    result.add("extension processor time", [peer["cpu_s"] for peer in extension])
    result.add("engine peak memory", [e["peak_mb"] for e in engine], "MB")
    result.add("connectorx peak memory", [peer["peak_mb"] for peer in connectorx], "MB")
    result.add("extension peak memory", [peer["peak_mb"] for peer in extension], "MB")
