"""TPC-B under fire: the engine is killed at random moments, the server crashes twice, and nothing is lost or repeated.

``REFLEX_SOAK=60`` runs it for a minute (the default is shorter); ``REFLEX_SEED`` repeats a run's moments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.pgbench import TABLES, Pgbench, initialize
from tests.support.servers import Database, PostgresServer
from tests.support.waiting import wait_until
from tests.support.witness import Witness

SECONDS = float(os.environ.get("REFLEX_SOAK", "22"))
KILLS = 10
CRASHES = 2
CLIENTS = 8
MOVES = 5
"""Different states that a reader has to see: under the disturbances, and until it has after the last one."""

# Every TPC-B transaction adds the same amount to one row of each table: half of one transaction breaks it.
BALANCES = """
    SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts)::BIGINT,
           (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches)::BIGINT,
           (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers)::BIGINT,
           (SELECT coalesce(sum(delta), 0) FROM pgbench_history)::BIGINT
"""


@contextmanager
def load(database: Database) -> Iterator[None]:
    """pgbench for as long as the block lasts: started again whenever the server has thrown its clients out."""
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            with Pgbench(database, clients=CLIENTS, seconds=600) as bench:
                while bench.running and not end.wait(0.05):
                    pass
            end.wait(0.1)

    thread = threading.Thread(target=run, name="pgbench", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(30)


@pytest.mark.timeout(SECONDS * 3 + 400)
@pytest.mark.slow
def test_pgbench_with_kills_and_crashes(make_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    seed = int(os.environ.get("REFLEX_SEED", random.randrange(1 << 30)))
    print(f"REFLEX_SEED={seed}")
    dice = random.Random(seed)
    server = make_postgres()
    database = server.create_database()
    initialize(database)
    moments = [(at, "kill") for at in sorted(dice.uniform(0.3, SECONDS) for _ in range(KILLS))]
    moments += [(SECONDS * part, "crash") for part in (0.35, 0.7)]
    with Live.on(database, tmp_path, start=False) as live, Witness(live.engine.url, BALANCES) as witness:
        live.engine.start(ready=False)
        with load(database):
            began = time.monotonic()
            for at, what in sorted(moments):
                time.sleep(max(0.0, began + at - time.monotonic()))
                if what == "kill":
                    live.engine.kill()
                    live.engine.start(ready=False)
                else:
                    server.restart("immediate")
            time.sleep(max(0.0, began + SECONDS - time.monotonic()))
            wait_until(lambda: len(witness.values) >= MOVES, 150, message="the reader sees the replica move")
        live.engine.wait_ready()
        live.wait_caught_up(120)
        counts = live.compare([f"public.{table}" for table in TABLES])
        assert counts["public.pgbench_history"] > 100 * SECONDS / 4
        # A crash sets the slot back and a kill forgets what was confirmed: neither is a reason to load anything anew.
        again = [e for e in live.engine.log_events() if e.get("event") in ("resync", "resync_required")]
        assert not again, again
        print(f"{counts['public.pgbench_history']} transactions, {witness.answers} answers")
