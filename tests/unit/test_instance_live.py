"""Queries that take long, that leave, that crowd, that wait: against a server on loopback."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import psutil
import pyarrow as pa
import pytest

from engine.replica.reads import QueryCancelled
from engine.schema import TableId
from tests.support.fake_source import Tick
from tests.support.serving import Served, listening, serving
from tests.support.waiting import wait_until

ENDLESS = "SELECT count(*) FROM range(10000000) a(x), range(10000000) b(y) WHERE x + y = 7"
ARROW = {"Accept": "application/vnd.apache.arrow.stream"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("replica")) as served:
        served.load(TableId("public", "orders"), {"id": ("BIGINT", pa.array(range(1000), pa.int64()))}, 1)
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client(max_queries=2, max_waiting=2) as client:
        yield client


def gauge(client: httpx.Client, name: str) -> int:
    lines = client.get("/metrics").text.splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"reflex_{name} "))


def running(client: httpx.Client) -> int:
    return gauge(client, "queries_running")


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS,
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT a.x FROM range(1000000) a(x), range(1000000) b(y) ORDER BY hash(x + y) LIMIT 3",
        "SELECT sleep_ms(60000)",
        "EXPLAIN ANALYZE " + ENDLESS,
        "PIVOT (SELECT a.x % 2 AS k FROM range(10000000) a(x), range(10000000) b(y)) ON k USING count(*)",
    ],
)
def test_a_timeout_cancels_within_a_second(client: httpx.Client, sql: str) -> None:
    started = time.monotonic()
    answer = client.post("/query", json={"sql": sql, "timeout_ms": 300})
    took = time.monotonic() - started
    assert (answer.status_code, answer.json()["error"]) == (504, "query_timeout")
    assert 0.3 <= took < 1.3
    wait_until(lambda: running(client) == 0, 1)


def test_a_timeout_while_sending_cuts_the_answer_off(client: httpx.Client) -> None:
    sql = "SELECT x, repeat('x', 100) FROM range(1000000000) t(x)"
    for headers, limit in (({}, {"max_rows": 10**9}), (ARROW, {}), ({"Accept": "text/csv"}, {})):
        body = {"sql": sql, "timeout_ms": 1000, **limit}
        started = time.monotonic()
        with (
            pytest.raises(httpx.RemoteProtocolError),
            client.stream("POST", "/query", json=body, headers=headers) as answer,
        ):
            assert answer.status_code == 200
            for _ in answer.iter_raw():
                pass
        assert time.monotonic() - started < 3
        wait_until(lambda: running(client) == 0, 2)


def test_livez_answers_at_once_while_queries_run(client: httpx.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        body = {"sql": ENDLESS, "timeout_ms": 2000}
        busy = [pool.submit(client.post, "/query", json=body) for _ in range(2)]
        wait_until(lambda: running(client) == 2, 5)
        times = []
        for _ in range(20):
            started = time.monotonic()
            assert client.get("/livez").status_code == 200
            times.append(time.monotonic() - started)
        assert sorted(times)[10] < 0.25
        assert client.get("/health").status_code == 200
        assert {b.result().status_code for b in busy} == {504}


def test_a_client_that_leaves_ends_its_query(served: Served, client: httpx.Client) -> None:
    for early in (ENDLESS, "SELECT x, repeat('x', 100) FROM range(1000000000) t(x)"):
        url = client.base_url
        connection = http.client.HTTPConnection(url.host, url.port, timeout=10)
        body = json.dumps({"sql": early, "timeout_ms": 60_000})
        headers = {"Content-Type": "application/json", "Accept": "text/csv"}
        connection.request("POST", "/query", body, headers)
        wait_until(lambda: running(client) == 1, 5)
        assert connection.sock is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        wait_until(lambda: running(client) == 0, 2, message="the query to end with its client")


def test_a_client_that_does_not_read_is_cut_off_in_time(client: httpx.Client) -> None:
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({"sql": "SELECT repeat('x', 1000) FROM range(10000000)", "timeout_ms": 1000}).encode()
        head = (
            f"POST /query HTTP/1.1\r\nHost: 127.0.0.1:{url.port}\r\nContent-Type: application/json\r\n"
            f"Accept: text/csv\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        slow.sendall(head.encode() + body)
        wait_until(lambda: running(client) == 1, 5)
        wait_until(lambda: running(client) == 0, 3, message="the place of a reader that does not read to be free")


def test_more_queries_than_places_wait_and_then_are_refused(client: httpx.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        body = {"sql": ENDLESS, "timeout_ms": 3000}
        busy = [pool.submit(client.post, "/query", json=body) for _ in range(2)]
        wait_until(lambda: running(client) == 2, 5)
        waiting = [pool.submit(client.post, "/query", json={"sql": "SELECT 1", "timeout_ms": 1500}) for _ in range(2)]
        wait_until(lambda: gauge(client, "queries_waiting") == 2, 5)
        refused = client.post("/query", json={"sql": "SELECT 1"})
        assert refused.status_code == 503
        assert refused.json()["error"] == "busy"
        assert refused.headers["retry-after"] == "1"
        assert {w.result().json()["error"] for w in waiting} == {"query_timeout"}
        assert {b.result().status_code for b in busy} == {504}
    assert client.post("/query", json={"sql": "SELECT 1"}).status_code == 200


def test_many_queries_at_once_are_all_answered(served: Served) -> None:
    with served.client(max_queries=4, max_waiting=100) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        sql = "SELECT sum(id), $1 FROM orders"
        answers = list(pool.map(lambda i: client.post("/query", json={"sql": sql, "params": [i]}).json(), range(100)))
    assert [a["rows"] for a in answers] == [[[499_500, i]] for i in range(100)]


def test_after_waits_for_the_position(served: Served, client: httpx.Client) -> None:
    started = time.monotonic()
    timer = threading.Timer(0.3, lambda: served.board.publish(position=Tick(50)))
    timer.start()
    try:
        answer = client.post("/query", json={"sql": "SELECT 1", "after": "tick/50", "timeout_ms": 5000})
        assert answer.status_code == 200
        assert 0.28 <= time.monotonic() - started < 1.5
    finally:
        timer.join()
        served.board.publish(position=Tick(1))


def test_waiting_for_a_position_takes_no_place_of_a_query(client: httpx.Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        body = {"sql": "SELECT 1", "after": "tick/99", "timeout_ms": 1500}
        waiting = [pool.submit(client.post, "/query", json=body) for _ in range(2)]
        assert client.post("/query", json={"sql": "SELECT 1"}).status_code == 200
        assert {w.result().json()["error"] for w in waiting} == {"position_not_reached"}


def test_a_large_answer_needs_little_memory(served: Served, client: httpx.Client) -> None:
    sql = "SELECT x, x::VARCHAR || repeat('y', 90) AS t FROM range(2000000) r(x)"
    process = psutil.Process()
    client.post("/query", json={"sql": "SELECT 1"})
    for headers in (ARROW, {"Accept": "text/csv"}):
        before, highest, size = process.memory_info().rss, 0, 0
        with client.stream("POST", "/query", json={"sql": sql}, headers=headers, timeout=60) as answer:
            for i, chunk in enumerate(answer.iter_raw()):
                size += len(chunk)
                if i % 50 == 0:
                    highest = max(highest, process.memory_info().rss)
        assert size > 180_000_000
        assert highest - before < 100 << 20


def test_stopping_the_server_ends_its_queries(served: Served) -> None:
    app = served.app()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with listening(app) as url, httpx.Client(base_url=url) as client:
            busy = pool.submit(client.post, "/query", json={"sql": ENDLESS, "timeout_ms": 60_000}, timeout=30)
            wait_until(lambda: running(client) == 1, 5)
            started = time.monotonic()
        assert time.monotonic() - started < 6
        error = busy.exception(10)
        assert isinstance(error, httpx.HTTPError) or busy.result().json()["error"] == "query_cancelled"


def test_readers_and_the_writer_do_not_wait_for_each_other(served: Served, client: httpx.Client) -> None:
    table = TableId("public", "pairs")
    values = pa.array(range(1000), pa.int64())
    served.load(table, {"id": ("BIGINT", values)}, 60)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = "SELECT (SELECT count(*) FROM pairs), sleep_ms(1000)"
        reading = pool.submit(client.post, "/query", json={"sql": slow})
        wait_until(lambda: running(client) == 1, 5)
        started = time.monotonic()
        served.load(table, {"id": ("BIGINT", values), "more": ("BIGINT", values)}, 61)
        assert time.monotonic() - started < 0.9
        now = client.post("/query", json={"sql": "SELECT count(more) FROM pairs"}).json()
        assert (now["rows"], now["position"]) == ([[1000]], "tick/61")
        answer = reading.result().json()
        assert (answer["rows"][0][0], answer["position"]) == (1000, "tick/60")


def test_an_interrupt_between_two_steps_is_not_lost(served: Served) -> None:
    with served.reads.session() as session:
        session.interrupt()
        with pytest.raises(QueryCancelled):
            session.query("SELECT 1")
    with served.reads.session() as session:
        answer = session.query("SELECT * FROM range(1000000)")
        next(answer.rows)
        session.interrupt()
        with pytest.raises(QueryCancelled):
            list(answer.rows)
    session.interrupt()


def test_leaving_a_large_result_early_is_quick(served: Served) -> None:
    started = time.monotonic()
    with served.reads.session() as session:
        next(session.query("SELECT x, hash(x) FROM range(100000000000) t(x)").rows)
    assert time.monotonic() - started < 1
