"""What the engine's user may do, as SHOW GRANTS says it, and the GRANT statement for what it may not.

Source: "SHOW GRANTS Statement" (dev.mysql.com) and "SHOW GRANTS", "GRANT" (mariadb.com/kb). MariaDB calls REPLICATION
CLIENT by the name BINLOG MONITOR.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from connectors.mysql.connection import Connection
from connectors.mysql.types import database_pattern, quoted

STREAM, LOOK, READ, LOCK = "REPLICATION SLAVE", "REPLICATION CLIENT", "SELECT", "LOCK TABLES"

_GRANT = re.compile(r"GRANT (?P<rights>.+?) ON (?:TABLE )?(?P<scope>(?:`(?:[^`]|``)*`|\*)\.(?:`(?:[^`]|``)*`|\*)) TO ")
_SYNONYMS = {"BINLOG MONITOR": LOOK, "REPLICATION REPLICA": STREAM}
_EVERYTHING = frozenset({"ALL PRIVILEGES", "ALL"})


@dataclass(frozen=True, slots=True)
class Grants:
    """The rights of one account: by scope, which is ``*.*``, a pattern of databases, or a table."""

    account: str
    """As statements spell it: ``'reflex'@'%'``."""
    entries: tuple[tuple[str, frozenset[str]], ...]

    @classmethod
    def read(cls, connection: Connection) -> Grants:
        """Ask the server what the session's account may do, by its active roles too."""
        row = connection.query_one("SELECT current_user()")
        user, _, host = str(row[0] if row else "").rpartition("@")
        account = f"{_text(user)}@{_text(host)}"
        statement = "SHOW GRANTS"
        if not connection.server.mariadb:
            roles = connection.query_one("SELECT current_role()")
            if roles and roles[0] and roles[0] != "NONE":
                statement += f" FOR current_user() USING {roles[0]}"
        return cls.parse(account, (str(line[0]) for line in connection.query(statement)))

    @classmethod
    def parse(cls, account: str, lines: Iterable[str]) -> Grants:
        """Read the lines of SHOW GRANTS."""
        entries = []
        for line in lines:
            found = _GRANT.match(line)
            if found is not None:
                # The rights on single columns stand in parentheses; they are less than the right itself.
                rights = re.sub(r"[A-Z ]+\([^)]*\)", "", found["rights"].upper()).split(",")
                names = frozenset(_SYNONYMS.get(r.strip(), r.strip()) for r in rights)
                entries.append((found["scope"], names))
        return cls(account, tuple(entries))

    def everywhere(self, right: str) -> bool:
        """Whether the account has a right on the whole server."""
        return any(scope == "*.*" and _holds(rights, right) for scope, rights in self.entries)

    def on_database(self, right: str, database: str) -> bool:
        """Whether the account has a right on every table of a database."""
        return self.everywhere(right) or any(
            scope.endswith(".*") and _holds(rights, right) and _matches(scope[:-2], database)
            for scope, rights in self.entries
        )

    def statement(self, right: str, database: str | None = None, table: str | None = None) -> str:
        """The statement that grants a right, on a table, a database or (None) the server."""
        if database is None:
            return f"GRANT {right} ON *.* TO {self.account};"
        if table is not None:
            return f"GRANT {right} ON {quoted(database)}.{quoted(table)} TO {self.account};"
        return f"GRANT {right} ON {database_pattern(database)}.* TO {self.account};"


def _holds(rights: frozenset[str], right: str) -> bool:
    return right in rights or bool(rights & _EVERYTHING)


def _matches(scope: str, database: str) -> bool:
    """Whether a pattern of databases (``%`` and ``_`` are wildcards unless escaped) is for this one."""
    pattern = ""
    escaped = False
    for character in scope[1:-1].replace("``", "`"):
        if character == "\\" and not escaped:
            escaped = True
            continue
        wildcard = {"%": ".*", "_": "."}.get(character) if not escaped else None
        pattern += wildcard or re.escape(character)
        escaped = False
    return re.fullmatch(pattern, database, re.DOTALL) is not None


def _text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
