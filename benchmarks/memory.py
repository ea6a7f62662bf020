"""Memory: what the smallest instance needs for a large snapshot, and for one very large transaction on top of it."""

from __future__ import annotations

import time

from benchmarks.instance import Instance, reset_peak
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.server import lsn
from benchmarks.workloads import DIGEST, Orders

CAP_MB = 512


def measure(run: Run) -> Result:
    """Once, whatever the passes: `memory_rows` are loaded, then `memory_changes` of them updated in one transaction."""
    options, server = run.options, run.server
    result = Result(
        "memory", f"Memory at nano: {options.memory_rows:,} rows, then {options.memory_changes:,} in one commit"
    )
    if not options.engine:
        return result
    instance = Instance(server, run.folder / "memory", size="nano")
    with server.connect() as con:
        orders = Orders.create(con, options.memory_rows)
        try:
            instance.start()
            took = instance.wait_ready(1200) - instance.started_at
            loaded = instance.peak_mb()
            run.say(f"memory: snapshot {took:.1f} s, peak {loaded:.0f} MB")
            reset_peak(instance.pid)
            con.execute(
                "UPDATE orders SET status = 'changed', amount = amount + 1, qty = (qty + 1) %% 1000 WHERE id <= %s",
                [options.memory_changes],
            )
            committed = time.time()
            visible = instance.visible(lsn(server.end_of_wal()), timeout=1200) - committed
            changed = instance.peak_mb()
            run.say(f"memory: {visible:.1f} s after the commit, peak {changed:.0f} MB")
            found = [str(value) for value in instance.query(DIGEST)["rows"][0]]
            if found != orders.digest():
                raise AssertionError("the replica differs from the source")
        finally:
            instance.stop()
            instance.teardown()
    result.add("snapshot, process start to /readyz", [took])
    result.add("snapshot, peak memory", [loaded], "MB", bar=CAP_MB)
    result.add("transaction, from its commit until visible", [visible])
    result.add("transaction, peak memory", [changed], "MB", bar=CAP_MB)
    result.remarks.append(f"replica file {instance.replica.stat().st_size >> 20} MB")
    return result
