"""Row events of real servers in every row image: applied to a model, they give the table that the server has."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.mysql.tablemap import parse_table_map
from engine.changes import Op, TableChanges
from engine.errors import ResyncRequired
from tests.support.mysql_rowlog import RowEvent, decode_events, definitions_of, end_of_log, read_row_events
from tests.support.servers.mysql_database import MySqlDatabase
from tests.support.servers.roles import ROOT

Row = tuple[Any, ...]
COLUMNS = "id, a, b, t, blb, e"
TABLE = """
CREATE TABLE {name} (
    id int NOT NULL {key}, a int DEFAULT 3, b varchar(20) DEFAULT 'it''s', t text, blb blob,
    e enum('x','y') NOT NULL DEFAULT 'y', d date DEFAULT '2024-02-03', n decimal(8,3) DEFAULT -1.5
)
"""


def run(database: MySqlDatabase, image: str, statements: Sequence[str]) -> list[RowEvent]:
    since = end_of_log(database)
    with database.connect(ROOT) as connection, connection.cursor() as cursor:
        cursor.execute(f"SET SESSION binlog_row_image = {image}")
        for statement in statements:
            cursor.execute(statement)
    return read_row_events(database, since)


def images(database: MySqlDatabase) -> list[str]:
    return ["FULL", "MINIMAL", "NOBLOB", *(["FULL_NODUP"] if database.server.name == "mariadb-11.8" else [])]


def apply(changes: TableChanges, table: dict[Row, Row]) -> None:
    """Apply changes of a keyed table as the replica does, to rows by key."""
    names = list(changes.table.column_names)
    keys = [names.index(k) for k in changes.table.key]
    rows = [tuple(row.values()) for row in changes.rows.to_pylist()]
    known = [tuple(r.values()) for r in changes.base.to_pylist()] if changes.base is not None else None
    before = dict(table)
    for i, (op, given) in enumerate(zip(changes.ops.to_pylist(), rows, strict=True)):
        row = given
        key = tuple(row[k] for k in keys)
        if op == Op.DELETE:
            before[key] = table.pop(key)
            continue
        if op == Op.INSERT:
            assert key not in table
        else:
            had = known[i] if known is not None else key
            old = table.get(had) or before.get(had)
            left = {n for n, mask in changes.unchanged.items() if mask[i].as_py()}
            if left:
                assert old is not None
                row = tuple(
                    old[j] if name in left else value for j, (name, value) in enumerate(zip(names, row, strict=True))
                )
        table[key] = row


def actual(database: MySqlDatabase, name: str) -> list[Row]:
    return sorted(database.execute(f"SELECT * FROM {name}"))


def dml(rnd: random.Random, name: str, count: int) -> list[str]:
    """Statements over few rows: inserts that name some columns, updates of some, of keys too, deletes."""
    found, live = [], set[int]()
    values = {
        "a": lambda: rnd.choice(["1", "2", "NULL"]),
        "b": lambda: rnd.choice(["'q'", "NULL", "''", "repeat('w', 9)"]),
        "t": lambda: rnd.choice(["'text'", "NULL"]),
        "blb": lambda: rnd.choice(["x'00ff'", "NULL"]),
        "e": lambda: rnd.choice(["'x'", "'y'"]),
        "d": lambda: rnd.choice(["'2020-01-01'", "NULL"]),
        "n": lambda: rnd.choice(["7.125", "NULL"]),
    }
    for _ in range(count):
        choice = rnd.random()
        if choice < 0.4 or not live:
            key = rnd.choice([k for k in range(60) if k not in live])
            some = rnd.sample(sorted(values), rnd.randint(0, len(values)))
            names = ", ".join(["id", *some])
            found.append(f"INSERT INTO {name} ({names}) VALUES ({', '.join([str(key), *(values[c]() for c in some)])})")
            live.add(key)
        elif choice < 0.8:
            some = rnd.sample(sorted(values), rnd.randint(1, 3))
            sets = ", ".join(f"{c} = {values[c]()}" for c in some)
            found.append(f"UPDATE {name} SET {sets} WHERE id % {rnd.randint(1, 4)} = 0")
        elif choice < 0.9:
            old, new = rnd.choice(sorted(live)), rnd.choice([k for k in range(60) if k not in live])
            live = live - {old} | {new}
            found.append(f"UPDATE {name} SET id = {new}, a = {values['a']()} WHERE id = {old}")
        else:
            gone = rnd.choice(sorted(live))
            live.remove(gone)
            found.append(f"DELETE FROM {name} WHERE id = {gone}")
    return found


def test_every_row_image_of_a_keyed_table(mysql_any: MySqlDatabase) -> None:
    for seed, image in enumerate(images(mysql_any)):
        name = f"keyed_{image.lower()}"
        mysql_any.execute(TABLE.format(name=name, key="PRIMARY KEY"))
        events = run(mysql_any, image, dml(random.Random(seed), name, 120))
        definitions = definitions_of(mysql_any, name)
        together: dict[Row, Row] = {}
        changes = decode_events(events, definitions, mariadb=mysql_any.is_mariadb)
        apply(changes, together)
        assert sorted(together.values()) == actual(mysql_any, name)
        one_by_one: dict[Row, Row] = {}
        for event in events:
            apply(decode_events([event], definitions, mariadb=mysql_any.is_mariadb), one_by_one)
        assert one_by_one == together
        if image == "FULL":
            assert not changes.unchanged


def test_full_images_of_a_table_without_a_key(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(TABLE.format(name="keyless", key=""))
    events = run(mysql_any, "FULL", dml(random.Random(5), "keyless", 120))
    changes = decode_events(events, definitions_of(mysql_any, "keyless"), mariadb=mysql_any.is_mariadb, key=())
    rows: list[Row] = []
    for op, row in zip(changes.ops.to_pylist(), changes.rows.to_pylist(), strict=True):
        values = tuple(row.values())
        if op == Op.INSERT:
            rows.append(values)
        else:
            assert op == Op.DELETE
            rows.remove(values)
    assert sorted(rows) == actual(mysql_any, "keyless")


def test_images_without_blobs_of_a_table_without_a_key(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE bare (id int, b blob)")
    statements = ["INSERT INTO bare VALUES (1, 'x')", "UPDATE bare SET id = 2"]
    insert, update = run(mysql_any, "NOBLOB", statements)
    definitions = definitions_of(mysql_any, "bare")
    decode_events([insert], definitions, mariadb=mysql_any.is_mariadb, key=())
    # without a key both servers send the whole old row even so, but not a blob that is as it was in the new one
    changes = decode_events([update], definitions, mariadb=mysql_any.is_mariadb, key=())
    assert [tuple(r.values()) for r in changes.rows.to_pylist()] == [(1, b"x"), (2, b"x")]


def test_generated_and_invisible_columns(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(
        "CREATE TABLE made (id int PRIMARY KEY, a int, v int AS (a + 1) VIRTUAL, s varchar(9) AS (concat('n', a)) STORED,"
        " i int INVISIBLE DEFAULT 4)"
    )
    statements = [
        "INSERT INTO made (id, a) VALUES (1, 10), (2, 20)",
        "UPDATE made SET a = 11 WHERE id = 1",
        "UPDATE made SET i = 5, id = 3 WHERE id = 2",
        "DELETE FROM made WHERE id = 3",
    ]
    insert, update, other, delete = run(mysql_any, "FULL", statements)
    definitions = definitions_of(mysql_any, "made")
    assert [d.generated for d in definitions] == [False, False, True, True, False]
    table: dict[Row, Row] = {}
    apply(decode_events([insert], definitions, mariadb=mysql_any.is_mariadb), table)
    assert table == {(1,): (1, 10, 11, "n10", 4), (2,): (2, 20, 21, "n20", 4)}
    if mysql_any.server.name == "mariadb-11.8":
        with pytest.raises(ResyncRequired, match="computed from"):
            decode_events([update], definitions, mariadb=True)
    else:
        apply(decode_events([update], definitions, mariadb=mysql_any.is_mariadb), table)
        assert table[1,] == (1, 11, 12, "n11", 4)
    apply(decode_events([other], definitions, mariadb=mysql_any.is_mariadb), table)
    assert table[3,] == (3, 20, 21, "n20", 5)
    apply(decode_events([delete], definitions, mariadb=mysql_any.is_mariadb), table)
    assert set(table) == {(1,)}


def test_partial_json(mysql: MySqlDatabase) -> None:
    mysql.execute("CREATE TABLE docs (id int PRIMARY KEY, j json, k json, t text, l json)")
    document = json.dumps({"a": 1, "b": "x" * 200, "c": [1, 2, 3]})
    statements = [
        "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
        *(f"INSERT INTO docs VALUES ({i}, '{document}', '{document}', 't', '{document}')" for i in range(3)),
        "UPDATE docs SET k = JSON_SET(k, '$.a', 5, '$.c[1]', 'two')",
        "UPDATE docs SET j = JSON_REMOVE(j, '$.b'), l = JSON_REPLACE(l, '$.a', 'longer'), t = NULL WHERE id = 1",
        "UPDATE docs SET j = NULL, l = '[]' WHERE id = 2",
        "UPDATE docs SET id = 9, j = JSON_SET(j, '$.new', 'n') WHERE id = 0",
    ]
    events = run(mysql, "FULL", statements)
    assert 39 in {e.type for e in events}
    definitions = definitions_of(mysql, "docs")
    table: dict[Row, Row] = {}
    apply(decode_events(events, definitions, mariadb=False), table)
    assert sorted(table.values(), key=lambda r: r[0]) == sorted(mysql.execute("SELECT * FROM docs"), key=lambda r: r[0])


def test_partial_json_without_the_old_value_asks_for_a_reload(mysql: MySqlDatabase) -> None:
    mysql.execute("CREATE TABLE docs (id int PRIMARY KEY, j json)")
    document = json.dumps({"a": 1, "b": "x" * 200})
    statements = [
        "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'",
        f"INSERT INTO docs VALUES (1, '{document}')",
        "UPDATE docs SET j = JSON_SET(j, '$.a', 5)",
    ]
    events = run(mysql, "MINIMAL", statements)
    assert [e.type for e in events] == [30, 39]
    with pytest.raises(ResyncRequired, match="in part"):
        decode_events(events, definitions_of(mysql, "docs"), mariadb=False)


def test_many_columns(mysql_any: MySqlDatabase) -> None:
    count = 300
    columns = ", ".join(
        f"c{i} varchar(20) character set latin1" if i % 10 == 0 else f"c{i} smallint" for i in range(count)
    )
    mysql_any.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {columns})")
    rnd = random.Random(3)

    def value(i: int) -> str:
        return rnd.choice(["NULL", "'abc'" if i % 10 == 0 else "7", "''" if i % 10 == 0 else "-1"])

    rows = ",".join(f"({k}, {', '.join(value(i) for i in range(count))})" for k in range(50))
    events = run(mysql_any, "FULL", [f"INSERT INTO wide VALUES {rows}"])
    changes = decode_events(events, definitions_of(mysql_any, "wide"), mariadb=mysql_any.is_mariadb)
    assert [tuple(r.values()) for r in changes.rows.to_pylist()] == actual_unsorted(mysql_any, "wide")
    assert len(parse_table_map(events[0].table_map, mariadb=mysql_any.is_mariadb).columns) == count + 1


def actual_unsorted(database: MySqlDatabase, name: str) -> list[Row]:
    return list(database.execute(f"SELECT * FROM {name} ORDER BY id"))
