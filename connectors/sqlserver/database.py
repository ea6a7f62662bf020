"""What a database says of itself: which one it is, and how it is set up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

from connectors.sqlserver.connection import AZURE_DATABASE, Connection
from connectors.sqlserver.types import quoted
from engine.errors import PreconditionError

_SETTINGS = """
SELECT d.is_cdc_enabled, d.snapshot_isolation_state, d.is_read_committed_snapshot_on
FROM sys.databases d WHERE d.database_id = DB_ID()
"""
_IDENTITY = """
SELECT CONVERT(nvarchar(36), r.database_guid), CONVERT(nvarchar(36), r.recovery_fork_guid)
FROM sys.database_recovery_status r WHERE r.database_id = DB_ID()
"""
_AZURE_IDENTITY = """
SELECT CONVERT(nvarchar(36), d.service_broker_guid), CONVERT(varchar(23), d.create_date, 121)
FROM sys.databases d WHERE d.database_id = DB_ID()
"""
_RIGHTS = """
SELECT HAS_PERMS_BY_NAME('cdc', 'SCHEMA', 'SELECT'),
    HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'VIEW DATABASE STATE')
"""
_SNAPSHOT_ON = 1


@dataclass(frozen=True, slots=True)
class Database:
    """How the database is set up, and what the user may see of it."""

    cdc: bool
    snapshot_isolation: bool
    read_committed_snapshot: bool

    @classmethod
    def read(cls, connection: Connection) -> Self:
        """Ask the database."""
        row = connection.query_one(_SETTINGS)
        assert row is not None
        return cls(bool(row[0]), row[1] == _SNAPSHOT_ON, bool(row[2]))


@dataclass(frozen=True, slots=True)
class Rights:
    """The database-wide rights that following needs."""

    changes: bool
    state: bool

    @classmethod
    def read(cls, connection: Connection) -> Self:
        """Ask the database."""
        row = connection.query_one(_RIGHTS)
        assert row is not None
        # NULL: the name of the database is one that the function does not understand.
        return cls(row[0] == 1, row[1] != 0)


def grant_changes(connection: Connection) -> str:
    """The statement that lets the user read change tables."""
    return f"GRANT SELECT ON SCHEMA::cdc TO {quoted(connection.user)};"


def grant_state(connection: Connection) -> str:
    """The statement that lets the user see where the log ends and how the capture job does."""
    return f"GRANT VIEW DATABASE STATE TO {quoted(connection.user)};"


def identity(connection: Connection) -> str:
    """What tells this database's history from another's: a restore begins a new recovery fork.

    Azure SQL Database does not show those: there a restore makes a new database.
    """
    azure = connection.edition == AZURE_DATABASE
    row = connection.query_one(_AZURE_IDENTITY if azure else _IDENTITY)
    if row is None or row[1] is None:
        raise PreconditionError("the database does not say which one it is (sys.database_recovery_status)")
    return json.dumps({"database": str(row[0]).lower(), "fork": str(row[1]).lower()}, separators=(",", ":"))


def refuse_unsuitable(connection: Connection) -> None:
    """Raise PreconditionError when the database, or the user, cannot follow changes at all."""
    if not Database.read(connection).cdc:
        raise PreconditionError(
            f"change data capture is off in database {connection.database}.", "EXEC sys.sp_cdc_enable_db;"
        )
    rights = Rights.read(connection)
    if not rights.changes:
        raise PreconditionError("the user may not read change tables.", grant_changes(connection))
    if not rights.state:
        raise PreconditionError("the user may not see the state of the log.", grant_state(connection))
