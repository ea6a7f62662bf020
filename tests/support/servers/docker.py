"""A PostgreSQL server in a container, by testcontainers, where a Docker engine is present.

``REFLEX_TEST_DOCKER=0`` keeps to local processes all the same. Containers give every version from 12 on; the folder of
programs (`LocalPostgres.bin`) is the one thing they do not offer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.servers.roles import SUPERUSER
from tests.support.servers.server import DEFAULTS, STOP_SIGNALS, UNSAFE, PostgresServer
from tests.support.waiting import free_port, wait_until


@cache
def docker_present() -> bool:
    """Whether a Docker engine answers (asked once)."""
    if os.environ.get("REFLEX_TEST_DOCKER") == "0":
        return False
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    import docker
    import docker.errors

    try:
        client = docker.from_env(timeout=5)
        answer = bool(client.ping())
        client.close()
    except (docker.errors.DockerException, OSError):
        return False
    return answer


class DockerPostgres(PostgresServer):
    """One container of the official image, its port bound to loopback. The data outlive a stop, not `close`."""

    def __init__(self, version: int, *, fsync: bool = False, settings: Mapping[str, object] | None = None) -> None:
        from testcontainers.core.container import DockerContainer

        self.version = version
        self.port = free_port()
        options = {**DEFAULTS, **({} if fsync else UNSAFE), **(settings or {})}
        command = ["postgres"]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        container = DockerContainer(f"postgres:{version}").with_command(command)
        container.with_env("POSTGRES_PASSWORD", SUPERUSER.password)
        container.with_env("POSTGRES_INITDB_ARGS", "--encoding=UTF8 --locale=C --auth-host=scram-sha-256")
        container.ports["5432/tcp"] = (self.host, self.port)  # type: ignore[assignment] # docker-py takes a pair too
        self._container = container
        self._created = False

    @property
    def running(self) -> bool:
        if not self._created:
            return False
        wrapped = self._wrapped()
        wrapped.reload()
        return str(wrapped.status) in ("running", "paused")

    def start(self, timeout: float = 60.0) -> None:
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
                message = f"PostgreSQL {self.version} did not start; its log ends:\n{self.log_text()[-3000:]}"
                raise RuntimeError(message)
            time.sleep(0.1)
        if first:
            self.create_roles()

    def stop(self, mode: str = "fast", timeout: float = 60.0) -> None:
        if self.running:
            self._wrapped().kill(signal=STOP_SIGNALS[mode].name)
            wait_until(lambda: not self.running, timeout, message=f"container stopped ({mode})")

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
        if not self._created:
            return ""
        return str(self._wrapped().logs().decode(errors="replace"))

    def _wrapped(self) -> Any:
        return self._container.get_wrapped_container()
