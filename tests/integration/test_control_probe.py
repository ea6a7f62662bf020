"""test-connection against real servers and networks: what is found, and each reason told from the others."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors import registry
from engine.config.model import TlsSection
from engine.control import probe as probing
from engine.control.contract import TestConnectionAnswer
from engine.control.probe import Probed, probe
from engine.control.records import Backend, SyncMode
from engine.source import Secret
from tests.support.control import BODY, Control
from tests.support.servers import REFLEX, Database, LocalMySql, LocalPostgres, MySqlDatabase, PostgresServer
from tests.support.servers.mysql_server import MySqlServer
from tests.support.waiting import free_port


def of(database: Database | MySqlDatabase, mode: SyncMode = SyncMode.POLL, **changes: Any) -> Probed:
    probed = Probed(
        backend=Backend.POSTGRES if isinstance(database, Database) else Backend.MYSQL,
        host=database.server.host,
        port=database.server.port,
        user=REFLEX.name,
        password=Secret(REFLEX.password),
        schemas=(database.name,),
        sync_mode=mode,
    )
    return replace(probed, **changes)


def refused(answer: TestConnectionAnswer) -> str | None:
    """The reason of an answer that says no; it never holds a password."""
    assert not answer.ok
    assert answer.message
    assert REFLEX.password not in answer.model_dump_json()
    return answer.error


@contextmanager
def silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


class TestNetwork:
    BASE = Probed(Backend.POSTGRES, "127.0.0.1", 1, "u", Secret("p"), (), SyncMode.POLL)

    def test_names(self) -> None:
        for host in ("no-such-host.invalid", "a..b", "x" * 300, "\U0001f600" * 80):
            answer = probe(replace(self.BASE, host=host))
            assert (refused(answer), answer.latency_ms) == ("dns", None)

    def test_ports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert refused(probe(replace(self.BASE, port=free_port()))) == "refused"
        monkeypatch.setattr(probing, "CONNECT_WITHIN", 0.2)
        # A backlog that is full drops what comes: as behind a firewall.
        with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for waiting in (first, second):
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            assert refused(probe(replace(self.BASE, port=listener.getsockname()[1]))) == "timeout"

    @pytest.mark.parametrize("backend", list(Backend))
    def test_something_that_never_answers(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "ANSWER_WITHIN", 0.5)
        with silent() as port:
            begun = time.monotonic()
            answer = probe(replace(self.BASE, backend=backend, port=port))
        assert refused(answer) == "timeout"
        assert answer.latency_ms is not None
        assert time.monotonic() - begun < 5

    def test_a_backend_whose_driver_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry._SURVEYS, "mssql", "connectors.sqlserver.no_such_module:survey")
        with silent() as port:
            assert refused(probe(replace(self.BASE, backend=Backend.MSSQL, port=port))) == "unsupported"


class TestPostgres:
    def test_what_is_found(self, postgres: Database) -> None:
        postgres.execute("CREATE TABLE big (id int PRIMARY KEY, t text)")
        postgres.execute("INSERT INTO big SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n")
        for mode in (SyncMode.POLL, SyncMode.LOGICAL):
            answer = probe(of(postgres, mode))
            assert answer.ok, answer
            assert answer.error is None
            assert answer.latency_ms is not None
            assert 0 <= answer.latency_ms < 5000
            assert answer.estimated_size_gb is not None
            assert 0.003 < answer.estimated_size_gb < 1
            assert postgres.name in answer.available_schemas
            assert "template1" not in answer.available_schemas
            assert answer.readiness is not None
            assert (answer.readiness.sync_mode, answer.readiness.ready) == (mode.value, True)
        loose = probe(of(postgres, schemas=()))
        assert loose.ok
        assert postgres.name in loose.available_schemas
        assert loose.readiness is not None
        assert not loose.readiness.ready, "nothing was named that could be ready"

    def test_logins_and_databases(self, postgres: Database) -> None:
        assert refused(probe(of(postgres, password=Secret("wrong")))) == "auth"
        assert refused(probe(of(postgres, user="nobody"))) == "auth"
        answer = probe(of(postgres, schemas=("no_such_database",)))
        assert refused(answer) == "database"
        assert postgres.name in answer.available_schemas
        assert refused(probe(of(postgres, schemas=(postgres.name, "no_such_database")))) == "database"
        assert probe(of(postgres, schemas=())).ok

    def test_rights_and_readiness(self, postgres: Database, make_postgres: Callable[..., PostgresServer]) -> None:
        postgres.superuser("CREATE TABLE secret (id int PRIMARY KEY)")
        answer = probe(of(postgres, SyncMode.LOGICAL))
        assert refused(answer) == "rights"
        assert answer.readiness is not None
        assert not answer.readiness.ready
        [issue] = [i for i in answer.readiness.issues if i.name == "SELECT right"]
        assert issue.severity == "error"
        assert issue.remedy is not None
        assert "GRANT SELECT" in issue.remedy
        replica = make_postgres(settings={"wal_level": "replica"})
        database = replica.create_database()
        answer = probe(of(database, SyncMode.LOGICAL))
        assert refused(answer) == "not_ready"
        assert answer.readiness is not None
        assert "wal_level" in [issue.name for issue in answer.readiness.issues]
        assert not database.superuser("SELECT 1 FROM pg_replication_slots")

    def test_tls(self, private_postgres: PostgresServer, tmp_path: Path) -> None:
        if not isinstance(private_postgres, LocalPostgres):
            pytest.skip("needs a server whose files can be changed")
        database = private_postgres.create_database()
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        for mode in ("require", "verify-full"):
            assert refused(probe(of(database), TlsSection(mode=mode))) == "tls"
        authority = private_postgres.enable_tls(required=True)
        assert probe(of(database)).ok
        assert probe(of(database), TlsSection(mode="verify-full", ca=str(authority))).ok
        stranger = _another_authority(tmp_path)
        assert refused(probe(of(database), TlsSection(mode="verify-ca", ca=stranger))) == "tls"
        # Here pg_hba.conf has the word, and it is about who may come in.
        assert refused(probe(of(database), TlsSection(mode="disable"))) == "auth"

    def test_a_server_that_is_down(self, private_postgres: PostgresServer) -> None:
        database = private_postgres.create_database()
        private_postgres.stop()
        assert refused(probe(of(database))) == "refused"


class TestMysql:
    def test_what_is_found(self, mysql_any: MySqlDatabase) -> None:
        mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY, t text)")
        for mode in (SyncMode.POLL, SyncMode.BINLOG):
            answer = probe(of(mysql_any, mode))
            assert answer.ok, answer
            assert mysql_any.name in answer.available_schemas
            assert "information_schema" not in answer.available_schemas
            assert answer.estimated_size_gb is not None
            assert answer.readiness is not None
            assert answer.readiness.ready

    def test_logins_databases_and_rights(self, mysql_any: MySqlDatabase) -> None:
        assert refused(probe(of(mysql_any, password=Secret("wrong")))) == "auth"
        assert refused(probe(of(mysql_any, user="nobody"))) == "auth"
        answer = probe(of(mysql_any, schemas=("no_such_database",)))
        assert refused(answer) == "database"
        assert mysql_any.name in answer.available_schemas
        mysql_any.execute("CREATE TABLE t (id int PRIMARY KEY)")
        mysql_any.superuser("CREATE USER IF NOT EXISTS 'reader'@'%' IDENTIFIED BY 'reader-pass'")
        mysql_any.superuser(f"GRANT SELECT ON `{mysql_any.name}`.* TO 'reader'@'%'")
        reader = of(mysql_any, SyncMode.BINLOG, user="reader", password=Secret("reader-pass"))
        answer = probe(reader)
        assert refused(answer) == "rights"
        assert answer.available_schemas == [mysql_any.name]
        assert answer.readiness is not None
        assert any("REPLICATION SLAVE" in (issue.remedy or "") for issue in answer.readiness.issues)
        assert probe(replace(reader, sync_mode=SyncMode.POLL)).ok

    def test_tls(self, private_mysql: MySqlServer, tmp_path: Path) -> None:
        if not isinstance(private_mysql, LocalMySql):
            pytest.skip("needs a server whose files can be changed")
        database = private_mysql.create_database()
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        authority = private_mysql.enable_tls(required=True)
        assert probe(of(database), TlsSection(mode="verify-full", ca=str(authority))).ok
        stranger = _another_authority(tmp_path)
        assert refused(probe(of(database), TlsSection(mode="verify-ca", ca=stranger))) == "tls"
        assert refused(probe(of(database), TlsSection(mode="disable"))) == "tls"
        private_mysql.disable_tls()
        assert refused(probe(of(database), TlsSection(mode="require"))) == "tls"
        assert probe(of(database)).ok


def _another_authority(folder: Path) -> str:
    import trustme

    path = folder / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return str(path)


def test_over_http_with_given_and_with_kept_credentials(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    source = {
        "backend": "postgres",
        "mysqlHost": postgres.server.host,
        "mysqlPort": postgres.server.port,
        "mysqlUser": REFLEX.name,
        "mysqlPassword": REFLEX.password,
        "availableSchemas": [postgres.name],
        "syncMode": "logical",
    }
    with Control.on(tmp_path) as control, control.client() as client:
        given = client.post("/connections/test-connection", json=source)
        assert given.status_code == 200
        body = {**source, "name": "live", "instance": {"name": "live", "mysqlDb": postgres.name}}
        id = client.post("/connections", json=body).json()["connection"]["id"]
        kept = client.post(f"/connections/{id}/test-connection")
        assert kept.status_code == 200
        for answer in (given.json(), kept.json()):
            assert answer["ok"], answer
            assert answer["readiness"]["ready"]
            assert postgres.name in answer["availableSchemas"]
        assert set(given.json()) == {"ok", "latencyMs", "estimatedSizeGb", "availableSchemas", "readiness"}
        client.patch(f"/connections/{id}", json={"mysqlPassword": "wrong"})
        failed = client.post(f"/connections/{id}/test-connection").json()
        assert (failed["ok"], failed["error"]) == (False, "auth")
        wrong = client.post("/connections/test-connection", json={**source, "mysqlPort": "x"})
        assert wrong.status_code == 400
        assert client.post("/connections/test-connection", json=BODY).status_code == 400, "an instance is not tried"
