"""Debezium on MySQL's backlog a: once counting, and once into DuckDB; compared with the engine's passes.

It has no place of its own at the server, so it first runs for one change: what it remembers of that is where it goes on
when the workload is done. Its clock starts with the first batch that it delivers, which favours it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.mysql_server import MySqlOrders
from benchmarks.peers import environment
from benchmarks.report import Result
from benchmarks.run import Run

_TIMEOUT = 600
_TOUCH = "UPDATE orders SET qty = (qty + 1) %% 1000 WHERE id = %s"


def debezium(run: Run, result: Result, orders: MySqlOrders, ours: list[float]) -> None:
    """Add Debezium's figures, and by how much `ours` (seconds) are shorter."""
    figures: dict[str, float] = {}
    for name in ("counting", "into DuckDB"):
        folder = run.folder / f"debezium-{name.split()[0]}"
        folder.mkdir()
        _find_place(orders, folder)
        changes = orders.large_transactions(run.options.changes)
        path = str(folder / "debezium.duckdb") if name == "into DuckDB" else None
        answer = environment.finish(_start(orders, folder, changes, path), _TIMEOUT)
        figures[name] = answer["ended"] - answer["first"]
        run.say(f"Debezium {name}: {figures[name]:.2f} s of {answer['wall_s']:.2f} s")
        result.add(f"a: Debezium {name}, from its first batch", [figures[name]])
        result.add(f"a: Debezium {name}, whole process", [answer["wall_s"]])
        result.add(f"a: Debezium {name}, peak memory", [answer["peak_mb"]], "MB")
        result.add(f"a: Debezium {name} / engine", [figures[name] / s for s in ours], "x", bar=8.0, at_least=True)


def _find_place(orders: MySqlOrders, folder: Path) -> None:
    """Run it until it has delivered a change; rows are touched until it has."""
    process, began = _start(orders, folder, 1, None)
    while process.poll() is None and time.time() < began + _TIMEOUT:
        orders.bench.database.superuser(_TOUCH, [orders.last])
        time.sleep(0.5)
    environment.finish((process, began), 60)


def _start(orders: MySqlOrders, folder: Path, events: int, path: str | None) -> Any:
    peer = orders.bench.peer()
    settings = {
        "database.hostname": peer["host"],
        "database.port": str(peer["port"]),
        "database.user": peer["user"],
        "database.password": peer["password"],
    }
    arguments = {"source": "mysql", "settings": settings, "folder": str(folder), "events": events, "path": path}
    return environment.start(environment.python("debezium"), "debezium_consumer", arguments)
