"""The engine as users run it: `reflex-engine run --config FILE` as a process of its own, over HTTP only."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pyarrow as pa

from tests.support import guard
from tests.support.forked import Forked
from tests.support.servers import APP, REFLEX, SUPERUSER, Database
from tests.support.waiting import free_port, wait_until

ARROW = "application/vnd.apache.arrow.stream"


class EngineProcess:
    """One instance, configured by a mapping as in reflex.yaml, in a folder of its own. A context manager.

    The port is fixed when the object is made, so that it stays the same across restarts. When it closes, the log is
    searched for every password of the configuration.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        http = {"host": "127.0.0.1", "port": free_port(), **config.get("http", {})}
        replica = {"path": str(folder / "replica.duckdb"), **config.get("replica", {})}
        self.config: dict[str, Any] = {"version": 1, **config, "http": http, "replica": replica}
        self.url = f"http://{http['host']}:{http['port']}"
        self.log = folder / "engine.log"
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("REFLEX_")} | dict(
            environment or {}
        )
        self._process: Forked | None = None
        headers = {"Authorization": f"Bearer {http['token']}"} if http.get("token") else {}
        self.http = httpx.Client(base_url=self.url, timeout=120, headers=headers, trust_env=False, verify=False)

    @classmethod
    def of(cls, folder: Path, database: Database, **sections: Mapping[str, Any]) -> EngineProcess:
        """An engine on this database, streaming, as role `reflex`; `sections` are merged into the configuration."""
        config: dict[str, Any] = {
            "connection": database.connection_config(),
            "instance": {"name": f"live-{database.name}", "schema": database.name, "sync_mode": "logical"},
        }
        for name, section in sections.items():
            config[name] = {**config.get(name, {}), **section}
        return cls(folder, config)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            self.http.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.terminate()
        finally:
            self.kill()
            self.http.close()
        if kind is None:
            self.assert_no_secret()

    @property
    def process(self) -> psutil.Process:
        """The running process. RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the engine is not running")
        return psutil.Process(self._process.pid)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.exit_code is None

    def start(self, *, ready: bool = True, timeout: float = 60.0) -> None:
        """Start the process and wait until it is ready to answer queries (`ready`), or at least alive."""
        file = self.folder / "reflex.yaml"
        file.write_text(json.dumps(self.config, indent=2))
        self._process = Forked(["run", "--config", str(file)], self._environment, self.log)
        guard.watch(self._process.pid)
        if ready:
            self.wait_ready(timeout)
        else:
            self._wait_for("/livez", timeout)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until the first snapshot is complete and queries are served; fails at once when the process ends."""
        self._wait_for("/readyz", timeout)

    def _wait_for(self, path: str, timeout: float) -> None:
        def answered() -> bool:
            if not self.running:
                code = None if self._process is None else self._process.exit_code
                raise RuntimeError(f"the engine ended with exit code {code}; its log ends:\n{self.log_text()[-4000:]}")
            return self.http.get(path, timeout=5).status_code == 200

        wait_until(
            answered,
            timeout,
            ignore=(httpx.TransportError,),
            message=lambda: f"{path} of the engine; its log ends:\n{self.log_text()[-4000:]}",
        )

    def kill(self) -> None:
        """SIGKILL, to it and its children; returns when they are gone."""
        if self._process is not None:
            if self._process.exit_code is None:
                guard.kill_tree(psutil.Process(self._process.pid))
            self._ended(self._process.wait(30))

    def terminate(self, timeout: float = 60.0) -> int | None:
        """SIGTERM, as an operator ends it; returns the exit code. TimeoutError when it does not end."""
        if self._process is None:
            return None
        self._process.send_signal(signal.SIGTERM)
        return self._ended(self._process.wait(timeout))

    def wait_exit(self, timeout: float = 60.0) -> int:
        """Wait until it ends by itself; returns the exit code."""
        assert self._process is not None, "the engine is not running"
        return self._ended(self._process.wait(timeout))

    def restart(self, *, kill: bool = False, ready: bool = True) -> None:
        """End it (`kill`: with SIGKILL) and start it again."""
        if kill:
            self.kill()
        else:
            self.terminate()
        self.start(ready=ready)

    def _ended(self, code: int) -> int:
        if self._process is not None:
            guard.forget(self._process.pid)
            self._process = None
        return code

    def query(self, sql: str, after: str | None = None, timeout_ms: int = 60_000) -> list[tuple[Any, ...]]:
        """All rows of a query, as typed values (by Arrow); not before the replica has reached `after`.

        AssertionError with the answer's body when it is refused.
        """
        table = self.query_arrow(sql, after, timeout_ms)
        columns = [column.to_pylist() for column in table.columns]
        return list(zip(*columns, strict=True)) if columns else []

    def query_arrow(self, sql: str, after: str | None = None, timeout_ms: int = 60_000) -> pa.Table:
        """The answer of a query as an Arrow table."""
        body: dict[str, Any] = {"sql": sql, "timeout_ms": timeout_ms}
        if after is not None:
            body["after"] = after
        answer = self.http.post("/query", json=body, headers={"Accept": ARROW})
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        with pa.ipc.open_stream(io.BytesIO(answer.content)) as reader:
            return reader.read_all()

    def query_json(self, sql: str, **options: Any) -> dict[str, Any]:
        """The JSON answer of a query: ``columns``, ``rows``, ``rowCount``, ``truncated``, ``position``."""
        answer = self.http.post("/query", json={"sql": sql, **options}, headers={"Accept": "application/json"})
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        return dict(answer.json())

    def health(self) -> dict[str, Any]:
        """The body of ``GET /health``, whatever its status."""
        return dict(self.http.get("/health").json())

    def wait_position(self, position: str, timeout: float = 60.0) -> None:
        """Wait until readers see everything up to `position` of the source."""
        self.query("SELECT 1", after=position, timeout_ms=int(timeout * 1000))

    def wait_health(self, timeout: float = 60.0, **expected: Any) -> dict[str, Any]:
        """Wait until these fields of ``/health`` have these values; returns the body."""

        def found() -> dict[str, Any] | None:
            body = self.health()
            return body if all(body.get(name) == value for name, value in expected.items()) else None

        body = wait_until(
            found,
            timeout,
            ignore=(httpx.TransportError,),
            message=lambda: f"health {expected}; its log ends:\n{self.log_text()[-3000:]}",
        )
        assert body is not None
        return body

    def log_text(self) -> str:
        """Everything the engine has printed, over all starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_events(self) -> list[dict[str, Any]]:
        """The log's JSON lines."""
        return [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]

    def assert_no_secret(self) -> None:
        """No password of the configuration or of the test servers is in the log."""
        secrets = {APP.password, REFLEX.password, SUPERUSER.password, *_passwords(self.config)}
        text = self.log_text()
        found = [secret[:4] + "..." for secret in secrets if secret in text]
        assert not found, f"secrets in the engine's log: {found}"


def _passwords(config: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _passwords(value)
        elif name in ("password", "token") and isinstance(value, str) and value and not value.startswith("${"):
            found.append(value)
    return found
