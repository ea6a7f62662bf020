"""The catalog of real servers: which tables, which columns, and what tells their rows apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from connectors.leftout import refuse
from connectors.mysql.catalog import Catalog, CatalogTable
from connectors.mysql.connection import Connections
from connectors.mysql.selection import select
from connectors.registry import open_source
from engine.errors import ConfigError, PreconditionError
from engine.schema import Identity, TableId, TableSchema
from tests.support.servers import MySqlDatabase, MySqlServer


def candidates(database: MySqlDatabase, **changes: object) -> dict[str, CatalogTable]:
    options = database.options(**changes)
    with Connections(options).session("testing") as connection:
        return {t.id.name: t for t in Catalog(connection, options).candidates()}


def table(database: MySqlDatabase, name: str, **changes: object) -> TableSchema:
    return candidates(database, **changes)[name].schema


@pytest.mark.parametrize(
    "definition, key",
    [
        ("a int PRIMARY KEY, b int", ("a",)),
        ("a int, b int, c int, PRIMARY KEY (c, a)", ("c", "a")),
        ("a int, b int NOT NULL, UNIQUE (a), UNIQUE (b)", ("b",)),
        ("a int NOT NULL, b int NOT NULL, c int NOT NULL, UNIQUE one (a, b), UNIQUE two (c)", ("c",)),
        ("a int, UNIQUE (a)", ()),
        ("a int NOT NULL, KEY (a)", ()),
        ("a text NOT NULL, UNIQUE (a(20))", ("a",)),
        ("a varchar(10) NOT NULL, PRIMARY KEY (a(3))", ("a",)),
    ],
)
def test_what_tells_rows_apart(mysql_any: MySqlDatabase, definition: str, key: tuple[str, ...]) -> None:
    mysql_any.execute(f"CREATE TABLE t ({definition})")
    found = table(mysql_any, "t")
    assert found.key == key
    assert found.identity is (Identity.KEY if key else Identity.ROW)


def test_an_index_on_an_expression_is_no_key(mysql: MySqlDatabase) -> None:
    mysql.execute("CREATE TABLE t (a int NOT NULL, UNIQUE ((a + 1)), UNIQUE two (a, (a + 2)))")
    assert table(mysql, "t").identity is Identity.ROW


def test_columns_in_their_order_with_hidden_ones(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(
        "CREATE TABLE t (z int unsigned PRIMARY KEY, j json, f float INVISIBLE, g int AS (z + 1) VIRTUAL,"
        " e enum('x', 'it''s') NOT NULL, b varbinary(9), l varchar(9) CHARACTER SET latin1)"
    )
    found = candidates(mysql_any)["t"]
    assert [(c.name, c.type, c.nullable) for c in found.schema.columns] == [
        ("z", "UINTEGER", False),
        ("j", "JSON", True),
        ("f", "FLOAT", True),
        ("g", "INTEGER", True),
        ("e", "VARCHAR", False),
        ("b", "BLOB", True),
        ("l", "VARCHAR", True),
    ]
    assert found.definition("e").labels == ("x", "it's")
    assert found.definition("l").character_set == "latin1"
    assert found.transactional


def test_json_of_mariadb_is_known_by_its_check(mariadb: MySqlDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (id int PRIMARY KEY, `Od ``d` json, plain longtext, other longtext CHECK (other > ''))"
    )
    assert [c.type for c in table(mariadb, "t").columns] == ["INTEGER", "JSON", "VARCHAR", "VARCHAR"]


def test_views_and_sequences_are_no_tables_and_partitions_are_one(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3; CREATE VIEW v AS SELECT 1 x"
    )
    if mysql_any.is_mariadb:
        mysql_any.execute("CREATE SEQUENCE s")
    assert list(candidates(mysql_any)) == ["t"]


def test_globs_choose_and_columns_are_left_out(mysql_any: MySqlDatabase) -> None:
    for name in ("orders", "orders_old", "audit"):
        mysql_any.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, secret text, x int)")
    name = mysql_any.name
    assert list(candidates(mysql_any, include=("orders*",), exclude=("*_old",))) == ["orders"]
    assert list(candidates(mysql_any, include=(f"{name}.audit",))) == ["audit"]
    found = table(mysql_any, "orders", exclude_columns={f"{name}.orders": ("secret",)})
    assert found.column_names == ("id", "x")


def test_an_excluded_key_column_is_refused_and_named(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, x int)")
    options = mysql_any.options(exclude_columns={f"{mysql_any.name}.t": ("id",)})
    with Connections(options).session("testing") as connection:
        catalog = Catalog(connection, options)
        assert catalog.tables() == []
        with pytest.raises(ConfigError, match=r"tables\.columns\..*\.t\.exclude"):
            refuse(select(connection, options).left_out)
        assert catalog.table(TableId(mysql_any.name, "t")) is None
        assert catalog.candidates()[0].lost_key == ("id",)


def test_one_table_is_looked_up_by_its_exact_name(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE `T %s` (id int PRIMARY KEY); CREATE TABLE `t %s` (id int)")
    options = mysql_any.options(exclude=("other",))
    with Connections(options).session("testing") as connection:
        catalog = Catalog(connection, options)
        found = catalog.table(TableId(mysql_any.name, "T %s"))
        assert found is not None
        assert found.schema.key == ("id",)
        assert catalog.table(TableId(mysql_any.name, "missing")) is None
        assert catalog.table(TableId(mysql_any.name, "other")) is None
        assert catalog.table(TableId("elsewhere", "T %s")) is None


def test_names_of_a_server_that_ignores_case(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    database = make_mysql(mysql_flavour, settings={"lower_case_table_names": 1}).create_database("Shop")
    database.execute("CREATE TABLE Orders (Id int PRIMARY KEY)")
    assert [t.schema.id for t in candidates(database).values()] == [TableId("shop", "orders")]


def test_tables_that_cannot_be_followed_say_why(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE m (id int) ENGINE=MyISAM; CREATE TABLE k (id int PRIMARY KEY) ENGINE=MyISAM")
    if mysql_any.is_mariadb:
        mysql_any.execute("CREATE TABLE v (id int PRIMARY KEY) WITH SYSTEM VERSIONING")
    else:
        mysql_any.execute("CREATE TABLE h (id int PRIMARY KEY) ENGINE=BLACKHOLE")
    found = candidates(mysql_any)
    assert found["m"].schema.identity is Identity.RELOAD
    assert found["k"].schema.identity is Identity.KEY
    assert not found["k"].transactional
    if mysql_any.is_mariadb:
        assert (found["v"].schema.identity, found["v"].unstreamed) == (Identity.RELOAD, "it is system-versioned")
    else:
        assert "BLACKHOLE" in found["h"].hindrance


def test_a_database_that_is_not_there(mysql: MySqlDatabase) -> None:
    with pytest.raises(PreconditionError):
        Connections(mysql.options(database="no_such_database")).open("testing")


def test_schemas_survive_their_json(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute('CREATE TABLE `ü "x` (id int PRIMARY KEY, d decimal(12,2), t time(3))')
    found = table(mysql_any, 'ü "x')
    assert TableSchema.from_json(found.to_json()) == found


@pytest.mark.parametrize("kept", ["t", "T"])
def test_the_table_that_is_replicated_keeps_its_name(mysql_any: MySqlDatabase, kept: str) -> None:
    """The catalog dates tables to the second."""
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE T (id int PRIMARY KEY)")
    source = open_source("mysql", mysql_any.options())
    try:
        assert [t.id.name for t in source.discover([table(mysql_any, kept)])] == [kept]
    finally:
        source.close()
