"""Freshness: how long after its commit at the source a transaction is visible through `POST /query`.

A writer process commits at a steady rate and notes when each commit was acknowledged; meanwhile the largest id that
is visible is asked for again and again. The first answer that holds a transaction dates its visibility, so the figure
includes the query itself and, on average, half the pause between two of them.
"""

from __future__ import annotations

import bisect
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.instance import Instance, reset_peak
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.server import lsn
from benchmarks.workloads import Orders

PAUSE = 0.01


def measure(run: Run) -> Result:
    """One run of `seconds` at `rate` transactions per second per pass (at most three)."""
    options, server = run.options, run.server
    result = Result("freshness", f"Freshness at {options.rate} transactions/s for {options.seconds} s, {options.size}")
    instance = Instance(server, run.folder / "freshness", size=options.size, batch_window_ms=50)
    if not options.engine:
        return result
    p50: list[float] = []
    p99: list[float] = []
    worst: list[float] = []
    rates: list[float] = []
    with server.connect() as con:
        Orders.create(con, min(options.rows, 500_000))
        con.execute("DROP TABLE IF EXISTS beats")
        con.execute("CREATE TABLE beats (id bigint PRIMARY KEY, note text)")
        try:
            instance.start()
            instance.wait_ready(300)
            instance.visible(lsn(server.end_of_wal()))
            reset_peak(instance.pid)
            first = 1
            for number in range(min(options.passes, 3)):
                latencies, rate = _observe(run, instance, first)
                first += options.rate * options.seconds
                p50.append(_quantile(latencies, 0.50))
                p99.append(_quantile(latencies, 0.99))
                worst.append(latencies[-1])
                rates.append(rate)
                run.say(f"freshness {number + 1}: p50 {p50[-1]:.0f} ms, p99 {p99[-1]:.0f} ms, {rate:.0f}/s")
            peak = instance.peak_mb()
        finally:
            instance.stop()
            instance.teardown()
    result.add("rate reached", rates, "/s")
    result.add("p50, commit acknowledged to visible", p50, "ms", bar=100)
    result.add("p99", p99, "ms", bar=300)
    result.add("slowest of all", worst, "ms")
    result.add("engine peak memory", [peak], "MB")
    if min(rates) < 0.95 * options.rate:
        result.remarks.append(
            "the writer did not reach its rate on this machine: the bars were not tested at full load"
        )
    result.remarks.append(f"every transaction is measured; {PAUSE * 1000:.0f} ms between two questions")
    return result


def _observe(run: Run, instance: Instance, first: int) -> tuple[list[float], float]:
    """Write and watch at once; returns every transaction's latency in ms, sorted, and the rate reached."""
    count = run.options.rate * run.options.seconds
    commits = run.folder / f"commits-{first}.json"
    writer = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.writer",
            run.server.url(),
            str(first),
            str(count),
            str(run.options.rate),
            commits,
        ],
        cwd=Path(__file__).resolve().parent.parent,
    )
    seen: list[tuple[int, float]] = []
    last = first + count - 1
    deadline = time.monotonic() + run.options.seconds * 3 + 60
    while not seen or seen[-1][0] < last:
        answer = instance.query("SELECT coalesce(max(id), 0) FROM beats", timeout=10)
        seen.append((int(answer["rows"][0][0]), time.time()))
        if time.monotonic() > deadline or writer.poll() not in {None, 0}:
            writer.kill()
            raise AssertionError(f"only {seen[-1][0]} of {last} transactions became visible")
        time.sleep(PAUSE)
    writer.wait(10)
    times: list[float] = json.loads(commits.read_text())
    ids = [identifier for identifier, _ in seen]
    latencies = [(seen[bisect.bisect_left(ids, first + n)][1] - committed) * 1000 for n, committed in enumerate(times)]
    return sorted(latencies), (count - 1) / (times[-1] - times[0])


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
