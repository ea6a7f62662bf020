"""PgBouncer in front of a local PostgreSQL server: a process of its own, on a free port of loopback."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from tests.support import guard
from tests.support.servers.installation import SERVERS, server_user
from tests.support.servers.local import LocalPostgres
from tests.support.waiting import free_port, wait_until


def _program() -> Path:
    fetched = SERVERS / "pgbouncer" / "usr/sbin/pgbouncer"
    found = str(fetched) if fetched.exists() else shutil.which("pgbouncer")
    assert found is not None, "no PgBouncer: run `python -m tests.support.fetch_servers pgbouncer` (Debian only)"
    return Path(found)


class PgBouncer:
    """Pools connections to `server` for these roles (name to password). Use as a context manager."""

    def __init__(self, server: LocalPostgres, roles: dict[str, str], *, mode: str = "session") -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self._user = server_user()
        self._home = Path(tempfile.mkdtemp(prefix="reflex-pgbouncer-"))
        guard.watch_folder(self._home)
        self._home.chmod(0o755)
        (self._home / "users.txt").write_text("".join(f'"{name}" "{word}"\n' for name, word in roles.items()))
        (self._home / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = {self.host}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {self._home}/users.txt\npool_mode = {mode}\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        self._roles = roles
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # It refuses to run as root; as whom else it runs is for it to change, once it has read its program.
        user = [] if self._user is None else ["-u", self._user.pw_name]
        command: list[str | Path] = [_program(), *user, self._home / "pgbouncer.ini"]
        with (self._home / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self._home
            )
        guard.watch(self._process.pid)
        wait_until(self._answers, 20, message=f"PgBouncer answers; its log: {self._home / 'log'}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)
        guard.forget(self._process.pid)
        shutil.rmtree(self._home)

    def _answers(self) -> bool:
        name, word = next(iter(self._roles.items()))
        try:
            with psycopg.connect(host=self.host, port=self.port, user=name, password=word, dbname="postgres"):
                return True
        except psycopg.OperationalError:
            return False
