"""The judge of MySQL and MariaDB replicas finds every kind of difference, and none where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from tests.support.compare import duckdb_query
from tests.support.compare_mysql import assert_replica_equals_mysql
from tests.support.servers import MySqlDatabase

SOURCE = """
CREATE TABLE t (id int PRIMARY KEY, f float, d double, n decimal(10,2), z date, dt datetime(3), ts timestamp NULL, ti time(1),
  s varchar(20), b blob, bt bit(1), y year);
INSERT INTO t VALUES (1, 0.1, 0.1, 0.50, '2024-02-29', '2024-01-01 10:00:00.120', '2024-01-01 00:00:00', '-00:00:01.5',
  'a ', X'00FF', 1, 2024), (2, NULL, NULL, NULL, '0000-00-00', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE k (x int); INSERT INTO k VALUES (1), (1), (2)
"""
REPLICA = """
CREATE TABLE {0}.t (id INTEGER, f FLOAT, d DOUBLE, n DECIMAL(10,2), z DATE, dt TIMESTAMP, ts TIMESTAMPTZ, ti INTERVAL,
  s VARCHAR, b BLOB, bt BOOLEAN, y SMALLINT);
INSERT INTO {0}.t VALUES (1, 0.1, 0.1, 0.50, '2024-02-29', '2024-01-01 10:00:00.120', '2024-01-01 00:00:00+00',
  INTERVAL (-1500000) MICROSECONDS, 'a ', '\\x00\\xFF'::BLOB, true, 2024), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL);
CREATE TABLE {0}.k (x INTEGER); INSERT INTO {0}.k VALUES (1), (1), (2)
"""


@pytest.fixture
def replica(mysql_any: MySqlDatabase) -> Iterator[duckdb.DuckDBPyConnection]:
    mysql_any.execute(SOURCE)
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'America/New_York'")
        con.execute(f'CREATE SCHEMA "{mysql_any.name}"')
        con.execute(REPLICA.format(f'"{mysql_any.name}"'))
        con.execute(f'SET schema = "{mysql_any.name}"')
        yield con


def test_equal_tables_are_equal(mysql_any: MySqlDatabase, replica: duckdb.DuckDBPyConnection) -> None:
    assert assert_replica_equals_mysql(mysql_any, duckdb_query(replica)) == {"t": 2, "k": 3}


@pytest.mark.parametrize(
    "change, shown",
    [
        ("UPDATE t SET f = 0.10000001 WHERE id = 1", "f"),
        ("UPDATE t SET d = 0.10000000000000002::DOUBLE WHERE id = 1", "d"),
        ("UPDATE t SET n = 0.51 WHERE id = 1", "n"),
        ("UPDATE t SET z = '2024-02-28' WHERE id = 1", "z"),
        ("UPDATE t SET z = '2024-01-01' WHERE id = 2", "z"),
        ("UPDATE t SET dt = dt + INTERVAL 1 MILLISECOND WHERE id = 1", "dt"),
        ("UPDATE t SET ts = ts + INTERVAL 1 SECOND WHERE id = 1", "ts"),
        ("UPDATE t SET ti = -ti WHERE id = 1", "ti"),
        ("UPDATE t SET s = 'a' WHERE id = 1", "s"),
        ("UPDATE t SET s = '' WHERE id = 2", "s"),
        ("UPDATE t SET b = '\\x00'::BLOB WHERE id = 1", "b"),
        ("UPDATE t SET bt = false WHERE id = 1", "bt"),
        ("UPDATE t SET y = 2023 WHERE id = 1", "y"),
        ("DELETE FROM t WHERE id = 1", "missing in the replica"),
        ("INSERT INTO t (id) VALUES (3)", "not at the source"),
        ("INSERT INTO t (id) VALUES (2)", "not at the source"),
        ("INSERT INTO k VALUES (1)", "not at the source"),
        ("UPDATE k SET x = 2", "missing in the replica"),
        ("DROP TABLE k", "tables differ"),
        ("CREATE TABLE extra (x int)", "tables differ"),
        ("ALTER TABLE t ADD COLUMN extra INT", "columns differ"),
        ("ALTER TABLE t DROP COLUMN s", "columns differ"),
        ("ALTER TABLE k ALTER x TYPE BIGINT", "columns differ"),
    ],
)
def test_every_difference_is_found(
    mysql_any: MySqlDatabase, replica: duckdb.DuckDBPyConnection, change: str, shown: str
) -> None:
    replica.execute(change)
    with pytest.raises(AssertionError) as found:
        assert_replica_equals_mysql(mysql_any, duckdb_query(replica))
    assert shown in str(found.value)


def test_left_out_columns_and_chosen_tables(mysql_any: MySqlDatabase, replica: duckdb.DuckDBPyConnection) -> None:
    replica.execute("ALTER TABLE t DROP COLUMN s")
    replica.execute("DELETE FROM k")
    counts = assert_replica_equals_mysql(mysql_any, duckdb_query(replica), ["t"], exclude={"t": ["s"]})
    assert counts == {"t": 2}
