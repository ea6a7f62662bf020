"""One instance with all of its real parts but the source: start, answer, follow, stop, start again."""

from __future__ import annotations

import json
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from click.testing import CliRunner

from engine.cli import main
from engine.client import ClientError, InstanceClient
from engine.config import Config, parse_config
from engine.schema import TableId
from engine.source import Source
from engine.supervisor.instance import Event, Instance
from engine.supervisor.wiring import Wiring
from tests.support.fake_source import FakeDatabase, FakeSource
from tests.support.waiting import wait_until


class OnFake(Wiring):
    def __init__(self, database: FakeDatabase) -> None:
        self.database = database

    def source(self, config: Config, as_text: frozenset[tuple[TableId, str]]) -> Source:
        return FakeSource(self.database)


def config(folder: Path) -> Config:
    return parse_config(
        json.dumps(
            {
                "connection": {"backend": "postgres", "host": "h", "user": "u", "available_schemas": ["db.shop"]},
                "instance": {"name": "wired"},
                "replica": {"path": str(folder / "deep" / "wired.duckdb")},
                "http": {"port": 0, "token": "t0ken"},
            }
        )
    )


def rows(client: InstanceClient, sql: str) -> Any:
    return client.query(sql, timeout_ms=5000)["rows"]


def test_an_instance_answers_follows_stops_and_continues(tmp_path: Path) -> None:
    database = FakeDatabase()
    orders = database.create("orders")
    database.commit(*[(orders, key, key * 10) for key in range(1, 101)])
    events: SimpleQueue[Event] = SimpleQueue()

    first = Instance(config(tmp_path), OnFake(database))
    first.start(events)
    try:
        with pytest.raises(ClientError, match="token"), InstanceClient(first.url) as stranger:
            stranger.health()
        with InstanceClient(first.url, "t0ken") as client:
            wait_until(lambda: rows(client, "SELECT count(*) FROM orders") == [[100]], ignore=(ClientError,))
            database.commit((orders, 1, 7), (orders, 2, None))
            answer = client.query("SELECT sum(v) FROM orders", after=str(database.position), timeout_ms=10_000)
            assert answer["rows"] == [[50500 - 10 + 7 - 20]]
            wait_until(lambda: client.health()["status"] == "ok")
            shown = CliRunner().invoke(main, ["status", "--url", first.url, "--token", "t0ken"])
            assert shown.exit_code == 0
            assert "wired: ok, streaming (postgres, logical)" in shown.stdout
            assert "shop.orders |   99 | live" in shown.stdout
            asked = [
                "query",
                "FROM orders ORDER BY id LIMIT 1",
                "--url",
                first.url,
                "--token",
                "t0ken",
                "--format",
                "csv",
            ]
            assert CliRunner().invoke(main, asked).stdout.splitlines() == ["id,v", "1,7"]
    finally:
        first.stop()

    database.commit((orders, 3, None))
    second = Instance(config(tmp_path), OnFake(database))
    second.start(events)
    try:
        with InstanceClient(second.url, "t0ken") as client:
            wait_until(lambda: rows(client, "SELECT count(*) FROM orders") == [[98]], ignore=(ClientError,))
    finally:
        second.stop()
    assert events.empty()
