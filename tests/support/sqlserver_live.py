"""A SQL Server database and the engine that replicates it, as one thing to write to and to compare."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pymssql

from tests.support.compare import Query
from tests.support.engine_process import EngineProcess
from tests.support.servers import SA, SqlServerDatabase
from tests.support.waiting import wait_until

UNSETTLED = (AssertionError, httpx.HTTPError, pymssql.Error)

_COLUMNS = """
SELECT c.name, TYPE_NAME(c.system_type_id), c.scale FROM sys.columns c
WHERE c.object_id = OBJECT_ID('{table}') ORDER BY c.column_id
"""
_TABLES = """
SELECT s.name + '.' + t.name FROM sys.tables t JOIN sys.schemas s ON s.schema_id = t.schema_id
WHERE t.is_ms_shipped = 0 AND s.name <> 'cdc' ORDER BY 1
"""
_HELD = """
SELECT table_schema || '.' || table_name FROM information_schema.tables
WHERE table_catalog = current_database() AND table_schema <> '_reflex' ORDER BY 1
"""


def assert_replica_equals_sqlserver(
    source: SqlServerDatabase, query: Query, tables: Sequence[str] | None = None, shown: int = 5
) -> dict[str, int]:
    """Compare tables (``schema.table``; None: all, and the replica has no others) by the servers' own texts.

    Rows are compared as multisets, so tables without a key count their duplicates. Nothing here uses the engine's code.
    """
    counts: dict[str, int] = {}
    with source.connect(SA) as connection, connection.cursor() as opened:
        cursor: Any = opened
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
        cursor.execute("BEGIN TRANSACTION")
        cursor.execute(_TABLES)
        names = [row[0] for row in cursor.fetchall()]
        if tables is None:
            held = sorted(str(row[0]) for row in query(_HELD))
            assert held == sorted(names), f"tables differ: source {names}, replica {held}"
        for table in names if tables is None else tables:
            cursor.execute(_COLUMNS.format(table=table))
            columns = cursor.fetchall()
            cursor.execute(f"SELECT {', '.join(_source_text(*c) for c in columns)} FROM {table}")
            there = Counter(tuple(row) for row in cursor.fetchall())
            here = Counter(map(tuple, query(f"SELECT {', '.join(_replica_text(*c) for c in columns)} FROM {table}")))
            missing, extra = there - here, here - there
            assert there == here, f"{table}: missing {list(missing)[:shown]}, too many {list(extra)[:shown]}"
            counts[table] = there.total()
    return counts


def _source_text(name: str, kind: str, scale: int) -> str:
    match kind:
        case "nvarchar" | "nchar":
            return f"[{name}]"
        case "binary" | "varbinary":
            return f"CONVERT(nvarchar(max), [{name}], 2)"
        case "datetime" | "datetime2" | "smalldatetime":
            return f"CONVERT(nvarchar(40), CONVERT(datetime2(6), [{name}]), 121)"
        case "float":
            return f"[{name}]"
        case _:
            return f"CONVERT(nvarchar(60), [{name}])"


def _replica_text(name: str, kind: str, scale: int) -> str:
    match kind:
        case "binary" | "varbinary":
            return f'hex("{name}")'
        case "datetime" | "datetime2" | "smalldatetime":
            return f"strftime(\"{name}\", '%Y-%m-%d %H:%M:%S.%f')"
        case "bit":
            return f'CAST(CAST("{name}" AS INTEGER) AS VARCHAR)'
        case "uniqueidentifier":
            return f'upper(CAST("{name}" AS VARCHAR))'
        case "float":
            return f'"{name}"'
        case _:
            return f'CAST("{name}" AS VARCHAR)'


class SqlServerLive:
    """`database` and the engine on it. What the engine is told of the source is what a user could tell it."""

    def __init__(self, database: SqlServerDatabase, engine: EngineProcess) -> None:
        self.database = database
        self.engine = engine

    @classmethod
    @contextlib.contextmanager
    def on(
        cls, database: SqlServerDatabase, folder: Path, *, start: bool = True, **sections: Mapping[str, Any]
    ) -> Iterator[SqlServerLive]:
        """An engine on this database, started once it is ready; ended with the block."""
        config: dict[str, Any] = {
            "connection": {**database.connection_config(), "backend": "mssql"},
            "instance": {
                "name": f"live-{database.name}",
                "schema": database.name,
                "sync_mode": "cdc",
                "batch_window_ms": 20,
            },
        }
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section}
        live = cls(database, EngineProcess(folder, config))
        try:
            if start:
                live.engine.start()
            yield live
            live.engine.terminate()
            live.engine.assert_no_secret()
        finally:
            live.engine.kill()
            live.engine.http.close()

    def run(self, *statements: str) -> None:
        """Run each batch by itself, as the owner."""
        for statement in statements:
            self.database.execute(statement)

    def wait_caught_up(self, timeout: float = 60.0) -> None:
        """Wait until readers are at least where the change tables end, everything committed being captured."""
        self.database.captured()
        end = bytes(self.database.superuser("SELECT sys.fn_cdc_get_max_lsn()")[0][0])
        self.engine.wait_position(f"0x{end.hex().upper()}", timeout)

    def compare(self, tables: Sequence[str] | None = None) -> dict[str, int]:
        """Compare row by row now; AssertionError shows the difference."""
        return assert_replica_equals_sqlserver(self.database, self.engine.query, tables)

    def wait_equal(self, tables: Sequence[str] | None = None, timeout: float = 60.0) -> dict[str, int]:
        """Compare again and again until source and replica agree; fails with the last difference and the log's end."""
        found: dict[str, int] = {}

        def equal() -> bool:
            found.clear()
            found.update(self.compare(tables))
            return True

        wait_until(equal, timeout, interval=0.1, ignore=UNSETTLED, message=self.log_end)
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """The engine's log events of this name."""
        return [event for event in self.engine.log_events() if event.get("event") == name]

    def reloads(self) -> int:
        """How many table reloads the engine's log tells of."""
        return len(self.events("table_reload")) + len(self.events("reload_required"))

    def log_end(self, size: int = 4000) -> str:
        """The end of the engine's log, for a failure's message."""
        return f"the engine's log ends:\n{self.engine.log_text()[-size:]}"
