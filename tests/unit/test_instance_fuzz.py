"""Whatever is sent, the answer is documented: a known status, and for an error the one form of error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.schema import TableId
from tests.support.serving import serving

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
queries = st.sampled_from(
    ["SELECT 1", "SELECT $1", "SELECT $a", "FROM orders", "SELECT 1 / 0", "DROP TABLE x", ";", ""]
)
bodies = values | st.fixed_dictionaries(
    {},
    optional={
        "sql": queries | values,
        "params": values,
        "after": st.sampled_from(["tick/1", "tick/0", "x"]) | values,
        "timeout_ms": st.integers(-1, 200) | values,
        "max_rows": st.integers(-1, 5) | values,
        "extra": values,
    },
)
relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving(tmp_path_factory.mktemp("replica")) as served:
        served.load(TableId("public", "orders"), {"id": ("BIGINT", pa.array([1, 2], pa.int64()))}, 1)
        with served.client() as client:
            yield client


def assert_documented(answer: httpx.Response, allowed: set[int]) -> None:
    assert answer.status_code in allowed, (answer.status_code, answer.text)
    if answer.status_code >= 400:
        body = answer.json()
        assert set(body) == {"error", "message"}
        assert body["error"].replace("_", "").isalpha()


@relaxed
@given(bodies, st.sampled_from(["application/json", "text/csv", "application/vnd.apache.arrow.stream", "*/*", "x/y"]))
def test_query_bodies(client: httpx.Client, body: Any, accept: str) -> None:
    content = json.dumps(body).encode()
    answer = client.post("/query", content=content, headers={"Content-Type": "application/json", "Accept": accept})
    assert_documented(answer, {200, 400, 406, 504})


@relaxed
@given(st.binary(max_size=50), st.sampled_from(["/query", "/sync/pause", "/sync/resume", "/sync/reload"]))
def test_raw_bodies(client: httpx.Client, content: bytes, path: str) -> None:
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert_documented(answer, {200, 202, 400})


@relaxed
@given(st.text(max_size=30), st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]))
def test_paths(client: httpx.Client, path: str, method: str) -> None:
    answer = client.request(method, "/x" + quote(path.encode(errors="ignore"), safe="/"))
    assert_documented(answer, {404, 405})


@relaxed
@given(values)
def test_reload_bodies(client: httpx.Client, table: Any) -> None:
    assert_documented(client.post("/sync/reload", json={"table": table}), {202, 400, 404})
