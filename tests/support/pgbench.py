"""pgbench (TPC-B) as load: four tables, of which `pgbench_history` has no key."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support import guard
from tests.support.servers import APP, DEFAULT_VERSIONS, Database, LocalPostgres, find_installation

TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")


def pgbench_path(database: Database) -> Path:
    """The pgbench to use: the server's own, or one of the machine."""
    if isinstance(database.server, LocalPostgres) and (database.server.bin / "pgbench").exists():
        return database.server.bin / "pgbench"
    for version in DEFAULT_VERSIONS:
        installation = find_installation(version)
        if installation is not None and (installation.bin / "pgbench").exists():
            return installation.bin / "pgbench"
    found = shutil.which("pgbench")
    assert found is not None, "no pgbench on this machine (Debian: apt-get install postgresql-client)"
    return Path(found)


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"PGPASSWORD": APP.password}


def _connection(database: Database) -> list[str]:
    return ["-h", database.server.host, "-p", str(database.server.port), "-U", APP.name, database.name]


def initialize(database: Database, scale: int = 1, *options: str) -> None:
    """Create and fill the four tables: 100,000 accounts per unit of `scale`."""
    command = [str(pgbench_path(database)), "-i", "-q", "-s", str(scale), *options, *_connection(database)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, f"pgbench -i failed:\n{done.stderr}"


class Pgbench:
    """Clients that run transactions in the background, for `seconds` or `transactions` each. A context manager.

    with Pgbench(database, clients=8, seconds=60) as load:
        ...
        assert load.wait() > 0
    """

    def __init__(
        self,
        database: Database,
        *,
        clients: int = 4,
        seconds: int | None = 10,
        transactions: int | None = None,
        rate: float | None = None,
        script: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        command = [str(pgbench_path(database)), "-n", "-c", str(clients), "-j", "1"]
        command += ["-t", str(transactions)] if transactions is not None else ["-T", str(seconds)]
        if rate is not None:
            command += ["-R", str(rate)]
        if script is not None:
            command += ["-f", str(script)]
        self._command = [*command, *options, *_connection(database)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
        )
        guard.watch(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether clients still run."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float = 300.0, *, failures: bool = False) -> int:
        """Wait for the end; returns how many transactions were committed (as far as pgbench could count).

        `failures`: clients may have been thrown out by a restart of the server.
        """
        assert self._process is not None
        output, _ = self._process.communicate(timeout=timeout)
        guard.forget(self._process.pid)
        assert failures or self._process.returncode == 0, f"pgbench failed:\n{output}"
        counted = re.search(r"transactions actually processed: (\d+)", output)
        return int(counted[1]) if counted else 0

    def stop(self) -> None:
        """End the clients now."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        except ValueError:
            pass  # its output has been read by `wait`
        guard.forget(self._process.pid)
