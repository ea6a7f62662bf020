"""The commands as a user types them: output, exit codes, and a start that is quick."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from connectors import registry
from engine.cli import main
from engine.errors import PreconditionError, TransientError
from engine.source import Check
from engine.terminal import text_table

HEALTH: dict[str, Any] = {
    "status": "ok",
    "phase": "streaming",
    "instance": "shop-live",
    "backend": "postgres",
    "syncMode": "logical",
    "position": "0/1A2B3C8",
    "sourcePosition": "0/1A2B3D0",
    "lagBytes": 8,
    "lagMs": 41,
    "rowCounts": {"public.orders": 2000000},
    "memoryMb": 212,
    "memoryCapMb": 512,
    "checks": [{"name": "source", "status": "ok", "since": "x", "detail": None}],
    "lastError": None,
}
TABLES = [
    {"schema": "public", "name": "orders", "rowCount": 2000000, "state": "live", "lastChange": "2024-01-01T00:00:00Z"}
]
ANSWER = {
    "columns": [{"name": "id", "type": "BIGINT"}, {"name": "note", "type": "VARCHAR"}],
    "rows": [[1, "a\u001b[31m"], [20, None]],
    "rowCount": 2,
    "truncated": False,
    "position": "0/1",
}


class Handler(BaseHTTPRequestHandler):
    server: FakeInstance

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.answer(401, {"error": "unauthorized", "message": "A token is needed."})
        elif self.path == "/health":
            self.answer(self.server.health_status, self.server.health)
        else:
            self.answer(200, {"tables": TABLES})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body["sql"], self.headers.get("Accept")))
        self.server.limits.append(body.get("timeout_ms"))
        if body["sql"] == "broken":
            self.answer(400, {"error": "query_error", "message": "syntax error at broken"})
        elif self.headers["Accept"] == "application/json":
            self.answer(200, ANSWER)
        else:
            self.answer(200, b"\x00raw," + self.headers["Accept"].encode())

    def answer(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


class FakeInstance(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[tuple[str, str | None]] = []
        self.limits: list[int | None] = []
        self.token = ""
        self.health = dict(HEALTH)
        self.health_status = 200


@pytest.fixture
def instance() -> Iterator[FakeInstance]:
    server = FakeInstance()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def cli(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"REFLEX_CONFIG": None, "REFLEX_TOKEN": None, **environ})


def test_query_as_table(instance: FakeInstance) -> None:
    result = cli("query", "SELECT 1", "--url", instance.url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["id | note", "---+----------", " 1 | a\\x1b[31m", "20 | NULL", "(2 rows)"]


def test_query_as_json(instance: FakeInstance) -> None:
    result = cli("query", "SELECT 1", "--url", instance.url + "/", "--format", "json")
    assert json.loads(result.stdout) == ANSWER


@pytest.mark.parametrize(("form", "accept"), [("csv", "text/csv"), ("arrow", "application/vnd.apache.arrow.stream")])
def test_query_passes_bytes_through(instance: FakeInstance, form: str, accept: str) -> None:
    result = cli("query", "SELECT 1", "--url", instance.url, "--format", form)
    assert result.stdout_bytes == b"\x00raw," + accept.encode()


def test_a_query_may_be_given_more_time(instance: FakeInstance) -> None:
    for form in ("table", "csv"):
        assert cli("query", "SELECT 1", "--url", instance.url, "--format", form).exit_code == 0
        assert cli("query", "SELECT 1", "--url", instance.url, "--format", form, "--timeout", "90.5").exit_code == 0
    assert instance.limits == [None, 90_500, None, 90_500]


def test_arrow_is_refused_on_a_terminal(instance: FakeInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    result = cli("query", "SELECT 1", "--url", instance.url, "--format", "arrow")
    assert result.exit_code == 2
    assert "binary" in result.stderr
    assert instance.seen == []


def test_a_refused_query_is_the_callers_mistake(instance: FakeInstance) -> None:
    result = cli("query", "broken", "--url", instance.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "syntax error at broken" in result.stderr
    assert "Traceback" not in result.stderr


def test_token_from_option_or_environment(instance: FakeInstance) -> None:
    instance.token = "s3cret"
    refused = cli("status", "--url", instance.url)
    assert refused.exit_code == 2
    assert "REFLEX_TOKEN" in refused.stderr
    assert cli("status", "--url", instance.url, "--token", "s3cret").exit_code == 0
    assert cli("status", "--url", instance.url, REFLEX_TOKEN="s3cret").exit_code == 0


def test_nobody_answers() -> None:
    result = cli("query", "SELECT 1", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "no instance answers at http://127.0.0.1:1" in result.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://"])
def test_a_url_that_is_none(url: str) -> None:
    result = cli("status", "--url", url)
    assert result.exit_code == 2
    assert "is not a URL" in result.stderr


def test_status(instance: FakeInstance) -> None:
    result = cli("status", "--url", instance.url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "shop-live: ok, streaming (postgres, logical)",
        "lag       41 ms, 8 bytes",
        "position  0/1A2B3C8  (source 0/1A2B3D0)",
        "memory    212 of 512 MB",
        "",
        "table         |    rows | state | last change",
        "--------------+---------+-------+---------------------",
        "public.orders | 2000000 | live  | 2024-01-01T00:00:00Z",
    ]


def test_status_of_an_instance_that_does_not_keep_up(instance: FakeInstance) -> None:
    instance.health_status = 503
    instance.health |= {
        "status": "unreachable",
        "checks": [{"name": "source", "status": "degraded", "detail": "connection refused"}],
        "lastError": {"error": "source_unreachable", "message": "connection refused by the source"},
    }
    result = cli("status", "--url", instance.url)
    assert result.exit_code == 1
    assert "check     source: degraded connection refused" in result.stdout
    assert "error     connection refused by the source" in result.stdout


CONFIG = {
    "connection": {
        "backend": "postgres",
        "host": "h",
        "user": "u",
        "password": "hunter2",
        "available_schemas": ["shop"],
    },
    "instance": {"name": "i", "sync_mode": "logical"},
}


class FakeSource:
    def __init__(self, checks: list[Check] | Exception, dropped: list[str] | Exception = ()) -> None:  # type: ignore[assignment]
        self.outcome = {"check": checks, "teardown": dropped}
        self.closed = False

    def check(self) -> Any:
        return self._give("check")

    def teardown(self) -> Any:
        return self._give("teardown")

    def close(self) -> None:
        self.closed = True

    def _give(self, name: str) -> Any:
        outcome = self.outcome[name]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def with_source(monkeypatch: pytest.MonkeyPatch, source: FakeSource, *command: str) -> Result:
    monkeypatch.setattr(registry, "open_source", lambda _backend, _options: source)
    result = cli(*command, REFLEX_CONFIG=json.dumps(CONFIG))
    assert source.closed
    assert "hunter2" not in result.output
    return result


def test_check_prints_a_line_each_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        Check("wal_level", ok=True, detail="logical"),
        Check("slots", ok=False, detail="none of 10 is free", remedy="ALTER SYSTEM SET max_replication_slots = 20;"),
        Check(
            "keys",
            ok=False,
            detail="public.log has no key",
            remedy="ALTER TABLE public.log\nREPLICA IDENTITY FULL;",
            warning=True,
        ),
    ]
    result = with_source(monkeypatch, FakeSource(checks), "check")
    assert result.exit_code == 3
    assert result.stdout.splitlines() == [
        "✓ wal_level: logical",
        "✗ slots: none of 10 is free  →  ALTER SYSTEM SET max_replication_slots = 20;",
        "! keys: public.log has no key  →  ALTER TABLE public.log REPLICA IDENTITY FULL;",
    ]


def test_check_passes_with_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check("keys", ok=False, detail="public.log has no key", warning=True)]
    assert with_source(monkeypatch, FakeSource(checks), "check").exit_code == 0


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TransientError("h:5432 refuses the connection"), "✗ connection: h:5432 refuses the connection"),
        (PreconditionError("no login", "ALTER ROLE u LOGIN;"), "✗ connection: no login  →  ALTER ROLE u LOGIN;"),
    ],
)
def test_check_of_a_source_out_of_reach(monkeypatch: pytest.MonkeyPatch, error: Exception, line: str) -> None:
    result = with_source(monkeypatch, FakeSource(error), "check")
    assert (result.exit_code, result.stdout) == (3, line + "\n")


def test_teardown(monkeypatch: pytest.MonkeyPatch) -> None:
    result = with_source(monkeypatch, FakeSource([], ["slot reflex_i"]), "teardown")
    assert (result.exit_code, result.stdout) == (0, "dropped slot reflex_i\n")
    assert with_source(monkeypatch, FakeSource([], []), "teardown").stdout == "nothing to drop\n"


@pytest.mark.parametrize(
    ("error", "code"), [(PreconditionError("slot in use", "Stop it."), 3), (TransientError("gone"), 1)]
)
def test_teardown_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    result = with_source(monkeypatch, FakeSource([], error), "teardown")
    assert result.exit_code == code
    assert str(error) in result.stderr


def test_unexpected_errors_are_logged_without_their_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "open_source", lambda *_: (_ for _ in ()).throw(ValueError("row of alice")))
    result = cli("teardown", REFLEX_CONFIG=json.dumps(CONFIG))
    assert result.exit_code == 1
    assert "alice" not in result.output


@pytest.mark.parametrize("command", ["run", "check", "teardown"])
def test_bad_configuration_exits_2_and_names_every_field(command: str, tmp_path: Path) -> None:
    file = tmp_path / "reflex.yaml"
    file.write_text(
        json.dumps({**CONFIG, "instance": {"name": "i", "sync_interval": 1, "sync_mode": "cdc"}, "htp": {}})
    )
    result = cli(command, "--config", str(file))
    assert result.exit_code == 2
    for field in ("instance.sync_interval", "instance.sync_mode", "htp"):
        assert field in result.stderr


@pytest.mark.parametrize(
    "arguments", [["run"], ["nonsense"], ["query"], ["run", "--nonsense"], ["demo", "--duration", "0"]]
)
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    assert cli(*arguments).exit_code == 2


def test_help_answers_at_once_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from engine.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in ('pydantic', 'pyarrow', 'duckdb', 'httpx', 'rich', 'psycopg', 'fastapi') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    for command in ("run", "check", "demo", "query", "status", "teardown"):
        assert command in done.stdout


def test_an_instance_starts_without_rich_and_whoever_needs_it_still_gets_it() -> None:
    code = (
        "import sys, engine.cli as cli; cli._import_less(); import structlog;"
        " assert structlog.dev.rich is None and 'rich' not in sys.modules; import rich.console"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_text_table_shapes() -> None:
    assert text_table(["n"], []) == "n\n-"
    shown = text_table(["b", "list", "long\nname"], [[True, [1, None], "x"], [None, {"a": "é"}, "tab\t"]])
    assert shown.splitlines() == [
        "b    | list       | long\\nname",
        "-----+------------+-----------",
        "true | [1, null]  | x",
        'NULL | {"a": "é"} | tab\\t',
    ]
