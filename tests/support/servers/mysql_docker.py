"""A MySQL or MariaDB server in a container, by testcontainers, where a Docker engine is present.

Containers give versions that no package here has (``mysql-8.0``, ``mysql-8.4``, ``mariadb-11``); the fetched ones run as
local processes all the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.servers.mysql_server import DEFAULTS, FLAVOUR_DEFAULTS, UNSAFE, MySqlServer
from tests.support.servers.roles import ROOT
from tests.support.waiting import free_port, wait_until


class DockerMySql(MySqlServer):
    """One container of the official image, its port bound to loopback. The data outlive a stop, not `close`."""

    def __init__(self, name: str, *, fsync: bool = False, settings: Mapping[str, object] | None = None) -> None:
        from testcontainers.core.container import DockerContainer

        self.name = name
        self.port = free_port()
        options = {**DEFAULTS, **FLAVOUR_DEFAULTS[self.flavour], **({} if fsync else UNSAFE), **(settings or {})}
        command = [f"--{option}={value}" for option, value in options.items() if value is not None]
        container = DockerContainer(name.replace("-", ":", 1)).with_command(command)
        variable = "MARIADB" if self.is_mariadb else "MYSQL"
        container.with_env(f"{variable}_ROOT_PASSWORD", ROOT.password)
        container.with_env(f"{variable}_ROOT_HOST", "%")
        container.ports["3306/tcp"] = (self.host, self.port)  # type: ignore[assignment] # docker-py takes a pair too
        self._container = container
        self._created = False

    @property
    def running(self) -> bool:
        if not self._created:
            return False
        wrapped = self._wrapped()
        wrapped.reload()
        return str(wrapped.status) in ("running", "paused")

    def set_options(self, settings: Mapping[str, object]) -> None:
        """A container's command is fixed: what can be set at run time is, other options want a server of their own."""

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
                message = f"{self.name} did not start; its log ends:\n{self.log_text()[-3000:]}"
                raise RuntimeError(message)
            time.sleep(0.1)
        if first:
            self.create_roles()

    def stop(self, mode: str = "fast", timeout: float = 120.0) -> None:
        if mode == "immediate":
            self.kill()
        elif self.running:
            self._wrapped().kill(signal="SIGTERM")
            wait_until(lambda: not self.running, timeout, message="container stopped")

    def kill(self) -> None:
        if self.running:
            self._wrapped().kill(signal="SIGKILL")
            wait_until(lambda: not self.running, 30, message="container killed")

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

    def _wrapped(self) -> Any:
        return self._container.get_wrapped_container()
