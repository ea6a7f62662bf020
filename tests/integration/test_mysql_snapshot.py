"""Snapshots of real servers: every type exact, parts, positions, and what happens when a table changes meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pytest

from connectors.mysql import snapshot as module
from connectors.mysql.connection import Connections
from connectors.mysql.position import BinlogPosition
from connectors.mysql.snapshot import MysqlSnapshot
from engine.errors import PreconditionError, ResyncRequired, TransientError
from engine.schema import Identity
from engine.source import Tls
from tests.support.compare import duckdb_query
from tests.support.compare_mysql import assert_replica_equals_mysql
from tests.support.mysql_loading import create, discover, fill, load
from tests.support.servers import REFLEX, MySqlDatabase, MySqlServer
from tests.support.waiting import wait_until


@contextmanager
def opened(database: MySqlDatabase, *names: str, **changes: object) -> Iterator[MysqlSnapshot]:
    options = database.options(**changes)
    connections = Connections(options)
    try:
        tables = [t for t in discover(connections, options) if not names or t.id.name in names]
        snapshot = MysqlSnapshot(connections, options, tables)
        try:
            yield snapshot
        finally:
            snapshot.close()
    finally:
        connections.close()


def rows_of(snapshot: MysqlSnapshot, name: str) -> pa.Table:
    table = next(t for t in snapshot.tables if t.id.name == name)
    batches = [batch for part in snapshot.split(table) for batch in snapshot.read(part)]
    return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in table.column_names})


NUMBERS = """
CREATE TABLE numbers (
    id int PRIMARY KEY, t tinyint, tu tinyint unsigned, s smallint, su smallint unsigned, m mediumint,
    mu mediumint unsigned, i int, iu int unsigned, b bigint, bu bigint unsigned, z int(8) unsigned zerofill,
    b1 bit(1), b9 bit(9), b64 bit(64), f float, d double, y year, flag boolean,
    d1 decimal(12,2), d2 decimal(18,0), d3 decimal(18,18), d4 decimal(38,10), d5 decimal(65,30), dz decimal(8,3) zerofill
);
INSERT INTO numbers (id) VALUES (1);
INSERT INTO numbers VALUES
 (2, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, -9223372036854775808, 0, 0, 0, 0, 0, 0, -0e0, 0, 0,
  0, 0, 0, 0, 0, 0),
 (3, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647, 4294967295, 9223372036854775807, 18446744073709551615,
  42, 1, 511, 18446744073709551615, 3.4028234e38, 1.7976931348623157e308, 2155, 1,
  -9999999999.99, 999999999999999999, -0.999999999999999999, -9999999999999999999999999999.9999999999,
  99999999999999999999999999999999999.999999999999999999999999999999, 12.5),
 (4, 1, 1, 1, 1, -1, 1, -1, 1, -1, 1, 1, 1, 256, 258, 0.1, 0.1, 1901, 1, 0.05, -1, 0.000000000000000001,
  0.0000000001, -0.000000000000000000000000000001, 0),
 (5, 1, 1, 1, 1, -1, 1, -1, 1, -1, 1, 1, 1, 256, 258, 16777217, 5e-324, 2000, 1, 1.50, -1, 0.1, 0.1, 0.1, 99999.999)
"""
TIMES = """
CREATE TABLE times (
    id int PRIMARY KEY, d date, dt datetime, dt3 datetime(3), dt6 datetime(6), ts timestamp NULL, ts6 timestamp(6) NULL,
    t time, t6 time(6)
);
INSERT INTO times (id) VALUES (1);
INSERT INTO times VALUES
 (2, '1000-01-01', '1000-01-01', '9999-12-31 23:59:59.999', '9999-12-31 23:59:59.999999', '1970-01-01 00:00:01',
  '2038-01-19 03:14:07.999999', '838:59:59', '-838:59:59.000000'),
 (3, '2024-02-29', '2024-02-29 12:34:56', '2024-02-29 12:34:56.7', '2024-02-29 00:00:00.000001', '2024-06-01 00:00:00',
  '2024-06-01 12:00:00.5', '-00:00:01', '-00:00:00.000001'),
 (4, '0000-00-00', '0000-00-00', '0000-00-00', '0000-00-00', '0000-00-00', '0000-00-00', 0, 0),
 (5, '2024-00-00', '2024-01-00 10:00:00', '2024-00-10 10:00:00.5', '0000-01-01 00:00:00', NULL, NULL, '24:00:00', '100:00:00.25')
"""
STRINGS = """
CREATE TABLE strings (
    id int PRIMARY KEY, c char(10), v varchar(300), l varchar(50) CHARACTER SET latin1, u varchar(50) CHARACTER SET utf16,
    k varchar(50) CHARACTER SET koi8r, tx text, mt mediumtext, b binary(5), vb varbinary(300), bl blob,
    e enum('', 'a', 'it''s, ü'), s set('x', 'y', 'ü'), g geometry
);
INSERT INTO strings (id) VALUES (1);
INSERT INTO strings VALUES
 (2, '', '', '', '', '', '', '', '', '', '', '', '', ST_GeomFromText('POINT(1 2)')),
 (3, ' a ', 'Grüße € 😀', 'Grüße € ÿ', 'Grüße € 😀', 'Привет', REPEAT('long ü', 300), REPEAT('x', 70000), X'0100',
  REPEAT(X'00FF', 150), REPEAT(X'DEADBEEF', 10000), 'it''s, ü', 'x,ü', ST_GeomFromText('LINESTRING(0 0,1.5 -2)')),
 (4, 'a', REPEAT('ü', 251), REPEAT('é', 50), 'z', 'я', REPEAT('y', 250), REPEAT('y', 251), X'FFFFFFFFFF', X'', X'00',
  'a', 'x,y', NULL)
"""


@pytest.mark.parametrize("table, statements", [("numbers", NUMBERS), ("times", TIMES), ("strings", STRINGS)])
def test_every_type_equals_the_servers_text(mysql_any: MySqlDatabase, table: str, statements: str) -> None:
    mysql_any.superuser("SET sql_mode = ''; " + statements)
    con = load(mysql_any.options())
    assert assert_replica_equals_mysql(mysql_any, duckdb_query(con))[table] >= 3


def test_types_of_mysql_alone(mysql: MySqlDatabase) -> None:
    mysql.execute(
        "CREATE TABLE only (id int PRIMARY KEY, j json, v vector(3), g int AS (id + 1) VIRTUAL, h int INVISIBLE,"
        " p point SRID 4326);"
        'INSERT INTO only (id, j, v, h, p) VALUES (1, \'{"b": [1, 2.50, null], "a": "ü\\\\n"}\','
        " string_to_vector('[1,-2.5,3e-5]'), 7, ST_GeomFromText('POINT(10 20)', 4326)), (2, NULL, NULL, NULL, NULL),"
        " (3, '\"x\"', string_to_vector('[0,0,0]'), 0, NULL)"
    )
    con = load(mysql.options())
    assert assert_replica_equals_mysql(mysql, duckdb_query(con)) == {"only": 3}


def test_types_of_mariadb_alone(make_mysql: Callable[..., MySqlServer]) -> None:
    database = make_mysql("mariadb-11.8").create_database()
    database.execute(
        "CREATE TABLE only (u uuid PRIMARY KEY, i4 inet4, i6 inet6, j json, v vector(2) NOT NULL, g int AS (1) STORED,"
        " h int INVISIBLE, z varchar(1000) COMPRESSED, ts timestamp NULL);"
        "INSERT INTO only (u, i4, i6, j, v, h, z, ts) VALUES"
        " ('123e4567-e89b-12d3-a456-426655440000', '10.0.0.1', '2001:db8::ff00:42:8329', '{\"a\": [1,  2.0]}',"
        " vec_fromtext('[1,-2.5]'), 7, repeat('z', 900), '2100-01-01 00:00:00'),"
        " ('00000000-0000-0000-0000-000000000000', NULL, NULL, NULL, vec_fromtext('[0,0]'), NULL, NULL, NULL)"
    )
    con = load(database.options())
    assert assert_replica_equals_mysql(database, duckdb_query(con)) == {"only": 2}


def test_names_of_all_kinds(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute('CREATE TABLE `Odd ``na"me. é` (`k ``1` int PRIMARY KEY, `select` int, `%s` int)')
    mysql_any.execute('INSERT INTO `Odd ``na"me. é` VALUES (1, 2, 3)')
    con = load(mysql_any.options())
    assert assert_replica_equals_mysql(mysql_any, duckdb_query(con)) == {'Odd `na"me. é': 1}


def test_values_and_rows_of_more_than_16_mib(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    server = make_mysql(mysql_flavour, settings={"max_allowed_packet": "128M"})
    database = server.create_database()
    database.execute("CREATE TABLE big (id int PRIMARY KEY, a longtext, b int)")
    # One row in one packet, one that fills it to the byte, and rows around them.
    sizes = [10, (1 << 24) - 1 - 14, (1 << 24) - 1 - 13, 40 << 20, 5]
    for number, size in enumerate(sizes):
        database.execute(f"INSERT INTO big VALUES ({number}, repeat('x', {size}), {number})")
    con = load(database.options())
    assert con.execute(f'SELECT id, length(a), b FROM "{database.name}".big ORDER BY id').fetchall() == [
        (number, size, number) for number, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("mode", ["disable", "require"])
def test_big_tables_are_cut_by_their_key(mysql_any: MySqlDatabase, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    if mysql_any.server.name == "mariadb-10.11" and mode == "require":
        pytest.skip("serves no TLS without a certificate")
    monkeypatch.setattr(module, "PART_BYTES", 64 << 10)
    monkeypatch.setattr(module, "BATCH_BYTES", 16 << 10)
    mysql_any.execute("CREATE TABLE parts (id bigint PRIMARY KEY, note varchar(200))")
    for start in range(-5000, 5000, 2500):
        values = ", ".join(f"({i}, 'note {i} {'x' * 60}')" for i in range(start, start + 2500))
        mysql_any.execute(f"INSERT INTO parts VALUES {values}")
    mysql_any.execute("ANALYZE TABLE parts")
    with opened(mysql_any, tls=Tls(mode)) as snapshot:
        [table] = snapshot.tables
        parts = snapshot.split(table)
        assert len(parts) > 5
        con = duckdb.connect()
        assert fill(con, snapshot, table, create(con, table)) >= len(parts)
    assert assert_replica_equals_mysql(mysql_any, duckdb_query(con)) == {"parts": 10_000}


def test_an_empty_table_and_an_excluded_column(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(
        "CREATE TABLE nothing (id int PRIMARY KEY, a text); CREATE TABLE t (id int PRIMARY KEY, a text, b int)"
    )
    mysql_any.execute("INSERT INTO t VALUES (1, 'secret', 2)")
    con = load(mysql_any.options(exclude_columns={f"{mysql_any.name}.t": ("a",)}))
    counts = assert_replica_equals_mysql(mysql_any, duckdb_query(con), exclude={"t": ["a"]})
    assert counts == {"nothing": 0, "t": 1}


def test_the_position_precedes_the_rows_and_settled_follows_them(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    with opened(mysql_any) as snapshot:
        begun = snapshot.position
        assert begun.gtids is not None
        mysql_any.execute("INSERT INTO t VALUES (2)")
        rows = rows_of(snapshot, "t")
        settled = snapshot.settled()
        if rows.num_rows == 2:
            assert settled.covers(begun)
            assert not begun.covers(settled)
        mysql_any.execute("INSERT INTO t VALUES (3)")
        assert not settled.covers(snapshot.settled())
        assert snapshot.position == begun


def test_tables_without_a_key_are_read_as_of_the_position(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(
        "CREATE TABLE a (x int); CREATE TABLE b (x int); INSERT INTO a VALUES (1), (1); INSERT INTO b VALUES (1)"
    )
    with opened(mysql_any) as snapshot:
        assert {t.identity for t in snapshot.tables} == {Identity.ROW}
        mysql_any.execute("INSERT INTO a VALUES (2); UPDATE b SET x = 9")
        # Writers are not held back, and the view is of before they wrote.
        assert rows_of(snapshot, "a")["x"].to_pylist() == [1, 1]
        assert rows_of(snapshot, "b")["x"].to_pylist() == [1]
        assert snapshot.settled().covers(snapshot.position)


def test_a_writer_that_does_not_end_holds_back_the_lock_for_a_while(
    mysql: MySqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", 1)
    monkeypatch.setattr(module, "LOCK_TRIES", 2)
    mysql.execute("CREATE TABLE a (x int)")
    with mysql.connect(autocommit=False) as connection:
        connection.cursor().execute("INSERT INTO a VALUES (1)")
        with pytest.raises(TransientError, match="1205"), opened(mysql):
            pass
        connection.commit()
    with opened(mysql) as snapshot:
        assert rows_of(snapshot, "a").num_rows == 1


def test_a_missing_right_to_lock_is_named(mysql: MySqlDatabase) -> None:
    mysql.execute("CREATE TABLE a (x int)")
    pattern = mysql.name.replace("_", "\\_")
    mysql.superuser(f"REVOKE LOCK TABLES ON `{pattern}`.* FROM {REFLEX.name}")
    with pytest.raises(PreconditionError, match="GRANT LOCK TABLES"), opened(mysql):
        pass


def test_a_transaction_is_in_the_rows_or_behind_the_position_under_load(mysql_any: MySqlDatabase) -> None:
    """Keyless rows and the position agree while others write: what the view holds is what the position says."""
    mysql_any.execute("CREATE TABLE a (x int); CREATE TABLE k (id int PRIMARY KEY AUTO_INCREMENT, x int)")
    stop = threading.Event()

    def write() -> None:
        with mysql_any.connect() as connection, connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("BEGIN")
                cursor.execute("INSERT INTO a VALUES (1)")
                cursor.execute("INSERT INTO k (x) VALUES (1)")
                cursor.execute("COMMIT")

    before = mysql_any.server.gtids()
    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(5):
            with opened(mysql_any) as snapshot:
                seen = rows_of(snapshot, "a").num_rows
                keyed = rows_of(snapshot, "k").num_rows
                assert _since(snapshot.position, before) == seen
                assert _since(snapshot.settled(), before) >= keyed
    finally:
        stop.set()
        for writer in writers:
            writer.join()


def _since(position: BinlogPosition, before: str) -> int:
    """How many transactions the position has more than these GTIDs."""
    if position.gtids is None:
        raise AssertionError
    old = BinlogPosition.parse(before).gtids
    count = getattr(position.gtids, "count", None)
    if count is not None:
        return int(count() if callable(count) else count) - int(old.count() if callable(old.count) else old.count)  # type: ignore[union-attr]
    return int(str(position.gtids).rpartition("-")[2]) - int(before.rpartition("-")[2])


@pytest.mark.parametrize(
    "change",
    ["ALTER TABLE t DROP COLUMN a", "ALTER TABLE t MODIFY a varchar(30)", "DROP TABLE t", "RENAME TABLE t TO u"],
)
@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
def test_a_table_that_is_altered_meanwhile_asks_for_a_new_snapshot(
    mysql_any: MySqlDatabase, change: str, key: str
) -> None:
    mysql_any.execute(f"CREATE TABLE t (id int {key}, a int); INSERT INTO t VALUES (1, 1)")
    with opened(mysql_any) as snapshot:
        mysql_any.execute(change)
        with pytest.raises(ResyncRequired) as asked:
            rows_of(snapshot, "t")
        assert [t.name for t in asked.value.tables or ()] == ["t"]


def test_a_killed_reader_is_transient_and_its_connection_is_not_used_again(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, a longtext)")
    for number in range(12):
        mysql_any.execute(f"INSERT INTO t VALUES ({number}, repeat('x', 4000000))")
    with opened(mysql_any) as snapshot:
        [table] = snapshot.tables
        rows = snapshot.read(snapshot.split(table)[0])
        next(rows)
        for (thread,) in mysql_any.superuser(
            f"SELECT id FROM information_schema.processlist WHERE user = '{REFLEX.name}' AND info LIKE 'SELECT%%'"
        ):
            mysql_any.superuser(f"KILL {thread}")
        with pytest.raises(TransientError):
            list(rows)
        assert rows_of(snapshot, "t").num_rows == 12


def test_close_ends_a_read(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, a longtext)")
    for number in range(12):
        mysql_any.execute(f"INSERT INTO t VALUES ({number}, repeat('x', 4000000))")
    options = mysql_any.options()
    connections = Connections(options)
    snapshot = MysqlSnapshot(connections, options, discover(connections, options))
    rows = snapshot.read(snapshot.split(snapshot.tables[0])[0])
    next(rows)
    connections.close()
    with pytest.raises(TransientError):
        list(rows)
    snapshot.close()
    wait_until(
        lambda: not mysql_any.superuser(f"SELECT 1 FROM information_schema.processlist WHERE user = '{REFLEX.name}'")
    )


def test_without_gtids_the_position_is_a_place_in_a_file(make_mysql: Callable[..., MySqlServer]) -> None:
    server = make_mysql("mysql", settings={"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"})
    database = server.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    with opened(database) as snapshot:
        assert snapshot.position.gtids is None
        assert (snapshot.position.file, snapshot.position.offset) == server.binary_log_position()
        assert rows_of(snapshot, "t").num_rows == 1
        database.execute("INSERT INTO t VALUES (2)")
        assert not snapshot.position.covers(snapshot.settled())


def test_a_server_without_a_binary_log_is_refused(make_mysql: Callable[..., MySqlServer]) -> None:
    for flavour in ("mysql", "mariadb"):
        off: dict[str, object] = {"log_bin": None, "skip_log_bin": "1"} if flavour == "mysql" else {"log_bin": None}
        server = make_mysql(flavour, settings=off)
        database = server.create_database()
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        with pytest.raises(PreconditionError), opened(database):
            pass
