"""The preconditions of a SQL Server source, each with the statement that mends it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator

from connectors.sqlserver import capture
from connectors.sqlserver.catalog import Catalog
from connectors.sqlserver.connection import Connection, Connections
from connectors.sqlserver.database import Database, Rights, grant_changes, grant_state
from connectors.sqlserver.jobs import check_jobs
from connectors.sqlserver.selection import hindrances, no_table, notes, select
from engine.errors import ConfigError, EngineError, PreconditionError
from engine.source import Check, SourceOptions

_NAMED_AT_MOST = 10


def check(connections: Connections, options: SourceOptions) -> list[Check]:
    """Verify everything; a failure to connect is itself a failed check."""
    checks: list[Check] = []
    try:
        with connections.session("connecting") as connection:
            checks.append(Check("connection", ok=True, detail=f"{connection.title}, as {connection.login}"))
            checks += _checks(connection, options)
    except (ConfigError, PreconditionError) as error:
        checks.append(Check("configuration", ok=False, detail=str(error)))
    except EngineError as error:
        checks.append(Check("connection", ok=False, detail=str(error)))
    return checks


def _checks(connection: Connection, options: SourceOptions) -> Iterator[Check]:
    database = Database.read(connection)
    on = "on" if database.cdc else "off"
    remedy = "" if database.cdc else "EXEC sys.sp_cdc_enable_db;"
    detail = f"change data capture is {on} in database {connection.database}"
    yield Check("change data capture", ok=database.cdc, detail=detail, remedy=remedy)
    if not database.cdc:
        return
    rights = Rights.read(connection)
    yield _right(connection, "SELECT ON SCHEMA::cdc", grant_changes(connection), ok=rights.changes)
    yield _right(connection, "VIEW DATABASE STATE", grant_state(connection), ok=rights.state)
    if not rights.changes:
        return
    if rights.state:
        capture.log_end(connection)
        yield from check_jobs(connection)
    selection = select(Catalog(connection, options).candidates(), connection.user)
    names = [str(t.id) for t in selection.tables]
    if names:
        named = ", ".join(names[:_NAMED_AT_MOST]) + (" ..." if len(names) > _NAMED_AT_MOST else "")
        yield Check("tables", ok=True, detail=f"{len(names)} tables: {named}")
    elif not selection.left_out and not selection.uncaptured:
        yield no_table(options, connection.user)
    yield from (each.check() for each in selection.left_out)
    yield from hindrances(selection)
    yield from notes(selection.tables, versioned=database.snapshot_isolation, database=connection.database)


def _right(connection: Connection, right: str, grant: str, *, ok: bool) -> Check:
    detail = f"{connection.user} {'has' if ok else 'lacks'} {right}"
    return Check(f"grant {right}", ok=ok, detail=detail, remedy="" if ok else grant)
