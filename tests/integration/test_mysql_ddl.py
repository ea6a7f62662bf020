"""Whatever is done to the definition of a table, the replica follows: with rows after it, without, or while it is down.

Many small stories on one engine, told in lockstep, each with tables of its own (``{t}`` is its prefix); all are compared.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from tests.support.mysql_live import MySqlLive, MySqlPairWriter, rank
from tests.support.servers import MySqlDatabase
from tests.support.servers.roles import ROOT
from tests.support.witness import Witness

TABLE = "CREATE TABLE `{t}` (id int PRIMARY KEY, a int, b varchar(50), KEY by_a (a))"
FILL = "INSERT INTO `{t}` VALUES (1, 1, 'x'), (2, 2, 'y'), (3, NULL, NULL), (4, 40000, 'z'), (5, 5, 'é')"
ROWS = (
    "INSERT INTO `{t}` (id) VALUES (100), (101)",
    "UPDATE `{t}` SET id = 200 WHERE id = 1",
    "DELETE FROM `{t}` WHERE id = 2",
)


@dataclass(frozen=True, slots=True)
class Story:
    """What happens, one run of statements after the other. `only`: the flavour that can do it."""

    name: str
    steps: tuple[tuple[str, ...], ...]
    setup: tuple[str, ...] = (TABLE, FILL)
    only: str = ""


def alter(name: str, *changes: str, only: str = "") -> Story:
    """The table altered: first nothing else happens, then rows change."""
    return Story(name, (changes, ROWS), only=only)


STORIES = (
    alter("add_column", "ALTER TABLE `{t}` ADD c int"),
    alter("add_default", "ALTER TABLE `{t}` ADD c int NOT NULL DEFAULT 7"),
    alter("add_first", "ALTER TABLE `{t}` ADD c int DEFAULT 3 FIRST"),
    alter("add_after", "ALTER TABLE `{t}` ADD c varchar(9) DEFAULT 'n' AFTER a, ADD d int AFTER id"),
    alter("add_instant", "ALTER TABLE `{t}` ADD c int DEFAULT 1, ALGORITHM=INSTANT", "ALTER TABLE `{t}` ADD d int, ALGORITHM=INSTANT"),
    alter("add_clock", "ALTER TABLE `{t}` ADD c timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)"),
    alter("add_generated", "ALTER TABLE `{t}` ADD c int AS (id * 2) STORED, ADD d int AS (id + 1) VIRTUAL"),
    alter("add_invisible", "ALTER TABLE `{t}` ADD c int DEFAULT 4 INVISIBLE"),
    alter("drop_column", "ALTER TABLE `{t}` DROP a"),
    alter("drop_and_add_same", "ALTER TABLE `{t}` DROP a", "ALTER TABLE `{t}` ADD a int DEFAULT 9 AFTER id"),
    alter("there_and_back", "ALTER TABLE `{t}` MODIFY a smallint", "ALTER TABLE `{t}` MODIFY a int"),
    alter("rename_column", "ALTER TABLE `{t}` RENAME COLUMN a TO c"),
    alter("change_column", "ALTER TABLE `{t}` CHANGE b bb varchar(90) CHARACTER SET latin1"),
    alter("swap_columns", "ALTER TABLE `{t}` CHANGE b x varchar(50), CHANGE a b int", "ALTER TABLE `{t}` CHANGE x a varchar(50)"),
    alter("reorder", "ALTER TABLE `{t}` MODIFY b varchar(50) FIRST"),
    alter("retype", "ALTER TABLE `{t}` MODIFY a bigint unsigned"),
    alter("retype_key", "ALTER TABLE `{t}` MODIFY id bigint"),
    alter("charset", "ALTER TABLE `{t}` CONVERT TO CHARACTER SET utf8mb3"),
    alter("enum", "ALTER TABLE `{t}` ADD e enum('a', 'b') DEFAULT 'b'", "ALTER TABLE `{t}` MODIFY e enum('c', 'b', 'a')"),
    alter("drop_key", "ALTER TABLE `{t}` DROP PRIMARY KEY"),
    alter("other_key", "ALTER TABLE `{t}` DROP PRIMARY KEY, ADD PRIMARY KEY (id, b(3)), MODIFY b varchar(50) NOT NULL DEFAULT ''"),
    alter("indexes", "CREATE UNIQUE INDEX u ON `{t}` (a)", "ALTER TABLE `{t}` ADD INDEX w (b), DROP INDEX by_a", "DROP INDEX u ON `{t}`"),
    alter("options", "ALTER TABLE `{t}` COMMENT 'x', ROW_FORMAT=DYNAMIC, AUTO_INCREMENT=900", "OPTIMIZE TABLE `{t}`", "ALTER TABLE `{t}` ENGINE=InnoDB"),
    alter("engine", "ALTER TABLE `{t}` ENGINE=MyISAM"),
    alter("many_at_once", "ALTER TABLE `{t}` ADD c int DEFAULT 5, DROP a, CHANGE b bee text, ADD UNIQUE KEY (c, id)"),
    alter("comments", "/* a */ ALTER /*! TABLE */ `{t}` -- more\n ADD /*!50000 c int default 6 */"),
    alter("truncate", "TRUNCATE TABLE `{t}`"),
    alter("truncate_then_rows", "TRUNCATE `{t}`", "INSERT INTO `{t}` VALUES (1, 7, 'again'), (2, 8, 'again')"),
    Story("create_later", ((TABLE,), (FILL, *ROWS)), setup=()),
    Story("create_like", (("CREATE TABLE `{t}2` LIKE `{t}`",), ("INSERT INTO `{t}2` SELECT * FROM `{t}`", "DELETE FROM `{t}2` WHERE id < 3"))),
    Story("create_select", (("CREATE TABLE `{t}2` SELECT * FROM `{t}`",), ("INSERT INTO `{t}2` SELECT * FROM `{t}`",))),
    Story("create_if_not_exists", ((TABLE.replace("TABLE", "TABLE IF NOT EXISTS"),), ROWS)),
    Story("drop", (("DROP TABLE `{t}`",),)),
    Story("drop_two", (("DROP TABLE IF EXISTS `{t}`, `{t}2`, `{t}_none`",),), setup=(TABLE, FILL, "CREATE TABLE `{t}2` (a int)")),
    Story("drop_and_create", (("DROP TABLE `{t}`", TABLE, "INSERT INTO `{t}` VALUES (9, 9, 'nine')"), ROWS)),
    Story("create_and_drop", ((TABLE, FILL, "DROP TABLE `{t}`"),), setup=()),
    Story("rename", (("RENAME TABLE `{t}` TO `{t}_moved`",), ("INSERT INTO `{t}_moved` (id) VALUES (77)",))),
    Story("rename_away_and_back", (("ALTER TABLE `{t}` RENAME TO `{t}_away`", "INSERT INTO `{t}_away` (id) VALUES (78)", "ALTER TABLE `{t}_away` RENAME `{t}`"), ROWS)),
    Story("swap", (("RENAME TABLE `{t}` TO `{t}_tmp`, `{t}2` TO `{t}`, `{t}_tmp` TO `{t}2`",), ROWS),
          setup=(TABLE, FILL, "CREATE TABLE `{t}2` LIKE `{t}`", "INSERT INTO `{t}2` VALUES (1, 11, 'other'), (6, 6, 'six')")),
    Story("gh_ost", (
        ("CREATE TABLE `_{t}_gho` LIKE `{t}`", "ALTER TABLE `_{t}_gho` ADD c int NOT NULL DEFAULT 8", "CREATE TABLE `_{t}_ghc` (id int PRIMARY KEY)"),
        ("INSERT INTO `_{t}_gho` (id, a, b) SELECT id, a, b FROM `{t}`", "REPLACE INTO `_{t}_gho` (id, a) VALUES (3, 33)"),
        ("RENAME TABLE `{t}` TO `_{t}_del`, `_{t}_gho` TO `{t}`", "DROP TABLE `_{t}_ghc`"),
        (*ROWS, "DROP TABLE `_{t}_del`"),
    )),
    Story("same_layout_swap", (("CREATE TABLE `_{t}_new` LIKE `{t}`", "INSERT INTO `_{t}_new` VALUES (1, 1, 'only')", "RENAME TABLE `{t}` TO `_{t}_old`, `_{t}_new` TO `{t}`", "DROP TABLE `_{t}_old`"), ROWS)),
    Story("partitions", (
        ("ALTER TABLE `{t}` ADD PARTITION (PARTITION p3 VALUES LESS THAN (400))", "INSERT INTO `{t}` VALUES (350, 1)"),
        ("ALTER TABLE `{t}` TRUNCATE PARTITION p1", "INSERT INTO `{t}` VALUES (5, 1)"),
        ("ALTER TABLE `{t}` DROP PARTITION p2",),
        ("CREATE TABLE `{t}x` (id int PRIMARY KEY, a int)", "INSERT INTO `{t}x` VALUES (320, 3)", "ALTER TABLE `{t}` EXCHANGE PARTITION p3 WITH TABLE `{t}x`"),
        ("ALTER TABLE `{t}` REORGANIZE PARTITION p1 INTO (PARTITION p0 VALUES LESS THAN (50), PARTITION p1 VALUES LESS THAN (100))", "UPDATE `{t}` SET a = 5", "ALTER TABLE `{t}` REMOVE PARTITIONING"),
    ), setup=(
        "CREATE TABLE `{t}` (id int PRIMARY KEY, a int) PARTITION BY RANGE (id) (PARTITION p1 VALUES LESS THAN (100), PARTITION p2 VALUES LESS THAN (200))",
        "INSERT INTO `{t}` VALUES (1, 1), (101, 2), (150, 3)",
    )),
    Story("names", (("ALTER TABLE `{t} ñ` ADD `b``c d` int DEFAULT 2", "INSERT INTO `{t} ñ` (`a.b`) VALUES (4)", "RENAME TABLE `{t} ñ` TO `{t}.select`"), ("INSERT INTO `{t}.select` (`a.b`) VALUES (5)",)),
          setup=("CREATE TABLE `{t} ñ` (`a.b` int PRIMARY KEY, `select` int)", "INSERT INTO `{t} ñ` VALUES (1, 1)")),
    Story("ansi_quotes", (("SET SESSION sql_mode = 'ANSI_QUOTES'", 'ALTER TABLE "{t}" ADD "c" int DEFAULT 3'), ROWS)),
    Story("no_key", (("ALTER TABLE `{t}` ADD c int DEFAULT 1", "INSERT INTO `{t}` VALUES (1, 2), (1, 2)", "DELETE FROM `{t}` LIMIT 1"),),
          setup=("CREATE TABLE `{t}` (a int)", "INSERT INTO `{t}` VALUES (1), (1), (2)")),
    Story("key_gained", (("ALTER TABLE `{t}` ADD PRIMARY KEY (a)", "INSERT INTO `{t}` VALUES (4)", "UPDATE `{t}` SET a = 10 WHERE a = 1"),),
          setup=("CREATE TABLE `{t}` (a int)", "INSERT INTO `{t}` VALUES (1), (2)")),
    Story("within_a_burst", (("INSERT INTO `{t}` VALUES (50, 5, 'old')", "ALTER TABLE `{t}` ADD c int", "INSERT INTO `{t}` VALUES (51, 5, 'new', 1)", "ALTER TABLE `{t}` DROP b", "INSERT INTO `{t}` VALUES (52, 5, 2)"),)),
    Story("replaced", (("CREATE OR REPLACE TABLE `{t}` (id int PRIMARY KEY, a int, b varchar(50), KEY by_a (a))",), ROWS), only="mariadb"),
    Story("two_phases", (("SET SESSION binlog_alter_two_phase = 1", "ALTER TABLE `{t}` ADD c int DEFAULT 3", "INSERT INTO `{t}` (id) VALUES (50)", "ALTER TABLE `{t}` ADD INDEX (b), ALGORITHM=COPY", "CREATE INDEX w ON `{t}` (b, a)"), ROWS), only="mariadb"),
    Story("temporary", (("CREATE TEMPORARY TABLE `{t}` (id int)", "INSERT INTO `{t}` VALUES (1)", "ALTER TABLE `{t}` ADD x int", "TRUNCATE TABLE `{t}`", "DROP TEMPORARY TABLE `{t}`"), ROWS)),
    Story("views_and_routines", (("CREATE VIEW `{t}_v` AS SELECT * FROM `{t}`", "CREATE TRIGGER `{t}_tr` BEFORE INSERT ON `{t}` FOR EACH ROW SET NEW.a = 42"), ROWS)),
)  # fmt: skip


class Mode(enum.StrEnum):
    """How the engine meets the steps."""

    QUIET = "quiet"
    BUSY = "busy"
    DOWN = "down"


def tell(live: MySqlLive, story: Story, statements: tuple[str, ...]) -> None:
    try:
        live.run(*(statement.replace("{t}", story.name) for statement in statements), role=ROOT)
    except pymysql.MySQLError as error:
        pytest.fail(f"{story.name}: the server refuses the test's own statement: {error}")


def quiet_tables(database: MySqlDatabase) -> list[str]:
    """All tables but the pair's, which is written to all the while: it is compared at the end."""
    rows = database.superuser("SHOW FULL TABLES WHERE Table_type <> 'VIEW'")
    return [str(row[0]) for row in rows if row[0] not in MySqlPairWriter.tables]


@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("mode", list(Mode))
def test_definition_changes(mysql_any: MySqlDatabase, mode: Mode, tmp_path: Path) -> None:
    stories = [s for s in STORIES if s.only in ("", mysql_any.flavour)]
    with MySqlLive.on(mysql_any, tmp_path, start=False) as live, MySqlPairWriter(mysql_any, pause=0.2) as pair:
        for story in stories:
            tell(live, story, story.setup)
        live.engine.start()
        with Witness(live.engine.url, pair.question, rank=rank, pause=0.25, least=1):
            if mode is Mode.DOWN:
                live.wait_caught_up()
                live.engine.terminate()
            for step in range(max(len(s.steps) for s in stories)):
                for story in stories:
                    if step < len(story.steps):
                        tell(live, story, story.steps[step])
                if mode is Mode.QUIET:
                    live.wait_equal(quiet_tables(mysql_any))
            if mode is Mode.DOWN:
                live.engine.start()
            pair.stop()
            live.wait_equal()
            live.wait_caught_up()
            live.compare()
        assert live.resyncs() == 0


def test_an_alter_in_two_phases_that_is_rolled_back(mariadb: MySqlDatabase, tmp_path: Path) -> None:
    mariadb.execute(TABLE.format(t="t") + ";" + FILL.format(t="t"))
    with MySqlLive.on(mariadb, tmp_path) as live:
        live.run("UPDATE t SET a = 1")
        with pytest.raises(pymysql.err.IntegrityError):
            live.run("ALTER TABLE t ADD UNIQUE KEY (a), ADD c int", binlog_alter_two_phase=1)
        log = mariadb.superuser("SHOW BINLOG EVENTS IN %s", [mariadb.server.binary_log_position()[0]])
        assert any("ROLLBACK ALTER" in str(event[5]) for event in log)
        live.run("INSERT INTO t (id) VALUES (100)")
        live.wait_equal()
        live.engine.restart(kill=True)
        live.run("DELETE FROM t WHERE id < 3")
        live.wait_caught_up()
        live.compare()
        assert live.resyncs() == 0


def test_what_a_row_left_out_while_the_default_was_another(mysql_any: MySqlDatabase, tmp_path: Path) -> None:
    """The catalog of now would give the row a value that it never had."""
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, a int DEFAULT 5); INSERT INTO t VALUES (1, 1)")
    with MySqlLive.on(mysql_any, tmp_path) as live:
        live.wait_caught_up()
        live.engine.terminate()
        live.run("INSERT INTO t (id) VALUES (2)", binlog_row_image="MINIMAL")
        live.run("ALTER TABLE t ALTER a SET DEFAULT 6", role=ROOT)
        with Witness(
            live.engine.url,
            "SELECT coalesce(max(a) FILTER (id = 2), 5)::BIGINT, 5::BIGINT FROM t",
            rank=rank,
            pause=0.001,
        ):
            live.engine.start()
            live.wait_equal()
