"""Stories of changed definitions: columns, tables, keys, partitions and types."""

from __future__ import annotations

from tests.support.ddl_namesakes import NAMESAKES
from tests.support.scenarios import Scenario

T = (
    "CREATE TABLE t (id int PRIMARY KEY, a int, b text)",
    "INSERT INTO t SELECT g, g, 'b' || g FROM generate_series(1, 50) g",
)
MORE = "INSERT INTO t (id) SELECT g FROM generate_series(1001, 1005) g"
TOUCH = "UPDATE t SET id = id + 500 WHERE id BETWEEN 1 AND 5"
REMOVE = "DELETE FROM t WHERE id BETWEEN 6 AND 8"
PARTITIONED = (
    "CREATE TABLE t (id int, a int, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
    "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200)",
    "INSERT INTO t SELECT g, g FROM generate_series(1, 150) g",
)


def alter(name: str, *changes: str, **options: object) -> Scenario:
    """The table `t` altered: first nothing else happens, then rows change."""
    return Scenario(name, T, (tuple(changes), (MORE, TOUCH, REMOVE)), **options)  # type: ignore[arg-type]


COLUMNS = (
    alter("add_plain", "ALTER TABLE t ADD c int"),
    alter("add_default", "ALTER TABLE t ADD c int DEFAULT 7"),
    alter("add_not_null_default", "ALTER TABLE t ADD c text NOT NULL DEFAULT 'x'"),
    alter("add_volatile", "ALTER TABLE t ADD c double precision DEFAULT random()"),
    alter("add_clock", "ALTER TABLE t ADD c timestamptz DEFAULT clock_timestamp()"),
    alter("add_serial", "ALTER TABLE t ADD c bigserial"),
    alter("add_identity", "ALTER TABLE t ADD c int GENERATED ALWAYS AS IDENTITY"),
    alter("add_generated", "ALTER TABLE t ADD c int GENERATED ALWAYS AS (id * 2) STORED"),
    alter("add_two", "ALTER TABLE t ADD c int, ADD d text"),
    alter("add_then_default", "ALTER TABLE t ADD c int", "ALTER TABLE t ALTER c SET DEFAULT 5"),
    alter("add_then_fill", "ALTER TABLE t ADD c int", "UPDATE t SET c = id"),
    alter("add_null_and_default_later", "BEGIN; ALTER TABLE t ADD c int; UPDATE t SET c = 3; COMMIT"),
    alter("drop_column", "ALTER TABLE t DROP a"),
    alter("drop_and_add_same", "ALTER TABLE t DROP a", "ALTER TABLE t ADD a int"),
    alter("drop_and_add_same_default", "ALTER TABLE t DROP a, ADD a int DEFAULT 9"),
    alter("rename_column", "ALTER TABLE t RENAME a TO c"),
    alter("rename_to_case", 'ALTER TABLE t RENAME a TO "A"'),
    alter("rename_key", "ALTER TABLE t RENAME id TO key", "ALTER TABLE t RENAME key TO id"),
    alter(
        "swap_names",
        "BEGIN; ALTER TABLE t RENAME b TO x; ALTER TABLE t RENAME a TO b; ALTER TABLE t RENAME x TO a; COMMIT",
    ),
    alter("rename_and_reuse", "BEGIN; ALTER TABLE t RENAME a TO c; ALTER TABLE t ADD a int; COMMIT"),
    alter("rename_and_reuse_default", "BEGIN; ALTER TABLE t RENAME a TO c; ALTER TABLE t ADD a int DEFAULT 1; COMMIT"),
    alter("retype_bigint", "ALTER TABLE t ALTER a TYPE bigint"),
    alter("retype_text", "ALTER TABLE t ALTER a TYPE text"),
    alter("retype_using", "ALTER TABLE t ALTER a TYPE int USING a * 10"),
    alter("retype_there_and_back", "ALTER TABLE t ALTER a TYPE bigint USING a + 1", "ALTER TABLE t ALTER a TYPE int"),
    alter("retype_varchar", "ALTER TABLE t ALTER b TYPE varchar(90)"),
    alter("retype_key", "ALTER TABLE t ALTER id TYPE bigint"),
    alter(
        "retype_numeric",
        "ALTER TABLE t ADD c numeric(8,2)",
        "UPDATE t SET c = id + 0.25",
        "ALTER TABLE t ALTER c TYPE numeric(12,4)",
    ),
    alter("several_at_once", "ALTER TABLE t DROP b, ADD c text DEFAULT 'q', ALTER a TYPE bigint"),
    alter("default_only", "ALTER TABLE t ALTER a SET DEFAULT 4"),
    alter("not_null", "ALTER TABLE t ALTER a SET NOT NULL", "ALTER TABLE t ALTER a DROP NOT NULL"),
    Scenario(
        "ddl_and_dml",
        T,
        (
            (
                "BEGIN; INSERT INTO t VALUES (2001, 1, 'x'); ALTER TABLE t ADD c int; INSERT INTO t VALUES (2002, 1, 'x', 5);"
                " UPDATE t SET a = 0 WHERE id < 10; ALTER TABLE t DROP b; DELETE FROM t WHERE id > 40 AND id < 45;"
                " INSERT INTO t VALUES (2003, 1, 6); COMMIT",
            ),
            ("INSERT INTO t VALUES (2004, 1, 7)", TOUCH),
        ),
    ),
    Scenario(
        "ddl_rolled_back",
        T,
        (
            ("BEGIN; ALTER TABLE t ADD c int DEFAULT 3; INSERT INTO t VALUES (2001, 1, 'x'); ROLLBACK", MORE),
            (
                "BEGIN; SAVEPOINT a; ALTER TABLE t DROP b; INSERT INTO t VALUES (2005, 5); ROLLBACK TO a;"
                " INSERT INTO t VALUES (2005, 5, 'kept'); COMMIT",
            ),
        ),
    ),
    Scenario(
        "two_apart",
        T,
        (
            (
                "ALTER TABLE t ADD c int",
                "INSERT INTO t VALUES (3001, 1, 'x', 1)",
                "ALTER TABLE t ADD d int DEFAULT 4",
                "INSERT INTO t VALUES (3002, 1, 'x', 1, 1)",
            ),
            ("ALTER TABLE t DROP c", "UPDATE t SET a = a + 1"),
        ),
    ),
    Scenario(
        "many_in_a_row",
        T,
        (
            tuple(
                s
                for n in range(8)
                for s in (f"ALTER TABLE t ADD c{n} int", f"INSERT INTO t (id, c{n}) VALUES ({4000 + n}, {n})")
            ),
            tuple(s for n in range(4) for s in (f"ALTER TABLE t DROP c{n}", f"INSERT INTO t (id) VALUES ({5000 + n})")),
        ),
    ),
)

TABLES = (
    Scenario("create", (), (("CREATE TABLE t (id int PRIMARY KEY, v text)",), ("INSERT INTO t VALUES (1, 'x')",))),
    Scenario("create_filled", (), ((*T,), (TOUCH, REMOVE))),
    Scenario("create_as", T, (("CREATE TABLE u AS SELECT * FROM t",), ("INSERT INTO u SELECT * FROM t WHERE id < 4",))),
    Scenario("create_partitioned", (), (PARTITIONED, ("DELETE FROM t WHERE id > 120",))),
    Scenario("drop", T, (("DROP TABLE t",),)),
    Scenario("drop_after_dml", T, ((TOUCH, "DROP TABLE t"),)),
    Scenario("recreate_same", T, (("DROP TABLE t", *T, "UPDATE t SET a = 0"), (MORE, TOUCH))),
    Scenario("recreate_empty", T, (("DROP TABLE t", T[0]), (MORE,))),
    Scenario(
        "recreate_in_one",
        T,
        (
            (
                "BEGIN; DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, z text); INSERT INTO t VALUES (1, 'z'); COMMIT",
            ),
            ("INSERT INTO t VALUES (2, 'z')",),
        ),
    ),
    Scenario(
        "rename", T, (("ALTER TABLE t RENAME TO u",), ("INSERT INTO u (id) VALUES (77)", "DELETE FROM u WHERE id = 3"))
    ),
    Scenario(
        "rename_before_dml", T, (("ALTER TABLE t RENAME TO u", "INSERT INTO u (id) VALUES (77)"), ("DROP TABLE u",))
    ),
    Scenario(
        "rename_and_replace",
        T,
        (
            ("ALTER TABLE t RENAME TO old", T[0], "INSERT INTO t VALUES (1, 1, 'new')"),
            ("INSERT INTO old (id) VALUES (78)", MORE),
        ),
    ),
    Scenario(
        "rename_swap",
        (*T, "CREATE TABLE u (id int PRIMARY KEY, c text)", "INSERT INTO u VALUES (1, 'u')"),
        (
            ("BEGIN; ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u; COMMIT",),
            ("INSERT INTO t VALUES (2, 'u')", "INSERT INTO u VALUES (80, 8, 't')"),
        ),
    ),
    Scenario(
        "rename_swap_alike",
        (*T, "CREATE TABLE u (id int PRIMARY KEY, a int, b text)", "INSERT INTO u VALUES (1, 1, 'u')"),
        (
            (
                "BEGIN; ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u; COMMIT",
                "UPDATE t SET b = 'now t'",
                "UPDATE u SET b = 'now u' WHERE id < 9",
            ),
            ("INSERT INTO t VALUES (2, 2, 'u')", "INSERT INTO u VALUES (80, 8, 't')"),
        ),
    ),
    Scenario(
        "rename_chain",
        T,
        (
            ("ALTER TABLE t RENAME TO u", "ALTER TABLE u RENAME TO v", "ALTER TABLE v RENAME a TO c"),
            ("INSERT INTO v VALUES (80, 8, 't')",),
        ),
    ),
    Scenario(
        "move_schema",
        T,
        (
            ("ALTER TABLE t SET SCHEMA move_schema_to",),
            ("INSERT INTO move_schema_to.t VALUES (80, 8, 't')",),
        ),
        schemas=("move_schema_to",),
    ),
    Scenario("truncate", T, (("TRUNCATE t",), (MORE,))),
    Scenario("truncate_and_alter", T, (("BEGIN; TRUNCATE t; ALTER TABLE t ADD c int DEFAULT 2; COMMIT",), (MORE,))),
    Scenario("vacuum_full", T, (("VACUUM FULL t",), ("CLUSTER t USING t_pkey", TOUCH, REMOVE))),
    Scenario(
        "inherits",
        (*T, "CREATE TABLE child () INHERITS (t)", "INSERT INTO child VALUES (1, 1, 'child')"),
        (
            ("INSERT INTO child VALUES (2, 2, 'child')", "ALTER TABLE t ADD c int DEFAULT 6"),
            ("UPDATE t SET a = 1 WHERE id = 2", "ALTER TABLE child NO INHERIT t"),
        ),
    ),
)

KEYS = (
    Scenario(
        "key_added",
        (T[0].replace("PRIMARY KEY", "NOT NULL"), T[1]),
        (
            ("ALTER TABLE t ADD PRIMARY KEY (id)",),
            (MORE, TOUCH, REMOVE),
        ),
    ),
    Scenario("key_dropped", T, (("ALTER TABLE t DROP CONSTRAINT t_pkey",), (MORE,))),
    Scenario(
        "key_changed",
        T,
        (
            ("BEGIN; ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (a); COMMIT",),
            ("UPDATE t SET a = a + 100 WHERE id < 9", "DELETE FROM t WHERE id > 44"),
        ),
    ),
    Scenario(
        "key_column_dropped",
        T,
        (("ALTER TABLE t DROP id, ADD PRIMARY KEY (a)",), ("UPDATE t SET b = 'x' WHERE a < 9",)),
    ),
    Scenario("identity_full", T, (("ALTER TABLE t REPLICA IDENTITY FULL",), (MORE, TOUCH, REMOVE))),
    Scenario(
        "identity_full_and_back",
        T,
        (
            ("ALTER TABLE t REPLICA IDENTITY FULL", TOUCH, REMOVE, "ALTER TABLE t REPLICA IDENTITY DEFAULT"),
            (MORE, "UPDATE t SET b = 'x' WHERE id < 20"),
        ),
    ),
    Scenario(
        "identity_index",
        (*T, "ALTER TABLE t ALTER a SET NOT NULL", "CREATE UNIQUE INDEX other ON t (a)"),
        (
            ("ALTER TABLE t REPLICA IDENTITY USING INDEX other",),
            ("UPDATE t SET a = a + 1000 WHERE id < 9", TOUCH, REMOVE),
        ),
    ),
    Scenario(
        "identity_index_dropped",
        (
            *T,
            "ALTER TABLE t ALTER a SET NOT NULL",
            "CREATE UNIQUE INDEX other ON t (a)",
            "ALTER TABLE t REPLICA IDENTITY USING INDEX other",
        ),
        (
            ("UPDATE t SET b = 'x' WHERE id < 9", "DROP INDEX other"),
            ("INSERT INTO t VALUES (91, 91, 'x')",),
        ),
    ),
    Scenario(
        "identity_nothing", T, (("ALTER TABLE t REPLICA IDENTITY NOTHING",), ("INSERT INTO t VALUES (91, 91, 'x')",))
    ),
)

PARTITIONS = (
    Scenario(
        "partition_created",
        PARTITIONED,
        (
            ("CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (200) TO (300)",),
            ("INSERT INTO t VALUES (201, 1)",),
        ),
    ),
    Scenario(
        "partition_attached",
        (*PARTITIONED, "CREATE TABLE t3 (id int PRIMARY KEY, a int)", "INSERT INTO t3 VALUES (200, 1), (201, 2)"),
        (
            ("ALTER TABLE t ATTACH PARTITION t3 FOR VALUES FROM (200) TO (300)",),
            ("INSERT INTO t VALUES (202, 1)", "UPDATE t SET a = 5 WHERE id = 201"),
        ),
    ),
    Scenario(
        "partition_detached",
        PARTITIONED,
        (
            ("ALTER TABLE t DETACH PARTITION t2",),
            ("INSERT INTO t2 VALUES (190, 1)", "DELETE FROM t WHERE id < 5"),
        ),
    ),
    Scenario("partition_dropped", PARTITIONED, (("DROP TABLE t2",), ("DELETE FROM t WHERE id < 5",))),
    Scenario("partition_truncated", PARTITIONED, (("TRUNCATE t1",), ("INSERT INTO t VALUES (5, 5)",))),
    Scenario(
        "partition_replaced",
        PARTITIONED,
        (
            (
                "BEGIN; ALTER TABLE t DETACH PARTITION t2; CREATE TABLE n (LIKE t INCLUDING ALL); INSERT INTO n VALUES (101, 0);"
                " ALTER TABLE t ATTACH PARTITION n FOR VALUES FROM (100) TO (200); COMMIT",
            ),
            ("UPDATE t SET a = 9 WHERE id = 101", "INSERT INTO t2 VALUES (999, 9)"),
        ),
    ),
    Scenario(
        "partition_moved_rows",
        PARTITIONED,
        (("UPDATE t SET id = id + 80 WHERE id > 90 AND id <= 100",), ("TRUNCATE t",)),
    ),
    Scenario(
        "partition_altered", PARTITIONED, (("ALTER TABLE t ADD c int DEFAULT 8",), ("INSERT INTO t VALUES (190, 1)",))
    ),
    Scenario(
        "became_partitioned",
        T,
        (
            (
                "BEGIN; ALTER TABLE t RENAME TO part; CREATE TABLE t (LIKE part INCLUDING ALL) PARTITION BY RANGE (id);"
                " ALTER TABLE t ATTACH PARTITION part FOR VALUES FROM (MINVALUE) TO (MAXVALUE); COMMIT",
            ),
            (MORE, TOUCH),
        ),
    ),
)

TYPES = (
    Scenario(
        "enum_label_added",
        (
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "CREATE TABLE t (id int PRIMARY KEY, m mood)",
            "INSERT INTO t VALUES (1, 'sad')",
        ),
        (
            ("ALTER TYPE mood ADD VALUE 'happy' BEFORE 'ok'", "INSERT INTO t VALUES (2, 'happy')"),
            ("UPDATE t SET m = 'happy' WHERE id = 1",),
        ),
    ),
    Scenario(
        "enum_label_renamed",
        (
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "CREATE TABLE t (id int PRIMARY KEY, m mood)",
            "INSERT INTO t VALUES (1, 'sad')",
        ),
        (
            ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",),
            ("INSERT INTO t VALUES (2, 'blue')",),
        ),
    ),
    Scenario(
        "type_renamed",
        (
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "CREATE TABLE t (id int PRIMARY KEY, m mood)",
            "INSERT INTO t VALUES (1, 'sad')",
        ),
        (
            ("ALTER TYPE mood RENAME TO temper",),
            ("INSERT INTO t VALUES (2, 'ok')",),
        ),
    ),
    Scenario(
        "composite_grew",
        (
            "CREATE TYPE pair AS (x int, y text)",
            "CREATE TABLE t (id int PRIMARY KEY, p pair)",
            "INSERT INTO t VALUES (1, (1, 'a'))",
        ),
        (
            ("ALTER TYPE pair ADD ATTRIBUTE z int",),
            ("INSERT INTO t VALUES (2, (1, 'b', 3))",),
        ),
    ),
    Scenario(
        "composite_renamed_field",
        (
            "CREATE TYPE pair AS (x int, y text)",
            "CREATE TABLE t (id int PRIMARY KEY, p pair)",
            "INSERT INTO t VALUES (1, (1, 'a'))",
        ),
        (
            ("ALTER TYPE pair RENAME ATTRIBUTE x TO w",),
            ("INSERT INTO t VALUES (2, (1, 'b'))",),
        ),
    ),
    Scenario(
        "domain_constrained",
        ("CREATE DOMAIN small AS int", "CREATE TABLE t (id int PRIMARY KEY, s small)", "INSERT INTO t VALUES (1, 1)"),
        (
            ("ALTER DOMAIN small ADD CHECK (value < 100)",),
            ("INSERT INTO t VALUES (2, 2)",),
        ),
    ),
)

ALL = {s.name: s for s in (*COLUMNS, *TABLES, *KEYS, *PARTITIONS, *TYPES, *NAMESAKES)}
