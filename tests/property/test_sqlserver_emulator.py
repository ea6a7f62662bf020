"""The emulated SQL Server against a model: what its change tables tell is what its tables went through."""

from __future__ import annotations

from typing import Any

import pymssql
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.servers import SqlServerDatabase
from tests.support.servers.sqlserver_server import run

KEYS = st.integers(1, 4)
OPERATIONS = st.one_of(
    st.tuples(st.just("INSERT INTO t VALUES ({0}, {1}, N'm{1}')"), KEYS, KEYS),
    st.tuples(st.just("UPDATE t SET a = a + {1} WHERE id <= {0}"), KEYS, KEYS),
    st.tuples(st.just("UPDATE t SET m = N'x{1}' WHERE id = {0}"), KEYS, KEYS),
    st.tuples(st.just("UPDATE t SET id = id + {1} WHERE id >= {0}"), KEYS, KEYS),
    st.tuples(st.just("UPDATE t SET id = {1} WHERE id = {0}"), KEYS, KEYS),
    st.tuples(st.just("DELETE FROM t WHERE id = {0}"), KEYS, KEYS),
    st.tuples(st.just("SAVE TRAN s INSERT INTO t VALUES ({0} + 10, 1, NULL) ROLLBACK TRAN s"), KEYS, KEYS),
)
TRANSACTIONS = st.lists(
    st.tuples(st.lists(OPERATIONS, min_size=1, max_size=4), st.booleans(), st.integers(0, 1)), min_size=1, max_size=6
)
Rows = dict[int, tuple[Any, ...]]


@pytest.fixture
def shop(sqlserver: SqlServerDatabase) -> SqlServerDatabase:
    sqlserver.execute("CREATE TABLE t (id int NOT NULL PRIMARY KEY, a int, m nvarchar(max))")
    sqlserver.enable_cdc("t")
    return sqlserver


def replay(rows: list[tuple[Any, ...]], state: Rows) -> Rows:
    """Apply change rows: operation, mask, id, a, m. An m that the mask does not name is as it was."""
    state = dict(state)
    for operation, mask, key, *values in rows:
        if operation in (1, 3):
            old = state.pop(key)
            assert old[0] == values[0]
        elif operation == 2:
            assert key not in state
            state[key] = tuple(values)
        else:
            state[key] = tuple(values) if mask[0] & 4 else (values[0], old[1])
    return state


def attempt(connection: pymssql.Connection, statement: str) -> None:
    """Run a statement that may meet a key that there is."""
    try:
        run(connection, statement)
    except pymssql.Error as error:
        if error.args[0] != 2627:
            raise


@given(TRANSACTIONS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_change_rows_retell_the_table(shop: SqlServerDatabase, transactions: Any) -> None:
    shop.execute("DELETE FROM t; INSERT INTO t VALUES (1, 1, N'm1'), (3, 3, N'm3')")
    shop.captured()
    (low,) = shop.execute("SELECT sys.fn_cdc_get_max_lsn()")[0]
    states: list[Rows] = [{1: (1, "m1"), 3: (3, "m3")}]
    with shop.connect() as first, shop.connect() as second, shop.connect() as reader:
        run(reader, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
        for operations, commits, which in transactions:
            connection = (first, second)[which]
            run(reader, "BEGIN TRAN")
            before = {row[0]: row[1:] for row in run(reader, "SELECT * FROM t")}
            run(connection, "BEGIN TRAN")
            for statement, *values in operations:
                attempt(connection, statement.format(*values))
            run(connection, "COMMIT" if commits else "ROLLBACK")
            assert {row[0]: row[1:] for row in run(reader, "SELECT * FROM t")} == before == states[-1]
            run(reader, "COMMIT")
            after = {row[0]: row[1:] for row in shop.execute("SELECT * FROM t")}
            assert commits or after == before
            if after != before:
                states.append(after)
    shop.captured()
    rows = shop.execute(
        "SELECT [__$start_lsn], [__$operation], [__$update_mask], id, a, m FROM cdc.dbo_t_CT"
        f" WHERE [__$start_lsn] > 0x{low.hex()}"
        " ORDER BY [__$start_lsn], [__$command_id], [__$seqval], [__$operation]"
    )
    told = states[:1]
    for lsn in sorted({row[0] for row in rows}):
        state = replay([row[1:] for row in rows if row[0] == lsn], told[-1])
        if state != told[-1]:
            told.append(state)
    assert told == states
