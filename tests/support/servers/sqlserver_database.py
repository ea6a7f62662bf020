"""One database of a SQL Server test server: what most tests hold in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from engine.source import Secret, SourceOptions
from tests.support.servers.roles import APP, REFLEX, SA, Role

if TYPE_CHECKING:
    import pymssql

    from tests.support.servers.sqlserver_server import SqlServer


@dataclass(frozen=True, slots=True)
class SqlServerDatabase:
    """A database on a server. SQL runs as its owner `app` unless a role is named."""

    server: SqlServer
    name: str

    def connect(self, role: Role | None = None, *, autocommit: bool = True, **options: Any) -> pymssql.Connection:
        """Open a connection; the caller closes it (it is a context manager)."""
        return self.server.connect(self.name, role or APP, autocommit=autocommit, **options)

    def execute(
        self, statement: str, params: Sequence[object] | None = None, *, role: Role | None = None
    ) -> list[tuple[Any, ...]]:
        """Run a batch, autocommitted; returns the last rows."""
        return self.server.execute(statement, params, database=self.name, role=role or APP)

    def superuser(self, statement: str, params: Sequence[object] | None = None) -> list[tuple[Any, ...]]:
        """Run a batch as sa."""
        return self.execute(statement, params, role=SA)

    def enable_cdc(self, *tables: str, instance: str | None = None, role: str | None = None) -> None:
        """Switch change data capture on: of the database, and of tables named ``schema.table`` or ``table`` (of dbo)."""
        if not self.superuser("SELECT is_cdc_enabled FROM sys.databases WHERE database_id = DB_ID()")[0][0]:
            self.superuser("EXEC sys.sp_cdc_enable_db")
        for table in tables:
            schema, _, name = table.rpartition(".")
            self.superuser(
                "EXEC sys.sp_cdc_enable_table @source_schema = %s, @source_name = %s, @role_name = %s,"
                " @capture_instance = %s",
                (schema or "dbo", name, role, instance or f"{schema or 'dbo'}_{name}"),
            )

    def disable_cdc(self, table: str, instance: str = "all") -> None:
        """Switch change data capture of one table off."""
        schema, _, name = table.rpartition(".")
        self.superuser(
            "EXEC sys.sp_cdc_disable_table @source_schema = %s, @source_name = %s, @capture_instance = %s",
            (schema or "dbo", name, instance),
        )

    def captured(self, timeout: float = 60.0) -> None:
        """Wait until the capture job has passed everything that was committed before."""
        self.server.wait_captured(self.name, timeout)

    def stop_capture_job(self) -> None:
        """Stop this database's capture job: commits go on, the change tables stand still."""
        self.server.run_capture_job(self.name, run=False)

    def start_capture_job(self) -> None:
        """Start it again: it goes on where it stopped."""
        self.server.run_capture_job(self.name, run=True)

    def clean_up(self, instance: str) -> bytes:
        """Clean a change table up to the last captured commit, as after the retention time; returns the new low LSN."""
        low = bytes(self.superuser("SELECT sys.fn_cdc_get_max_lsn()")[0][0])
        self.superuser(
            f"EXEC sys.sp_cdc_cleanup_change_table @capture_instance = %s, @low_water_mark = 0x{low.hex()}", (instance,)
        )
        return low

    def options(self, **changes: Any) -> SourceOptions:
        """What the connector needs to reach this database as `reflex`, with changes."""
        options = SourceOptions(
            self.server.host, self.server.port, REFLEX.name, Secret(REFLEX.password), self.name, connect_timeout=5
        )
        return replace(options, **changes)

    def connection_config(self, name: str = "shop") -> dict[str, Any]:
        """The ``connection`` section of a reflex.yaml that reaches this database as `reflex`."""
        return {
            "name": name,
            "backend": "mssql",
            "host": self.server.host,
            "port": self.server.port,
            "user": REFLEX.name,
            "password": REFLEX.password,
            "available_schemas": [self.name],
        }

    def drop(self) -> None:
        """Drop the database, ending who uses it."""
        self.server.drop_database(self.name)
