"""The versions of the state file. A file is brought up to date when it is opened, in one transaction per step.

`PRAGMA user_version` counts the steps that a file has seen. A step is never changed once it is released: what is to be
different is a step of its own. Times are text in UTC with microseconds, so that they sort; lists and notes are JSON.
"""

from __future__ import annotations

import sqlite3

from engine.control.failures import StateUnusable

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE accounts (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            created_at TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE keys (
            id TEXT PRIMARY KEY,
            account_id TEXT NOT NULL REFERENCES accounts (id),
            name TEXT NOT NULL,
            digest BLOB NOT NULL,
            created_at TEXT NOT NULL,
            revoked_at TEXT
        ) STRICT""",
        "CREATE UNIQUE INDEX active_key_names ON keys (account_id, name) WHERE revoked_at IS NULL",
        """CREATE TABLE connections (
            id TEXT PRIMARY KEY,
            account_id TEXT NOT NULL REFERENCES accounts (id),
            name TEXT NOT NULL,
            backend TEXT NOT NULL,
            host TEXT NOT NULL,
            port INTEGER NOT NULL,
            available_schemas TEXT NOT NULL,
            user TEXT NOT NULL,
            secret_ref TEXT NOT NULL UNIQUE,
            sync_mode TEXT NOT NULL,
            min_sync_interval INTEGER NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            UNIQUE (account_id, name)
        ) STRICT""",
        """CREATE TABLE databases (
            id TEXT PRIMARY KEY,
            account_id TEXT NOT NULL REFERENCES accounts (id),
            connection_id TEXT NOT NULL REFERENCES connections (id),
            name TEXT NOT NULL,
            mysql_db TEXT NOT NULL,
            sync_mode TEXT NOT NULL,
            sync_interval INTEGER NOT NULL,
            instance_size TEXT NOT NULL,
            log_level TEXT NOT NULL,
            region TEXT NOT NULL,
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            binlog_server_id INTEGER,
            desired_state TEXT,
            replication_paused INTEGER NOT NULL,
            pause_schedule TEXT,
            tags TEXT NOT NULL,
            status TEXT NOT NULL,
            last_error TEXT,
            endpoint_url TEXT,
            health_status TEXT,
            runtime TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX databases_of_connections ON databases (connection_id)",
        "CREATE INDEX databases_of_accounts ON databases (account_id)",
        # Secrets that are about to be used, or are used no more: deleted from `due` on, unless a connection has them.
        "CREATE TABLE stray_secrets (ref TEXT PRIMARY KEY, due TEXT NOT NULL) STRICT",
    ),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the state file up to date. Raises StateUnusable for a file of a later version of the engine."""
    while True:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Asked within the transaction: another process may have been at it.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(STEPS):
                raise StateUnusable("the state file was written by a later version of the engine")
            if version == len(STEPS):
                connection.execute("ROLLBACK")
                return
            for statement in STEPS[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
