"""Where the parts of an instance come from. The one place that knows the concrete ones; tests put others in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from engine.config import Config
from engine.config.model import CDC_MODES
from engine.destination import Replica
from engine.errors import ConfigError, Problem
from engine.schema import TableId
from engine.source import Source
from engine.status import Commands, StatusBoard
from engine.supervisor.choice import POLL, AutoConnect, show_mode
from engine.supervisor.preflight import Connect, FirstConnect, effective_mode


class Replication(Commands, Protocol):
    """A pipeline as the supervisor sees it: `run` blocks in a thread until `stop`, or raises."""

    def run(self) -> None: ...

    def stop(self) -> None: ...

    def hold(self) -> None:
        """Pause for want of memory."""
        ...

    def release(self) -> None:
        """There is memory again."""
        ...


class ServedReplica(Replica, Protocol):
    """A replica that readers can be let at."""

    def cursor(self) -> Any:
        """A new connection for one reader."""
        ...


class Wiring:
    """Makes the parts. Everything heavy (DuckDB, drivers, the web framework) is imported when it is made."""

    def replica(self, config: Config) -> ServedReplica:
        """Open the replica file, its folder made. Raises ConfigError or ReplicaError."""
        from engine.replica.store import DuckDBReplica

        size = config.size
        return DuckDBReplica.open(
            replica_file(config),
            instance=config.instance.name,
            memory_limit_bytes=size.duckdb_bytes,
            threads=size.threads(),
            search_schema=config.search_schema,
        )

    def pipeline(self, config: Config, replica: Replica, board: StatusBoard) -> Replication:
        """The pipeline between the configured source and `replica`."""
        from engine.pipeline import Pipeline, PipelineSettings
        from engine.pipeline.control import Pace

        connect = self._connect(config, replica, board)
        settings = PipelineSettings(
            pace=Pace(workers=config.size.snapshot_workers),
            # A poll loads everything anew as it is.
            reload_on_reconnect=config.instance.cdc_reconnect_mode == "full" and effective_mode(config) != POLL,
        )
        return Pipeline(connect, replica, board, settings)

    def _connect(self, config: Config, replica: Replica, board: StatusBoard) -> Connect:
        """How the pipeline opens the source."""
        mode, stored = effective_mode(config), replica.state().position

        def capture(as_text: frozenset[tuple[TableId, str]]) -> Source:
            return self.source(config, as_text)

        def poll(as_text: frozenset[tuple[TableId, str]]) -> Source:
            return self.poll_source(config, as_text)

        first_poll = FirstConnect(poll, verify=stored is None)
        if mode == "auto":
            return AutoConnect(capture, first_poll, board, mode=CDC_MODES[config.connection.backend], stored=stored)
        show_mode(board, mode)
        return first_poll if mode == POLL else FirstConnect(capture, verify=stored is None)

    def source(self, config: Config, as_text: frozenset[tuple[TableId, str]]) -> Source:
        """The configured source, by change data capture. Raises ConfigError when its connector cannot be used."""
        from connectors.registry import open_source

        return open_source(config.connection.backend, config.source_options(as_text=as_text))

    def poll_source(self, config: Config, as_text: frozenset[tuple[TableId, str]]) -> Source:
        """The configured source, polled. Raises ConfigError when its connector cannot be used."""
        from connectors.registry import open_poll_source

        return open_poll_source(config.connection.backend, config.source_options(as_text=as_text))

    def app(self, config: Config, replica: ServedReplica, board: StatusBoard, commands: Commands) -> Any:
        """The HTTP surface of the instance, an ASGI application."""
        from engine.instance.app import create_app
        from engine.instance.settings import InstanceSettings
        from engine.replica.reads import ReplicaReads

        settings = InstanceSettings(
            name=config.instance.name,
            backend=config.connection.backend,
            sync_mode=effective_mode(config),
            token=config.http.token if config.token is not None else None,
            memory_cap_mb=config.size.memory_mb,
            poll_interval=float(config.instance.sync_interval),
        )
        return create_app(board=board, commands=commands, reads=ReplicaReads(replica.cursor), settings=settings)


def replica_file(config: Config) -> Path:
    """The replica's path, its folder made. Raises ConfigError."""
    path = Path(config.replica.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([Problem("replica.path", f"{path.parent} cannot be made: {error.strerror}")]) from None
    return path
