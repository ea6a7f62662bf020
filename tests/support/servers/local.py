"""A PostgreSQL server as processes of this machine, in a temporary folder, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.support import guard
from tests.support.servers.installation import Installation, reachable, server_user
from tests.support.servers.roles import SUPERUSER
from tests.support.servers.server import DEFAULTS, STOP_SIGNALS, UNSAFE, PostgresServer
from tests.support.waiting import free_port, wait_until


class LocalPostgres(PostgresServer):
    """One server process over an installation's binaries. `start` it, or use it as a context manager."""

    def __init__(
        self, installation: Installation, *, fsync: bool = False, settings: Mapping[str, object] | None = None
    ) -> None:
        self.installation = reachable(installation)
        self.version = installation.version
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix=f"reflex-{installation.name}-"))
        guard.watch_folder(self.home)
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self._user = server_user()
        self._settings = {**DEFAULTS, **({} if fsync else UNSAFE), **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bin(self) -> Path:
        """The folder with this version's postgres, psql, pgbench, pg_recvlogical ..."""
        return self.installation.bin

    @property
    def pid(self) -> int:
        """The postmaster's process id. RuntimeError when it is not running."""
        if self._process is None:
            message = "the server is not running"
            raise RuntimeError(message)
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, timeout: float = 60.0) -> None:
        if self.running:
            return
        first = not (self.data / "PG_VERSION").exists()
        if first:
            self._create()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data], stdout=log, stderr=log, **self._as_user()
            )
        guard.watch(self._process.pid)
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                message = f"PostgreSQL {self.version} did not start; its log ends:\n{self.log_text()[-3000:]}"
                raise RuntimeError(message)
            time.sleep(0.03)
        if first:
            self.create_roles()

    def stop(self, mode: str = "fast", timeout: float = 60.0) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(STOP_SIGNALS[mode])
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._ended()

    def kill(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            guard.kill_tree(psutil.Process(self._process.pid))
        self._process.wait(30)
        self._ended()

    def close(self) -> None:
        if self.running:
            try:
                self.stop("immediate", timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def enable_tls(self, *, required: bool = False) -> Path:
        """Serve TLS with a new certificate for 127.0.0.1 and localhost; returns its authority's PEM file.

        `required`: TCP connections without TLS are refused. Not in the wheel's servers, which are built without it.
        """
        import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority_file = self.home / "ca.pem"
        authority.cert_pem.write_to_path(authority_file)
        certificate.cert_chain_pems[0].write_to_path(self.data / "server.crt")
        key = self.data / "server.key"
        key.touch(mode=0o600)
        certificate.private_key_pem.write_to_path(key)
        if self._user is not None:
            os.chown(key, self._user.pw_uid, self._user.pw_gid)
            os.chown(self.data / "server.crt", self._user.pw_uid, self._user.pw_gid)
        if required:
            rules = self.data / "pg_hba.conf"
            rules.write_text(re.sub(r"^host\b", "hostssl", rules.read_text(), flags=re.MULTILINE))
        self.configure(ssl="on")
        wait_until(self._serves_tls, 10, message=f"TLS is served; the log ends:\n{self.log_text()[-1000:]}")
        return authority_file

    def _serves_tls(self) -> bool:
        try:
            with psycopg.connect(self.conninfo(sslmode="require")):
                return True
        except psycopg.OperationalError:
            return False

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        postmaster = psutil.Process(self.pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def _ended(self) -> None:
        if self._process is not None:
            guard.forget(self._process.pid)
            self._process = None

    def _create(self) -> None:
        passwords = self.home / "password"
        passwords.write_text(SUPERUSER.password)
        if self._user is not None:
            os.chown(self.home, self._user.pw_uid, self._user.pw_gid)
            os.chown(passwords, self._user.pw_uid, self._user.pw_gid)
        done = subprocess.run(
            [
                self.bin / "initdb",
                *("-D", self.data, "-U", SUPERUSER.name, f"--pwfile={passwords}"),
                *("--auth-host=scram-sha-256", "--auth-local=trust"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )
        passwords.unlink()
        if done.returncode:
            message = f"initdb of PostgreSQL {self.version} failed:\n{done.stdout}\n{done.stderr}"
            raise RuntimeError(message)
        settings = {
            **self._settings,
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.home,
        }
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _as_user(self) -> dict[str, Any]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k not in ("LANG", "LANGUAGE")}
        options: dict[str, Any] = {
            "cwd": self.home,
            "env": {**environment, "LC_ALL": "C", "HOME": str(self.home)},
            "stdin": subprocess.DEVNULL,
            "start_new_session": True,
        }
        if self._user is not None:
            options |= {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        return options
