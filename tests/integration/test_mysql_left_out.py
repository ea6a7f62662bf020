"""Tables that appear while the engine runs and cannot be replicated: said, left out, and no hindrance to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.mysql_live import MySqlLive
from tests.support.servers import MySqlDatabase
from tests.support.servers.roles import ROOT
from tests.support.waiting import wait_until

TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, v int)",
    "INSERT INTO t VALUES (1, 1), (2, 2)",
    "CREATE TABLE u (id int PRIMARY KEY, v int)",
    "INSERT INTO u VALUES (1, 1), (2, 2)",
)


def setup_check(live: MySqlLive) -> dict[str, Any]:
    """The check that names what is left out; it is there once something was."""
    checks: list[dict[str, Any]] = live.engine.health()["checks"]
    return next((c for c in checks if c["name"] == "setup"), {"status": "ok", "detail": None})


def wait_named(live: MySqlLive, *words: str) -> None:
    def named() -> bool:
        check = setup_check(live)
        return check["status"] == "degraded" and all(word in check["detail"] for word in words)

    wait_until(named, 30, message=live.log_end)


def wait_mended(live: MySqlLive) -> None:
    wait_until(lambda: setup_check(live)["status"] == "ok", 30, message=live.log_end)
    live.engine.wait_health(status="ok")


def names(live: MySqlLive) -> set[str]:
    return {name.rpartition(".")[2] for name in live.engine.health()["rowCounts"]}


def settle(live: MySqlLive, *tables: str) -> None:
    live.run(*(f"UPDATE `{table}` SET v = v + 1" for table in tables), role=ROOT)
    live.wait_equal(tables)


def test_a_table_whose_key_is_excluded(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    excluded = {"columns": {f"{mysql_any.name}.late": {"exclude": ["secret"]}}}
    with MySqlLive.on(mysql_any, tmp_path, start=False, tables=excluded) as live:
        live.run(*TABLES)
        live.engine.start()
        live.run("CREATE TABLE late (id int, secret int PRIMARY KEY, v int)", "INSERT INTO late VALUES (1, 1, 1)")
        wait_named(live, f"{mysql_any.name}.late", "secret", f"tables.columns.{mysql_any.name}.late.exclude")
        settle(live, "t", "u")
        live.engine.restart()
        wait_named(live, f"{mysql_any.name}.late")
        settle(live, "t", "u")
        assert names(live) == {"t", "u"}
        live.run("ALTER TABLE late DROP PRIMARY KEY, ADD PRIMARY KEY (id)", "UPDATE late SET v = 5", role=ROOT)
        wait_mended(live)
        live.wait_equal(exclude={"late": ["secret"]})
        # A table that is replicated loses the key that could be replicated.
        live.run("ALTER TABLE late DROP PRIMARY KEY, ADD PRIMARY KEY (secret)", "UPDATE late SET v = 6", role=ROOT)
        wait_named(live, f"{mysql_any.name}.late")
        settle(live, "t", "u")
        assert names(live) == {"t", "u"}


def test_a_first_start_names_the_setting(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    mysql_any.execute(TABLES[0])
    excluded = {"columns": {f"{mysql_any.name}.t": {"exclude": ["id"]}}}
    with MySqlLive.on(mysql_any, tmp_path, start=False, tables=excluded) as live:
        live.engine.start(ready=False)
        assert live.engine.wait_exit(30) == 3
        assert f"tables.columns.{mysql_any.name}.t.exclude" in live.engine.log_text()


def test_a_name_that_differs_only_in_case(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    with MySqlLive.on(mysql_any, tmp_path, start=False) as live:
        live.run(*TABLES)
        live.engine.start()
        live.run("CREATE TABLE T (id int PRIMARY KEY, v int)", "INSERT INTO T VALUES (1, 1)")
        wait_named(live, f"{mysql_any.name}.T", "only in case")
        settle(live, "t", "u")
        live.engine.restart()
        wait_named(live, f"{mysql_any.name}.T")
        settle(live, "t", "u")
        live.run("DROP TABLE t", role=ROOT)
        wait_mended(live)
        settle(live, "T", "u")
        live.run("RENAME TABLE T TO t, u TO w", role=ROOT)
        wait_until(lambda: names(live) == {"t", "w"}, 30, message=live.log_end)
        settle(live, "t", "w")


def test_a_table_that_may_not_be_read(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    account = f"narrow_{mysql_any.name}"
    mysql_any.superuser(f"CREATE USER {account}@'%' IDENTIFIED BY 'narrow-pass'")
    mysql_any.superuser(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {account}@'%'")
    for statement in TABLES:
        mysql_any.execute(statement)
    for table in ("t", "u"):
        mysql_any.superuser(f"GRANT SELECT ON {mysql_any.name}.{table} TO {account}@'%'")
    try:
        narrow = {"user": account, "password": "narrow-pass"}
        with MySqlLive.on(mysql_any, tmp_path, connection=narrow) as live:
            live.wait_equal(["t", "u"])
            live.run("CREATE TABLE late (id int PRIMARY KEY, v int)", "INSERT INTO late VALUES (1, 1)")
            mysql_any.superuser(f"GRANT INSERT ON {mysql_any.name}.late TO {account}@'%'")
            wait_named(live, f"{mysql_any.name}.late", "GRANT SELECT")
            settle(live, "t", "u")
            mysql_any.superuser(f"GRANT SELECT ON {mysql_any.name}.late TO {account}@'%'")
            wait_mended(live)
            settle(live, "t", "u", "late")
    finally:
        mysql_any.superuser(f"DROP USER {account}@'%'")
