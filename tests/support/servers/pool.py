"""The servers of one test session: shared ones by version, and private ones on demand."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping
from typing import Generic, Protocol, Self, TypeVar

from tests.support.servers.docker import DockerPostgres, docker_present
from tests.support.servers.installation import find_installation, missing
from tests.support.servers.local import LocalPostgres
from tests.support.servers.mysql_docker import DockerMySql
from tests.support.servers.mysql_local import LocalMySql, find_mysql
from tests.support.servers.mysql_server import MySqlServer
from tests.support.servers.server import PostgresServer
from tests.support.servers.sqlserver_docker import DockerSqlServer
from tests.support.servers.sqlserver_emulated import EmulatedSqlServer
from tests.support.servers.sqlserver_server import SqlServer


class _Server(Protocol):
    def start(self) -> None: ...
    def close(self) -> None: ...


Key = TypeVar("Key", bound=Hashable)
Kind = TypeVar("Kind", bound=_Server)


class Pool(Generic[Key, Kind]):
    """Starts servers and ends them all when it closes."""

    def __init__(self) -> None:
        self._shared: dict[Key, Kind] = {}
        self._failed: dict[Key, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._shared.values():
            server.close()

    def missing(self, version: Key) -> str | None:
        """Why this version cannot be had here and how to get it; None when it can."""
        raise NotImplementedError

    def shared(self, version: Key) -> Kind:
        """The session's server of this version, started when first asked for. A failed start is not tried again."""
        if version in self._failed:
            raise RuntimeError(self._failed[version])
        if version not in self._shared:
            try:
                self._shared[version] = self.private(version)
            except RuntimeError as error:
                self._failed[version] = str(error)
                raise
        return self._shared[version]

    def private(self, version: Key, *, fsync: bool = False, settings: Mapping[str, object] | None = None) -> Kind:
        """Start a server that the caller closes."""
        server = self._make(version, fsync, settings)
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    def _make(self, version: Key, fsync: bool, settings: Mapping[str, object] | None) -> Kind:
        raise NotImplementedError


class ServerPool(Pool[int, PostgresServer]):
    """PostgreSQL, by major version. Docker is used where there is an engine, else processes."""

    def missing(self, version: int) -> str | None:
        if docker_present() or find_installation(version) is not None:
            return None
        return missing(version)

    def _make(self, version: int, fsync: bool, settings: Mapping[str, object] | None) -> PostgresServer:
        if docker_present():
            return DockerPostgres(version, fsync=fsync, settings=settings)
        installation = find_installation(version)
        if installation is None:
            raise RuntimeError(missing(version))
        return LocalPostgres(installation, fsync=fsync, settings=settings)


class MySqlPool(Pool[str, MySqlServer]):
    """MySQL and MariaDB, by names like ``mysql-9.7``: what has been fetched runs as a process, the rest in Docker."""

    def missing(self, version: str) -> str | None:
        if find_mysql(version) is not None or docker_present():
            return None
        return (
            f"no {version} on this machine: run `{sys.executable} -m tests.support.fetch_servers` (Debian only), or"
            " start Docker"
        )

    def _make(self, version: str, fsync: bool, settings: Mapping[str, object] | None) -> MySqlServer:
        installation = find_mysql(version)
        if installation is not None:
            return LocalMySql(installation, fsync=fsync, settings=settings)
        if docker_present():
            return DockerMySql(version, fsync=fsync, settings=settings)
        raise RuntimeError(str(self.missing(version)))


class SqlServerPool(Pool[str, SqlServer]):
    """SQL Server: Microsoft's image where Docker is, else the emulator. There is one version, ``sqlserver``."""

    def missing(self, version: str) -> str | None:
        return None

    def _make(self, version: str, fsync: bool, settings: Mapping[str, object] | None) -> SqlServer:
        return DockerSqlServer() if docker_present() else EmulatedSqlServer()
