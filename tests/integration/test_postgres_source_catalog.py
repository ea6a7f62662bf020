"""Which tables are replicated, how their changes name rows, and where they are published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from connectors.postgres.source import PostgresSource
from engine.errors import ConfigError, PreconditionError
from engine.schema import Fill, Identity, TableId, TableSchema
from tests.contract.harness import postgres_options
from tests.support.servers import APP, REFLEX, SUPERUSER, Database


@contextmanager
def source_of(database: Database, **options: object) -> Iterator[PostgresSource]:
    source = PostgresSource(postgres_options(database, **options))
    try:
        yield source
    finally:
        source.close()


def discovered(database: Database, **options: object) -> dict[str, TableSchema]:
    with source_of(database, **options) as source:
        return {str(t.id): t for t in source.discover()}


def published(database: Database, suffix: str = "") -> set[str]:
    rows = database.superuser(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname LIKE %s",
        [f"reflex_{database.name}%" + suffix if suffix else f"reflex_{database.name}"],
    )
    return {name for (name,) in rows}


IDENTITIES = """
CREATE TABLE keyed (id int PRIMARY KEY, v text);
CREATE TABLE two_columns (b int, a int, v text, PRIMARY KEY (a, b) INCLUDE (v));
CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v text);
CREATE TABLE bare (id int, v text);
CREATE TABLE nothing (id int PRIMARY KEY, v text);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE whole (id int, v text);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE whole_keyed (id int PRIMARY KEY, v text);
ALTER TABLE whole_keyed REPLICA IDENTITY FULL;
CREATE TABLE whole_deferred (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
ALTER TABLE whole_deferred REPLICA IDENTITY FULL;
CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL);
CREATE UNIQUE INDEX by_code ON by_index (code);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_code;
CREATE TABLE generated (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) STORED);
"""


def test_identity_follows_replica_identity_and_keys(postgres_any: Database) -> None:
    postgres_any.execute(IDENTITIES)
    found = {name.removeprefix("public."): (t.identity, t.key) for name, t in discovered(postgres_any).items()}
    generated = Identity.KEY if postgres_any.version >= 18 else Identity.RELOAD
    assert found == {
        "keyed": (Identity.KEY, ("id",)),
        "two_columns": (Identity.KEY, ("a", "b")),
        "deferred": (Identity.INSERTS, ()),
        "bare": (Identity.INSERTS, ()),
        "nothing": (Identity.INSERTS, ()),
        "whole": (Identity.ROW, ()),
        "whole_keyed": (Identity.KEY, ("id",)),
        "whole_deferred": (Identity.ROW, ()),
        "by_index": (Identity.KEY, ("code",)),
        "generated": (generated, ("id",)),
    }


def test_no_statement_of_the_application_fails_because_of_the_publications(postgres_any: Database) -> None:
    postgres_any.execute(IDENTITIES)
    with source_of(postgres_any) as source:
        source.prepare(source.discover(), None, None)
    full, inserts = published(postgres_any), published(postgres_any, "inserts")
    assert inserts == {"public.bare", "public.nothing", "public.deferred"}
    assert len(full) == 7
    for table in (name for name in full | inserts):
        columns = "id" if table not in ("public.two_columns",) else "a, b"
        values = "1" if columns == "id" else "1, 1"
        if table == "public.by_index":
            columns, values = "id, code", "1, 'x'"
        postgres_any.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})")
        postgres_any.execute(f"UPDATE {table} SET {columns.split(',')[0]} = 2")
        postgres_any.execute(f"DELETE FROM {table}")


def test_partitioned_tables_are_one_table(postgres_any: Database) -> None:
    postgres_any.execute(
        """
        CREATE TABLE keyed (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE keyed_1 PARTITION OF keyed FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
        CREATE TABLE keyed_2 PARTITION OF keyed FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY LIST (id);
        CREATE TABLE keyed_2_1 PARTITION OF keyed_2 DEFAULT;
        CREATE TABLE bare (id int, at date) PARTITION BY RANGE (at);
        CREATE TABLE bare_1 PARTITION OF bare DEFAULT;
        CREATE TABLE uneven (id int NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);
        ALTER TABLE uneven REPLICA IDENTITY FULL;
        CREATE TABLE uneven_1 PARTITION OF uneven DEFAULT;
        CREATE TABLE whole (id int, at date) PARTITION BY RANGE (at);
        CREATE TABLE whole_1 PARTITION OF whole DEFAULT;
        ALTER TABLE whole REPLICA IDENTITY FULL;
        ALTER TABLE whole_1 REPLICA IDENTITY FULL;
        """
    )
    found = {name: (t.identity, t.key) for name, t in discovered(postgres_any).items()}
    assert found == {
        "public.keyed": (Identity.KEY, ("id", "at")),
        "public.bare": (Identity.INSERTS, ()),
        "public.uneven": (Identity.INSERTS, ()),
        "public.whole": (Identity.ROW, ()),
    }
    with source_of(postgres_any) as source:
        source.prepare(source.discover(), None, None)
    assert published(postgres_any) == {"public.keyed", "public.whole"}


def test_what_cannot_be_followed_is_left_out_and_reported(postgres: Database) -> None:
    postgres.execute(
        """
        CREATE TABLE kept (id int PRIMARY KEY);
        CREATE UNLOGGED TABLE volatile (id int PRIMARY KEY);
        CREATE VIEW seen AS SELECT * FROM kept;
        CREATE MATERIALIZED VIEW stored AS SELECT * FROM kept;
        CREATE TEMP TABLE passing (id int);
        """
    )
    assert set(discovered(postgres)) == {"public.kept"}
    with source_of(postgres) as source:
        told = [c for c in source.check() if c.name == "followable"]
    assert [("volatile" in c.detail, c.warning, c.remedy) for c in told] == [
        (True, True, 'ALTER TABLE "public"."volatile" SET LOGGED;')
    ]


def test_globs_and_schema_choose(postgres: Database) -> None:
    postgres.execute(
        """
        CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY); CREATE TABLE sales.audit_x (id int);
        CREATE TABLE users (id int PRIMARY KEY, secret text); CREATE TABLE "Odd.name ""q"" " (id int PRIMARY KEY);
        """
    )
    assert set(discovered(postgres)) == {"sales.orders", "sales.audit_x", "public.users", 'public.Odd.name "q" '}
    assert set(discovered(postgres, schema="sales")) == {"sales.orders", "sales.audit_x"}
    assert set(discovered(postgres, include=("sales.*",), exclude=("audit_*",))) == {"sales.orders"}
    assert set(discovered(postgres, include=("users",))) == {"public.users"}
    users = discovered(postgres, exclude_columns={"public.users": ("secret",)})["public.users"]
    assert users.column_names == ("id",)
    with source_of(postgres, exclude_columns={"public.users": ("id",)}) as source:
        found = source.discover()
        with pytest.raises(ConfigError, match=r"tables\.columns\.public\.users"):
            source.prepare(found, None, None)
        assert [c.ok for c in source.check() if c.name == "configuration"] == [False]
    with pytest.raises(ConfigError, match=r"instance\.schema"):
        discovered(postgres, schema="absent")


def test_a_first_start_is_refused_where_names_differ_only_in_case(postgres: Database) -> None:
    postgres.execute('CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE "Orders" (id int PRIMARY KEY)')
    with source_of(postgres) as source:
        found = source.discover()
        with pytest.raises(PreconditionError, match=r"public\.Orders: .*'public\.orders' only in case"):
            source.prepare(found, None, None)
    postgres.execute('DROP TABLE "Orders"; ALTER TABLE orders ADD COLUMN "ID" int')
    with source_of(postgres) as source:
        found = source.discover()
        with pytest.raises(PreconditionError, match=r"its columns 'id' and 'ID' differ only in case"):
            source.prepare(found, None, None)
        assert [c.ok for c in source.check() if c.name == "identifiers"] == [False]


def test_only_a_column_without_any_default_is_known_to_be_null(postgres: Database) -> None:
    postgres.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY);
        ALTER TABLE t ADD COLUMN plain int;
        ALTER TABLE t ADD COLUMN fast int DEFAULT 5;
        ALTER TABLE t ADD COLUMN dropped int DEFAULT 6;
        ALTER TABLE t ALTER COLUMN dropped DROP DEFAULT;
        ALTER TABLE t ADD COLUMN late int;
        ALTER TABLE t ALTER COLUMN late SET DEFAULT 7;
        ALTER TABLE t ADD COLUMN demanded int NOT NULL DEFAULT 8;
        """
    )
    table = discovered(postgres)["public.t"]
    assert {c.name for c in table.columns if c.fill is Fill.NULL} == {"plain"}


def test_a_table_changes_publication_with_its_identity(postgres: Database) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with source_of(postgres) as source:
        known = source.discover()
        source.prepare(known, None, None)
        assert published(postgres) == {"public.t"}
        postgres.execute("ALTER TABLE t DROP CONSTRAINT t_pkey")
        (found,) = source.inspect(known)
        assert found.reload
        assert (published(postgres), published(postgres, "inserts")) == (set(), {"public.t"})
        postgres.execute("INSERT INTO t VALUES (1); UPDATE t SET id = 2")


def test_a_publication_of_a_dba_is_accepted_when_it_fits(postgres: Database) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    postgres.superuser(f"REVOKE {APP.name} FROM {REFLEX.name}")
    name = f"reflex_{postgres.name}"
    try:
        postgres.execute(f"GRANT SELECT ON t, u TO {REFLEX.name}")
        with source_of(postgres) as source, pytest.raises(PreconditionError) as refused:
            source.prepare(source.discover(), None, None)
        assert f'CREATE PUBLICATION "{name}" FOR TABLE ONLY "public"."t", ONLY "public"."u"' in refused.value.remedy
        with source_of(postgres) as source:
            failed = [c for c in source.check() if not c.ok and not c.warning]
        assert {c.name for c in failed} == {"publication"}
        assert all("CREATE PUBLICATION" in c.remedy for c in failed)
        postgres.superuser(f'CREATE PUBLICATION "{name}" FOR TABLE t')
        with source_of(postgres) as source:
            found = source.discover()
            with pytest.raises(PreconditionError, match="belongs to another role") as refused:
                source.prepare(found, None, None)
            assert 'ADD TABLE ONLY "public"."u"' in refused.value.remedy
            postgres.superuser(f'ALTER PUBLICATION "{name}" ADD TABLE u')
            source.prepare(source.discover(), None, None)
            assert all(c.ok for c in source.check() if c.name == "publication")
            assert source.teardown() == []
        assert published(postgres) == {"public.t", "public.u"}
    finally:
        postgres.superuser(f"GRANT {APP.name} TO {REFLEX.name}")


def test_check_names_what_is_missing_and_how_to_mend_it(postgres: Database) -> None:
    postgres.execute(
        "CREATE TABLE hidden (id int PRIMARY KEY); CREATE TABLE bare (id int); CREATE TABLE ok (a numeric)"
    )
    postgres.superuser(f"REVOKE {APP.name} FROM {REFLEX.name}; ALTER ROLE {REFLEX.name} NOREPLICATION")
    try:
        with source_of(postgres) as source:
            checks = {c.name: c for c in source.check()}
            with pytest.raises(PreconditionError, match="may not start replication"):
                source.prepare([], None, None)
    finally:
        postgres.superuser(f"GRANT {APP.name} TO {REFLEX.name}; ALTER ROLE {REFLEX.name} REPLICATION")
    assert checks["replication right"].remedy == f'ALTER ROLE "{REFLEX.name}" REPLICATION;'
    assert f'GRANT SELECT ON "public"."hidden" TO "{REFLEX.name}";' in checks["SELECT right"].remedy
    assert not checks["SELECT right"].ok
    assert checks["replica identity"].warning
    assert "REPLICA IDENTITY FULL" in checks["replica identity"].remedy
    assert "exact text" in checks["types"].detail
    with source_of(postgres) as source:
        assert [c for c in source.check() if not c.ok and not c.warning] == []


def test_check_says_when_the_server_does_not_let_us_in(postgres: Database) -> None:
    from engine.source import Secret

    with source_of(postgres, password=Secret("wrong-pass-71")) as source:
        (failed,) = source.check()
    assert not failed.ok
    assert "28P01" in failed.detail
    assert "wrong-pass-71" not in repr(failed)


def test_row_level_security_is_an_error_and_not_a_filter(postgres: Database) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    postgres.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY")
    with source_of(postgres) as source:
        checks = [c for c in source.check() if c.name == "row-level security"]
        assert [c.remedy for c in checks] == [f'ALTER ROLE "{REFLEX.name}" BYPASSRLS;']
        found = source.discover()
        source.prepare(found, None, None)
        with source.snapshot(found, start=True) as snapshot:
            with pytest.raises(PreconditionError, match="row-level security"):
                list(snapshot.read(snapshot.split(snapshot.tables[0])[0]))
        source.teardown()


def test_an_extensions_tables_are_its_own(postgres: Database) -> None:
    if not postgres.server.has_extension("pg_stat_statements"):
        pytest.skip("no contrib modules here")
    postgres.execute("CREATE TABLE mine (id int PRIMARY KEY)")
    postgres.execute("CREATE EXTENSION hstore", role=SUPERUSER)
    postgres.superuser("CREATE TABLE public.theirs (id int); ALTER EXTENSION hstore ADD TABLE public.theirs")
    assert set(discovered(postgres)) == {"public.mine"}


def test_objects_are_named_after_the_instance() -> None:
    from connectors.postgres.slot import object_name

    assert object_name("shop_1") == "reflex_shop_1"
    names = {object_name(n) for n in ("shop-live", "shop_live", "Shop-live", "shop.live", "x" * 80, "x" * 81, "ü")}
    assert len(names) == 7
    assert all(len(n) <= 55 and n.replace("_", "").isalnum() and n.isascii() and n == n.lower() for n in names)


def test_table_id_spells_names_as_the_source_does(postgres: Database) -> None:
    postgres.execute('CREATE SCHEMA "Üb er"; CREATE TABLE "Üb er"."select" ("a b" int PRIMARY KEY)')
    with source_of(postgres) as source:
        (table,) = source.discover()
        assert table.id == TableId("Üb er", "select")
        source.prepare([table], None, None)
    assert published(postgres) == {"Üb er.select"}
