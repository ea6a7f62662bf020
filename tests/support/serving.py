"""An instance's HTTP surface over a real replica file, without a source: for tests of `engine.instance`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import uvicorn

from engine.instance.app import create_app
from engine.instance.settings import InstanceSettings
from engine.replica.reads import ReplicaReads
from engine.replica.store import DuckDBReplica
from engine.schema import Column, Identity, TableId, TableSchema
from engine.status import Phase, StatusBoard, TableState
from tests.support.fake_source import Tick
from tests.support.waiting import free_port, wait_until

MEMORY = 512 << 20


@dataclass
class RecordedCommands:
    """Commands that only note what was asked."""

    board: StatusBoard
    asked: list[tuple[str, TableId | None]] = field(default_factory=list)

    def pause(self) -> None:
        self.asked.append(("pause", None))
        self.board.publish(paused=True, phase=Phase.PAUSED)

    def resume(self) -> None:
        self.asked.append(("resume", None))
        self.board.publish(paused=False, phase=Phase.STREAMING)

    def reload(self, table: TableId | None) -> None:
        if table is not None and table not in self.board.current.tables:
            raise KeyError(str(table))
        self.asked.append(("reload", table))

    def parse_position(self, text: str) -> Tick:
        prefix, _, number = text.partition("/")
        if prefix != "tick" or not number.isdecimal():
            raise ValueError("not a tick")
        return Tick(int(number))


@dataclass
class Served:
    """A replica with its board, commands and reads."""

    replica: DuckDBReplica
    board: StatusBoard
    commands: RecordedCommands
    reads: ReplicaReads
    settings: InstanceSettings

    def app(self, **changes: Any) -> Any:
        """A new application; `changes` replace settings."""
        settings = InstanceSettings(
            **{f: changes.get(f, getattr(self.settings, f)) for f in InstanceSettings.__dataclass_fields__}
        )
        return create_app(board=self.board, commands=self.commands, reads=self.reads, settings=settings)

    @contextmanager
    def client(self, **changes: Any) -> Iterator[httpx.Client]:
        """A server of its own on a free port of loopback, and a client of it."""
        with listening(self.app(**changes)) as url, httpx.Client(base_url=url, timeout=30, verify=False) as client:
            yield client

    def load(
        self,
        table: TableId,
        columns: Mapping[str, tuple[str, pa.Array]],
        position: int,
        *,
        key: Sequence[str] = (),
        identity: Identity = Identity.ROW,
    ) -> TableSchema:
        """Make a table, given per column its replica type and its values, visible at `position`."""
        layout = TableSchema(
            table,
            tuple(Column(name, type, type.lower(), id=i) for i, (name, (type, _)) in enumerate(columns.items(), 1)),
            key=tuple(key),
            identity=identity,
            source_id=str(table),
        )
        loader = self.replica.load(layout)
        arrays = [values for _, values in columns.values()]
        loader.append([pa.RecordBatch.from_arrays(arrays, names=list(columns))])
        loader.finish(f"tick/{position}")
        self.replica.swap([table], f"tick/{position}", "fake")
        self.board.set_table(table, state=TableState.LIVE)
        self.board.publish(position=Tick(position), source_position=Tick(position), ready=True, phase=Phase.STREAMING)
        return layout


@contextmanager
def serving(folder: Path, *, search_schema: str | None = "public") -> Iterator[Served]:
    """An empty replica, ready to be loaded."""
    replica = DuckDBReplica.open(
        folder / "replica.duckdb",
        instance="shop-live",
        memory_limit_bytes=MEMORY,
        threads=2,
        search_schema=search_schema,
    )
    board = StatusBoard()
    settings = InstanceSettings("shop-live", "postgres", "logical", memory_cap_mb=512)
    try:
        replica.start_over("tick/0", "fake")
        yield Served(replica, board, RecordedCommands(board), ReplicaReads(replica.cursor), settings)
    finally:
        replica.close()


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve `app` on a port of loopback; yields its URL."""
    port = free_port()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, 10, message="the server to start")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()
