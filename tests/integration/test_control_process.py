"""The control API as a user meets it: commands, HTTP, an instance on a live source, from the first key to the last word."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import guard
from tests.support.servers import REFLEX, Database
from tests.support.waiting import wait_until


class ControlProcess:
    """``reflex-engine control`` in a folder of its own."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.config = folder / "control.yaml"
        self.config.write_text(json.dumps({"control": {"port": 0, "reconcile_interval": 1}} | (config or {})))
        self.log = folder / "control.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine.cli", *arguments, "--config", str(self.config)],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def _environment(self) -> dict[str, str]:
        root = str(Path(__file__).resolve().parents[2])
        return {**os.environ, "PYTHONPATH": root}

    def start(self) -> str:
        """Start it, and return the base URL that its log names."""
        before = len(self.lines("listening"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.cli", "control", "--config", str(self.config)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        guard.watch(self._process.pid)

        def listening() -> str | None:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            found = self.lines("listening")
            return str(found[-1]["url"]) if len(found) > before else None

        url = wait_until(listening, 30, message=self.log.read_text)
        assert url is not None
        return url

    def lines(self, event: str) -> list[dict[str, Any]]:
        text = self.log.read_text() if self.log.exists() else ""
        events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in events if line.get("event") == event]

    def signal(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(60)
        guard.forget(self._process.pid)
        self._process = None
        return code

    def close(self) -> None:
        """End it, and what it started."""
        if self._process is not None:
            guard.kill_tree(psutil.Process(self._process.pid))
            self._process.wait(30)
            guard.forget(self._process.pid)
        for process in psutil.process_iter(["cwd", "cmdline"]):
            if str(process.info["cwd"] or "").startswith(str(self.folder)):
                guard.kill_tree(process)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlProcess]:
    control = ControlProcess(tmp_path)
    yield control
    control.close()


def ask(url: str, sql: str) -> Any:
    answer = httpx.post(f"{url}/query", json={"sql": sql}, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"][0][0]


def test_from_the_first_key_to_the_last_word(control: ControlProcess, postgres: Database) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(12,2))")
    postgres.execute("INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n")
    made = control.command("keys", "create", "--name", "ops")
    assert (made.returncode, made.stderr) == (0, "")
    token = made.stdout.strip()
    url = control.start()
    api = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False)
    body = {
        "backend": "postgres",
        "name": "shop",
        "mysqlHost": postgres.server.host,
        "mysqlPort": postgres.server.port,
        "availableSchemas": [postgres.name],
        "mysqlUser": REFLEX.name,
        "mysqlPassword": REFLEX.password,
        "syncMode": "logical",
        "instance": {"name": "live", "mysqlDb": postgres.name},
    }
    assert api.post(
        "/connections/test-connection", json={k: v for k, v in body.items() if k not in ("name", "instance")}
    ).json()["ok"]
    created = api.post("/connections", json=body)
    assert created.status_code == 201
    connection, id = created.json()["connection"]["id"], created.json()["database"]["id"]

    def reaches(**expected: Any) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            database: dict[str, Any] = api.get(f"/databases/{id}").json()["database"]
            return database if all(database[name] == value for name, value in expected.items()) else None

        found = wait_until(reached, 90, message=lambda: f"{expected}; {control.log.read_text()[-3000:]}")
        assert found is not None
        return found

    def act(action: str) -> None:
        assert api.post(f"/databases/{id}/{action}").status_code == 202

    act("provision")
    running = reaches(status="running", healthStatus="ok")
    assert ask(running["endpointUrl"], "SELECT count(*) FROM orders") == 100
    shown = api.get(f"/databases/{id}/instance").json()
    assert shown["health"]["status"] == "ok"
    assert shown["rowCounts"] == {"public.orders": 100}

    act("pause-replication")
    wait_until(lambda: api.get(f"/databases/{id}/instance").json()["health"]["phase"] == "paused", 30)
    act("resume-replication")
    wait_until(lambda: api.get(f"/databases/{id}/instance").json()["health"]["phase"] == "streaming", 30)
    act("reload")
    wait_until(lambda: api.get(f"/databases/{id}/instance").json()["health"]["swapCount"] > 1, 60)

    act("pause")
    assert reaches(status="paused")["endpointUrl"] is None
    postgres.execute("INSERT INTO orders VALUES (101, 1)")
    assert api.get(f"/databases/{id}/instance").json()["availableActions"] == [
        "resume",
        "pause-replication",
        "terminate",
    ]
    act("resume")
    running = reaches(status="running", healthStatus="ok")
    wait_until(lambda: ask(running["endpointUrl"], "SELECT count(*) FROM orders") == 101, 60)

    resized = api.patch(f"/databases/{id}", json={"instanceSize": "small"}).json()["database"]
    assert (resized["taskCpu"], resized["taskMemoryMb"]) == (512, 1024)

    def has_its_memory() -> bool:
        health = api.get(f"/databases/{id}/instance").json()["health"]
        return health is not None and health["memoryCapMb"] == 1024

    wait_until(has_its_memory, 90, message=lambda: control.log.read_text()[-3000:])

    # Another password, known at the source from now on: the instance takes it up by itself.
    postgres.superuser("CREATE ROLE second LOGIN REPLICATION PASSWORD 'the-second-password' IN ROLE app")
    answer = api.patch(
        f"/connections/{connection}", json={"mysqlUser": "second", "mysqlPassword": "the-second-password"}
    )
    assert answer.status_code == 200
    act("pause")
    reaches(status="paused")
    act("resume")
    running = reaches(status="running", healthStatus="ok")
    postgres.execute("INSERT INTO orders VALUES (102, 1)")
    wait_until(lambda: ask(running["endpointUrl"], "SELECT count(*) FROM orders") == 102, 60)

    assert api.delete(f"/connections/{connection}").status_code == 409
    secrets = (REFLEX.password, "the-second-password", token.partition(".")[2])
    assert_nowhere(control.folder, secrets)
    assert_in_no_command_line(secrets)
    act("terminate")
    reaches(status="terminated")
    assert postgres.superuser("SELECT 1 FROM pg_replication_slots WHERE database = %s", (postgres.name,)) == []
    assert api.delete(f"/databases/{id}").status_code == 204
    assert api.delete(f"/connections/{connection}").status_code == 204
    api.close()
    assert control.signal(signal.SIGTERM) == 0
    assert_nowhere(control.folder, secrets)
    assert [line["event"] for line in control.lines("stopped")] == ["stopped"]


def assert_nowhere(folder: Path, secrets: tuple[str, ...]) -> None:
    """No file below holds any of these in clear."""
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not [secret[:4] for secret in secrets if secret.encode() in data], path


def assert_in_no_command_line(secrets: tuple[str, ...]) -> None:
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        assert not [secret[:4] for secret in secrets if secret in line], line[:40]


def test_a_killed_control_api_goes_on_where_it_was(control: ControlProcess) -> None:
    token = control.command("keys", "create", "--name", "ops").stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    body = {
        "name": "x",
        "mysqlHost": "db.invalid",
        "availableSchemas": ["a"],
        "mysqlUser": "u",
        "mysqlPassword": "pass-x",
    }
    url = control.start()
    made = httpx.post(f"{url}/connections", json=body, headers=headers, trust_env=False).json()
    assert control.signal(signal.SIGKILL) == -signal.SIGKILL
    url = control.start()
    found = httpx.get(f"{url}/connections", headers=headers, trust_env=False).json()
    assert found == {"connections": [made["connection"]]}
    # A key that is revoked by the command line is worthless to the API that runs.
    assert control.command("keys", "revoke", "--name", "ops").returncode == 0
    assert httpx.get(f"{url}/connections", headers=headers, trust_env=False).status_code == 401
    assert control.signal(signal.SIGINT) == 0


def test_https(tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    control = ControlProcess(tmp_path, {"control": {"port": 0, "tls": {"cert": str(cert), "key": str(key)}}})
    try:
        token = control.command("keys", "create", "--name", "ops").stdout.strip()
        url = control.start()
        assert url.startswith("https://")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with httpx.Client(verify=context, trust_env=False) as client:
            answer = client.get(f"{url}/connections", headers={"Authorization": f"Bearer {token}"})
            assert answer.json() == {"connections": []}
        assert control.signal(signal.SIGTERM) == 0
    finally:
        control.close()


def test_what_cannot_start_says_why(control: ControlProcess, tmp_path: Path) -> None:
    def refused(config: Any) -> tuple[int, str]:
        control.config.write_text(json.dumps(config))
        done = control.command("control")
        return done.returncode, done.stderr

    code, text = refused({"control": {"host": "192.0.2.1"}})
    assert (code, "control.host" in text or "control.port" in text) == (2, True)
    code, text = refused({"launcher": {"kind": "ecs"}})
    assert code == 2
    assert "launcher.cluster" in text
    (tmp_path / "broken.sqlite").write_text("no database " * 100)
    code, text = refused({"control": {"port": 0, "state": "broken.sqlite"}})
    assert code == 2
    assert "control.state" in text
    code, text = refused({"control": {"port": 0, "state": str(tmp_path)}})
    assert code == 2
    assert "control.state" in text
    not_pem = tmp_path / "x.pem"
    not_pem.write_text("x")
    code, text = refused({"control": {"port": 0, "tls": {"cert": str(not_pem), "key": str(not_pem)}}})
    assert code == 2
    assert "control.tls.cert" in text


def test_two_control_apis_never_drive_the_same_instances(control: ControlProcess) -> None:
    control.start()
    other = {"port": 0, "reconcile_interval": 1, "data_dir": "./elsewhere"}
    control.config.write_text(json.dumps({"control": other}))
    done = control.command("control")
    assert done.returncode == 2
    assert "control.state" in done.stderr
    assert "in use by another control API" in done.stderr
    # Keys are made and revoked meanwhile all the same.
    assert control.command("keys", "list").returncode == 0
    assert control.signal(signal.SIGTERM) == 0
