"""MySQL and MariaDB: memory at nano, and freshness at a steady rate. As the benchmarks `memory` and `freshness`."""

from __future__ import annotations

import bisect
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.instance import Instance, reset_peak
from benchmarks.memory import CAP_MB
from benchmarks.mysql_server import BenchServer, MySqlOrders
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.workloads import DIGEST

PAUSE = 0.01


def memory(run: Run) -> Result:
    """Once: `memory_rows` are loaded, then `memory_changes` of them updated in one transaction."""
    options = run.options
    title = f"{options.mysql}, nano: {options.memory_rows:,} rows, then {options.memory_changes:,} in one commit"
    result = Result("mysql-memory", title)
    with BenchServer(options.mysql) as bench:
        orders = MySqlOrders.create(bench, options.memory_rows)
        connection = {**bench.database.connection_config("bench"), "tls": {"mode": "disable"}}
        instance = Instance(run.server, run.folder / "memory", size="nano", connection=connection)
        try:
            instance.start()
            took = instance.wait_ready(1200) - instance.started_at
            loaded = instance.peak_mb()
            run.say(f"memory: snapshot {took:.1f} s, peak {loaded:.0f} MB")
            reset_peak(instance.pid)
            bench.database.superuser(
                "UPDATE orders SET status = 'changed', amount = amount + 1, qty = (qty + 1) %% 1000 WHERE id <= %s",
                [options.memory_changes],
            )
            committed = time.time()
            visible = instance.visible(bench.end(), timeout=1200) - committed
            changed = instance.peak_mb()
            run.say(f"memory: {visible:.1f} s after the commit, peak {changed:.0f} MB")
            found = [str(value) for value in instance.query(DIGEST)["rows"][0]]
            if found != orders.digest():
                raise AssertionError("the replica differs from the source")
        finally:
            instance.stop()
    result.add("snapshot, process start to /readyz", [took])
    result.add("snapshot, peak memory", [loaded], "MB", bar=CAP_MB)
    result.add("transaction, from its commit until visible", [visible])
    result.add("transaction, peak memory", [changed], "MB", bar=CAP_MB)
    return result


def freshness(run: Run) -> Result:
    """One run of `seconds` at `rate` transactions per second."""
    options = run.options
    result = Result("mysql-freshness", f"{options.mysql}: freshness at {options.rate}/s for {options.seconds} s")
    with BenchServer(options.mysql) as bench:
        MySqlOrders.create(bench, min(options.rows, 500_000))
        bench.database.superuser("CREATE TABLE beats (id bigint PRIMARY KEY, note text)")
        connection = {**bench.database.connection_config("bench"), "tls": {"mode": "disable"}}
        instance = Instance(
            run.server, run.folder / "freshness", size=options.size, batch_window_ms=50, connection=connection
        )
        try:
            instance.start()
            instance.wait_ready(300)
            instance.visible(bench.end())
            latencies, rate = _observe(run, bench, instance)
        finally:
            instance.stop()
    result.add("rate reached", [rate], "/s")
    result.add("p50, commit acknowledged to visible", [_quantile(latencies, 0.50)], "ms", bar=100)
    result.add("p99", [_quantile(latencies, 0.99)], "ms", bar=300)
    result.add("slowest of all", [latencies[-1]], "ms")
    return result


def _observe(run: Run, bench: BenchServer, instance: Instance) -> tuple[list[float], float]:
    """Write and watch at once; returns every transaction's latency in ms, sorted, and the rate reached."""
    count = run.options.rate * run.options.seconds
    commits = run.folder / "commits.json"
    arguments = [json.dumps({**bench.peer(), "database": "shop"}), str(count), str(run.options.rate), str(commits)]
    writer = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.mysql_writer", *arguments], cwd=Path(__file__).resolve().parent.parent
    )
    seen: list[tuple[int, float]] = []
    deadline = time.monotonic() + run.options.seconds * 3 + 60
    while not seen or seen[-1][0] < count:
        answer = instance.query("SELECT coalesce(max(id), 0) FROM beats", timeout=10)
        seen.append((int(answer["rows"][0][0]), time.time()))
        if time.monotonic() > deadline or writer.poll() not in {None, 0}:
            writer.kill()
            raise AssertionError(f"only {seen[-1][0]} of {count} transactions became visible")
        time.sleep(PAUSE)
    writer.wait(10)
    times: list[float] = json.loads(commits.read_text())
    ids = [identifier for identifier, _ in seen]
    latencies = [(seen[bisect.bisect_left(ids, 1 + n)][1] - committed) * 1000 for n, committed in enumerate(times)]
    return sorted(latencies), (count - 1) / (times[-1] - times[0])


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
