"""sysbench under fire: the engine is killed at random moments, the server restarts, tables are altered; nothing is lost.

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

import pymysql
import pytest

from tests.support import sysbench
from tests.support.mysql_live import MySqlLive, MySqlPairWriter, rank
from tests.support.servers import MySqlDatabase, MySqlServer
from tests.support.servers.roles import ROOT
from tests.support.witness import Witness

SECONDS = float(os.environ.get("REFLEX_SOAK", "20"))
KILLS = 10
THREADS = 8
TABLES = 4
DDL = (
    "ALTER TABLE sbtest1 ADD INDEX by_pad (pad)",
    "ALTER TABLE sbtest2 ADD COLUMN extra int NOT NULL DEFAULT 7",
    "CREATE TABLE later (id int PRIMARY KEY) AS SELECT id FROM sbtest3 LIMIT 100",
    "ALTER TABLE sbtest3 MODIFY pad varchar(70) NOT NULL DEFAULT ''",
)


@contextmanager
def load(database: MySqlDatabase) -> Iterator[None]:
    """sysbench for as long as the block lasts: started again whenever it has ended."""
    end = threading.Event()

    def run() -> None:
        while not end.is_set():
            try:
                with sysbench.Sysbench(database, threads=THREADS, seconds=600, count=TABLES) as bench:
                    while bench.running and not end.wait(0.05):
                        pass
            except (pymysql.MySQLError, OSError):
                pass  # the server is not there yet
            end.wait(0.1)

    thread = threading.Thread(target=run, name="sysbench", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(30)


def alter(database: MySqlDatabase, statement: str) -> None:
    """Run a statement; the load may hold it back, or the server be away, for a while."""
    for _ in range(20):
        try:
            database.execute(statement, role=ROOT)
        except pymysql.MySQLError as error:
            if error.args[0] in (1050, 1060, 1061):
                return  # it was carried out before the answer was lost
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the server refuses {statement}")


@pytest.mark.timeout(SECONDS * 4 + 300)
@pytest.mark.slow
def test_sysbench_with_kills_restarts_and_ddl(
    make_mysql: Callable[..., MySqlServer], mysql_flavour: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("REFLEX_SEED", random.randrange(1 << 30)))
    print(f"REFLEX_SEED={seed}")
    dice = random.Random(seed)
    server = make_mysql(mysql_flavour)
    database = server.create_database()
    sysbench.prepare(database, count=TABLES, size=2000)
    moments: list[tuple[float, str]] = [(dice.uniform(0.3, SECONDS), "kill") for _ in range(KILLS)]
    moments += [(SECONDS * 0.35, "immediate"), (SECONDS * 0.7, "fast")]
    moments += [(SECONDS * (0.1 + 0.2 * n), statement) for n, statement in enumerate(DDL)]
    with (
        MySqlLive.on(database, tmp_path, start=False) as live,
        MySqlPairWriter(database) as pair,
        Witness(live.engine.url, pair.question, rank=rank),
    ):
        live.engine.start(ready=False)
        with load(database):
            began = time.monotonic()
            for at, what in sorted(moments):
                time.sleep(max(0.0, began + at - time.monotonic()))
                if what == "kill":
                    live.engine.kill()
                    live.engine.start(ready=False)
                elif what in ("immediate", "fast"):
                    server.restart(what)
                else:
                    alter(database, what)
            time.sleep(max(0.0, began + SECONDS - time.monotonic()))
        pair.stop()
        live.engine.wait_ready()
        live.wait_caught_up(180)
        live.wait_equal(timeout=120)
        assert pair.transactions > 50
        assert live.resyncs() == 0
