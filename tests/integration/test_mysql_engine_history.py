"""Servers that purge, are restored, fail over, or have another replica under our id: exact again, by itself."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mysql_live import MySqlLive, MySqlPairWriter, rank
from tests.support.servers import MySqlDatabase, MySqlServer
from tests.support.servers.roles import ROOT
from tests.support.waiting import wait_until
from tests.support.witness import Witness

MakeMySql = Callable[..., MySqlServer]


def prepared(server: MySqlServer) -> MySqlDatabase:
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, v int); INSERT INTO t (v) VALUES (1), (2)")
    return database


def copy(folder: Path, to: Path) -> None:
    """Copy a folder with its owners: the server runs as a user of its own."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)


def purge(server: MySqlServer) -> None:
    """Leave no binary log but the newest."""
    server.flush_binary_logs()
    if server.is_mariadb and server.version >= (11, 4):
        server.execute("SET GLOBAL slave_connections_needed_for_purge = 0")

    def purged() -> bool:
        # A file that a dump still reads stays.
        server.execute(f"PURGE BINARY LOGS TO '{server.binary_logs()[-1]}'")
        return len(server.binary_logs()) == 1

    wait_until(purged, 30, message="the older binary logs are purged")


@pytest.mark.parametrize("by_gtid", [True, False])
def test_a_purged_log_is_loaded_anew(make_mysql: MakeMySql, mysql_flavour: str, by_gtid: bool, tmp_path: Path) -> None:
    if not by_gtid and mysql_flavour.startswith("mariadb"):
        pytest.skip("MariaDB always has GTIDs")
    settings = {} if by_gtid else {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}
    server = make_mysql(mysql_flavour, settings=settings)
    database = prepared(server)
    with MySqlLive.on(database, tmp_path) as live:
        live.wait_caught_up()
        live.engine.terminate()
        live.run("INSERT INTO t (v) VALUES (3)")
        purge(server)
        live.run("INSERT INTO t (v) VALUES (4)")
        live.engine.start()
        live.wait_equal()
        assert live.resyncs() == 1
        live.run("INSERT INTO t (v) VALUES (5)")
        # What was read may go.
        live.wait_caught_up()
        live.engine.terminate()
        purge(server)
        live.engine.start()
        live.run("INSERT INTO t (v) VALUES (6)")
        live.wait_caught_up()
        live.compare()
        # Without GTIDs, nobody knows whether the file that is gone went on behind what was read of it.
        assert live.resyncs() == (1 if by_gtid else 2)


def test_a_server_restored_to_an_earlier_time(make_mysql: MakeMySql, mysql_flavour: str, tmp_path: Path) -> None:
    server = make_mysql(mysql_flavour)
    database = prepared(server)
    with MySqlLive.on(database, tmp_path / "engine") as live:
        live.wait_caught_up()
        folder = Path(str(server.setting("datadir")))
        server.stop()
        copy(folder, tmp_path / "backup")
        server.start()
        for n in range(10):
            live.run(f"INSERT INTO t (v) VALUES ({n})")
        live.wait_caught_up()
        live.engine.terminate()
        server.stop()
        shutil.rmtree(folder)
        copy(tmp_path / "backup", folder)
        server.start()
        for n in range(10, 30):
            # As many transactions of the same size, under the same numbers and at the same places.
            live.run(f"INSERT INTO t (v) VALUES ({n})")
        live.engine.start()
        live.wait_equal()
        assert live.resyncs() == 1
        live.run("INSERT INTO t (v) VALUES (100)")
        live.wait_caught_up()
        live.compare()


def test_a_reset_log_is_loaded_anew(make_mysql: MakeMySql, mysql_flavour: str, tmp_path: Path) -> None:
    server = make_mysql(mysql_flavour)
    database = prepared(server)
    with MySqlLive.on(database, tmp_path) as live:
        live.run("INSERT INTO t (v) VALUES (3)")
        live.wait_caught_up()
        live.engine.terminate()
        server.execute("RESET MASTER" if server.is_mariadb else "RESET BINARY LOGS AND GTIDS")
        for n in range(40):
            live.run(f"INSERT INTO t (v) VALUES ({n})")
        live.engine.start()
        live.wait_equal()
        assert live.resyncs() == 1


def test_a_reset_under_a_running_engine(make_mysql: MakeMySql, mysql_flavour: str, tmp_path: Path) -> None:
    server = make_mysql(mysql_flavour)
    database = prepared(server)
    with MySqlLive.on(database, tmp_path) as live:
        live.run("INSERT INTO t (v) VALUES (3)")
        live.wait_caught_up()
        server.execute("RESET MASTER" if server.is_mariadb else "RESET BINARY LOGS AND GTIDS")
        live.run("INSERT INTO t (v) VALUES (4)", "DELETE FROM t WHERE v = 1")
        live.wait_equal()


@pytest.mark.parametrize("flavour", ["mysql", "mariadb"])
def test_fail_over_to_another_server_by_gtid(make_mysql: MakeMySql, flavour: str, tmp_path: Path) -> None:
    first = make_mysql(flavour, settings={"server_id": 71, "log_replica_updates": "ON", "log_slave_updates": None}
                       if flavour == "mysql" else {"server_id": 71, "log_slave_updates": "ON"})  # fmt: skip
    second = make_mysql(flavour, settings={"server_id": 72} if flavour == "mysql" else
                        {"server_id": 72, "log_slave_updates": "ON"})  # fmt: skip
    _replicate(first, second)
    database = prepared(first)
    moved = MySqlDatabase(second, database.name)
    with (
        MySqlLive.on(database, tmp_path, start=False) as live,
        MySqlPairWriter(database) as pair,
        Witness(live.engine.url, pair.question, rank=rank),
    ):
        live.engine.start()
        live.wait_caught_up()
        pair.stop()
        live.wait_caught_up()
        live.engine.terminate()
        live.run("INSERT INTO t (v) VALUES (10)")
        wait_until(lambda: second.gtids() == first.gtids(), 30, message="the second server has all")
        second.execute("STOP SLAVE" if second.is_mariadb else "STOP REPLICA")
        first.stop()
        second.execute(f"INSERT INTO {database.name}.t (v) VALUES (11)")
        live.engine.config["connection"] = {**moved.connection_config()}
        live.database = moved
        live.engine.start()
        live.run("INSERT INTO t (v) VALUES (12)", role=ROOT)
        live.wait_caught_up()
        live.compare()
        assert live.resyncs() == 0


def _replicate(first: MySqlServer, second: MySqlServer) -> None:
    """Make `second` a replica of `first`, before anything is on it."""
    if first.is_mariadb:
        second.execute(f"SET GLOBAL gtid_slave_pos = '{first.gtids()}'")
        second.execute(
            f"CHANGE MASTER TO MASTER_HOST='{first.host}', MASTER_PORT={first.port}, MASTER_USER='{ROOT.name}',"
            f" MASTER_PASSWORD='{ROOT.password}', MASTER_USE_GTID=slave_pos; START SLAVE"
        )
        return
    second.execute("RESET BINARY LOGS AND GTIDS")
    second.execute(f"SET GLOBAL gtid_purged = '{first.gtids()}'")
    second.execute(
        f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='{first.host}', SOURCE_PORT={first.port}, SOURCE_USER='{ROOT.name}',"
        f" SOURCE_PASSWORD='{ROOT.password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1; START REPLICA"
    )


def test_two_engines_under_one_server_id(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, v int); INSERT INTO t (v) VALUES (1)")
    ours = {"binlog_server_id": 31337}
    with MySqlLive.on(mysql_any, tmp_path / "one", instance=ours) as one:
        one.wait_caught_up()
        with MySqlLive.on(mysql_any, tmp_path / "two", start=False, instance=ours) as two:
            two.engine.start(ready=False)

            def told() -> bool:
                errors = [two.engine.health().get("lastError"), one.engine.health().get("lastError")]
                return any("binlog_server_id" in str(error) for error in errors)

            wait_until(told, 30, message=lambda: f"the clash is told; {two.log_end()}")
        one.run("INSERT INTO t (v) VALUES (2)")
        one.wait_equal()
        one.engine.restart(kill=True)
        one.run("INSERT INTO t (v) VALUES (3)")
        one.wait_caught_up()
        one.compare()
