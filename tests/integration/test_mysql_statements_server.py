"""What DDL changed on a real server, beside what its statement in the binary log is said to touch."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import pytest

from connectors.mysql import events as e
from connectors.mysql.binlog import Ended, Events, Framer
from connectors.mysql.statements import Kind, Statement, read_statement
from engine.schema import TableId
from tests.support.mysql_rowlog import end_of_log
from tests.support.servers import MySqlDatabase
from tests.support.servers.roles import ROOT

TABLES = """
CREATE TABLE a (id int PRIMARY KEY, v varchar(20), n int, INDEX i (v));
CREATE TABLE b (id int PRIMARY KEY, v varchar(20), n int);
CREATE TABLE parts (id int PRIMARY KEY, v varchar(20), n int)
    PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO a VALUES (1, 'x', 1), (20, 'y', 2);
INSERT INTO b VALUES (5, 'z', 3);
INSERT INTO parts VALUES (1, 'x', 1), (20, 'y', 2)
"""
BOTH = [
    "CREATE TABLE c (id int)",
    "CREATE TABLE IF NOT EXISTS c LIKE a",
    "CREATE TABLE {other}.c AS SELECT * FROM a",
    'CREATE TABLE `we``ird.n am"e` (`se``l` int)',
    "CREATE TABLE `tablö日本` (x int)",
    "CREATE /* c */ TABLE -- line\n c # more\n (id int)",
    "/*!40000 ALTER TABLE a ADD c int */",
    "ALTER TABLE a ADD COLUMN c int DEFAULT 5, ADD INDEX (n)",
    "ALTER TABLE a DROP COLUMN n",
    "ALTER TABLE a MODIFY v varchar(30) FIRST",
    "ALTER TABLE a CHANGE n m bigint",
    "ALTER TABLE a RENAME COLUMN n TO m",
    "ALTER TABLE a ADD INDEX j (v), ENGINE=InnoDB, COMMENT='a, b RENAME TO c'",
    "ALTER TABLE a RENAME TO c",
    "ALTER TABLE a RENAME {other}.c, ADD INDEX (n)",
    "ALTER TABLE a CONVERT TO CHARACTER SET latin1",
    "ALTER TABLE parts TRUNCATE PARTITION p0",
    "ALTER TABLE parts DROP PARTITION p0",
    "ALTER TABLE parts EXCHANGE PARTITION p0 WITH TABLE b",
    "ALTER TABLE parts REORGANIZE PARTITION p0 INTO (PARTITION q VALUES LESS THAN (5), PARTITION r VALUES LESS THAN (10))",
    "ALTER TABLE parts REMOVE PARTITIONING",
    "CREATE UNIQUE INDEX u ON a (n)",
    "RENAME TABLE a TO a_old, b TO a",
    "RENAME TABLE a TO {other}.a, b TO c",
    "TRUNCATE TABLE a",
    "TRUNCATE parts",
    "DROP TABLE a, b",
    "DROP TABLE IF EXISTS missing, a",
    "DROP DATABASE {other}",
    "CREATE VIEW w AS SELECT * FROM a",
    "CREATE TRIGGER tr BEFORE INSERT ON a FOR EACH ROW SET NEW.n = 5",
    "CREATE PROCEDURE p() DROP TABLE a",
    "ANALYZE TABLE a",
    "OPTIMIZE TABLE a",
    "ALTER DATABASE {here} CHARACTER SET latin1",
]
MYSQL = [
    "ALTER TABLE a ADD COLUMN c int INVISIBLE, ALGORITHM=INSTANT",
    "ALTER TABLE a ALTER COLUMN n SET DEFAULT 3, ALTER INDEX i INVISIBLE",
    "CREATE TABLE c (v vector(3))",
]
MARIADB = [
    "CREATE OR REPLACE TABLE a (id int)",
    "ALTER ONLINE TABLE a ADD COLUMN c int",
    "ALTER TABLE IF EXISTS a WAIT 5 ADD COLUMN c int",
    "RENAME TABLE IF EXISTS a WAIT 5 TO c",
    "SET STATEMENT lock_wait_timeout=5 FOR ALTER TABLE a ADD COLUMN c int",
    "DROP TABLE IF EXISTS a WAIT 1",
    "CREATE SEQUENCE s",
    "CREATE INDEX IF NOT EXISTS k ON a (n)",
    "ALTER TABLE parts CONVERT PARTITION p0 TO TABLE b2",
    "ALTER IGNORE TABLE a ADD UNIQUE (n)",
    "CREATE OR REPLACE DATABASE {other}",
]

State = dict[TableId, tuple[str, list[str]]]


@pytest.fixture
def other(mysql_any: MySqlDatabase) -> Iterator[str]:
    """A second database."""
    name = f"{mysql_any.name}_other"
    mysql_any.superuser(f"CREATE DATABASE {name}")
    mysql_any.superuser(f"CREATE TABLE {name}.there (id int)")
    yield name
    mysql_any.superuser(f"DROP DATABASE IF EXISTS {name}")


def state(database: MySqlDatabase, other: str) -> State:
    """The definition and rows of every table in both databases."""
    found: State = {}
    listed = database.superuser(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type <> 'VIEW' AND table_schema IN"
        f" ('{database.name}', '{other}')"
    )
    for schema, table in listed:
        quoted = f"`{schema}`.`{table.replace('`', '``')}`"
        definition = database.superuser(f"SHOW CREATE TABLE {quoted}")[0][1]
        found[TableId(schema, table)] = (definition, sorted(map(repr, database.superuser(f"SELECT * FROM {quoted}"))))
    return found


def statements(database: MySqlDatabase, since: tuple[str, int]) -> list[Statement]:
    """The statements of the log since then."""
    framer = Framer()
    found: list[Statement] = []
    with database.connect(ROOT) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'")
            if database.is_mariadb:
                cursor.execute("SET @mariadb_slave_capability = 4")
        connection._execute_command(0x12, struct.pack("<IHI", since[1], 1, 990_003) + since[0].encode())
        while True:
            for run in framer.feed(connection._rfile.read1(65536)):
                if isinstance(run, Ended):
                    return found
                assert isinstance(run, Events)
                found += [
                    read_statement(e.parse_query(run.body_of(i))) for i in range(len(run)) if run.types[i] == e.QUERY
                ]


def assert_touched(before: State, after: State, found: Sequence[Statement]) -> None:
    changed = {table for table in before.keys() | after.keys() if before.get(table) != after.get(table)}
    missed = {str(table) for table in changed if not any(s.touches(table) for s in found)}
    assert not missed, f"changed, but not by {found}"
    assert Kind.UNKNOWN not in {s.kind for s in found}, found
    if all(statement.harmless for statement in found):
        rows = sorted(content for _, content in before.values())
        assert sorted(content for _, content in after.values()) == rows, "called harmless, but rows changed"


def run(database: MySqlDatabase, other: str, *texts: str | bytes, before: str = "") -> None:
    since = end_of_log(database)
    earlier = state(database, other)
    with database.connect(ROOT) as connection, connection.cursor() as cursor:
        if before:
            cursor.execute(before)
        for text in texts:
            cursor.execute(text)
    found = statements(database, since)
    assert found
    assert_touched(earlier, state(database, other), found)


@pytest.mark.parametrize("text", [*BOTH, *MYSQL, *MARIADB])
def test_what_changed_was_touched(mysql_any: MySqlDatabase, other: str, text: str) -> None:
    if text in (MYSQL if mysql_any.is_mariadb else MARIADB):
        pytest.skip("the other server's syntax")
    if "CONVERT PARTITION" in text and mysql_any.server.version < (10, 7):
        pytest.skip("since MariaDB 10.7")
    mysql_any.execute(TABLES)
    run(mysql_any, other, text.format(other=other, here=mysql_any.name))


def test_quotes_by_sql_mode(mysql_any: MySqlDatabase, other: str) -> None:
    mysql_any.execute(TABLES)
    texts = [
        'CREATE TABLE "q""uo`ted" (x int)',
        'RENAME TABLE "a" TO "c\\"',
        "ALTER TABLE b COMMENT 'it''s \"x\"', RENAME \"bb\"",
    ]
    run(mysql_any, other, *texts, before="SET sql_mode = 'ANSI_QUOTES'")
    run(mysql_any, other, r"ALTER TABLE bb COMMENT 'C:\', RENAME b", before="SET sql_mode = 'NO_BACKSLASH_ESCAPES'")


@pytest.mark.parametrize(
    "charset,codec", [("latin1", "cp1252"), ("sjis", "shift_jis"), ("gbk", "gbk"), ("cp1251", "cp1251")]
)
def test_names_in_the_clients_character_set(mysql_any: MySqlDatabase, other: str, charset: str, codec: str) -> None:
    name = {"latin1": "tablé", "sjis": "表テスト", "gbk": "表誠", "cp1251": "таблица"}[charset]
    text = f"CREATE TABLE `{name}` (x int)".encode(codec)
    run(mysql_any, other, text, before=f"SET NAMES {charset}")
    assert TableId(mysql_any.name, name) in state(mysql_any, other)


def test_a_swap_as_gh_ost_and_pt_osc_do_it(mysql_any: MySqlDatabase, other: str) -> None:
    mysql_any.execute(TABLES)
    run(
        mysql_any,
        other,
        "CREATE TABLE _a_new LIKE a",
        "ALTER TABLE _a_new ADD COLUMN c int",
        "INSERT INTO _a_new SELECT *, 1 FROM a",
        "RENAME TABLE a TO _a_old, _a_new TO a",
        "DROP TABLE IF EXISTS `_a_old`",
    )
