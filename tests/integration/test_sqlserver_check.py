"""What `check` says of a SQL Server, what mends it, and every way in which a server can refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from connectors.registry import open_poll_source, open_source, survey
from engine.config.model import TlsSection
from engine.control.probe import Probed, probe
from engine.control.records import Backend, SyncMode
from engine.errors import DatabaseUnknown, LoginRefused, PreconditionError, TransientError
from engine.schema import Identity
from engine.source import Check, Secret
from tests.support.replay import Replay
from tests.support.servers import REFLEX, SqlServer, SqlServerDatabase


def checks(database: SqlServerDatabase, **changes: object) -> dict[str, Check]:
    source = open_source("mssql", database.options(**changes))
    try:
        return {c.name: c for c in source.check()}
    finally:
        source.close()


def failed(found: dict[str, Check]) -> set[str]:
    return {name for name, check in found.items() if not check.ok and not check.warning}


def test_each_precondition_is_mended_by_what_check_prints(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    found = checks(sqlserver)
    assert failed(found) == {"change data capture"}
    with pytest.raises(PreconditionError) as caught:
        open_source("mssql", sqlserver.options()).discover()
    assert caught.value.remedy == found["change data capture"].remedy
    sqlserver.superuser(found["change data capture"].remedy)
    found = checks(sqlserver)
    assert failed(found) == {"tables"}
    assert "change data capture is off for it" in found["tables"].detail
    sqlserver.superuser(found["tables"].remedy)
    sqlserver.captured()
    found = checks(sqlserver)
    assert failed(found) == set()
    assert "1 tables: dbo.t" in found["tables"].detail


def test_missing_rights_are_granted_by_what_check_prints(private_sqlserver: SqlServer) -> None:
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    database.enable_cdc("t")
    database.captured()
    database.superuser(f"ALTER ROLE db_datareader DROP MEMBER {REFLEX.name}")
    database.superuser(f"REVOKE VIEW DATABASE STATE FROM {REFLEX.name}")
    found = checks(database)
    assert failed(found) >= {"grant SELECT ON SCHEMA::cdc", "grant VIEW DATABASE STATE"}
    for check in found.values():
        if not check.ok:
            database.superuser(check.remedy)
    # Tables on which it has no right are not shown to it at all.
    remedy = checks(database)["tables"].remedy
    database.superuser(remedy.partition("or: ")[2])
    assert failed(checks(database)) == set()
    replay = Replay(open_source("mssql", database.options()))
    try:
        replay.start()
    finally:
        replay.close()


def test_snapshot_isolation_is_advised_and_needed_without_a_key(sqlserver_server: SqlServer) -> None:
    database = sqlserver_server.create_database(snapshot_isolation=False)
    try:
        database.execute("CREATE TABLE dbo.t (id int PRIMARY KEY, n int); INSERT INTO dbo.t VALUES (1, 1)")
        database.enable_cdc("t")
        database.captured()
        found = checks(database)
        assert failed(found) == set()
        assert not found["snapshot isolation"].ok
        replay = Replay(open_source("mssql", database.options(batch_window=0.02)))
        try:
            replay.start()
            database.execute("UPDATE dbo.t SET n = 2")
            database.captured()
            end = replay.source.status().position
            assert end is not None
            replay.reach(end)
            assert [r.content() for r in replay.tables.values()] == [[(1, 2)]]
        finally:
            replay.close()
        database.execute("CREATE TABLE dbo.bag (n int)")
        database.enable_cdc("bag")
        source = open_source("mssql", database.options())
        try:
            with pytest.raises(PreconditionError, match=r"dbo\.bag has no key") as caught:
                with source.snapshot(source.discover(), start=True):
                    pass
            found = checks(database)
            assert failed(found) == {"snapshot isolation"}
            remedy = found["snapshot isolation"].remedy
            assert remedy == caught.value.remedy.partition("or: ")[2]
            database.superuser(remedy)
            with source.snapshot(source.discover(), start=True) as snapshot:
                assert {t.identity for t in snapshot.tables} == {Identity.KEY, Identity.ROW}
        finally:
            source.close()
    finally:
        database.drop()


def test_a_stopped_capture_job_fails_the_check(sqlserver: SqlServerDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    from connectors.sqlserver import jobs

    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.enable_cdc("t")
    sqlserver.captured()
    assert checks(sqlserver)["capture job"].ok
    sqlserver.stop_capture_job()
    monkeypatch.setattr(jobs, "STALLED", -1.0)
    found = checks(sqlserver)
    assert "capture job" in failed(found)
    assert "sp_cdc_start_job" in found["capture job"].remedy
    sqlserver.start_capture_job()


def test_a_wrong_password_and_a_wrong_database(sqlserver: SqlServerDatabase) -> None:
    for changes, kind in (
        ({"password": Secret("wrong-f00d")}, LoginRefused),
        ({"user": "nobody"}, LoginRefused),
        ({"database": "not_there"}, DatabaseUnknown),
    ):
        source = open_source("mssql", replace(sqlserver.options(), **changes))
        with pytest.raises(kind) as caught:
            source.discover()
        assert "wrong-f00d" not in str(caught.value)
        source.close()
    source = open_source("mssql", replace(sqlserver.options(), port=1))
    with pytest.raises(TransientError):
        source.status()
    source.close()


def test_odd_names_are_followed(sqlserver: SqlServerDatabase) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    sqlserver.execute("CREATE SCHEMA [DBO2]")
    sqlserver.execute("CREATE TABLE [DBO2].[odd ]]name] (id int PRIMARY KEY, [a b] int)")
    sqlserver.enable_cdc("t", "DBO2.odd ]name")
    sqlserver.captured()
    found = checks(sqlserver)
    assert failed(found) == set()
    assert "DBO2.odd ]name" in found["tables"].detail
    replay = Replay(open_source("mssql", sqlserver.options(batch_window=0.02)))
    try:
        replay.start()
        sqlserver.execute("INSERT INTO [DBO2].[odd ]]name] VALUES (1, 2)")
        sqlserver.captured()
        end = replay.source.status().position
        assert end is not None
        replay.reach(end)
        assert [(1, 2)] in [r.content() for r in replay.tables.values()]
    finally:
        replay.close()


def test_polling_needs_select_alone(private_sqlserver: SqlServer) -> None:
    database = private_sqlserver.create_database()
    database.execute("CREATE TABLE dbo.t (id int PRIMARY KEY); CREATE TABLE dbo.u (id int)")
    database.superuser(f"ALTER ROLE db_datareader DROP MEMBER {REFLEX.name}")
    database.superuser(f"REVOKE VIEW DATABASE STATE FROM {REFLEX.name}")
    database.superuser(f"GRANT SELECT ON dbo.t TO {REFLEX.name}")
    source = open_poll_source("mssql", database.options())
    assert [t.id.name for t in source.discover()] == ["t"]
    assert failed({c.name: c for c in source.check()}) == set()
    source.close()


def test_a_survey_names_the_databases_that_the_user_can_enter(sqlserver: SqlServerDatabase) -> None:
    found = survey("mssql", sqlserver.options(database="")).databases
    assert sqlserver.name in found
    assert "master" not in found


@pytest.mark.parametrize("mode", [SyncMode.CDC, SyncMode.POLL])
def test_a_connection_is_tested_before_it_is_made(sqlserver: SqlServerDatabase, mode: SyncMode) -> None:
    sqlserver.execute("CREATE TABLE dbo.t (id int PRIMARY KEY)")
    options = sqlserver.options()
    probed = Probed(
        Backend.MSSQL, options.host, options.port, options.user, options.password, (sqlserver.name,), mode
    )  # fmt: skip
    answer = probe(probed, TlsSection())
    assert answer.ok == (mode is SyncMode.POLL)
    assert sqlserver.name in (answer.available_schemas or ())
    if mode is SyncMode.CDC:
        assert answer.readiness is not None
        assert [i.remedy for i in answer.readiness.issues] == ["EXEC sys.sp_cdc_enable_db;"]
        sqlserver.enable_cdc("t")
        sqlserver.captured()
        assert probe(probed, TlsSection()).ok
    refused = [
        probe(replace(probed, password=Secret("wrong-f00d")), TlsSection()),
        probe(replace(probed, schemas=("not_there",)), TlsSection()),
        probe(replace(probed, port=1), TlsSection()),
    ]
    assert [a.error for a in refused] == ["auth", "database", "refused"]
    assert all("wrong-f00d" not in a.model_dump_json() for a in refused)
