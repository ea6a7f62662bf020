"""The MySQL and MariaDB servers that all other tests stand on: they start, log, fail and restart as told."""

from __future__ import annotations

from collections.abc import Callable

import pymysql
import pytest

from tests.support.servers import APP, REFLEX, ROOT, LocalMySql, MySqlDatabase, MySqlServer


def test_database_has_the_expected_version_and_a_row_based_log(mysql_any: MySqlDatabase, mysql_flavour: str) -> None:
    version = str(mysql_any.execute("SELECT version()")[0][0])
    assert version.startswith(mysql_flavour.partition("-")[2])
    assert ("MariaDB" in version) == mysql_any.is_mariadb
    server = mysql_any.server
    assert (server.setting("log_bin"), server.setting("binlog_format")) == (1, "ROW")
    before = server.gtids()
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    assert server.gtids() != before
    assert server.binary_log_position()[0] in server.binary_logs()


def test_reflex_reads_and_replicates_and_does_nothing_else(mysql_any: MySqlDatabase) -> None:
    mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    assert mysql_any.execute("SELECT * FROM t", role=REFLEX) == [(1,)]
    mysql_any.execute("SHOW BINARY LOGS", role=REFLEX)
    with pytest.raises(pymysql.MySQLError) as refused:
        mysql_any.execute("INSERT INTO t VALUES (2)", role=REFLEX)
    assert refused.value.args[0] == 1142
    with pytest.raises(pymysql.OperationalError) as refused:
        mysql_any.connect(REFLEX, password="wrong")
    assert refused.value.args[0] == 1045


def test_each_test_has_an_empty_database_of_its_own(mysql_any: MySqlDatabase) -> None:
    assert mysql_any.execute("SHOW TABLES") == []
    other = mysql_any.server.create_database("other_1")
    try:
        other.execute("CREATE TABLE t (id int)")
        with pytest.raises(pymysql.MySQLError):
            mysql_any.server.execute("SELECT 1 FROM otherX1.t", role=REFLEX)
    finally:
        other.drop()
    assert mysql_any.superuser("SELECT count(*) FROM mysql.db WHERE db LIKE 'other%%'") == [(0,)]


def test_dropping_a_database_ends_the_transactions_in_it(mysql_server_any: MySqlServer) -> None:
    database = mysql_server_any.create_database()
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with database.connect(autocommit=False) as connection:
        connection.cursor().execute("INSERT INTO t VALUES (1)")
        database.drop()
    assert mysql_server_any.execute("SHOW DATABASES LIKE %s", (database.name,)) == []


def test_defaults_are_hostile_and_the_tests_sessions_are_not(mysql_any: MySqlDatabase) -> None:
    with pymysql.connect(
        host=mysql_any.server.host, port=mysql_any.server.port, user=APP.name, password=APP.password, charset="utf8mb4"
    ) as bare, bare.cursor() as cursor:  # fmt: skip
        cursor.execute("SELECT @@time_zone, @@sql_mode")
        zone, mode = cursor.fetchone()
    assert zone == "+05:30"
    assert "ANSI_QUOTES" in mode
    assert mysql_any.execute("SELECT @@time_zone, @@sql_mode") == [("+00:00", "NO_ENGINE_SUBSTITUTION")]
    assert mysql_any.superuser("SELECT @@GLOBAL.character_set_server") == [("latin1",)]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_data_outlive_every_kind_of_stop(private_mysql_any: MySqlServer, mode: str) -> None:
    database = private_mysql_any.create_database("kept")
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (7)")
    private_mysql_any.stop(mode)
    assert not private_mysql_any.answers()
    private_mysql_any.start()
    assert database.execute("SELECT id FROM t") == [(7,)]


def test_settings_are_made_and_changed(make_mysql: Callable[..., MySqlServer], mysql_flavour: str) -> None:
    server = make_mysql(mysql_flavour, settings={"lower_case_table_names": 1, "binlog_format": None})
    assert server.setting("lower_case_table_names") == 1
    server.configure(max_connections=77, innodb_buffer_pool_size=64 << 20)
    assert server.setting("max_connections") == 77
    server.restart()
    assert (server.setting("max_connections"), server.setting("innodb_buffer_pool_size")) == (77, 64 << 20)
    assert server.setting("binlog_format") == ("MIXED" if server.is_mariadb else "ROW")


def test_a_frozen_server_keeps_connections_and_answers_later(private_mysql_any: MySqlServer) -> None:
    with private_mysql_any.connect() as connection, connection.cursor() as cursor:
        with private_mysql_any.frozen(), pytest.raises(pymysql.OperationalError):
            private_mysql_any.connect(connect_timeout=1, read_timeout=1)
        assert cursor.execute("SELECT 1") == 1


def test_two_servers_have_uuids_and_data_of_their_own(make_mysql: Callable[..., MySqlServer]) -> None:
    one, other = make_mysql(), make_mysql()
    assert one.setting("server_uuid") != other.setting("server_uuid")


def test_tls_is_served_and_verified_by_its_authority_and_can_be_off(private_mysql_any: MySqlServer) -> None:
    if not isinstance(private_mysql_any, LocalMySql):
        pytest.skip("containers keep the certificates that they make themselves")
    authority = private_mysql_any.enable_tls(required=True)
    with private_mysql_any.connect(ssl={"ca": str(authority)}) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchone()[1]
    with pytest.raises(pymysql.OperationalError):
        private_mysql_any.connect(role=ROOT, ssl=None, ssl_disabled=True)
    private_mysql_any.configure(require_secure_transport="OFF")
    private_mysql_any.disable_tls()
    assert private_mysql_any.execute("SHOW STATUS LIKE 'Ssl_cipher'")[0][1] == ""
