"""The servers that all other tests stand on: they start, replicate, fail and restart as told."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.servers import REFLEX, SUPERUSER, Database, LocalPostgres, PostgresServer
from tests.support.servers.installation import WHEELS
from tests.support.waiting import wait_until


def test_database_has_the_expected_version_and_takes_logical_slots(
    postgres_any: Database, postgres_version: int
) -> None:
    assert postgres_any.execute("SHOW server_version_num")[0][0][:2] == str(postgres_version)
    postgres_any.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    postgres_any.execute("CREATE PUBLICATION p FOR TABLE t", role=REFLEX)
    postgres_any.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')", role=REFLEX)
    postgres_any.execute("INSERT INTO t VALUES (2)")
    changes = postgres_any.execute(
        "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '2',"
        " 'publication_names', 'p')",
        role=REFLEX,
    )
    assert [row[0][:1] for row in changes] == [b"B", b"R", b"I", b"C"]


def test_reflex_is_no_superuser_and_needs_its_password(postgres: Database) -> None:
    assert postgres.execute(
        "SELECT rolsuper, rolreplication FROM pg_roles WHERE rolname = current_user", role=REFLEX
    ) == [(False, True)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(psycopg.conninfo.make_conninfo(postgres.reflex_conninfo, password="wrong"))


def test_each_test_has_an_empty_database(postgres: Database) -> None:
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_dropping_a_database_takes_its_active_slot_along(postgres_server: PostgresServer) -> None:
    database = postgres_server.create_database()
    with psycopg.connect(database.reflex_conninfo, replication="database", autocommit=True) as connection:
        connection.execute("CREATE_REPLICATION_SLOT busy LOGICAL pgoutput")
        database.drop()
    assert postgres_server.execute("SELECT count(*) FROM pg_database WHERE datname = %s", (database.name,)) == [(0,)]


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_data_outlive_every_kind_of_stop(private_postgres: PostgresServer, mode: str) -> None:
    database = private_postgres.create_database("kept")
    database.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (7)")
    if mode == "kill":
        private_postgres.kill()
    else:
        private_postgres.stop(mode)
    assert not private_postgres.answers()
    private_postgres.start()
    assert database.execute("SELECT id FROM t") == [(7,)]


def test_a_frozen_server_keeps_connections_and_answers_later(private_postgres: PostgresServer) -> None:
    with private_postgres.connect() as connection:
        with private_postgres.frozen(), pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(private_postgres.conninfo(), connect_timeout=2)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_settings_change_with_a_restart(private_postgres: PostgresServer) -> None:
    private_postgres.configure(max_replication_slots=3)
    private_postgres.restart()
    assert private_postgres.execute("SHOW max_replication_slots") == [("3",)]


def test_a_server_ends_when_its_test_process_is_killed(private_postgres: PostgresServer) -> None:
    if not isinstance(private_postgres, LocalPostgres):
        pytest.skip("containers are ended by their own reaper")
    program = textwrap.dedent(
        f"""
        import time
        from tests.support.servers import LocalPostgres, find_installation
        server = LocalPostgres(find_installation({private_postgres.version}))
        server.start()
        print(server.pid, server.home, flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, home = owner.stdout.readline().split()
        postmaster = psutil.Process(int(pid))
        assert postmaster.is_running()
        owner.kill()
    wait_until(lambda: not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE, 20)
    wait_until(lambda: not Path(home).exists(), 20, message="its folder is removed")


def test_superuser_reaches_every_database(postgres: Database) -> None:
    assert postgres.execute("SELECT current_user::text", role=SUPERUSER) == [("postgres",)]


def test_tls_is_served_and_verified_by_its_authority(private_postgres: PostgresServer) -> None:
    if not isinstance(private_postgres, LocalPostgres) or private_postgres.installation.origin in WHEELS:
        pytest.skip("this server is built without TLS")
    authority = private_postgres.enable_tls(required=True)
    with psycopg.connect(private_postgres.conninfo(sslmode="verify-full", sslrootcert=str(authority))) as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        psycopg.connect(private_postgres.conninfo(sslmode="disable"))
