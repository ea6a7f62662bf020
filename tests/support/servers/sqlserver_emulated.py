"""The emulated SQL Server, where no Docker engine is present."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator

from tests.support.servers.roles import SA
from tests.support.servers.sqlserver_server import SqlServer
from tests.support.sqlserver import Emulator
from tests.support.waiting import wait_until


class EmulatedSqlServer(SqlServer):
    """An `Emulator` in threads of this process."""

    emulated = True

    def __init__(self) -> None:
        self.emulator = Emulator(SA.password)
        self._created = False

    @property
    def port(self) -> int:  # type: ignore[override] # a real server's is fixed
        return self.emulator.port

    @property
    def running(self) -> bool:
        return self.emulator.running

    def start(self, timeout: float = 120.0) -> None:
        self.emulator.start()
        if not self._created:
            self._created = True
            self.create_logins()

    def stop(self, timeout: float = 120.0) -> None:
        self.emulator.stop()

    def close(self) -> None:
        self.emulator.close()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        with self.emulator.frozen():
            yield

    def log_text(self) -> str:
        return "\n".join(self.emulator.unknown)

    def unknown(self) -> list[str]:
        found = list(self.emulator.unknown)
        self.emulator.unknown.clear()
        return found

    def has_captured(self, database: str) -> bool:
        return self.emulator.captured(database)

    def run_capture_job(self, database: str, *, run: bool) -> None:
        self.emulator.run_capture_job(database, run=run)

    def drop_database(self, name: str) -> None:
        def gone() -> bool:
            for session in self.emulator.sessions():
                if session.database.name == name:
                    with contextlib.suppress(Exception):
                        self.emulator.kill(session.spid)
            return not any(session.database.name == name for session in self.emulator.sessions())

        wait_until(gone, 30, message=f"nobody uses {name}")
        self.emulator.remove_database(name)

    def without_command_ids(self, database: str) -> None:
        """Change tables made from now on have no `__$command_id`, as before the cumulative updates of 2015."""
        self.emulator.databases[database].command_ids = False

    def merge_transactions(self, database: str) -> None:
        """From now on, a transaction is captured as one MERGE on a heap may be: what it deletes comes last."""
        self.emulator.databases[database].merges = True

    def set_clock(self, offset: dt.timedelta) -> None:
        """Move the server's clock away from this machine's."""
        self.emulator.clock_offset = offset
