"""A hot standby of a local PostgreSQL server, to fail over to."""

from __future__ import annotations

import os
import subprocess

from tests.support.servers import LocalPostgres
from tests.support.servers.roles import SUPERUSER
from tests.support.waiting import wait_until

SLOT = "standby"
"""The physical slot that it streams from."""


class Standby(LocalPostgres):
    """Made by pg_basebackup from a primary that runs; from PostgreSQL 17 on it synchronises the failover slots."""

    def __init__(self, primary: LocalPostgres) -> None:
        super().__init__(primary.installation)
        self._primary = primary

    def promote(self) -> None:
        """Become a primary, on a timeline of its own."""
        self.execute("SELECT pg_promote(true)")
        wait_until(lambda: self.execute("SELECT pg_is_in_recovery()") == [(False,)], 30)

    def create_roles(self) -> None:
        """They come with the copy."""

    def _create(self) -> None:
        if self._user is not None:
            os.chown(self.home, self._user.pw_uid, self._user.pw_gid)
        done = subprocess.run(
            [
                self.bin / "pg_basebackup",
                *("-D", self.data, "-d", self._primary.conninfo("postgres", SUPERUSER)),
                *("--write-recovery-conf", "--create-slot", "--slot", SLOT),
                *("--wal-method=stream", "--checkpoint=fast", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )
        if done.returncode:
            message = f"pg_basebackup failed:\n{done.stderr}"
            raise RuntimeError(message)
        settings = {"port": self.port, "unix_socket_directories": self.home, "hot_standby_feedback": "on"}
        if self.version >= 17:
            settings["sync_replication_slots"] = "on"
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
