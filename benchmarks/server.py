"""A PostgreSQL server of the benchmark's own: temporary directory, loopback TCP, one log file with millisecond times.

Autovacuum is off and `max_wal_size` large, so that the server's housekeeping does not fall into one consumer's turn
and not the other's; everything that bears on durability (fsync, full_page_writes) is as shipped.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

SETTINGS = {
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "shared_buffers": "512MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "log_replication_commands": "on",
    "logging_collector": "off",
    "log_line_prefix": "%n ",
    "listen_addresses": "127.0.0.1",
}
COMMAND = re.compile(r"^(\d+\.\d+) .*received replication command: (\w+) (.*)$", re.MULTILINE)


def free_port() -> int:
    """A TCP port that nothing listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binaries() -> Path:
    """The newest installed PostgreSQL's programs, or those that REFLEX_BENCH_PG names."""
    if named := os.environ.get("REFLEX_BENCH_PG"):
        return Path(named)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    if not found:
        raise SystemExit("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    return found[-1]


class Server:
    """A running server with one database `shop`. Use as a context manager; leaving it ends and deletes the server."""

    def __init__(self) -> None:
        self.bin = binaries()
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix="reflex-bench-pg-"))
        self._prefix: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(self.home, account.pw_uid, account.pw_gid)
            self._prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._data = self.home / "data"
        self._log = self.home / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        initdb = [
            *self._prefix,
            str(self.bin / "initdb"),
            "-D",
            str(self._data),
            "-U",
            "reflex",
            "-A",
            "trust",
            "--no-sync",
        ]
        subprocess.run([*initdb, "-E", "UTF8", "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *self._prefix,
                    self.bin / "postgres",
                    "-D",
                    self._data,
                    "-p",
                    str(self.port),
                    "-k",
                    self.home,
                    *options,
                ],
                stdout=log,
                stderr=log,
                cwd="/",
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(self.url("postgres"), autocommit=True) as con:
                    con.execute("CREATE DATABASE shop")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """End the server at once and delete its directory."""
        if self._process is not None:
            self._process.send_signal(2)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.send_signal(3)
                self._process.wait(30)
            self._process = None
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, database: str = "shop") -> str:
        return f"postgresql://reflex@127.0.0.1:{self.port}/{database}"

    @property
    def dsn(self) -> str:
        """As keyword/value pairs, the form that every driver takes."""
        return f"host=127.0.0.1 port={self.port} user=reflex dbname=shop"

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        return psycopg.connect(self.url(), autocommit=autocommit)

    def version(self) -> str:
        with self.connect() as con:
            return str(con.info.parameter_status("server_version"))

    def end_of_wal(self) -> int:
        """The end of what has been written, all of it flushed when this returns, since only then is it streamed.

        `pg_current_wal_lsn()` would lag: with asynchronous commit the end is the insert position.
        """
        with self.connect() as con:
            row = con.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
            # A transaction that wrote WAL commits synchronously and takes everything before it along.
            con.execute("SELECT pg_logical_emit_message(true, 'reflex-bench', '')")
            assert row is not None
            return int(row[0])

    def checkpoint(self) -> None:
        """Get the server's own housekeeping out of the way of what is measured next."""
        with self.connect() as con:
            con.execute("CHECKPOINT")

    def mark(self) -> int:
        """Where the server's log ends now, for `command_time`."""
        return self._log.stat().st_size

    def command_time(self, command: str, since: int, containing: str = "") -> float:
        """When the first such replication command after `since` was received (seconds since the epoch, to the ms).

        LookupError when there is none.
        """
        with self._log.open("rb") as log:
            log.seek(since)
            tail = log.read().decode(errors="replace")
        for found in COMMAND.finditer(tail):
            if found[2] == command and containing in found[3]:
                return float(found[1])
        raise LookupError(f"the server's log has no {command} yet")


def lsn(position: int) -> str:
    """An LSN in PostgreSQL's own notation."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
