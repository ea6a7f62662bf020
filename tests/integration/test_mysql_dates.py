"""Dates that no calendar has: NULL by the rule of their column, counted where people look, and refused in keys."""

from __future__ import annotations

from pathlib import Path

from tests.support.mysql_live import MySqlLive
from tests.support.servers import MySqlDatabase
from tests.support.servers.roles import ROOT
from tests.support.waiting import wait_until


def nulled(live: MySqlLive, table: str) -> dict[str, int]:
    answer = live.engine.http.get(f"/tables/{live.database.name}.{table}").json()
    return {column["name"]: column["nulled"] for column in answer["columns"]}


def test_zero_dates_are_counted(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    anything = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"
    with MySqlLive.on(mysql_any, tmp_path, start=False) as live:
        live.run(
            anything,
            "CREATE TABLE t (id int PRIMARY KEY, d date, at datetime, n int)",
            "CREATE TABLE bag (d date)",
            "INSERT INTO t VALUES (1, '0000-00-00', '2024-02-30 10:00:00', 1), (2, NULL, NULL, NULL), (3, '2024-00-10', '2024-01-01', 3)",
            "INSERT INTO bag VALUES ('0000-00-00'), (NULL)",
        )
        live.engine.start()
        live.wait_caught_up()
        assert nulled(live, "t") == {"id": 0, "d": 2, "at": 1, "n": 0}
        assert nulled(live, "bag") == {"d": 1}
        live.run(
            anything,
            "INSERT INTO t VALUES (4, '0000-00-00', NULL, NULL), (5, '2024-01-01', '2024-01-01', 5)",
            "UPDATE t SET at = '0000-00-00' WHERE id = 5",
            "DELETE FROM t WHERE id = 1",
            "DELETE FROM bag WHERE d = '0000-00-00'",
        )
        live.wait_caught_up()
        live.compare()
        assert nulled(live, "t") == {"id": 0, "d": 3, "at": 2, "n": 0}
        assert nulled(live, "bag") == {"d": 1}
        live.run("TRUNCATE TABLE bag", role=ROOT)
        live.wait_caught_up()
        assert nulled(live, "bag") == {"d": 0}
        # What is loaded anew is counted anew.
        live.engine.http.post("/sync/reload", json={"table": f"{mysql_any.name}.t"}).raise_for_status()
        wait_until(lambda: nulled(live, "t") == {"id": 0, "d": 2, "at": 1, "n": 0}, 30)


def test_days_that_are_none_in_a_key(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    """As dates they would all be NULL, and one row; so the key is kept as text."""
    anything = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES'"
    with MySqlLive.on(mysql_any, tmp_path, start=False) as live:
        live.run(
            anything,
            "CREATE TABLE day (d date PRIMARY KEY, n int)",
            "CREATE TABLE at (d datetime(3), s timestamp(6) NOT NULL DEFAULT 0, n int, PRIMARY KEY (n, d, s))",
            "INSERT INTO day VALUES ('2024-01-31', 1), ('0001-01-01', 2)",
            "INSERT INTO at VALUES ('0000-00-00', 0, 1), ('2024-02-30 23:59:59.999', '2024-01-01 00:00:00.000001', 1),"
            " ('9999-12-31 01:02:03.004', '2038-01-19 03:14:07', 2)",
        )
        live.engine.start()
        live.wait_equal(as_text=["at.d", "at.s"])
        for image in ("FULL", "MINIMAL"):
            live.run(
                anything,
                *(
                    f"SET SESSION binlog_row_image = '{image}'",
                    "INSERT INTO day VALUES ('0000-00-00', 1), ('2024-00-10', 2), ('2023-02-30', 3)",
                ),
                *(
                    "UPDATE day SET n = 9 WHERE d = '0000-00-00'",
                    "UPDATE day SET d = '2024-02-31' WHERE n = 2 AND d > '2000-01-01'",
                ),
                *(
                    "INSERT INTO at VALUES ('2024-00-10 10:00:00', 0, 1)",
                    "UPDATE at SET n = 3 WHERE d = '0000-00-00'",
                    "DELETE FROM at WHERE n = 2",
                ),
                role=ROOT,
            )
            live.wait_equal(as_text=["day.d", "at.d", "at.s"])
            live.run(
                "DELETE FROM day WHERE d < '1000-01-01' AND n > 2",
                "DELETE FROM day WHERE d > '2000-01-01'",
                "DELETE FROM at WHERE n = 1",
                role=ROOT,
            )
            live.wait_equal(as_text=["day.d", "at.d", "at.s"])
        assert live.resyncs() == 0
