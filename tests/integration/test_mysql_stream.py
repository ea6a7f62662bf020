"""The stream of MySQL and MariaDB itself: what ends it, and with which error; what the server sees of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest

from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.position import BinlogPosition
from connectors.mysql.source import MysqlSource
from engine.errors import PreconditionError, ResyncRequired, TransientError
from engine.schema import TableId
from tests.support.replay import Replay
from tests.support.servers import MySqlDatabase, MySqlServer
from tests.support.servers.roles import REFLEX
from tests.support.waiting import wait_until

Follow = Callable[..., Replay]


@pytest.fixture
def follow() -> Iterator[Follow]:
    """Consumers of a database, started, and closed at the end."""
    made: list[Replay] = []

    def start(database: MySqlDatabase, **options: object) -> Replay:
        replay = Replay(MysqlSource(database.options(batch_window=0.02, **options)))
        made.append(replay)
        replay.start()
        return replay

    yield start
    for replay in made:
        replay.close()


def fill(database: MySqlDatabase) -> TableId:
    database.execute("CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, v varchar(2000))")
    database.execute("INSERT INTO t (v) VALUES ('a'), ('b')")
    return TableId(database.name, "t")


def end(replay: Replay) -> BinlogPosition:
    position = replay.source.status().position
    assert isinstance(position, BinlogPosition)
    return position


def ended(replay: Replay) -> BaseException:
    wait_until(lambda: replay.error is not None, 20, message="the stream has ended with an error")
    assert replay.error is not None
    return replay.error


def dump_threads(server: MySqlServer) -> list[int]:
    rows = server.execute("SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%%'")
    return [int(row[0]) for row in rows]


def test_a_killed_dump_is_transient(mysql_any: MySqlDatabase, follow: Follow) -> None:
    table = fill(mysql_any)
    replay = follow(mysql_any)
    mysql_any.execute("INSERT INTO t (v) VALUES ('c')")
    replay.reach(end(replay))
    before = set(dump_threads(mysql_any.server))
    for thread in before:
        mysql_any.server.execute(f"KILL {thread}")
    assert isinstance(ended(replay), TransientError)
    assert len(replay.content(table)) == 3


def test_the_server_knows_the_stream_by_its_name_and_forgets_it(mysql_any: MySqlDatabase, follow: Follow) -> None:
    fill(mysql_any)
    replay = follow(mysql_any, server_id=4242, instance="shop-live")
    statement = "SHOW SLAVE HOSTS" if mysql_any.is_mariadb else "SHOW REPLICAS"

    def listed() -> bool:
        return any(row[0] == 4242 and row[1] == "reflex:shop-live" for row in mysql_any.server.execute(statement))

    wait_until(listed, 10, message="the server lists the stream")
    replay.close()
    wait_until(lambda: not listed(), 10, message="the server has forgotten the stream")


def test_a_consumer_that_stalls_loses_nothing(mysql_any: MySqlDatabase, follow: Follow) -> None:
    table = fill(mysql_any)
    replay = follow(mysql_any, batch_bytes=1 << 18)
    replay.gate.clear()
    for _ in range(12):
        mysql_any.execute("INSERT INTO t (v) SELECT repeat('x', 2000) FROM t LIMIT 800")
    mysql_any.execute("DELETE FROM t WHERE id % 3 = 0")
    before = set(dump_threads(mysql_any.server))
    time.sleep(3)
    assert before <= set(dump_threads(mysql_any.server))
    replay.gate.set()
    replay.reach(end(replay), timeout=60)
    (count,) = mysql_any.execute("SELECT count(*) FROM t")[0]
    assert len(replay.content(table)) == count


def test_a_position_that_was_purged_asks_for_a_resync(
    make_mysql: Callable[..., MySqlServer], mysql_flavour: str
) -> None:
    server = make_mysql(mysql_flavour)
    database = server.create_database()
    fill(database)
    source = MysqlSource(database.options())
    old = source.status().position
    identity = source.identity()
    assert isinstance(old, BinlogPosition)
    database.execute("INSERT INTO t (v) VALUES ('lost')")
    server.flush_binary_logs()
    if server.is_mariadb and server.version >= (11, 4):
        server.execute("SET GLOBAL slave_connections_needed_for_purge = 0")

    def purged() -> bool:
        # A file stays while the server still needs it for its own recovery.
        server.execute(f"PURGE BINARY LOGS TO '{server.binary_logs()[-1]}'")
        return len(server.binary_logs()) == 1

    wait_until(purged, 30, message="the older binary logs are purged")
    found = source.discover()
    state = source.prepare(found, old, identity)
    assert state.position is None
    assert "purged" in state.reason
    stream = source.stream(old, [])
    with pytest.raises(ResyncRequired, match="purged"):
        list(itertools.islice(stream, 20))
    source.close()


def test_a_position_that_the_server_never_had(mysql_any: MySqlDatabase) -> None:
    fill(mysql_any)
    source = MysqlSource(mysql_any.options())
    here = source.status().position
    assert isinstance(here, BinlogPosition)
    if mysql_any.is_mariadb:
        gtids: GtidSet | MariadbGtids = MariadbGtids.parse("3-4711-999999999")
    else:
        gtids = GtidSet.parse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5")
    ahead = BinlogPosition(here.file, here.offset, gtids)
    state = source.prepare(source.discover(), ahead, source.identity())
    assert state.position is None
    assert "restored" in state.reason
    source.close()


def test_two_streams_under_one_server_id(mysql_any: MySqlDatabase, follow: Follow) -> None:
    fill(mysql_any)
    first = follow(mysql_any, server_id=555)
    second = follow(mysql_any, server_id=555)
    errors = [first, second]
    wait_until(lambda: any(r.error is not None for r in errors), 20, message="the clash is noticed")
    (error,) = [r.error for r in errors if r.error is not None]
    assert isinstance(error, PreconditionError)
    assert "instance.binlog_server_id" in error.remedy


def test_a_login_that_may_not_replicate(mysql_any: MySqlDatabase) -> None:
    fill(mysql_any)
    name = f"reader_{mysql_any.name}"
    mysql_any.server.execute(
        f"CREATE USER {name} IDENTIFIED BY '{REFLEX.password}'; GRANT SELECT ON {mysql_any.name}.* TO {name}"
    )
    source = MysqlSource(mysql_any.options(user=name))
    try:
        with pytest.raises(PreconditionError):
            source.prepare(source.discover(), None, None)
            position = BinlogPosition("binlog.000001", 4)
            list(itertools.islice(source.stream(position, []), 1))
    finally:
        source.close()
        mysql_any.server.execute(f"DROP USER {name}")
