"""One connection's state: who it is, in which database and transaction, with which settings and rights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import duckdb

from tests.support.sqlserver import udf
from tests.support.sqlserver.catalog import Principal, Table
from tests.support.sqlserver.errors import SqlError, Unknown, invalid_object
from tests.support.sqlserver.expressions import ExpressionParser
from tests.support.sqlserver.metadata import Metadata
from tests.support.sqlserver.response import Response
from tests.support.sqlserver.selects import Compiler
from tests.support.sqlserver.store import LIVE, Database, Transaction
from tests.support.sqlserver.syntax import Name
from tests.support.sqlserver.types import INT, NTEXT, SqlType

_ROLE_RIGHTS = {
    "db_datareader": {"select"},
    "db_datawriter": {"insert", "update", "delete"},
    "db_ddladmin": {"alter", "create table"},
}


class Session:
    """The state; interpreter.py runs statements on it."""

    def __init__(self, server: Any, spid: int, login: str, host: str, application: str) -> None:
        self.server = server
        self.spid = spid
        self.login = login
        self.host = host
        self.application = application
        self.database: Database = server.databases["master"]
        self.cursor: duckdb.DuckDBPyConnection = self.database.cursor()
        self.principal = Principal("guest", 2, "")
        self.transaction: Transaction | None = None
        self.level = 0
        self.isolation = "read committed"
        self.switches = {"nocount": False, "xact_abort": False, "implicit_transactions": False}
        self.lock_timeout: float | None = None
        self.identity_insert: int | None = None
        self.identity: int | None = None
        self.row_count = 0
        self.error = 0
        self.caught: SqlError | None = None
        self.variables: dict[str, tuple[Any, SqlType]] = {}
        self.text = ""
        self.response: Response | None = None
        self.metadata: list[Metadata] = []

    # Databases

    def enter(self, name: str) -> None:
        """USE: errors 911 (no such database) and 916 (no right to)."""
        database = self.server.databases.get(name.lower())
        if database is None:
            raise SqlError(911, f"Database '{name}' does not exist. Make sure that the name is entered correctly.")
        if not self.server.may_enter(self.login, name):
            raise SqlError(916, f'The server principal "{self.login}" is not able to access the database "{name}".', 14)
        self.cursor.close()
        self.database = database
        self.cursor = database.cursor()
        if self.login == "sa":
            self.principal = database.users["dbo"]
        else:
            users = [one for one in database.users.values() if one.login.lower() == self.login.lower()]
            self.principal = users[0] if users else Principal("guest", 2, "")

    def duck(self, sql: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run SQL of the embedded engine; its errors become SQL Server's."""
        return self.start(sql, parameters).fetchall()

    def start(self, sql: str, parameters: dict[str, Any] | None = None) -> duckdb.DuckDBPyConnection:
        with Translated():
            return self.cursor.execute(sql, parameters) if parameters else self.cursor.execute(sql)

    def count_rows(self, table: Table) -> int:
        return int(self.duck(f"SELECT count(*) FROM {table.stored} WHERE u = {LIVE}")[0][0])

    # Names

    def split(self, name: Name) -> tuple[str, str]:
        """Schema and name; only names of this database are known."""
        if name[-1].startswith("#"):
            raise Unknown("temporary tables")
        if len(name) == 3 and name[0].lower() == self.database.name.lower():
            name = name[1:]
        if len(name) > 2:
            raise invalid_object(".".join(name))
        return (name[0] or "dbo", name[1]) if len(name) == 2 else ("dbo", name[0])

    def lookup_name(self, name: Name) -> Table | None:
        return self.database.find(*self.split(name))

    def parse_name(self, text: str) -> Name:
        return ExpressionParser(text).name()

    def lookup(self, text: str) -> Table | None:
        """The table of a name in a string, as OBJECT_ID takes it."""
        try:
            return self.lookup_name(self.parse_name(text))
        except SqlError:
            return None

    def find_table(self, name: Name) -> Table:
        """A table to read; errors 208, and 3952 and 3961 under SNAPSHOT isolation."""
        table = self.lookup_name(name)
        if table is None:
            raise invalid_object(".".join(name))
        if self.isolation == "snapshot":
            if not self.database.snapshot_allowed:
                message = f"Snapshot isolation transaction failed accessing database '{self.database.name}'"
                raise SqlError(3952, f"{message} because snapshot isolation is not allowed in this database.")
            if self.transaction and self.transaction.snapshot and self.transaction.snapshot < table.altered_at:
                raise SqlError(
                    3961, "Snapshot isolation transaction failed because the object was altered since it began."
                )
        return table

    def table_to_alter(self, name: Name) -> Table:
        """A table to change the definition of; error 4902 without it."""
        table = self.lookup_name(name)
        if table is None or table.system:
            raise SqlError(4902, f'Cannot find the object "{".".join(name)}" because it does not exist.')
        self.require("alter", table)
        return table

    # Rights

    @property
    def is_owner(self) -> bool:
        return self.login == "sa" or self.is_member("db_owner") or self.principal.name == "dbo"

    def roles(self) -> set[str]:
        """All roles of the user, also by roles."""
        found: set[str] = {"public"}
        waiting = list(self.principal.roles)
        while waiting:
            role = waiting.pop().lower()
            if role not in found:
                found.add(role)
                known = {name.lower(): one for name, one in self.database.users.items()}
                waiting += list(known[role].roles) if role in known else []
        return found

    def is_member(self, role: str) -> bool:
        return role.lower() in self.roles()

    def allowed(self, right: str, schema: str | None, table: Table | None) -> bool:
        """Whether the user has a right on the database, a schema or a table."""
        if self.is_owner:
            return True
        scopes = {"database"}
        if schema is not None:
            scopes.add(f"schema:{schema.lower()}")
        if table is not None:
            scopes.add(f"object:{table.object_id}")
        roles = self.roles()
        known = {name.lower(): one for name, one in self.database.users.items()}
        holders = [self.principal, *(known[role] for role in roles if role in known)]
        wanted = {right, "control"}
        if any((one, scope) in holder.denials for holder in holders for one in wanted for scope in scopes):
            return False
        if any((one, scope) in holder.grants for holder in holders for one in wanted for scope in scopes):
            return True
        return any(right in _ROLE_RIGHTS.get(role, set()) for role in roles)

    def require(self, right: str, table: Table) -> None:
        """Error 229 without a right on a table."""
        if not self.allowed(right, table.schema, table):
            raise self.denied(right.upper(), table.schema, table.name)

    def denied(self, right: str, schema: str, name: str) -> SqlError:
        message = f"The {right} permission was denied on the object '{name}', database '{self.database.name}'"
        return SqlError(229, f"{message}, schema '{schema}'.", 14, 5)

    def may_see(self, table: Table) -> bool:
        """Whether the catalogue shows a table."""
        rights = ("select", "insert", "update", "delete", "alter", "view definition")
        return self.is_owner or any(self.allowed(right, table.schema, table) for right in rights)

    def has_permission(self, name: str | None, kind: str | None, right: str, *_: Any) -> int | None:
        """HAS_PERMS_BY_NAME."""
        if kind is None or kind.upper() == "SERVER":
            return int(self.login == "sa")
        if kind.upper() == "DATABASE":
            return int(self.allowed(right.lower(), None, None))
        if name is None:
            return None
        if kind.upper() == "SCHEMA":
            schema = name.strip("[]")
            known = {one.lower() for one in self.database.schemas}
            return int(self.allowed(right.lower(), schema, None)) if schema.lower() in known else None
        if kind.upper() == "OBJECT":
            table = self.lookup(name)
            return int(self.allowed(right.lower(), table.schema, table)) if table is not None else None
        raise Unknown(f"HAS_PERMS_BY_NAME of a {kind}")

    # Statements

    @property
    def transaction_state(self) -> int:
        if not self.level:
            return 0
        return -1 if self.transaction and self.transaction.doomed else 1

    def variable(self, name: str) -> tuple[Any, SqlType]:
        """A variable's value; error 137 for one that is not declared."""
        known: dict[str, tuple[Any, SqlType]] = {
            "@@trancount": (self.level, INT),
            "@@rowcount": (self.row_count, INT),
            "@@error": (self.error, INT),
            "@@identity": (self.identity, SqlType("numeric", precision=38)),
            "@@spid": (self.spid, SqlType("smallint")),
            "@@servername": ("emulator", NTEXT),
            "@@version": ("Microsoft SQL Server 2022 (emulator)", SqlType("nvarchar", length=300)),
            "@@lock_timeout": (-1 if self.lock_timeout is None else int(self.lock_timeout * 1000), INT),
        }
        if name in self.variables:
            return self.variables[name]
        if name in known:
            return known[name]
        if name.startswith("@@"):
            raise Unknown(f"the variable {name}")
        raise SqlError(137, f'Must declare the scalar variable "{name}".', 15, 2)

    def compiler(self, snapshot: int) -> Compiler:
        """What compiles one statement, at a snapshot."""
        context = Metadata(self, snapshot)
        self.metadata.append(context)
        return Compiler(self.variable, context)

    def snapshot(self) -> int:
        """The commit up to which the statement sees; a SNAPSHOT transaction keeps that of its first read of a table."""
        fixed = self.transaction.snapshot if self.isolation == "snapshot" and self.transaction is not None else None
        return self.database.committed if fixed is None else fixed

    def undo(self, action: Callable[[], Any]) -> None:
        """Remember how to take a definition back, should the transaction be rolled back."""
        if self.transaction is not None:
            self.transaction.undo.append(action)


class Translated:
    """Turns the embedded engine's errors into SQL Server's, by their class."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if not isinstance(error, duckdb.Error):
            return
        found = udf.failure(str(error))
        if found is not None:
            raise found from None
        if "division by zero" in str(error):
            raise SqlError(8134, "Divide by zero error encountered.") from None
        if isinstance(error, duckdb.ConversionException):
            if "type UINT8" in str(error) or "type INT16" in str(error):
                raise SqlError(220, "Arithmetic overflow error for data type.") from None
            if "out of range" in str(error) or "can't be cast" in str(error) or "overflow" in str(error).lower():
                raise SqlError(8115, "Arithmetic overflow error converting expression to data type.") from None
            raise SqlError(245, "Conversion failed when converting a value to the data type.") from None
        if isinstance(error, duckdb.OutOfRangeException):
            raise SqlError(8115, "Arithmetic overflow error converting expression to data type.") from None
        raise Unknown(f"what the embedded engine refuses: {error}") from error
