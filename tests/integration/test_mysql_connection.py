"""Connections to real servers: logins, TLS, session settings, timeouts, and their end from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.mysql.connection import Connections, Server
from engine.errors import EngineError, PreconditionError, TransientError
from engine.source import Secret, Tls
from tests.support.servers import REFLEX, LocalMySql, MySqlDatabase, MySqlServer
from tests.support.waiting import wait_until


def test_the_session_is_in_utc_and_utf8_without_modes(mysql_any: MySqlDatabase) -> None:
    with Connections(mysql_any.options()).session("testing") as connection:
        assert connection.server.mariadb == mysql_any.is_mariadb
        assert connection.server.version[:2] == mysql_any.server.version[:2]
        [row] = connection.query(
            "SELECT @@time_zone, @@sql_mode, @@character_set_results, @@character_set_client, @@net_write_timeout,"
            " @@autocommit"
        )
        assert row == ("+00:00", "", "utf8mb4", "utf8mb4", 3600, 1)
        assert connection.query("SELECT 'Grüße €', %s", ['it\'s \\ "x"']) == [("Grüße €", 'it\'s \\ "x"')]


def test_sessions_carry_the_instance_name(mysql: MySqlDatabase) -> None:
    with Connections(mysql.options(instance="shop")).session("testing") as connection:
        shown = mysql.superuser(
            "SELECT ATTR_VALUE FROM performance_schema.session_connect_attrs"
            f" WHERE PROCESSLIST_ID = {connection.thread_id} AND ATTR_NAME = 'program_name'"
        )
        assert shown == [("reflex-engine/shop",)]


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
def test_a_first_login_with_caching_sha2_password(mysql: MySqlDatabase, mode: str) -> None:
    # The server forgets whom it has seen: the password goes over TLS, or under the server's RSA key.
    mysql.superuser("FLUSH PRIVILEGES")
    with Connections(mysql.options(tls=Tls(mode))).session("testing") as connection:
        assert connection.encrypted == (mode != "disable")
        assert connection.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize("password", ["wrong", "päßwörd €"])
def test_a_refused_login_says_why_and_not_the_password(mysql_any: MySqlDatabase, password: str) -> None:
    with pytest.raises(PreconditionError) as refused, Connections(
        mysql_any.options(password=Secret(password))
    ).session("logging in"):  # fmt: skip
        pass
    assert "1045" in str(refused.value)
    assert password not in str(refused.value)


def test_a_password_beyond_latin1_is_sent_as_utf8(mysql_any: MySqlDatabase) -> None:
    mysql_any.superuser("CREATE USER '測試'@'%' IDENTIFIED BY 'пароль €'")
    try:
        mysql_any.superuser(f"GRANT SELECT ON `{mysql_any.name}`.* TO '測試'@'%'")
        wanted = mysql_any.options(user="測試", password=Secret("пароль €"))
        with Connections(wanted).session("testing") as connection:
            assert str(connection.query("SELECT current_user()")[0][0]).startswith("測試")
    finally:
        mysql_any.superuser("DROP USER '測試'@'%'")


def test_an_unknown_database_is_named(mysql_any: MySqlDatabase) -> None:
    mysql_any.superuser(f"GRANT SELECT ON *.* TO {REFLEX.name}")
    try:
        with pytest.raises(PreconditionError, match="1049"):
            Connections(mysql_any.options(database="no_such")).open("testing")
    finally:
        mysql_any.superuser(f"REVOKE SELECT ON *.* FROM {REFLEX.name}")


def test_tls_modes_against_a_known_authority(private_mysql_any: MySqlServer, tmp_path: Path) -> None:
    if not isinstance(private_mysql_any, LocalMySql):
        pytest.skip("containers keep the certificates that they make themselves")
    authority = str(private_mysql_any.enable_tls(required=True))
    database = private_mysql_any.create_database()
    for tls in (Tls("verify-full", authority), Tls("verify-ca", authority), Tls("require", authority), Tls("prefer")):
        with Connections(database.options(tls=tls)).session("testing") as connection:
            assert connection.encrypted
    with pytest.raises(PreconditionError, match="certificate"):
        Connections(database.options(tls=Tls("verify-full"))).open("testing")
    with pytest.raises(EngineError) as refused:
        Connections(database.options(tls=Tls("disable"))).open("testing")
    assert "tls" in str(refused.value) or "1045" in str(refused.value)
    with pytest.raises(PreconditionError, match=r"connection\.tls"):
        Connections(database.options(tls=Tls("verify-ca", str(tmp_path / "missing.pem")))).open("testing")
    private_mysql_any.configure(require_secure_transport="OFF")
    private_mysql_any.disable_tls()
    with pytest.raises(EngineError):
        Connections(database.options(tls=Tls("require"))).open("testing")
    with Connections(database.options(tls=Tls("prefer"))).session("testing") as connection:
        assert not connection.encrypted


def test_a_server_that_is_away_or_frozen_is_transient(make_mysql: Callable[..., MySqlServer]) -> None:
    server = make_mysql("mariadb")
    database = server.create_database()
    with server.frozen(), pytest.raises(TransientError, match="in time"):
        Connections(database.options(connect_timeout=1)).open("testing")
    connections = Connections(database.options())
    with pytest.raises(TransientError), connections.session("testing") as connection:
        server.kill()
        connection.query("SELECT 1")
    with pytest.raises(TransientError, match="refused"):
        connections.open("testing")


def test_close_ends_a_statement_of_another_thread(mysql_any: MySqlDatabase) -> None:
    connections = Connections(mysql_any.options())
    failures: list[EngineError] = []
    begun = threading.Event()

    def work() -> None:
        try:
            with connections.session("sleeping") as connection:
                begun.set()
                connection.query("SELECT sleep(60)")
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    wait_until(lambda: mysql_any.superuser("SELECT 1 FROM information_schema.processlist WHERE info LIKE '%%(60)%%'"))
    before = time.monotonic()
    connections.close()
    thread.join(10)
    assert time.monotonic() - before < 5
    assert [type(error) for error in failures] == [TransientError]
    assert "closed" in str(failures[0])
    with pytest.raises(TransientError, match="closed"):
        connections.open("testing")


@pytest.mark.parametrize(
    "text, mariadb, version",
    [
        ("9.7.4-2", False, (9, 7, 4)),
        ("8.0.36-28", False, (8, 0, 36)),
        ("5.5.5-10.11.18-MariaDB-0+deb12u1-log", True, (10, 11, 18)),
        ("11.8.9-MariaDB", True, (11, 8, 9)),
        ("8.4", False, (8, 4, 0)),
    ],
)
def test_versions_are_read(text: str, mariadb: bool, version: tuple[int, ...]) -> None:
    server = Server.parse(text)
    assert (server.mariadb, server.version) == (mariadb, version)


def test_no_version_is_refused() -> None:
    with pytest.raises(PreconditionError):
        Server.parse("unknown")
