"""Who is answered, and that every refusal has the API's one form."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import httpx
import pyarrow as pa
import pytest

from engine.instance.guard import Guard
from engine.instance.settings import InstanceSettings
from engine.schema import TableId
from engine.source import Secret
from tests.support.serving import Served, serving

TOKEN = "s3cret-tok€n"
PATHS = ["/", "/health", "/tables", "/tables/public.orders", "/metrics", "/nothing", "/sync/pause", "/query"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("replica")) as served:
        served.load(TableId("public", "orders"), {"id": ("BIGINT", pa.array([1], pa.int64()))}, 1)
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def locked(served: Served) -> Iterator[httpx.Client]:
    with served.client(token=Secret(TOKEN)) as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error", "message"}
    assert isinstance(body["message"], str)
    assert len(body["message"]) > 10
    return answer.status_code, body["error"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
    ],
)
def test_without_the_token_nothing_is_told(locked: httpx.Client, path: str, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode())]
    for method in ("GET", "POST", "DELETE"):
        answer = locked.request(method, path, headers=headers)
        assert problem(answer) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text


def test_with_the_token(locked: httpx.Client) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = [(b"Authorization", f"{scheme} {TOKEN}".encode())]
        assert locked.get("/health", headers=headers).status_code == 200
        assert locked.post("/query", json={"sql": "SELECT 1"}, headers=headers).status_code == 200
    assert problem(locked.get("/nothing", headers=headers)) == (404, "not_found")


def test_probes_need_no_token(locked: httpx.Client) -> None:
    for method in ("GET", "HEAD"):
        assert locked.request(method, "/livez", headers={"Host": "any.example"}).status_code == 200
        assert locked.request(method, "/readyz").status_code == 200


def test_the_page_without_a_token_asks_for_it(locked: httpx.Client) -> None:
    answer = locked.get("/", headers={"Accept": "text/html"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert 'id="login"' in answer.text
    assert "orders" not in answer.text
    assert "shop" not in answer.text


def test_a_token_admits_any_host_and_origin(locked: httpx.Client) -> None:
    headers = [
        (b"Authorization", f"Bearer {TOKEN}".encode()),
        (b"Host", b"replica.example"),
        (b"Origin", b"https://app.example"),
    ]
    assert locked.post("/query", json={"sql": "SELECT 1"}, headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "[::1]"])
def test_loopback_names_are_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example:8080",
        "[::2]",
        "0.0.0.0",
        "127.0.0.1@evil.example",
    ],
)
def test_a_rebound_name_is_refused(client: httpx.Client, host: str) -> None:
    for path in ("/health", "/tables", "/"):
        assert problem(client.get(path, headers={"Host": host})) == (403, "host_not_allowed")
    answer = client.post("/query", json={"sql": "SELECT 1"}, headers={"Host": host})
    assert problem(answer) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_pages_of_other_sites_change_nothing(served: Served, client: httpx.Client, headers: dict[str, str]) -> None:
    before = list(served.commands.asked)
    assert problem(client.post("/sync/pause", headers=headers)) == (403, "cross_origin")
    assert problem(client.post("/query", json={"sql": "SELECT 1"}, headers=headers)) == (403, "cross_origin")
    assert served.commands.asked == before


def test_our_own_page_may_ask(client: httpx.Client) -> None:
    origin = str(client.base_url).rstrip("/")
    headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/query", json={"sql": "SELECT 1"}, headers=headers).status_code == 200


def test_nothing_allows_another_origin(client: httpx.Client) -> None:
    for answer in (
        client.get("/health", headers={"Origin": "https://evil.example"}),
        client.options("/query", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "path", ["/nothing", "/health/", "/query/x", "/docs", "/redoc", "/openapi.json", "/tables/", "/%00"]
)
def test_unknown_paths(client: httpx.Client, path: str) -> None:
    status, word = problem(client.get(path))
    assert (status, word) in {(404, "not_found"), (404, "unknown_table")}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/query"),
        ("PUT", "/query"),
        ("POST", "/health"),
        ("DELETE", "/tables"),
        ("GET", "/sync/pause"),
        ("PATCH", "/"),
        ("POST", "/metrics"),
        ("POST", "/livez"),
    ],
)
def test_wrong_methods(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert problem(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(client: httpx.Client) -> None:
    url = client.base_url
    connection = http.client.HTTPConnection(url.host, url.port, timeout=10)
    connection.putrequest("POST", "/sync/pause")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert b'"body_too_large"' in answer.read()
    connection.close()


def test_answers_are_not_sniffed_or_cached(client: httpx.Client) -> None:
    for path in ("/health", "/nothing", "/"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def _broken(scope: object, receive: object, send: object) -> None:
    raise RuntimeError("a value that nobody may see")


def test_an_unexpected_error_is_told_without_its_message(served: Served) -> None:
    from tests.support.serving import listening

    with listening(Guard(_lifespan_only(_broken), served.settings)) as url, httpx.Client(base_url=url) as client:
        answer = client.get("/health")
        assert problem(answer) == (500, "internal")
        assert "nobody" not in answer.text


def _lifespan_only(app):
    async def run(scope, receive, send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while True:
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            if kind == "lifespan.shutdown":
                return

    return run


def test_websockets_are_refused(client: httpx.Client) -> None:
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=5) as plain:
        plain.sendall(
            f"GET /health HTTP/1.1\r\nHost: {url.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        assert b"101 Switching" not in plain.recv(200)


def test_the_token_is_in_no_repr() -> None:
    assert TOKEN not in repr(InstanceSettings("a", "postgres", "logical", Secret(TOKEN)))
