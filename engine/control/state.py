"""The state of the control API: who may be told what, which rules hold between records.

Every method is one transaction, whole or not at all: a rule that it checks holds when it commits.

Who writes what: the API the wishes (`desired_state`, size, schedule, ...), the reconciler what became of them
(`record_status`). Neither overwrites the other's columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from engine.control import rows
from engine.control.failures import Conflict, NotFound, StateUnusable
from engine.control.records import Account, Backend, Connection, Database, DesiredState, Instance, Key, Status
from engine.control.rows import now, time_text
from engine.control.statefile import StateFile
from engine.errors import ConfigError, Problem

GRACE: Final = timedelta(minutes=10)
"""How long a replaced secret stays, for instances that are started with it meanwhile."""

_OBSERVED = frozenset({"status", "last_error", "endpoint_url", "health_status", "runtime"})
_OBSERVATION = tuple(sorted(_OBSERVED))


def token_ref(database: UUID) -> str:
    """Where the secret store keeps the bearer token of an instance's own HTTP API."""
    return f"instances/{database}/token"


def open_store(path: str | Path) -> Store:
    """The state that ``control.state`` names, for a command. Raises ConfigError when it cannot be used."""
    try:
        return Store(path)
    except StateUnusable as error:
        raise ConfigError([Problem("control.state", str(error))]) from error


class Store(StateFile):
    """The state file's methods. Raises StateUnusable when it cannot be opened, read or written."""

    # Accounts and keys

    def ensure_account(self, name: str) -> Account:
        """The account of this name, made if there is none."""
        with self._transaction():
            found = self._one("SELECT * FROM accounts WHERE name = ?", name)
            if found is not None:
                return rows.account(found)
            account = Account(uuid4(), name, now())
            self._insert("accounts", account)
            return account

    def accounts(self) -> list[Account]:
        """Every account, by name."""
        with self._reading():
            return [rows.account(row) for row in self._all("SELECT * FROM accounts ORDER BY name")]

    def add_key(self, key: Key) -> None:
        """Keep a new key. Raises Conflict when the account has an active one of that name."""
        with self._transaction():
            taken = "SELECT 1 FROM keys WHERE account_id = ? AND name = ? AND revoked_at IS NULL"
            if self._one(taken, str(key.account_id), key.name) is not None:
                raise Conflict("name_taken", f"the account has an active key named {key.name!r}: revoke it first")
            self._insert("keys", key)

    def key(self, id: str) -> Key | None:
        """The key of this id, revoked or not."""
        with self._reading():
            found = self._one("SELECT * FROM keys WHERE id = ?", id)
        return None if found is None else rows.key(found)

    def all_keys(self) -> list[Key]:
        """Every key, the oldest first."""
        with self._reading():
            return [rows.key(row) for row in self._all("SELECT * FROM keys ORDER BY created_at, id")]

    def revoke_keys(self, account_id: UUID, name: str) -> list[Key]:
        """Revoke the active key of this name; returns what was revoked (nothing, or one)."""
        with self._transaction():
            active = "SELECT * FROM keys WHERE account_id = ? AND name = ? AND revoked_at IS NULL"
            found = [rows.key(row) for row in self._all(active, str(account_id), name)]
            for key in found:
                self._db.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (time_text(now()), key.id))
            return found

    # Connections

    def create_connection_with_instance(self, connection: Connection, database: Database | None = None) -> None:
        """Keep a new connection, and its first instance if there is one: both or neither.

        Raises Conflict: ``name_taken``, ``binlog_server_id_taken``.
        """
        with self._transaction():
            self._check_name(connection)
            self._insert("connections", connection)
            self._db.execute("DELETE FROM stray_secrets WHERE ref = ?", (connection.secret_ref,))
            if database is not None:
                self._check_server_id(database, connection)
                self._insert("databases", database)

    def connections(self, account_id: UUID) -> list[Connection]:
        """The account's connections, the oldest first."""
        query = "SELECT * FROM connections WHERE account_id = ? ORDER BY created_at, id"
        with self._reading():
            return [rows.connection(row) for row in self._all(query, str(account_id))]

    def connection(self, account_id: UUID, id: UUID) -> Connection:
        """One connection. Raises NotFound."""
        with self._reading():
            return self._connection(account_id, id)

    def change_connection(
        self, account_id: UUID, id: UUID, change: Callable[[Connection, Sequence[Database]], Connection]
    ) -> Connection:
        """Replace a connection by what `change` makes of it and of the instances on it; `change` may refuse by raising.

        Returns the connection as it is then. Raises NotFound, and Conflict as `create_connection_with_instance`.
        """
        with self._transaction():
            old = self._connection(account_id, id)
            databases = self._databases("connection_id = ?", str(id))
            new = change(old, databases)
            if new == old:
                return old
            new = replace(new, id=old.id, account_id=old.account_id, created_at=old.created_at, updated_at=now())
            if new.name != old.name:
                self._check_name(new)
            self._update("connections", new)
            if (new.host, new.backend) != (old.host, old.backend):
                for database in databases:
                    self._check_server_id(database, new)
            if new.secret_ref != old.secret_ref:
                self._db.execute("DELETE FROM stray_secrets WHERE ref = ?", (new.secret_ref,))
                self._stray(old.secret_ref, now() + GRACE)
            return new

    def delete_connection(self, account_id: UUID, id: UUID) -> None:
        """Forget a connection. Raises NotFound, and Conflict (``connection_in_use``) while there are instances on it."""
        with self._transaction():
            connection = self._connection(account_id, id)
            if self._one("SELECT 1 FROM databases WHERE connection_id = ?", str(id)) is not None:
                message = "there are instances on this connection: terminate and delete them first"
                raise Conflict("connection_in_use", message)
            self._db.execute("DELETE FROM connections WHERE id = ?", (str(id),))
            self._stray(connection.secret_ref, now())

    # Instances

    def create_database(
        self, account_id: UUID, connection_id: UUID, make: Callable[[Connection], Database]
    ) -> Database:
        """Keep a new instance that `make` makes for the connection; `make` may refuse by raising.

        Raises NotFound when there is no such connection, and Conflict: ``binlog_server_id_taken``.
        """
        with self._transaction():
            connection = self._connection(account_id, connection_id)
            database = make(connection)
            self._check_server_id(database, connection)
            self._insert("databases", database)
            return database

    def databases(self, account_id: UUID, connection_id: UUID | None = None) -> list[Database]:
        """The account's instances (of one connection), the oldest first."""
        with self._reading():
            if connection_id is None:
                return self._databases("account_id = ?", str(account_id))
            return self._databases("account_id = ? AND connection_id = ?", str(account_id), str(connection_id))

    def database(self, account_id: UUID, id: UUID) -> Database:
        """One instance. Raises NotFound."""
        with self._reading():
            return self._database(account_id, id)

    def change_database(
        self, account_id: UUID, id: UUID, change: Callable[[Database, Connection], Database]
    ) -> Database:
        """Replace what users decide of an instance by what `change` makes of it; `change` may refuse by raising.

        What the reconciler writes stays as it is. Returns the instance as it is then. Raises NotFound, Conflict.
        """
        with self._transaction():
            old = self._database(account_id, id)
            connection = self._connection(account_id, old.connection_id)
            new = change(old, connection)
            if new == old:
                return old
            kept: dict[str, Any] = {name: getattr(old, name) for name in _OBSERVATION}
            kept |= {"id": old.id, "account_id": old.account_id, "connection_id": old.connection_id}
            new = replace(new, **kept, created_at=old.created_at, updated_at=now())
            if new.binlog_server_id != old.binlog_server_id:
                self._check_server_id(new, connection)
            self._update("databases", new)
            return new

    def delete_database(self, account_id: UUID, id: UUID) -> None:
        """Forget an instance that has nothing running: never provisioned, or terminated.

        Raises NotFound, and Conflict (``instance_active``).
        """
        with self._transaction():
            database = self._database(account_id, id)
            never = database.status is Status.REGISTERED and database.desired_state in (None, DesiredState.TERMINATED)
            if not never and database.status is not Status.TERMINATED:
                message = f"the instance is {database.status}: terminate it, and delete it when it is terminated"
                raise Conflict("instance_active", message)
            self._db.execute("DELETE FROM databases WHERE id = ?", (str(id),))
            self._stray(token_ref(id), now())

    # The reconciler's side

    def instances_to_reconcile(self) -> list[Instance]:
        """Every instance that something is wanted of and that is not terminated, with its connection."""
        query = "desired_state IS NOT NULL AND NOT (status = 'terminated' AND desired_state = 'terminated')"
        with self._transaction():
            found = self._databases(query)
            connections = {row["id"]: rows.connection(row) for row in self._all("SELECT * FROM connections")}
        return [Instance(database, connections[str(database.connection_id)]) for database in found]

    def instances(self) -> list[Instance]:
        """Every instance there is, with its connection."""
        with self._transaction():
            found = self._databases("true")
            connections = {row["id"]: rows.connection(row) for row in self._all("SELECT * FROM connections")}
        return [Instance(database, connections[str(database.connection_id)]) for database in found]

    def instance(self, id: UUID) -> Instance:
        """One instance with its connection, whoever owns it. Raises NotFound."""
        with self._transaction():
            return self._instance(id)

    def record_status(self, id: UUID, **observed: Any) -> Instance:
        """Write what became of an instance: any of status, last_error, endpoint_url, health_status, runtime.

        Returns the instance as it is then, with wishes that came meanwhile. `updated_at` moves when the status, the
        error or the endpoint does. Raises NotFound when the instance was deleted.
        """
        unknown = set(observed) - _OBSERVED
        if unknown:
            raise TypeError(f"not the reconciler's to write: {', '.join(sorted(unknown))}")
        with self._transaction():
            instance = self._instance(id)
            old = instance.database
            new = replace(old, **observed)
            if new == old:
                return instance
            shown = ("status", "last_error", "endpoint_url")
            if any(getattr(new, name) != getattr(old, name) for name in shown):
                new = replace(new, updated_at=now())
            self._update("databases", new)
            return Instance(new, instance.connection)

    def wish(self, id: UUID, desired: DesiredState, *, unless: DesiredState | None = None) -> Instance:
        """Set what an instance is driven towards, on behalf of its pause schedule.

        `unless`: leave it when that is wanted of it now (a schedule resumes nothing that is to be terminated). Raises
        NotFound.
        """
        with self._transaction():
            instance = self._instance(id)
            current = instance.database.desired_state
            if current is desired or current is unless:
                return instance
            new = replace(instance.database, desired_state=desired, updated_at=now())
            self._update("databases", new)
            return Instance(new, instance.connection)

    # Secrets on their way in or out

    def expect_secret(self, ref: str) -> None:
        """Note a secret before it is put: if nothing comes to use it, it is stray after a while."""
        with self._transaction():
            self._stray(ref, now() + GRACE)

    def stray_secrets(self, at: datetime | None = None) -> list[str]:
        """The secrets that nothing uses any more and that may go now."""
        query = (
            "SELECT ref FROM stray_secrets WHERE due <= ? AND ref NOT IN (SELECT secret_ref FROM connections)"
            " ORDER BY due"
        )
        with self._reading():
            return [row["ref"] for row in self._all(query, time_text(at or now()))]

    def forget_secret(self, ref: str) -> None:
        """A stray secret is gone."""
        with self._transaction():
            self._db.execute("DELETE FROM stray_secrets WHERE ref = ?", (ref,))

    def _stray(self, ref: str, due: datetime) -> None:
        self._db.execute("INSERT OR REPLACE INTO stray_secrets VALUES (?, ?)", (ref, time_text(due)))

    # Within a transaction

    def _check_name(self, connection: Connection) -> None:
        query = "SELECT 1 FROM connections WHERE account_id = ? AND name = ? AND id <> ?"
        if self._one(query, str(connection.account_id), connection.name, str(connection.id)) is not None:
            raise Conflict("name_taken", "name: another connection of this account has this name; choose another one")

    def _check_server_id(self, database: Database, connection: Connection) -> None:
        """A MySQL server ends one of two replicas with the same server id: unique per account and source host."""
        if database.binlog_server_id is None or connection.backend is not Backend.MYSQL:
            return
        if database.status is Status.TERMINATED:
            return
        found = self._one(
            """SELECT 1 FROM databases d JOIN connections c ON c.id = d.connection_id
               WHERE c.account_id = ? AND c.backend = 'mysql' AND lower(c.host) = lower(?)
                 AND d.binlog_server_id = ? AND d.status <> 'terminated' AND d.id <> ?""",
            str(connection.account_id),
            connection.host,
            database.binlog_server_id,
            str(database.id),
        )
        if found is not None:
            message = (
                "binlogServerId: another instance on this source host has this id; choose another, or leave it out"
            )
            raise Conflict("binlog_server_id_taken", message)

    def _connection(self, account_id: UUID, id: UUID) -> Connection:
        found = self._one("SELECT * FROM connections WHERE id = ? AND account_id = ?", str(id), str(account_id))
        if found is None:
            raise NotFound("There is no connection of this id.")
        return rows.connection(found)

    def _database(self, account_id: UUID, id: UUID) -> Database:
        found = self._one("SELECT * FROM databases WHERE id = ? AND account_id = ?", str(id), str(account_id))
        if found is None:
            raise NotFound("There is no database of this id.")
        return rows.database(found)

    def _instance(self, id: UUID) -> Instance:
        found = self._one("SELECT * FROM databases WHERE id = ?", str(id))
        if found is None:
            raise NotFound("There is no database of this id.")
        database = rows.database(found)
        return Instance(database, self._connection(database.account_id, database.connection_id))

    def _databases(self, condition: str, *params: Any) -> list[Database]:
        query = f"SELECT * FROM databases WHERE {condition} ORDER BY created_at, id"
        return [rows.database(row) for row in self._all(query, *params)]
