"""The engine on SQL Server, end to end: five tables under mixed transactions, and the process killed at any moment."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from connectors.poll import Round
from tests.support.servers import SqlServerDatabase
from tests.support.sqlserver_live import SqlServerLive
from tests.support.waiting import wait_until
from tests.support.witness import Witness

TABLES = ("dbo.accounts", "dbo.bag", "dbo.entries", "dbo.notes", "dbo.orders")
QUESTION = (
    "SELECT (SELECT coalesce(sum(amount), 0) FROM dbo.entries)::DECIMAL(38,2),"
    " (SELECT coalesce(sum(total), 0) FROM dbo.accounts)::DECIMAL(38,2)"
)
"""One row whose values are equal in every committed state."""


class Workload:
    """Mixed transactions over five tables, in a thread. Runs within its block."""

    def __init__(self, database: SqlServerDatabase, *, seed: int, pause: float = 0.02) -> None:
        self.transactions = 0
        self._database = database
        self._random = random.Random(seed)
        self._pause = pause
        self._end = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._next = 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more; raises what went wrong."""
        self._end.set()
        self._thread.join(60)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with self._database.connect(autocommit=False) as connection, connection.cursor() as cursor:
                while not self._end.wait(self._pause):
                    for _ in range(self._random.randint(1, 4)):
                        cursor.execute(self._statements())
                    if self._random.random() < 0.1:
                        connection.rollback()
                    else:
                        connection.commit()
                    self.transactions += 1
        except BaseException as error:
            self._error = error

    def _statements(self) -> str:
        account, amount, some = self._random.randrange(8), self._random.randint(-9999, 9999), self._random.randrange(9)
        self._next += 1
        number = self._next
        choice = self._random.randrange(8)
        money = f"{amount / 100:.2f}"
        match choice:
            case 0 | 1 | 2:
                return (
                    f"INSERT INTO dbo.entries (id, account, amount) VALUES ({number}, {account}, {money}); "
                    f"UPDATE dbo.accounts SET total = total + {money} WHERE id = {account}"
                )
            case 3:
                return (
                    f"INSERT INTO dbo.orders (id, price, qty, at) VALUES ({number}, {some}, {account}, SYSUTCDATETIME()); "
                    f"UPDATE dbo.orders SET qty = qty + 1 WHERE price = {some}"
                )
            case 4:
                return f"UPDATE dbo.orders SET id = -id WHERE price = {some}; DELETE FROM dbo.orders WHERE qty > 40"
            case 5:
                return (
                    f"INSERT INTO dbo.notes (id, title, body) VALUES ({number}, N'é{some}', REPLICATE(N'語', {some * 900})); "
                    f"UPDATE dbo.notes SET title = N'{number}' WHERE id % 9 = {some}"
                )
            case 6:
                return f"UPDATE dbo.notes SET body = NULL WHERE id % 9 = {some}; DELETE FROM dbo.notes WHERE id % 31 = {some}"
            case _:
                return (
                    f"INSERT INTO dbo.bag VALUES ({some}, 0x0{some}), ({some}, 0x0{some}); "
                    f"UPDATE dbo.bag SET raw = 0xFF WHERE n = {account}; DELETE FROM dbo.bag WHERE n = {(some + 3) % 9}"
                )


@pytest.fixture
def shop(sqlserver: SqlServerDatabase) -> SqlServerDatabase:
    """The five tables, with some rows, captured."""
    for statement in (
        "CREATE TABLE dbo.accounts (id int PRIMARY KEY, total decimal(18,2) NOT NULL)",
        "INSERT INTO dbo.accounts VALUES (0,0),(1,0),(2,0),(3,0),(4,0),(5,0),(6,0),(7,0)",
        "CREATE TABLE dbo.entries (id bigint PRIMARY KEY, account int NOT NULL, amount decimal(9,2) NOT NULL)",
        "CREATE TABLE dbo.orders (id int PRIMARY KEY, price int, qty int, total AS (price * qty), at datetime2(6))",
        "CREATE TABLE dbo.notes (id int PRIMARY KEY, title nvarchar(20), body nvarchar(max))",
        "CREATE TABLE dbo.bag (n int, raw varbinary(8))",
        "INSERT INTO dbo.bag VALUES (1, 0x01), (1, 0x01), (2, NULL)",
    ):
        sqlserver.execute(statement)
    sqlserver.enable_cdc(*TABLES)
    sqlserver.captured()
    return sqlserver


def rank(position: str) -> int:
    return int(position, 16)


def round_of(position: str) -> int:
    return Round.parse(position).number


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_equal(shop: SqlServerDatabase, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    moments = random.Random(seed)
    with SqlServerLive.on(shop, tmp_path, start=False) as live, Workload(shop, seed=seed) as load:
        for _ in range(10):
            live.engine.start(ready=False)
            time.sleep(moments.uniform(0.3, 2.5))
            live.engine.kill()
        live.engine.start()
        with Witness(live.engine.url, QUESTION, rank=rank):
            done = load.transactions
            wait_until(lambda: load.transactions > done + 20, 60)
            live.engine.restart(kill=True)
            live.wait_caught_up(120)
        load.stop()
        live.wait_caught_up(120)
        counts = live.compare()
        assert set(counts) == set(TABLES), seed
        assert all(counts.values()), (seed, counts)


def test_readers_see_one_state_while_it_streams(shop: SqlServerDatabase, tmp_path: Path) -> None:
    with SqlServerLive.on(shop, tmp_path) as live, Workload(shop, seed=4, pause=0.01) as load:
        with Witness(live.engine.url, QUESTION, rank=rank):
            wait_until(lambda: load.transactions > 60, 60)
            live.wait_caught_up()
        load.stop()
        live.wait_caught_up()
        live.compare()
        # What a key's change may leave out asks for a reload; nothing else does.
        assert live.reloads() == 0


def test_a_new_column_a_new_table_and_a_table_that_goes(shop: SqlServerDatabase, tmp_path: Path) -> None:
    with SqlServerLive.on(shop, tmp_path) as live:
        live.run("ALTER TABLE dbo.accounts ADD label nvarchar(9) NOT NULL DEFAULT N'old'")
        shop.enable_cdc("accounts", instance="accounts_2")
        live.run("INSERT INTO dbo.accounts (id, total) VALUES (100, 1)", "DROP TABLE dbo.bag")
        live.run("CREATE TABLE dbo.fresh (id int PRIMARY KEY, v real); INSERT INTO dbo.fresh (id) VALUES (1)")
        shop.enable_cdc("fresh")
        live.run("INSERT INTO dbo.fresh (id) VALUES (2)", "ALTER TABLE dbo.notes DROP COLUMN title")
        live.wait_equal(timeout=90)
        assert "label" in {c for (c,) in live.engine.query("SELECT column_name FROM information_schema.columns")}


@pytest.mark.parametrize("name", ["accounts", "ACCOUNTS"])
def test_tables_that_exchange_their_names(shop: SqlServerDatabase, tmp_path: Path, name: str) -> None:
    """Also where the one had its name in another case, which readers cannot tell from what the other one has now."""
    with SqlServerLive.on(shop, tmp_path) as live:
        if name != "accounts":
            live.run(f"EXEC sp_rename 'dbo.accounts', '{name}'")
            live.wait_equal()
        live.run(
            "EXEC sp_rename 'dbo.accounts', 'spare'; EXEC sp_rename 'dbo.bag', 'accounts'; EXEC sp_rename 'dbo.spare', 'bag'"
        )
        live.run("INSERT INTO dbo.bag VALUES (77, 7)", "INSERT INTO dbo.accounts VALUES (8, 0x08)")
        live.wait_equal(timeout=90)


@pytest.mark.slow
def test_a_stopped_capture_job_degrades_with_the_reason(shop: SqlServerDatabase, tmp_path: Path) -> None:
    with SqlServerLive.on(shop, tmp_path) as live:
        shop.stop_capture_job()
        live.run("INSERT INTO dbo.accounts VALUES (50, 0)")

        def told() -> bool:
            health = live.engine.health()
            details = [c["detail"] or "" for c in health["checks"] if c["status"] != "ok"]
            return health["status"] == "degraded" and any("capture job" in d for d in details)

        wait_until(told, 150, message=live.log_end)
        shop.start_capture_job()
        live.wait_caught_up()
        wait_until(lambda: live.engine.health()["status"] == "ok", 30)
        live.compare()


def test_a_lost_range_of_the_log_is_loaded_again(shop: SqlServerDatabase, tmp_path: Path) -> None:
    with SqlServerLive.on(shop, tmp_path) as live:
        live.run("INSERT INTO dbo.accounts VALUES (60, 1)")
        live.wait_caught_up()
        live.engine.terminate()
        live.run("INSERT INTO dbo.accounts VALUES (61, 1)", "INSERT INTO dbo.bag VALUES (7, 0x07)")
        shop.captured()
        live.run("INSERT INTO dbo.accounts VALUES (62, 1)")
        shop.captured()
        shop.clean_up("dbo_accounts")
        live.engine.start()
        live.wait_equal()
        assert live.reloads() >= 1


def test_polling_ends_equal(shop: SqlServerDatabase, tmp_path: Path) -> None:
    instance = {"sync_mode": "poll", "sync_interval": 5}
    with SqlServerLive.on(shop, tmp_path, instance=instance) as live:
        live.compare()
        with Workload(shop, seed=7) as load, Witness(live.engine.url, QUESTION, rank=round_of):
            wait_until(lambda: load.transactions > 30, 60)
        live.run("ALTER TABLE dbo.notes ADD extra int NOT NULL DEFAULT 3", "DROP TABLE dbo.bag")
        live.wait_equal(timeout=60)


def test_auto_takes_the_change_tables_where_there_are_any(sqlserver: SqlServerDatabase, tmp_path: Path) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY); INSERT INTO dbo.t VALUES (1)")
    with SqlServerLive.on(sqlserver, tmp_path, instance={"sync_mode": "auto", "sync_interval": 5}) as live:
        live.compare()
        assert live.engine.health()["syncMode"] == "poll"
        sqlserver.enable_cdc("t")
        sqlserver.captured()
        live.engine.restart()
        assert live.engine.health()["syncMode"] == "cdc"
        live.run("INSERT INTO dbo.t VALUES (2)")
        live.wait_caught_up()
        live.compare()
