"""A MySQL or MariaDB server as a process of this machine, in a temporary folder, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from tests.support import guard
from tests.support.servers.installation import SERVERS, server_user
from tests.support.servers.mysql_server import DEFAULTS, FLAVOUR_DEFAULTS, UNSAFE, MySqlServer
from tests.support.servers.roles import ROOT
from tests.support.waiting import free_port

_CREATED_WITH = ("innodb_page_size", "lower_case_table_names", "innodb_data_file_path", "innodb_undo_tablespaces")
"""Settings that hold from a data folder's creation on: with one of them, a folder is not copied but created."""


@dataclass(frozen=True, slots=True)
class MySqlInstallation:
    """The files of one server under ``.servers/``, as `tests.support.fetch_servers` leaves them."""

    name: str
    top: Path

    @property
    def mariadb(self) -> bool:
        return self.name.startswith("mariadb")

    @property
    def program(self) -> Path:
        return self.top / "usr/sbin" / ("mariadbd" if self.mariadb else "mysqld")

    @property
    def share(self) -> Path:
        """Messages, character sets and (MariaDB) the SQL that makes the system tables."""
        folder = self.top / "usr/share"
        return folder / "mariadb" if (folder / "mariadb").is_dir() else folder / "mysql"

    def options(self) -> dict[str, object]:
        """Where the program finds its own files."""
        return {
            "basedir": self.top / "usr",
            "lc_messages_dir": self.share,
            "character_sets_dir": self.share / "charsets",
        }


def find_mysql(name: str) -> MySqlInstallation | None:
    """The installation called like ``mysql-9.7``; None when it has not been fetched."""
    installation = MySqlInstallation(name, SERVERS / name)
    return installation if os.access(installation.program, os.X_OK) else None


@cache
def reachable(installation: MySqlInstallation) -> MySqlInstallation:
    """The same installation, copied to where the server's user can reach it if that is not so already."""
    if server_user() is None or all(parent.stat().st_mode & 0o001 for parent in installation.program.parents):
        return installation
    home = Path(tempfile.mkdtemp(prefix="reflex-bin-"))
    guard.watch_folder(home)
    home.chmod(0o755)
    shutil.copytree(installation.top, home / installation.name, symlinks=True)
    return MySqlInstallation(installation.name, home / installation.name)


class LocalMySql(MySqlServer):
    """One server process over an installation's files. `start` it, or use it as a context manager."""

    def __init__(
        self, installation: MySqlInstallation, *, fsync: bool = False, settings: Mapping[str, object] | None = None
    ) -> None:
        self.installation = reachable(installation)
        self.name = installation.name
        self.port = free_port()
        self.home = Path(tempfile.mkdtemp(prefix=f"reflex-{installation.name}-"))
        guard.watch_folder(self.home)
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self._user = server_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, object] = {
            **DEFAULTS,
            **FLAVOUR_DEFAULTS[self.flavour],
            **({} if fsync else UNSAFE),
            **(settings or {}),
        }

    @property
    def pid(self) -> int:
        """The server's process id. RuntimeError when it is not running."""
        if self._process is None:
            message = "the server is not running"
            raise RuntimeError(message)
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def socket(self) -> Path:
        """The Unix socket that the server listens on as well."""
        return self.home / "server.sock"

    def set_options(self, settings: Mapping[str, object]) -> None:
        self._settings |= settings

    def start(self, timeout: float = 120.0) -> None:
        if self.running:
            return
        first = not self.data.exists()
        extra: list[str] = []
        if first:
            self._own(self.home)
            self._create()
            extra = [f"--init-file={self._root_file()}"]
        self._write_options()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.installation.program, f"--defaults-file={self.home / 'server.cnf'}", *extra],
                stdout=log, stderr=log, **self._as_user(),
            )  # fmt: skip
        guard.watch(self._process.pid)
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                message = f"{self.name} did not start; its log ends:\n{self.log_text()[-3000:]}"
                raise RuntimeError(message)
            time.sleep(0.05)
        if first:
            self.create_roles()

    def stop(self, mode: str = "fast", timeout: float = 120.0) -> None:
        if mode == "immediate":
            self.kill()
            return
        if self._process is None:
            return
        self._process.terminate()
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
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def enable_tls(self, *, required: bool = False) -> Path:
        """Serve TLS with a new certificate for 127.0.0.1 and localhost; returns its authority's PEM file. Restarts.

        `required`: TCP connections without TLS are refused.
        """
        import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        files = {name: self.home / f"{name}.pem" for name in ("ssl_ca", "ssl_cert", "ssl_key")}
        authority.cert_pem.write_to_path(files["ssl_ca"])
        certificate.cert_chain_pems[0].write_to_path(files["ssl_cert"])
        files["ssl_key"].touch(mode=0o600)
        certificate.private_key_pem.write_to_path(files["ssl_key"])
        for path in files.values():
            self._own(path)
        self.set_options({**files, **({"require_secure_transport": "ON"} if required else {})})
        self.tls = True
        self.restart()
        return files["ssl_ca"]

    def disable_tls(self) -> None:
        """Serve no TLS at all. Restarts. (MySQL makes itself a certificate unless told otherwise.)"""
        if self.is_mariadb:
            self.set_options({"ssl": "0"})
        else:
            self.set_options({"tls_version": "''", "require_secure_transport": "OFF"})
        self.tls = False
        self.restart()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        process = psutil.Process(self.pid)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def _ended(self) -> None:
        if self._process is not None:
            guard.forget(self._process.pid)
            self._process = None

    def _create(self) -> None:
        """Make the data folder: MariaDB's is quick to create, MySQL's is copied from the process's first."""
        if not self.is_mariadb and not self._settings.keys() & set(_CREATED_WITH):
            self._as_copy(_template(self.installation))
            return
        chosen = {name: value for name, value in self._settings.items() if name in _CREATED_WITH}
        create(self.installation, self.data, self._as_user(), chosen)

    def _as_copy(self, template: Path) -> None:
        shutil.copytree(template, self.data)
        # The server's UUID is made anew.
        (self.data / "auto.cnf").unlink(missing_ok=True)
        for path in (self.data, *self.data.rglob("*")):
            self._own(path)

    def _own(self, path: Path) -> None:
        if self._user is not None:
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _root_file(self) -> Path:
        """SQL that the first start runs: root comes in over TCP, with a password."""
        path = self.home / "root.sql"
        path.touch(mode=0o600)
        path.write_text(
            "SET SESSION sql_log_bin = 0;\n"
            f"CREATE USER '{ROOT.name}'@'%' IDENTIFIED BY '{ROOT.password}';\n"
            f"GRANT ALL ON *.* TO '{ROOT.name}'@'%' WITH GRANT OPTION;\n"
            + "".join(f"DROP USER IF EXISTS '{ROOT.name}'@'{host}';\n" for host in ("localhost", "127.0.0.1", "::1"))
        )
        self._own(path)
        return path

    def _write_options(self) -> None:
        options = {
            **self.installation.options(),
            "datadir": self.data,
            "socket": self.socket,
            "pid_file": self.home / "server.pid",
            "tmpdir": self.home,
            "secure_file_priv": self.home,
            "bind_address": self.host,
            "port": self.port,
            **self._settings,
        }
        lines = [f"{name} = {value}\n" for name, value in options.items() if value is not None]
        (self.home / "server.cnf").write_text("[mysqld]\n" + "".join(lines))
        (self.home / "server.cnf").chmod(0o644)

    def _as_user(self) -> dict[str, Any]:
        return as_user(self.home)


def as_user(home: Path) -> dict[str, Any]:
    """How a server's program is started: as a user that it lets itself be run by, in a session of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MYSQL", "MARIADB")) and k != "LANG"}
    options: dict[str, Any] = {
        "cwd": home,
        "env": {**environment, "LC_ALL": "C", "HOME": str(home)},
        "start_new_session": True,
    }
    user = server_user()
    if user is not None:
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


def create(
    installation: MySqlInstallation, data: Path, process: Mapping[str, Any], settings: Mapping[str, object]
) -> None:
    """Create a data folder with the system tables, root without a password. RuntimeError with what the program said."""
    options = {**installation.options(), "datadir": data, "log_bin": None, **settings}
    command = [str(installation.program), "--no-defaults", "--skip-log-bin"]
    command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    script = b""
    if installation.mariadb:
        data.mkdir(mode=0o750)
        if "user" in process:
            os.chown(data, process["user"], process["group"])
        command.append("--bootstrap")
        prefix = "mariadb" if (installation.share / "mariadb_system_tables.sql").exists() else "mysql"
        names = [f"{prefix}_{part}" for part in ("system_tables", "performance_tables", "system_tables_data")]
        names.append("maria_add_gis_sp_bootstrap")
        parts = [(installation.share / f"{name}.sql").read_bytes() for name in names]
        script = b"\n".join([b"CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket = NULL;\n", *parts])
    else:
        command.append("--initialize-insecure")
    done = subprocess.run(command, input=script, capture_output=True, check=False, **process)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode:
        message = f"creating a data folder of {installation.name} failed:\n{said[-3000:]}"
        raise RuntimeError(message)


@cache
def _template(installation: MySqlInstallation) -> Path:
    """A data folder to copy: creating one takes MySQL several seconds."""
    home = Path(tempfile.mkdtemp(prefix=f"reflex-{installation.name}-template-"))
    guard.watch_folder(home)
    user = server_user()
    if user is not None:
        os.chown(home, user.pw_uid, user.pw_gid)
    create(installation, home / "data", as_user(home), {})
    return home / "data"
