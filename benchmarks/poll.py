"""Polling: a table that changed is read whole again. How long that takes beside its first load, and at what memory."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any

import yaml

from benchmarks.instance import Instance
from benchmarks.report import Result
from benchmarks.run import Run
from benchmarks.workloads import DIGEST, Orders

_QUESTION = "SELECT status, count(*), sum(amount) FROM orders GROUP BY status"
_INTERVAL = 5


def measure(run: Run) -> Result:
    """Both times are from the opening of the view at the source until its rows are what a query sees."""
    options = run.options
    result = Result("poll", f"Reload of {options.rows:,} rows (8 columns) from PostgreSQL, {options.size}")
    snapshots, alone, queried, peaks = [], [], [], []
    with run.server.connect() as con:
        orders = Orders.create(con, options.rows)
        for number in range(options.passes):
            instance = _instance(run, number)
            try:
                instance.start()
                ready = instance.wait_ready(300)
                snapshots.append(ready - _opened(instance))
                alone.append(_reload(con, instance))
                with _Queries(instance):
                    queried.append(_reload(con, instance))
                peaks.append(instance.peak_mb())
                found = [str(value) for value in instance.query(DIGEST)["rows"][0]]
                if found != orders.digest():
                    raise AssertionError("the replica differs from the source")
            finally:
                instance.stop()
            run.say(
                f"poll {number + 1}: snapshot {snapshots[-1]:.2f} s, {alone[-1]:.2f} s, queried {queried[-1]:.2f} s"
            )
    result.add("snapshot, view opened to /readyz", snapshots)
    result.add("reload, view opened to visible", alone)
    result.add("reload while queries run", queried)
    result.ratio("reload / snapshot", alone, snapshots, bar=1.3)
    result.ratio("reload while queries run / snapshot", queried, snapshots, bar=1.3)
    result.add("peak memory", peaks, "MB")
    return result


def _instance(run: Run, number: int) -> Instance:
    made = Instance(run.server, run.folder / f"poll-{number}", size=run.options.size)
    config = yaml.safe_load(made.config.read_text())
    config["instance"] |= {"sync_mode": "poll", "sync_interval": _INTERVAL}
    made.config.write_text(yaml.safe_dump(config))
    return made


def _opened(instance: Instance) -> float:
    """When the view that readers see was opened, in seconds since the epoch."""
    return datetime.fromisoformat(str(instance.health()["position"]).partition("@")[2]).timestamp()


def _reload(con: Any, instance: Instance) -> float:
    """Change one row; the time that the first reload takes which has it."""
    con.execute("UPDATE orders SET qty = qty + 1 WHERE id = 1")
    wanted = con.execute("SELECT qty FROM orders WHERE id = 1").fetchone()[0]
    while True:
        rows = instance.query("SELECT qty FROM orders WHERE id = 1")["rows"]
        now = time.time()
        if rows[0][0] == wanted:
            return now - _opened(instance)
        time.sleep(0.02)


class _Queries:
    """Asks for the whole table again and again."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._end.wait(0.25):
            self._instance.query(_QUESTION)
