"""Stories in which something takes the name and the looks of what was there before, so that rows do not tell which it is."""

from __future__ import annotations

from tests.support.scenarios import Scenario

T = ("CREATE TABLE t (id int PRIMARY KEY, a int, b int)", "INSERT INTO t VALUES (0, 1, 2)")
SWAP = "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b"
ROW = "INSERT INTO t VALUES (1, 10, 20)"

NAMESAKES = (
    Scenario("row_drop_add_last", T, ((ROW, "ALTER TABLE t DROP b", "ALTER TABLE t ADD b int"),)),
    Scenario("row_drop_add_first", T, ((ROW, "ALTER TABLE t DROP a, ADD a int"),)),
    Scenario("drop_add_last_row", T, ((ROW,), ("ALTER TABLE t DROP b, ADD b int", "INSERT INTO t VALUES (2, 10, 20)"))),
    Scenario(
        "added_column_replaced",
        T,
        (
            (
                "ALTER TABLE t ADD c int",
                "INSERT INTO t VALUES (1, 1, 1, 5)",
                "ALTER TABLE t DROP c, ADD c int",
                "INSERT INTO t VALUES (2, 2, 2, 5)",
            ),
        ),
    ),
    Scenario(
        "renamed_column_replaced",
        T,
        (("ALTER TABLE t RENAME b TO c", "INSERT INTO t VALUES (1, 1, 5)", "ALTER TABLE t DROP c, ADD c int"),),
    ),
    Scenario("names_swapped_for_a_row", T, ((SWAP, "INSERT INTO t (id, b, a) VALUES (1, 10, 20)", SWAP),)),
    Scenario(
        "names_swapped_within", T, ((f"BEGIN; {SWAP}; INSERT INTO t (id, b, a) VALUES (1, 10, 20); {SWAP}; COMMIT",),)
    ),
    Scenario(
        "key_widened_for_a_row",
        (
            "CREATE TABLE t (a int NOT NULL, b int NOT NULL, CONSTRAINT k PRIMARY KEY (a))",
            "INSERT INTO t VALUES (1, 1)",
        ),
        (
            (
                "ALTER TABLE t DROP CONSTRAINT k, ADD CONSTRAINT k PRIMARY KEY (a, b)",
                "INSERT INTO t VALUES (1, 2)",
                "DELETE FROM t WHERE b = 2",
                "ALTER TABLE t DROP CONSTRAINT k, ADD CONSTRAINT k PRIMARY KEY (a)",
            ),
        ),
    ),
    Scenario(
        "key_missing_for_a_row",
        (
            "CREATE TABLE t (a int NOT NULL, b int NOT NULL, CONSTRAINT k PRIMARY KEY (a))",
            "INSERT INTO t VALUES (1, 1)",
        ),
        (
            (
                "ALTER TABLE t DROP CONSTRAINT k, REPLICA IDENTITY FULL",
                "INSERT INTO t VALUES (1, 2)",
                "DELETE FROM t WHERE b = 2",
                "ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY (a), REPLICA IDENTITY DEFAULT",
            ),
        ),
    ),
    Scenario(
        "key_kept_by_reindex",
        T,
        ((ROW, "REINDEX TABLE CONCURRENTLY t"), ("UPDATE t SET a = a + 1",)),
    ),
    Scenario(
        "attribute_replaced",
        (
            "CREATE TYPE pair AS (x int, y int)",
            "CREATE TABLE t (id int PRIMARY KEY, p pair, q pair[])",
            "INSERT INTO t VALUES (1, (1, 2), ARRAY[(1, 2)::pair])",
        ),
        (("ALTER TYPE pair DROP ATTRIBUTE y, ADD ATTRIBUTE y int",), ("INSERT INTO t VALUES (2, (5, 6))",)),
    ),
    Scenario(
        "partitions_filled",
        (
            "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
            "INSERT INTO t VALUES (1, 1)",
        ),
        (
            ("ALTER TABLE t ADD c int DEFAULT 7; ALTER TABLE t ALTER c DROP DEFAULT",),
            ("INSERT INTO t VALUES (2, 2, 2)",),
        ),
    ),
)
