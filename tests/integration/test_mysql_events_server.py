"""The framing of real binary logs, beside the server's own listing of them (SHOW BINLOG EVENTS)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from connectors.mysql import events as e
from connectors.mysql.binlog import Ended, Events, Framer, Refused
from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.statements import Kind, read_statement
from connectors.mysql.transactions import parse_gtid, parse_gtid_list, parse_mariadb_gtid
from tests.support.mysql_rowlog import end_of_log
from tests.support.servers import MySqlDatabase, MySqlServer
from tests.support.servers.roles import ROOT

NAMES = {
    "Query": e.QUERY,
    "Stop": e.STOP,
    "Rotate": e.ROTATE,
    "Intvar": e.INTVAR,
    "RAND": e.RAND,
    "User var": e.USER_VAR,
    "Format_desc": e.FORMAT_DESCRIPTION,
    "Xid": e.XID,
    "Table_map": e.TABLE_MAP,
    "XA_prepare": e.XA_PREPARE,
    "Write_rows_v1": e.WRITE_ROWS_V1,
    "Update_rows_v1": e.UPDATE_ROWS_V1,
    "Delete_rows_v1": e.DELETE_ROWS_V1,
    "Write_rows": e.WRITE_ROWS,
    "Update_rows": e.UPDATE_ROWS,
    "Delete_rows": e.DELETE_ROWS,
    "Rows_query": e.ROWS_QUERY,
    "Gtid": e.GTID,
    "Anonymous_Gtid": e.ANONYMOUS_GTID,
    "Gtid_tagged": e.GTID_TAGGED,
    "Previous_gtids": e.PREVIOUS_GTIDS,
    "Gtid_list": e.MARIADB_GTID_LIST,
    "Binlog_checkpoint": e.BINLOG_CHECKPOINT,
    "Annotate_rows": e.ANNOTATE_ROWS,
    "Start_encryption": e.START_ENCRYPTION,
    "Update_rows_partial": e.PARTIAL_UPDATE_ROWS,
    "Gtid_tagged_log_event": e.GTID_TAGGED,
    "Transaction_payload": e.TRANSACTION_PAYLOAD,
}


def dump(database: MySqlDatabase, since: tuple[str, int], *, framer: Framer | None = None) -> list[Events]:
    """Everything from a place to the end of the log, through a framer."""
    framer = framer or Framer()
    runs: list[Events] = []
    with database.connect(ROOT) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET @master_binlog_checksum = @@GLOBAL.binlog_checksum")
            cursor.execute("SET @source_binlog_checksum = @@GLOBAL.binlog_checksum")
            if database.is_mariadb:
                cursor.execute("SET @mariadb_slave_capability = 4")
        connection._execute_command(0x12, struct.pack("<IHI", since[1], 1, 990_002) + since[0].encode())
        while True:
            for item in framer.feed(connection._rfile.read1(70_001)):
                if isinstance(item, Ended):
                    return runs
                assert not isinstance(item, Refused), item
                runs.append(item)


def flat(runs: list[Events]) -> Iterator[tuple[str, int, int, bytes]]:
    for run in runs:
        for i in range(len(run)):
            if not run.flags[i] & e.ARTIFICIAL:
                yield run.file, int(run.types[i]), int(run.ends_at[i]), run.body_of(i)


def listed(database: MySqlDatabase, file: str) -> list[tuple[int, int]]:
    """Type and end of every event of a file as the server lists them, without what it sends only when asked to."""
    rows = database.superuser(f"SHOW BINLOG EVENTS IN '{file}'")
    names = {**NAMES, "Gtid": e.MARIADB_GTID} if database.is_mariadb else NAMES
    return [(names[kind], end) for _, _, kind, _, end, _ in rows if kind != "Annotate_rows"]


def run_workload(database: MySqlDatabase) -> None:
    """Some of everything that comes in a log without being asked for by settings of the server."""
    with database.connect(ROOT) as connection, connection.cursor() as cursor:
        run: Callable[..., Any] = cursor.execute
        run("CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, v varchar(5000), x int)")
        run("INSERT INTO t (v) VALUES (REPEAT('a', 4000)), ('b')")
        run("UPDATE t SET x = 1")
        run("BEGIN")
        run("INSERT INTO t (v) VALUES ('kept')")
        run("SAVEPOINT s")
        run("INSERT INTO t (v) VALUES ('undone')")
        run("ROLLBACK TO s")
        run("COMMIT")
        for end in ("COMMIT", "ROLLBACK"):
            run("XA START 'name','branch',7")
            run("INSERT INTO t (v) VALUES ('xa')")
            run("XA END 'name','branch',7")
            run("XA PREPARE 'name','branch',7")
            run(f"XA {end} 'name','branch',7")
        run("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        run("SET binlog_format = 'STATEMENT'")
        run("INSERT INTO t (v, x) VALUES ('statement', 1)")
        run("SET @a = 5")
        run("UPDATE t SET x = @a + RAND()")
        run("SET binlog_format = 'ROW'")
        run("DELETE FROM t WHERE id = 1")
        run("TRUNCATE TABLE t")


def test_every_event_is_where_the_server_says(mysql_any: MySqlDatabase) -> None:
    first, _ = end_of_log(mysql_any)
    run_workload(mysql_any)
    mysql_any.superuser("FLUSH BINARY LOGS")
    mysql_any.execute("INSERT INTO t (v) VALUES ('in the next file')")
    found: dict[str, list[tuple[int, int, bytes]]] = {}
    for file, kind, end, body in flat(dump(mysql_any, (first, 4))):
        found.setdefault(file, []).append((kind, end, body))
    assert len(found) == 2
    assert first in found
    for file, events in found.items():
        expected = listed(mysql_any, file)
        # MariaDB writes these from a thread of its own, some after the dump.
        while len(expected) > len(events) and expected[-1][0] == e.BINLOG_CHECKPOINT:
            expected.pop()
        assert [kind for kind, _, _ in events] == [kind for kind, _ in expected]
        # Events within a transaction of MariaDB 11.8 say no position; every other one does.
        ends = [
            (kind, end) for kind, end, _ in events if kind in {e.GTID, e.MARIADB_GTID, e.XID, e.XA_PREPARE, e.ROTATE}
        ]
        assert ends == [pair for pair in expected if pair[0] in {kind for kind, _ in ends}]


def test_statements_of_the_log_are_understood(mysql_any: MySqlDatabase) -> None:
    since = end_of_log(mysql_any)
    run_workload(mysql_any)
    queries = [e.parse_query(body) for _, kind, _, body in flat(dump(mysql_any, since)) if kind == e.QUERY]
    statements = [read_statement(query) for query in queries]
    kinds = {statement.kind for statement in statements}
    expected = {Kind.DDL, Kind.TRUNCATE, Kind.DML, Kind.SAVEPOINT, Kind.XA_END, Kind.XA_COMMIT, Kind.XA_ROLLBACK}
    if not mysql_any.is_mariadb:
        expected |= {Kind.BEGIN, Kind.XA_START}
    assert kinds == expected
    about = [statement.xid for statement in statements if statement.kind in {Kind.XA_COMMIT, Kind.XA_ROLLBACK}]
    assert about == [e.Xid(7, b"name", b"branch")] * 2
    prepared = [e.parse_xa_prepare(b).xid for _, kind, _, b in flat(dump(mysql_any, since)) if kind == e.XA_PREPARE]
    assert prepared == about


def test_a_dump_from_the_middle_of_a_file(mysql_any: MySqlDatabase) -> None:
    run_workload(mysql_any)
    since = end_of_log(mysql_any)
    mysql_any.execute("INSERT INTO t (v) VALUES ('later')")
    framer = Framer()
    runs = dump(mysql_any, since, framer=framer)
    kinds = [kind for _, kind, _, _ in flat(runs)]
    assert kinds.count(e.XID) == 1
    assert (framer.file, framer.offset) == end_of_log(mysql_any)


def test_gtids_are_the_servers(mysql_any: MySqlDatabase) -> None:
    """The GTIDs of the events, added to what was before, are what the server says it has executed."""
    server = mysql_any.server
    mysql_any.superuser("FLUSH BINARY LOGS")
    first, _ = end_of_log(mysql_any)
    run_workload(mysql_any)
    if not mysql_any.is_mariadb:
        with mysql_any.connect(ROOT) as connection, connection.cursor() as cursor:
            cursor.execute("SET gtid_next = 'AUTOMATIC:my_tag'")
            cursor.execute("INSERT INTO t (v) VALUES ('tagged')")
    events = list(flat(dump(mysql_any, (first, 4))))
    if mysql_any.is_mariadb:
        position = MariadbGtids()
        for _, kind, _, body in events:
            if kind == e.MARIADB_GTID_LIST:
                for entry in parse_gtid_list(body):
                    position = position.advance(*entry)
            elif kind == e.MARIADB_GTID:
                gtid = parse_mariadb_gtid(body)
                position = position.advance(gtid.domain, server.setting("server_id"), gtid.number)
        assert position == MariadbGtids.parse(mysql_any.superuser("SELECT @@GLOBAL.gtid_binlog_pos")[0][0])
        return
    executed = GtidSet()
    for _, kind, _, body in events:
        if kind == e.PREVIOUS_GTIDS:
            executed = GtidSet.decode(body)
            assert executed.encode() == body
        elif kind in {e.GTID, e.GTID_TAGGED}:
            found = parse_gtid(body, kind)
            executed = executed.add((found.server, found.tag), np.array([found.number]))
    assert executed == GtidSet.parse(mysql_any.superuser("SELECT @@GLOBAL.gtid_executed")[0][0])
    assert any(tag == "my_tag" for (_, tag), _ in executed.sources)


@pytest.mark.parametrize("rows", [3, 20_000])
def test_compressed_transactions_of_mysql(mysql: MySqlDatabase, rows: int) -> None:
    """The same changes give the same events, compressed or not."""
    mysql.execute("CREATE TABLE t (id int PRIMARY KEY, v varchar(400))")
    bodies = []
    for compression in ("OFF", "ON"):
        since = end_of_log(mysql)
        with mysql.connect(ROOT, autocommit=False) as connection, connection.cursor() as cursor:
            cursor.execute(f"SET binlog_transaction_compression = {compression}, cte_max_recursion_depth = 100000")
            cursor.execute(
                "INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %s)"
                " SELECT i, REPEAT('x', 300) FROM n",
                (rows,),
            )
            connection.commit()
            cursor.execute("DELETE FROM t")
            connection.commit()
        runs = dump(mysql, since)
        events = [(kind, body) for _, kind, _, body in flat(runs) if kind != e.FORMAT_DESCRIPTION]
        bodies.append([(kind, body[6:]) for kind, body in events if kind in {e.TABLE_MAP, e.WRITE_ROWS, e.DELETE_ROWS}])
        assert [kind for kind, _ in events].count(e.XID) == 2
        assert e.TRANSACTION_PAYLOAD not in {kind for kind, _ in events}
    assert bodies[0] == bodies[1]


def test_compressed_events_of_mariadb(make_mysql: Callable[..., MySqlServer]) -> None:
    """The same changes give the same events, compressed or not."""
    server = make_mysql("mariadb", settings={"log_bin_compress_min_len": 10})
    bodies = []
    for compression in ("OFF", "ON"):
        server.configure(log_bin_compress=compression)
        database = server.create_database("compressed")
        since = end_of_log(database)
        database.execute("CREATE TABLE t (id int PRIMARY KEY, v varchar(400)) COMMENT 'a comment that makes it longer'")
        database.execute("INSERT INTO t VALUES (1, REPEAT('x', 300)), (2, REPEAT('y', 300))")
        database.execute("UPDATE t SET v = REPEAT('z', 200)")
        database.execute("DELETE FROM t")
        events = [(kind, body) for _, kind, _, body in flat(dump(database, since))]
        rows = {e.WRITE_ROWS_V1, e.UPDATE_ROWS_V1, e.DELETE_ROWS_V1}
        bodies.append([(kind, body[6:]) for kind, body in events if kind in rows])
        assert [e.parse_query(body).statement[:12] for kind, body in events if kind == e.QUERY] == [b"CREATE TABLE"]
        log = {row[2] for row in database.superuser(f"SHOW BINLOG EVENTS IN '{since[0]}' FROM {since[1]}")}
        assert any("compressed" in kind.lower() for kind in log) is (compression == "ON")
        database.drop()
    assert bodies[0] == bodies[1]
    assert {kind for kind, _ in bodies[0]} == {e.WRITE_ROWS_V1, e.UPDATE_ROWS_V1, e.DELETE_ROWS_V1}


def test_without_checksums(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    server = make_mysql(mysql_flavour)
    database = server.create_database("plain")
    first, _ = end_of_log(database)
    run_workload(database)
    server.configure(binlog_checksum="NONE")  # begins a new file
    database.execute("INSERT INTO t (v) VALUES ('without')")
    server.configure(binlog_checksum="CRC32")
    database.execute("INSERT INTO t (v) VALUES ('with')")
    found: dict[str, list[int]] = {}
    for file, kind, _, _ in flat(dump(database, (first, 4))):
        found.setdefault(file, []).append(kind)
    assert len(found) == 3
    for file, kinds in found.items():
        assert kinds == [kind for kind, _ in listed(database, file)]
    rows = {e.WRITE_ROWS, e.WRITE_ROWS_V1}
    assert [len([k for k in kinds if k in rows]) for kinds in list(found.values())[1:]] == [1, 1]
