"""Health as derived from status; tables, sync commands, metrics and the page over HTTP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pyarrow as pa
import pytest

from engine.instance.health import health, iso, lag_seconds, status_word
from engine.instance.page import PAGE, PAGE_HEADERS
from engine.instance.settings import InstanceSettings
from engine.schema import Column, Identity, TableId, TableSchema
from engine.status import Counters, Failure, HealthCheck, Phase, Status, TableState, TableStatus
from tests.support.fake_source import Tick
from tests.support.serving import Served, serving
from tests.support.waiting import wait_until

NOW = 1_700_000_000.0
SETTINGS = InstanceSettings("shop-live", "postgres", "logical", memory_cap_mb=512)
ORDERS = TableId("public", "orders")
GOOD = Status(
    phase=Phase.STREAMING,
    ready=True,
    position=Tick(5),
    source_position=Tick(5),
    source_position_at=NOW - 0.041,
    lag_bytes=0,
    commit_time=NOW - 100,
    applied_at=NOW - 0.041,
    caught_up_at=NOW - 0.041,
    source_seen_at=NOW - 0.5,
    tables={ORDERS: TableStatus(TableState.LIVE)},
    checks={"source": HealthCheck("source", "ok", NOW - 60)},
    counters=Counters(swaps=1),
    started_at=NOW - 1000,
)


def test_the_body_is_the_documented_one() -> None:
    body = health(GOOD, SETTINGS, {ORDERS: 2_000_000}, NOW)
    assert list(body) == [
        *("status", "phase", "instance", "backend", "syncMode", "position", "sourcePosition", "lagBytes", "lagMs"),
        *("snapshotAgeMs", "swapCount", "rowCounts", "memoryMb", "memoryCapMb", "checks", "lastError"),
    ]
    assert body.pop("memoryMb") > 0
    assert body == {
        "status": "ok",
        "phase": "streaming",
        "instance": "shop-live",
        "backend": "postgres",
        "syncMode": "logical",
        "position": "tick/5",
        "sourcePosition": "tick/5",
        "lagBytes": 0,
        "lagMs": 41,
        "snapshotAgeMs": 41,
        "swapCount": 1,
        "rowCounts": {"public.orders": 2_000_000},
        "memoryCapMb": 512,
        "checks": [{"name": "source", "status": "ok", "since": "2023-11-14T22:12:20.000Z", "detail": None}],
        "lastError": None,
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "ok"),
        ({"phase": Phase.POLLING}, "ok"),
        ({"phase": Phase.CATCH_UP}, "ok"),
        ({"phase": Phase.STARTING}, "degraded"),
        ({"phase": Phase.SNAPSHOT}, "degraded"),
        ({"phase": Phase.RETRYING}, "degraded"),
        ({"phase": Phase.STOPPED}, "degraded"),
        ({"ready": False}, "degraded"),
        ({"paused": True}, "degraded"),
        ({"tables": {ORDERS: TableStatus(TableState.RELOADING)}}, "degraded"),
        ({"tables": {ORDERS: TableStatus(TableState.WAITING)}}, "degraded"),
        ({"checks": {"x": HealthCheck("x", "degraded", NOW)}}, "degraded"),
        ({"checks": {"x": HealthCheck("x", "failed", NOW)}}, "degraded"),
        ({"source_position": Tick(6), "caught_up_at": NOW - 59, "commit_time": None}, "ok"),
        ({"source_position": Tick(6), "caught_up_at": NOW - 61, "commit_time": None}, "degraded"),
        ({"source_position": Tick(6), "caught_up_at": NOW - 61, "commit_time": NOW - 1}, "ok"),
        ({"source_seen_at": NOW - 59}, "ok"),
        ({"source_seen_at": NOW - 61}, "unreachable"),
        ({"source_seen_at": None}, "unreachable"),
        ({"source_seen_at": None, "started_at": NOW - 5}, "ok"),
        ({"cap_exceeded": True, "source_seen_at": NOW - 61}, "cap_exceeded"),
    ],
)
def test_status_word(changes: dict[str, Any], word: str) -> None:
    assert status_word(replace(GOOD, **changes), SETTINGS, NOW) == word


def test_lag_is_the_time_since_the_replica_held_everything() -> None:
    behind = replace(GOOD, source_position=Tick(9), caught_up_at=NOW - 20)
    assert lag_seconds(behind, NOW) == 20
    assert lag_seconds(replace(behind, commit_time=NOW - 3), NOW) == 3
    assert lag_seconds(replace(behind, caught_up_at=None, commit_time=NOW - 30), NOW) == 30
    assert lag_seconds(replace(behind, caught_up_at=None, commit_time=None), NOW) is None
    assert lag_seconds(replace(behind, position=None, caught_up_at=None, commit_time=None), NOW) is None
    idle = replace(GOOD, caught_up_at=NOW - 500, commit_time=NOW - 500, source_position_at=NOW - 0.7)
    assert lag_seconds(idle, NOW) == pytest.approx(0.7)


def test_a_source_clock_that_runs_ahead_makes_no_negative_lag() -> None:
    ahead = replace(GOOD, source_position=Tick(9), caught_up_at=NOW - 4, commit_time=NOW + 300)
    assert lag_seconds(ahead, NOW) == 4
    assert (
        health(replace(GOOD, applied_at=NOW + 5, caught_up_at=NOW + 5, lag_bytes=-3), SETTINGS, {}, NOW)["lagMs"] == 0
    )
    body = health(replace(GOOD, applied_at=NOW + 5, lag_bytes=-3), SETTINGS, {}, NOW)
    assert (body["snapshotAgeMs"], body["lagBytes"]) == (0, 0)


def test_a_fresh_instance_has_a_health() -> None:
    body = health(Status(started_at=NOW), SETTINGS, {}, NOW)
    assert (body["status"], body["position"], body["lagMs"], body["rowCounts"]) == ("degraded", None, None, {})


def test_the_last_error_is_shown() -> None:
    failed = replace(GOOD, last_error=Failure("source_unreachable", "refused", "Start it.", NOW))
    assert health(failed, SETTINGS, {}, NOW)["lastError"] == {
        "error": "source_unreachable",
        "message": "refused",
        "remedy": "Start it.",
        "at": iso(NOW),
    }


WEIRD = TableId("we.ird", 'ä "/t%.b')


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("replica")) as served:
        numbers = pa.array([1, 2, 3], pa.int64())
        columns = {"id": ("BIGINT", numbers), "note": ("VARCHAR", pa.array(["a", None, "c"]))}
        served.load(ORDERS, columns, 1, key=["id"], identity=Identity.KEY)
        served.load(WEIRD, {"id": ("BIGINT", numbers)}, 2)
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def test_health_over_http(served: Served, client: httpx.Client) -> None:
    import time

    served.board.publish(source_seen_at=time.time(), caught_up_at=time.time())
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["rowCounts"] == {"public.orders": 3, str(WEIRD): 3}
    assert answer.json()["status"] == "ok"
    served.board.publish(source_seen_at=time.time() - 100)
    assert client.get("/health").status_code == 503
    served.board.publish(source_seen_at=time.time(), cap_exceeded=True)
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "cap_exceeded")


def test_row_counts_follow_the_replica(served: Served, client: httpx.Client) -> None:
    assert client.get("/health").json()["rowCounts"]["public.orders"] == 3
    served.load(ORDERS, {"id": ("BIGINT", pa.array(range(50), pa.int64()))}, 3)
    wait_until(lambda: client.get("/health").json()["rowCounts"]["public.orders"] == 50, 5)


def test_row_counts_are_not_counted_again_while_nothing_changes(served: Served) -> None:
    from engine.instance.counts import RowCounts

    counted = []
    session = served.reads.session

    def noted():
        counted.append(1)
        return session()

    served.reads.session = noted  # type: ignore[method-assign]
    counts = RowCounts(served.reads, served.board)
    for _ in range(100):
        assert counts.current()[ORDERS] == 3
    assert len(counted) == 1


def test_tables(client: httpx.Client) -> None:
    body = client.get("/tables").json()
    assert [(t["schema"], t["name"]) for t in body["tables"]] == [("public", "orders"), (WEIRD.schema, WEIRD.name)]
    orders = body["tables"][0]
    assert orders == {
        "schema": "public",
        "name": "orders",
        "state": "live",
        "rowCount": 3,
        "rowsLoaded": 0,
        "rowsExpected": 0,
        "lastChange": None,
        "skippedAt": None,
        "identity": "by its key (id)",
        "reason": None,
        "columns": [
            {
                "name": "id",
                "type": "BIGINT",
                "sourceType": "bigint",
                "nullable": True,
                "key": True,
                "rule": None,
                "nulled": 0,
            },
            {
                "name": "note",
                "type": "VARCHAR",
                "sourceType": "varchar",
                "nullable": True,
                "key": False,
                "rule": None,
                "nulled": 0,
            },
        ],
    }
    assert client.get("/tables/public.orders").json() == orders


@pytest.mark.parametrize(
    "path",
    ["we%2Eird.%C3%A4%20%22%2Ft%25%2Eb", "we.ird.%C3%A4%20%22%2Ft%25.b", "we.ird.ä%20%22/t%25.b"],
)
def test_a_table_with_an_odd_name(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/tables/{path}")
    assert answer.status_code == 200
    assert (answer.json()["schema"], answer.json()["name"]) == (WEIRD.schema, WEIRD.name)


def test_names_that_read_alike_need_their_dots_escaped(served: Served, client: httpx.Client) -> None:
    one, other = TableId("a.b", "c"), TableId("a", "b.c")
    for table in (one, other):
        served.board.set_table(table, state=TableState.LOADING, rows_loaded=5, rows_expected=10)
    assert client.get("/tables/a.b.c").json()["error"] == "ambiguous_table"
    for table, path in ((one, "a%2Eb.c"), (other, "a.b%2Ec")):
        body = client.get(httpx.URL(client.base_url).copy_with(raw_path=f"/tables/{path}".encode())).json()
        assert (body["schema"], body["name"]) == (table.schema, table.name)
        assert (body["state"], body["rowsLoaded"], body["rowsExpected"], body["rowCount"]) == ("loading", 5, 10, None)
        assert body["columns"] == []


@pytest.mark.parametrize("path", ["public.nope", "nope", "public", "public.", "%FF%FE", "public.orders.x", "orders"])
def test_unknown_tables(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/tables/{path}")
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_table")


@pytest.mark.parametrize("identity", list(Identity))
def test_how_a_table_is_followed_is_said_in_words(identity: Identity) -> None:
    from engine.instance.tables import followed_by

    table = TableSchema(ORDERS, (Column("id", "BIGINT", "bigint"),), ("id",), identity)
    assert len(followed_by(table)) > 10


def test_sync_commands(served: Served, client: httpx.Client) -> None:
    for _ in range(2):
        answer = client.post("/sync/pause")
        assert (answer.status_code, answer.json()) == (202, {"accepted": "pause"})
    assert client.get("/health").json()["phase"] == "paused"
    assert client.post("/sync/resume", json={}).status_code == 202
    assert client.post("/sync/reload").json() == {"accepted": "reload", "table": None}
    assert client.post("/sync/reload", json={"table": "public.orders"}).status_code == 202
    assert client.post("/sync/reload", json={"table": str(WEIRD)}).status_code == 202
    assert served.commands.asked == [
        *[("pause", None)] * 2,
        *(("resume", None), ("reload", None), ("reload", ORDERS), ("reload", WEIRD)),
    ]


def test_sync_commands_that_are_wrong(served: Served, client: httpx.Client) -> None:
    for body, status, word in (
        ({"table": "public.nope"}, 404, "unknown_table"),
        ({"table": 5}, 400, "invalid_request"),
        ({"tables": []}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
    ):
        answer = client.post("/sync/reload", json=body)
        assert (answer.status_code, answer.json()["error"]) == (status, word)
    assert client.post("/sync/pause", json={"table": "x"}).status_code == 400
    assert client.post("/sync/pause", content="x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert served.commands.asked == []


_LINE = re.compile(r'[a-zA-Z_:][\w:]*(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)*\})? [-+0-9.eInfNa]+')


def test_metrics(served: Served, client: httpx.Client) -> None:
    served.board.set_table(TableId("a", 'q"\\\nz'), state=TableState.LOADING, rows_loaded=1, rows_expected=2)
    served.board.set_check("source", "degraded", "x")
    client.post("/query", json={"sql": "SELECT 1"})
    client.post("/query", json={"sql": "SELEC 1"})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert answer.text.endswith("\n")
    for line in lines:
        assert line.startswith(("# HELP reflex_", "# TYPE reflex_")) or _LINE.fullmatch(line), line
    assert 'reflex_table_rows{table="public.orders"} 3' in lines
    assert 'reflex_table_rows_loaded{table="a.q\\"\\\\\\nz"} 1' in lines
    assert 'reflex_check_ok{check="source"} 0' in lines
    assert 'reflex_queries_total{outcome="ok",format="json"} 1' in lines
    assert 'reflex_queries_total{outcome="query_error",format="json"} 1' in lines
    assert "reflex_query_seconds_count 2" in lines
    assert "reflex_ready 1" in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_the_page_carries_everything_it_needs_and_runs_nothing_else(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == PAGE
    policy = answer.headers["content-security-policy"]
    assert policy == PAGE_HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"""(src|href)\s*=|https?://|\son\w+\s*=|style\s*=\s*"|innerHTML|eval\(""", PAGE)
    assert "/*SCRIPT*/" not in PAGE
    assert "/*STYLE*/" not in PAGE
