"""sysbench runs against every server and tells how much it did."""

from __future__ import annotations

from tests.support import sysbench
from tests.support.servers import MySqlDatabase


def test_transactions_run_and_are_counted(mysql_any: MySqlDatabase) -> None:
    names = sysbench.prepare(mysql_any, count=2, size=100)
    assert names == ["sbtest1", "sbtest2"]
    assert mysql_any.execute("SELECT count(*) FROM sbtest2") == [(100,)]
    before = mysql_any.server.gtids()
    with sysbench.Sysbench(mysql_any, threads=2, seconds=2, count=2, size=100) as load:
        assert load.running
        assert load.wait() > 10
    assert mysql_any.server.gtids() != before


def test_load_is_ended_early(mysql_any: MySqlDatabase) -> None:
    sysbench.prepare(mysql_any, count=1, size=10)
    with sysbench.Sysbench(mysql_any, threads=2, seconds=600, count=1, size=10) as load:
        assert load.running
    assert not load.running
