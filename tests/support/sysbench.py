"""sysbench (oltp_read_write and its siblings) as load on MySQL and MariaDB. Fetched by `tests.support.fetch_servers`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support import guard
from tests.support.servers import APP, MySqlDatabase
from tests.support.servers.installation import SERVERS

FETCHED = SERVERS / "sysbench"
_SQLSTATES_OF_RESTARTS = "1205,1213,1020,1053,1927,2002,2003,2006,2013"


def tables(count: int) -> list[str]:
    """The names of the tables that `prepare` makes: ``sbtest1`` and so on, each with a primary key."""
    return [f"sbtest{number + 1}" for number in range(count)]


def _program() -> Path:
    """The fetched sysbench, or the machine's own."""
    fetched = FETCHED / "usr/bin/sysbench"
    if fetched.exists():
        return fetched
    found = shutil.which("sysbench")
    assert found is not None, "no sysbench: run `python -m tests.support.fetch_servers sysbench` (Debian only)"
    return Path(found)


def _environment() -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MYSQL", "MARIADB", "LUA"))}
    for folder in (FETCHED / "usr/share/sysbench", Path("/usr/share/sysbench")):
        if folder.is_dir():
            environment["LUA_PATH"] = f"{folder}/?.lua;;"
            break
    plugins = next(FETCHED.glob("usr/lib/*/libmariadb3/plugin"), None)
    if plugins is not None:
        environment["MARIADB_PLUGIN_DIR"] = str(plugins)
    return environment


def _command(database: MySqlDatabase, script: str, *options: str) -> list[str]:
    return [
        *(str(_program()), script, "--db-driver=mysql"),
        *(f"--mysql-host={database.server.host}", f"--mysql-port={database.server.port}"),
        *(f"--mysql-user={APP.name}", f"--mysql-password={APP.password}", f"--mysql-db={database.name}"),
        *options,
    ]


def _open_doors(database: MySqlDatabase) -> None:
    """Log `app` in once: sysbench's client library speaks caching_sha2_password only to who is remembered by the server."""
    with database.connect():
        pass


def prepare(database: MySqlDatabase, *, count: int = 4, size: int = 1000) -> list[str]:
    """Create and fill `count` tables of `size` rows; returns their names."""
    _open_doors(database)
    command = _command(database, "oltp_read_write", f"--tables={count}", f"--table-size={size}", "prepare")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert done.returncode == 0, f"sysbench prepare failed:\n{done.stdout}{done.stderr}"
    return tables(count)


class Sysbench:
    """Threads that run transactions in the background for `seconds`. A context manager.

    with Sysbench(database, threads=8, seconds=60) as load:
        ...
        assert load.wait() > 0
    """

    def __init__(
        self,
        database: MySqlDatabase,
        *,
        threads: int = 4,
        seconds: int = 10,
        count: int = 4,
        size: int = 1000,
        script: str = "oltp_read_write",
        options: tuple[str, ...] = (),
    ) -> None:
        self._database = database
        self._command = _command(
            *(database, script, f"--tables={count}", f"--table-size={size}", f"--threads={threads}"),
            *(f"--time={seconds}", "--events=0", f"--mysql-ignore-errors={_SQLSTATES_OF_RESTARTS}", "--report-interval=0"),
            *(*options, "run"),
        )  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        _open_doors(self._database)
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment()
        )
        guard.watch(self._process.pid)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether threads still run."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float = 300.0, *, failures: bool = False) -> int:
        """Wait for the end; returns how many transactions sysbench counted.

        `failures`: threads may have been thrown out by a restart of the server.
        """
        assert self._process is not None
        output, _ = self._process.communicate(timeout=timeout)
        guard.forget(self._process.pid)
        assert failures or self._process.returncode == 0, f"sysbench failed:\n{output}"
        counted = re.search(r"transactions:\s+(\d+)", output)
        return int(counted[1]) if counted else 0

    def stop(self) -> None:
        """End the threads now."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        except ValueError:
            pass  # its output has been read by `wait`
        guard.forget(self._process.pid)
