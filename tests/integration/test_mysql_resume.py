"""Where a dump begins when a stream is resumed: at the place itself where the log is proven to be the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from connectors.mysql import dumping, history
from connectors.mysql.position import BinlogPosition
from connectors.mysql.receiver import Dump, Receiver
from connectors.mysql.source import MysqlSource
from engine.changes import ChangeBatch, Position
from engine.source import Follow
from tests.support.servers import MySqlDatabase


@pytest.fixture
def dumps(monkeypatch: pytest.MonkeyPatch) -> list[Dump]:
    """What the server is asked for, in order."""
    asked: list[Dump] = []

    def receive(connection: Any, dump: Dump, *rest: Any) -> Receiver:
        asked.append(dump)
        return Receiver(connection, dump, *rest)

    monkeypatch.setattr(dumping, "Receiver", receive)
    return asked


@pytest.fixture
def opened() -> Iterator[Callable[[MySqlDatabase], MysqlSource]]:
    """Opens sources, and closes them at the end."""
    made: list[MysqlSource] = []

    def start(database: MySqlDatabase) -> MysqlSource:
        made.append(MysqlSource(database.options(batch_window=0.02)))
        return made[-1]

    yield start
    for source in made:
        source.close()


def follow(source: MysqlSource, after: Position, upto: Position) -> tuple[list[int], ChangeBatch]:
    """The ids of the rows inserted behind `after`, up to a position that covers `upto`; and the last batch that had any."""
    ids: list[int] = []
    last = None
    for item in source.stream(after, [Follow(t) for t in source.discover()]):
        assert isinstance(item, ChangeBatch)
        for changes in item.changes:
            ids += changes.rows.column("id").to_pylist()
            last = item
        if item.position.covers(upto):
            break
    assert last is not None
    return ids, last


def end(source: MysqlSource) -> BinlogPosition:
    position = source.status().position
    assert isinstance(position, BinlogPosition)
    return position


def test_a_log_that_is_known_again_is_read_from_the_place_itself(
    mysql_any: MySqlDatabase, dumps: list[Dump], opened: Callable[[MySqlDatabase], MysqlSource]
) -> None:
    """By GTIDs the server would read its file from the beginning to find the place."""
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY)")
    first = opened(mysql_any)
    first.prepare(first.discover(), None, None)
    begin = end(first)
    mysql_any.execute("INSERT INTO t VALUES (1)")
    mysql_any.execute("INSERT INTO t VALUES (2), (3)")
    ids, last = follow(first, begin, end(first))
    assert ids == [1, 2, 3]
    assert isinstance(last.position, BinlogPosition)
    first.close()
    mysql_any.execute("INSERT INTO t VALUES (4)")

    again = opened(mysql_any)
    state = again.prepare(again.discover(), last.position, last.identity)
    assert state.position == last.position
    assert follow(again, last.position, end(again))[0] == [4]
    assert dumps[0].file == "", "what a snapshot says of the place is not exact: its GTIDs are"
    assert (dumps[1].file, dumps[1].offset) == (last.position.file, last.position.offset)
    assert dumps[1].gtids is None
    assert dumps[1].connect_state is None


@pytest.mark.parametrize("what", ["another server's", "another transaction's", "nothing"])
def test_a_log_that_is_not_proven_is_read_by_gtids(
    mysql_any: MySqlDatabase,
    dumps: list[Dump],
    opened: Callable[[MySqlDatabase], MysqlSource],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY)")
    source = opened(mysql_any)
    source.prepare(source.discover(), None, None)
    begin = end(source)
    mysql_any.execute("INSERT INTO t VALUES (1)")
    _, last = follow(source, begin, end(source))
    mysql_any.execute("INSERT INTO t VALUES (2)")
    source.close()

    again = opened(mysql_any)
    identity = again.identity() if what == "nothing" else last.identity
    state = again.prepare(again.discover(), last.position, identity)
    if what == "another transaction's":
        assert last.identity is not None
        crc = last.identity.rpartition(",")[2].partition("]")[0]
        other = last.identity.replace(crc, str(int(crc) ^ 1))
        state = again.prepare(again.discover(), last.position, other)
        assert state.position is None
    else:
        assert state.position == last.position
    if what == "another server's":
        # As behind a proxy that has switched over since.
        look = history.look
        monkeypatch.setattr(history, "look", lambda c: replace(look(c), name="another"))
    assert follow(again, last.position, end(again))[0] == [2]
    assert dumps[-1].gtids is not None or dumps[-1].connect_state is not None
