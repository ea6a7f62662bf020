"""Microsoft's SQL Server in a container, by testcontainers, where a Docker engine is present."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from tests.support.servers.roles import SA
from tests.support.servers.sqlserver_server import SqlServer, quote
from tests.support.waiting import free_port, wait_until

IMAGE = "mcr.microsoft.com/mssql/server:2022-latest"


class DockerSqlServer(SqlServer):
    """One container, with SQL Server Agent, which runs the capture jobs. The data outlive a stop, not `close`."""

    emulated = False

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer

        self.port = free_port()
        container = DockerContainer(IMAGE)
        container.with_env("ACCEPT_EULA", "Y").with_env("MSSQL_SA_PASSWORD", SA.password)
        container.with_env("MSSQL_AGENT_ENABLED", "true")
        container.ports["1433/tcp"] = (self.host, self.port)  # type: ignore[assignment] # docker-py takes a pair too
        self._container = container
        self._created = False

    @property
    def running(self) -> bool:
        if not self._created:
            return False
        wrapped = self._wrapped()
        wrapped.reload()
        return str(wrapped.status) in ("running", "paused")

    def start(self, timeout: float = 120.0) -> None:
        if self.running:
            return
        first = not self._created
        if first:
            self._container.start()
            self._created = True
        else:
            self._wrapped().start()
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not self.running or time.monotonic() > deadline:
                message = f"SQL Server did not start; its log ends:\n{self.log_text()[-3000:]}"
                raise RuntimeError(message)
            time.sleep(0.2)
        if first:
            self.create_logins()

    def stop(self, timeout: float = 120.0) -> None:
        if self.running:
            self._wrapped().kill(signal="SIGTERM")
            wait_until(lambda: not self.running, timeout, message="container stopped")

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        wrapped = self._wrapped()
        wrapped.pause()
        try:
            yield
        finally:
            wrapped.unpause()

    def close(self) -> None:
        if self._created:
            self._container.stop()

    def log_text(self) -> str:
        return str(self._wrapped().logs().decode(errors="replace")) if self._created else ""

    def wait_captured(self, database: str, timeout: float) -> None:
        # Every scan of the job changes its row; the third change from now ends a scan that began after now.
        statement = (
            "SELECT TOP (1) session_id, empty_scan_count, end_time FROM sys.dm_cdc_log_scan_sessions"
            " ORDER BY session_id DESC"
        )
        seen = [self.execute(statement, database=database)]

        def passed() -> bool:
            row = self.execute(statement, database=database)
            if row != seen[-1]:
                seen.append(row)
            return len(seen) > 3

        wait_until(passed, timeout, message="the capture job has scanned the log")

    def run_capture_job(self, database: str, *, run: bool) -> None:
        procedure = "sp_cdc_start_job" if run else "sp_cdc_stop_job"
        self.execute(f"EXEC sys.{procedure} @job_type = N'capture'", database=database)

    def drop_database(self, name: str) -> None:
        self.execute(
            f"IF DB_ID(%s) IS NOT NULL BEGIN ALTER DATABASE {quote(name)} SET SINGLE_USER WITH ROLLBACK IMMEDIATE;"
            f" DROP DATABASE {quote(name)} END",
            (name,),
        )

    def _wrapped(self) -> Any:
        return self._container.get_wrapped_container()
