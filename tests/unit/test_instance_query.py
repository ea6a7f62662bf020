"""POST /query: forms, limits, positions, and what it refuses about a request."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from engine.instance.encoding import POSITION, TRUNCATED, negotiate
from engine.instance.query import _fits_header
from engine.replica.reads import Form
from engine.schema import TableId
from tests.support.fake_source import Tick
from tests.support.serving import Served, serving

ORDERS = TableId("public", "orders")
ARROW = "application/vnd.apache.arrow.stream"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("replica")) as served:
        served.load(
            ORDERS,
            {
                "id": ("BIGINT", pa.array(range(20_000), pa.int64())),
                "note": ("VARCHAR", pa.array([f"n{i}" for i in range(20_000)])),
            },
            7,
            key=["id"],
        )
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def ask(client: httpx.Client, sql: str, accept: str = "application/json", **body: object) -> httpx.Response:
    return client.post("/query", json={"sql": sql, **body}, headers={"Accept": accept})


def error_of(answer: httpx.Response) -> str:
    body = answer.json()
    assert set(body) == {"error", "message"}
    assert body["message"]
    return body["error"]


def test_json_answer(client: httpx.Client) -> None:
    answer = ask(client, "SELECT id, note FROM orders ORDER BY id LIMIT 2")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-reflex-position"] == "tick/7"
    assert answer.headers["x-reflex-truncated"] == "false"
    assert answer.json() == {
        "columns": [{"name": "id", "type": "BIGINT"}, {"name": "note", "type": "VARCHAR"}],
        "position": "tick/7",
        "rows": [[0, "n0"], [1, "n1"]],
        "rowCount": 2,
        "truncated": False,
    }


def test_json_is_limited_to_ten_thousand_rows_unless_it_asks_for_more(client: httpx.Client) -> None:
    body = ask(client, "SELECT id FROM orders ORDER BY id").json()
    assert (body["rowCount"], body["truncated"]) == (10_000, True)
    assert body["rows"] == [[i] for i in range(10_000)]
    body = ask(client, "SELECT id FROM orders ORDER BY id", max_rows=20_000).json()
    assert (body["rowCount"], body["truncated"], len(body["rows"])) == (20_000, False, 20_000)


@pytest.mark.parametrize("rows", [1, 2, 4095, 4096, 4097, 19_999])
def test_max_rows_cuts_exactly(client: httpx.Client, rows: int) -> None:
    body = ask(client, "FROM orders ORDER BY id", max_rows=rows).json()
    assert (body["rowCount"], len(body["rows"]), body["truncated"]) == (rows, rows, True)
    assert body["rows"][-1][0] == rows - 1


def test_order_is_kept_for_every_form(client: httpx.Client) -> None:
    wanted = sorted(range(20_000), key=lambda i: f"n{i}", reverse=True)
    sql = "SELECT id FROM orders ORDER BY note DESC"
    assert [row[0] for row in ask(client, sql, max_rows=30_000).json()["rows"]] == wanted
    table = pa.ipc.open_stream(ask(client, sql, ARROW).content).read_all()
    assert table.column("id").to_pylist() == wanted
    assert [int(row[0]) for row in list(csv.reader(io.StringIO(ask(client, sql, "text/csv").text)))[1:]] == wanted


def test_arrow_answer(client: httpx.Client) -> None:
    answer = ask(client, "SELECT id, note FROM orders", ARROW)
    assert answer.headers["content-type"] == ARROW
    assert answer.headers["x-reflex-position"] == "tick/7"
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema == pa.schema([("id", pa.int64()), ("note", pa.string())])
    assert table.schema.metadata == {POSITION: b"tick/7"}
    assert sorted(table.column("id").to_pylist()) == list(range(20_000))


def test_arrow_says_in_the_stream_that_it_was_cut(client: httpx.Client) -> None:
    def marks(max_rows: int) -> list[bytes | None]:
        reader = pa.ipc.open_stream(ask(client, "SELECT id FROM orders", ARROW, max_rows=max_rows).content)
        found: list[bytes | None] = []
        rows = 0
        while True:
            try:
                batch = reader.read_next_batch_with_custom_metadata()
            except StopIteration:
                assert rows == min(max_rows, 20_000)
                return found
            rows += batch.batch.num_rows
            found.append(None if batch.custom_metadata is None else batch.custom_metadata[TRUNCATED])

    assert marks(5000)[-1] == b"true"
    assert not any(marks(20_000))


def test_csv_answer(client: httpx.Client) -> None:
    sql = "SELECT * FROM (VALUES (1, 'a,b', NULL), (2, '', 'x\"y'), (3, E'l\\nm', 'é')) AS t(\"n\", \"s,t\", u)"
    answer = ask(client, sql, "text/csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text == 'n,"s,t",u\r\n1,"a,b",\r\n2,"","x""y"\r\n3,"l\nm",é\r\n'


def test_params(client: httpx.Client) -> None:
    assert ask(client, "SELECT note FROM orders WHERE id = $1", params=[5]).json()["rows"] == [["n5"]]
    assert ask(client, "SELECT note FROM orders WHERE id = ?", params=[6]).json()["rows"] == [["n6"]]
    assert ask(client, "SELECT $a || $b", params={"a": "x'; --", "b": "ü"}).json()["rows"] == [["x'; --ü"]]
    assert ask(client, "SELECT $1, $2, $3, $4", params=[None, True, 1.5, 2**62]).json()["rows"] == [
        [None, True, 1.5, str(2**62)]
    ]
    assert ask(client, "SELECT id FROM orders WHERE id = ANY($1) ORDER BY 1", params=[[3, 1]]).json()["rows"] == [
        [1],
        [3],
    ]
    for params in ([], [1, 2], {"x": 1}):
        assert error_of(ask(client, "SELECT $1", params=params)) == "query_error"


def test_explain_in_every_form(client: httpx.Client) -> None:
    plan = ask(client, "EXPLAIN SELECT count(*) FROM orders").json()
    assert plan["rows"][0][0] == "physical_plan"
    table = pa.ipc.open_stream(ask(client, "EXPLAIN ANALYZE FROM orders", ARROW).content).read_all()
    assert table.column(0).to_pylist() == ["analyzed_plan"]
    rows = list(csv.reader(io.StringIO(ask(client, "EXPLAIN FROM orders", "text/csv").text, newline="")))
    assert rows[1][0] == "physical_plan"
    assert "\n" in rows[1][1]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.JSON),
        ("*/*", Form.JSON),
        ("text/html, */*;q=0.1", Form.JSON),
        ("text/csv", Form.CSV),
        ("TEXT/CSV; charset=utf-8", Form.CSV),
        ("text/*", Form.CSV),
        ("application/json;q=0.5, text/csv;q=0.9", Form.CSV),
        ("text/csv;q=0.5, application/json", Form.JSON),
        (ARROW, Form.ARROW),
        (f"{ARROW}, */*", Form.ARROW),
        ("text/html", None),
        ("application/json;q=0", None),
        ("text/csv;q=x", None),
    ],
)
def test_negotiation(accept: str, form: Form | None) -> None:
    assert negotiate(accept) is form


def test_not_acceptable(client: httpx.Client) -> None:
    answer = ask(client, "SELECT 1", "image/png")
    assert (answer.status_code, error_of(answer)) == (406, "not_acceptable")


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        ({}, "sql"),
        ({"sql": 1}, "sql"),
        ({"sql": None}, "sql"),
        ({"sql": "SELECT 1", "limit": 5}, "limit: unknown field"),
        ({"sql": "SELECT 1", "timeout_ms": 0}, "timeout_ms"),
        ({"sql": "SELECT 1", "timeout_ms": 1.5}, "timeout_ms"),
        ({"sql": "SELECT 1", "timeout_ms": True}, "timeout_ms"),
        ({"sql": "SELECT 1", "timeout_ms": 10**9}, "timeout_ms"),
        ({"sql": "SELECT 1", "max_rows": 0}, "max_rows"),
        ({"sql": "SELECT 1", "max_rows": "5"}, "max_rows"),
        ({"sql": "SELECT 1", "params": 5}, "params"),
        ({"sql": "SELECT 1", "after": 5}, "after"),
        ([], "object"),
        ("SELECT 1", "object"),
    ],
)
def test_every_wrong_field_is_named(client: httpx.Client, body: object, mentions: str) -> None:
    answer = client.post("/query", json=body)
    assert (answer.status_code, error_of(answer)) == (400, "invalid_request")
    assert mentions in answer.json()["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"sql": NaN}', b"[" * 100_000, b'{"sql": "SELECT 1", "params": [' + b"9" * 5000 + b"]}"],
)
def test_what_is_not_json(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/query", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, error_of(answer)) == (400, "invalid_json")


def test_half_a_character_is_refused(client: httpx.Client) -> None:
    for body in (rb'{"sql": "SELECT \"\ud800\""}', rb'{"sql": "SELECT $1", "params": ["\udfff"]}'):
        answer = client.post("/query", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, error_of(answer)) == (400, "invalid_request")


def test_content_type(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post("/query", content=b'{"sql": "SELECT 1"}', headers={"Content-Type": kind})
        assert (answer.status_code, error_of(answer)) == (415, "unsupported_media_type")


def test_body_limit(client: httpx.Client) -> None:
    fits = json.dumps({"sql": "SELECT 1 -- " + "x" * 900_000})
    assert client.post("/query", content=fits, headers={"Content-Type": "application/json"}).status_code == 200
    over = json.dumps({"sql": "SELECT 1 -- " + "x" * (1 << 20)}).encode()
    answer = client.post("/query", content=over, headers={"Content-Type": "application/json"})
    assert (answer.status_code, error_of(answer)) == (413, "body_too_large")
    parts = (over[i : i + 65_536] for i in range(0, len(over), 65_536))
    answer = client.post("/query", content=parts, headers={"Content-Type": "application/json"})
    assert (answer.status_code, error_of(answer)) == (413, "body_too_large")


def test_a_wrong_query_is_told_in_duckdbs_words(client: httpx.Client) -> None:
    answer = ask(client, "SELECT nope FROM orders")
    assert (answer.status_code, error_of(answer)) == (400, "query_error")
    assert '"nope"' in answer.json()["message"]


def test_before_the_first_snapshot(tmp_path: Path) -> None:
    with serving(tmp_path) as empty, empty.client() as client:
        answer = client.post("/query", json={"sql": "SELECT 1"})
        assert (answer.status_code, error_of(answer)) == (503, "not_ready")
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == 200


def test_after_a_position_that_is_reached(client: httpx.Client) -> None:
    assert ask(client, "SELECT 1", after="tick/7").json()["position"] == "tick/7"


def test_after_a_position_that_is_no_position(client: httpx.Client) -> None:
    answer = ask(client, "SELECT 1", after="0/1")
    assert (answer.status_code, error_of(answer)) == (400, "invalid_position")


def test_after_a_position_that_does_not_come(served: Served, client: httpx.Client) -> None:
    answer = ask(client, "SELECT 1", after="tick/8", timeout_ms=100)
    assert (answer.status_code, error_of(answer)) == (504, "position_not_reached")
    assert served.board.current.position == Tick(7)


@pytest.mark.parametrize("accept", ["application/json", "text/csv", ARROW])
def test_the_first_rows_are_the_first_of_the_order(client: httpx.Client, accept: str) -> None:
    """Whatever DuckDB makes of an ORDER BY within a LIMIT."""
    for sql, wanted in (
        ("SELECT id FROM orders ORDER BY id DESC", range(19_999, 0, -1)),
        ("SELECT id FROM (SELECT * FROM orders ORDER BY note) ORDER BY id LIMIT 5000 OFFSET 10", range(10, 5010)),
        ("WITH x AS (FROM orders) SELECT id FROM x ORDER BY hash(id), id", None),
        ("SELECT id, id % 7 AS id FROM orders ORDER BY ALL", range(20_000)),
    ):
        for rows in (1, 100, 5000):
            answer = ask(client, sql, accept, max_rows=rows)
            if accept == ARROW:
                got = pa.ipc.open_stream(answer.content).read_all().column(0).to_pylist()
            elif accept == "text/csv":
                got = [int(row[0]) for row in list(csv.reader(io.StringIO(answer.text)))[1:]]
            else:
                got = [row[0] for row in answer.json()["rows"]]
            expected = wanted or [row[0] for row in ask(client, sql, max_rows=30_000).json()["rows"]]
            assert got == list(expected)[:rows]


def test_a_position_that_is_no_header_is_left_to_the_body() -> None:
    assert _fits_header("0/1A2B3C8")
    assert not _fits_header("3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5,\n4E11FA47-71CA-11E1-9E33-C80AA9429562:1-9")
    assert not _fits_header("x" * 5000)
