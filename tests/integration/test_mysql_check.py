"""`check` against real servers: every precondition that does not hold is found, with the statement that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from connectors.mysql.check import check, refuse_unsuitable
from connectors.mysql.connection import Connections
from connectors.mysql.grants import LOCK, READ, Grants
from engine.errors import PreconditionError
from engine.source import Check, Secret
from tests.support.servers import MySqlDatabase, MySqlServer


def checks(database: MySqlDatabase, **changes: object) -> list[Check]:
    options = database.options(**changes)
    return check(Connections(options), options)


def failed(database: MySqlDatabase, **changes: object) -> dict[str, Check]:
    return {c.name: c for c in checks(database, **changes) if not c.ok}


@pytest.fixture
def account(mysql_any: MySqlDatabase) -> Iterator[str]:
    """A user of the test's own, without any right."""
    name = "narrow"
    mysql_any.superuser(f"CREATE USER {name}@'%' IDENTIFIED BY 'narrow-pass'")
    yield name
    mysql_any.superuser(f"DROP USER {name}@'%'")


def test_a_fit_source_has_warnings_at_most(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, d date); CREATE TABLE k (x int)")
    found = checks(mysql_any)
    assert [c for c in found if not c.ok and not c.warning] == []
    names = {c.name for c in found}
    assert {"connection", "log_bin", "binlog_format", "grant REPLICATION SLAVE", "grant SELECT", "retention"} <= names
    assert "2 tables" in next(c.detail for c in found if c.name == "tables")
    assert [c.detail.split()[0] for c in found if c.name == "key"] == [f"{mysql_any.name}.k"]
    assert any("zero dates" in c.detail for c in found if c.name == "types")


def test_every_missing_right_is_named_with_its_grant(mysql_any: MySqlDatabase, account: str) -> None:
    mysql_any.execute("CREATE TABLE t (x int)")
    mysql_any.superuser(f"GRANT INSERT ON `{mysql_any.name}`.* TO {account}")
    narrow = {"user": account, "password": Secret("narrow-pass")}
    wanted = {"grant REPLICATION SLAVE", "grant REPLICATION CLIENT", "grant SELECT"}
    if not mysql_any.is_mariadb:
        wanted.add("grant LOCK TABLES")
    found = failed(mysql_any, **narrow)
    assert wanted <= set(found)
    with Connections(mysql_any.options(**narrow)).session("t") as connection, pytest.raises(
        PreconditionError, match="GRANT REPLICATION"
    ):  # fmt: skip
        refuse_unsuitable(connection)
    # What it says to do mends it.
    for name in wanted:
        mysql_any.superuser(found[name].remedy)
    assert not wanted & set(failed(mysql_any, **narrow))
    with Connections(mysql_any.options(**narrow)).session("t") as connection:
        refuse_unsuitable(connection)
        assert Grants.read(connection).on_database(READ, mysql_any.name)
        assert not Grants.read(connection).on_database(READ, "another")


def test_without_any_right_the_grant_is_named(mysql_any: MySqlDatabase, account: str) -> None:
    narrow = {"user": account, "password": Secret("narrow-pass")}
    [only] = checks(mysql_any, **narrow)
    assert (only.ok, only.name) == (False, "configuration")
    assert only.remedy.startswith("GRANT SELECT ON ")
    assert "GRANT" not in only.detail
    mysql_any.superuser(only.remedy)
    assert "configuration" not in failed(mysql_any, **narrow)


def test_rights_on_some_columns_are_told(mysql_any: MySqlDatabase, account: str) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int); CREATE TABLE u (id int PRIMARY KEY)")
    mysql_any.superuser(f"GRANT SELECT (id, b) ON `{mysql_any.name}`.t TO {account}")
    mysql_any.superuser(f"GRANT SELECT ON `{mysql_any.name}`.u TO {account}")
    narrow = {"user": account, "password": Secret("narrow-pass")}
    partly = [c for c in checks(mysql_any, **narrow) if c.name == "grant SELECT" and not c.ok]
    assert [(c.warning, f"{mysql_any.name}.t" in c.detail) for c in partly] == [(True, True)]
    mysql_any.superuser(partly[0].remedy.partition(";")[0])
    assert "grant SELECT" not in failed(mysql_any, **narrow)


def test_rights_by_a_role_and_on_single_tables_count(mysql_any: MySqlDatabase, account: str) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    mysql_any.superuser("CREATE ROLE streaming; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO streaming")
    try:
        mysql_any.superuser(f"GRANT streaming TO {account}; GRANT SELECT ON `{mysql_any.name}`.t TO {account}")
        mysql_any.superuser(
            f"SET DEFAULT ROLE streaming FOR {account}"
            if mysql_any.is_mariadb
            else f"SET DEFAULT ROLE ALL TO {account}"
        )
        narrow = {"user": account, "password": Secret("narrow-pass")}
        assert (
            failed(mysql_any, include=("t",), **narrow)
            .keys()
            .isdisjoint({"grant REPLICATION SLAVE", "grant REPLICATION CLIENT", "grant SELECT"})
        )
        mysql_any.superuser(f"GRANT INSERT ON `{mysql_any.name}`.u TO {account}")
        assert f"{mysql_any.name}.u" in failed(mysql_any, **narrow)["grant SELECT"].detail
    finally:
        mysql_any.superuser("DROP ROLE streaming")


def test_settings_that_are_unfit(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    server = make_mysql(
        mysql_flavour,
        settings={
            "binlog_format": "STATEMENT",
            "binlog_row_image": "MINIMAL",
            "binlog_ignore_db": "hidden",
            "binlog_expire_logs_seconds": 3600,
            **({} if mysql_flavour.startswith("mariadb") else {"gtid_mode": "OFF"}),
        },
    )
    database = server.create_database("hidden")
    database.execute("CREATE TABLE t (x int); CREATE TABLE m (id int PRIMARY KEY) ENGINE=MyISAM")
    database.execute("CREATE TABLE n (x int) ENGINE=MyISAM; CREATE TABLE A (x int); CREATE TABLE a (x int)")
    found = failed(database, server_id=4711)
    assert {"binlog_format", "binlog_row_image", "binlog filters", "binlog_server_id", "retention"} <= set(found)
    assert {"storage engine", "identifiers", "key", "stream"} <= set(found)
    assert ("gtid_mode" in found) == (not server.is_mariadb)
    assert f"{database.name}.n" in found["stream"].detail
    with Connections(database.options()).session("t") as connection, pytest.raises(PreconditionError, match="ROW"):
        refuse_unsuitable(connection)
    # Each begins with a statement of this server's, which lasts where it can.
    for name in ("binlog_format", "binlog_row_image", "binlog_row_metadata", "retention"):
        statement = found[name].remedy.split(";")[0]
        assert statement.startswith("SET GLOBAL" if server.is_mariadb else "SET PERSIST")
        database.superuser(statement)
    assert failed(database, server_id=4711).keys().isdisjoint({"binlog_format", "binlog_row_image", "retention"})
    with Connections(database.options()).session("t") as connection:
        refuse_unsuitable(connection)


def test_no_binary_log(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    mariadb = mysql_flavour.startswith("mariadb")
    off: dict[str, object] = {"log_bin": None} if mariadb else {"log_bin": None, "skip_log_bin": "1", "gtid_mode": None}
    database = make_mysql(mysql_flavour, settings=off).create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    assert "log_bin" in failed(database)
    with Connections(database.options()).session("t") as connection, pytest.raises(PreconditionError, match="log_bin"):
        refuse_unsuitable(connection)


def test_a_refused_connection_is_a_failed_check(mysql: MySqlDatabase) -> None:
    [only] = checks(mysql, password=Secret("wrong"))
    assert (only.ok, only.name) == (False, "configuration")
    [only] = checks(mysql, port=1)
    assert (only.ok, only.name) == (False, "connection")


def test_generated_columns(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int AS (id + 1) VIRTUAL); CREATE TABLE u (id int PRIMARY KEY)"
    )
    found = failed(mysql_any)
    assert ("generated columns" in found) == mysql_any.is_mariadb
    if mysql_any.is_mariadb:
        assert f"{mysql_any.name}.t" in found["generated columns"].detail
        assert found["generated columns"].warning
    assert "generated columns" not in failed(mysql_any, exclude_columns={f"{mysql_any.name}.t": ("a",)})


def test_an_excluded_key_and_no_table_at_all(mysql_any: MySqlDatabase) -> None:
    assert not {c.name: c for c in checks(mysql_any)}["tables"].ok
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    found = failed(mysql_any, exclude_columns={f"{mysql_any.name}.t": ("id",)})
    assert "id" in found["tables"].detail or "id" in found["tables"].remedy


@pytest.mark.parametrize(
    "line, database, right, expected",
    [
        ("GRANT ALL PRIVILEGES ON *.* TO `a`@`%` WITH GRANT OPTION", "x", LOCK, True),
        (r"GRANT SELECT ON `my\_db`.* TO `a`@`%`", "my_db", READ, True),
        (r"GRANT SELECT ON `my\_db`.* TO `a`@`%`", "myxdb", READ, False),
        ("GRANT SELECT ON `my_db`.* TO `a`@`%`", "myxdb", READ, True),
        ("GRANT SELECT ON `my%`.* TO `a`@`%`", "my_other", READ, True),
        ("GRANT SELECT ON `o``dd`.* TO `a`@`%`", "o`dd", READ, True),
        ("GRANT SELECT, LOCK TABLES ON `x`.* TO `a`@`%`", "x", LOCK, True),
        ("GRANT SELECT (a, b), INSERT (a) ON `x`.`t` TO `a`@`%`", "x", READ, False),
        ("GRANT SELECT ON `x`.`t` TO `a`@`%`", "x", READ, False),
        ("GRANT USAGE ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD '*AB'", "x", READ, False),
        ("GRANT `role`@`%` TO `a`@`%`", "x", READ, False),
    ],
)
def test_lines_of_show_grants(line: str, database: str, right: str, expected: bool) -> None:
    assert Grants.parse("'a'@'%'", [line]).on_database(right, database) is expected


def test_statements_quote_what_they_name() -> None:
    grants = Grants.parse("'a'@'%'", [])
    assert grants.statement(READ, "my_d`b") == r"GRANT SELECT ON `my\_d``b`.* TO 'a'@'%';"
    assert grants.statement(LOCK) == "GRANT LOCK TABLES ON *.* TO 'a'@'%';"
