"""Instances as child processes, on a live PostgreSQL: their whole life, and the control API killed at any moment of it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from engine.control.records import DesiredState, HealthStatus, Status
from engine.source import Secret
from tests.support.reconciling import Control
from tests.support.servers import REFLEX, Database
from tests.support.waiting import free_port, wait_until

RUN, PAUSE, TERMINATE = DesiredState.RUNNING, DesiredState.PAUSED, DesiredState.TERMINATED


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    control = Control(tmp_path)
    yield control
    control.close()


@pytest.fixture
def source(postgres: Database) -> Database:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY, amount numeric(12,2))")
    postgres.execute("INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n")
    return postgres


def ask(url: str | None, sql: str) -> object:
    assert url is not None
    answer = httpx.post(f"{url}/query", json={"sql": sql}, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"][0][0]


def slots(source: Database) -> list[str]:
    rows = source.superuser("SELECT slot_name FROM pg_replication_slots WHERE database = %s", (source.name,))
    return [str(name) for (name,) in rows]


def publications(source: Database) -> int:
    return int(source.superuser("SELECT count(*) FROM pg_publication")[0][0])


def test_the_life_of_an_instance(control: Control, source: Database) -> None:
    control.start()
    id = control.instance(control.connection(source))
    running = control.wait(id, status=Status.RUNNING, health_status=HealthStatus.OK)
    assert running.last_error is None
    assert ask(running.endpoint_url, "SELECT count(*) FROM orders") == 100
    (engine,) = control.engines()
    assert REFLEX.password not in " ".join(engine.cmdline())
    assert not [name for name in engine.environ() if "AWS" in name or "POSTGRES" in name]

    control.wish(id, PAUSE)
    paused = control.wait(id, status=Status.PAUSED)
    assert (paused.endpoint_url, paused.health_status) == (None, None)
    assert control.engines() == []
    source.execute("INSERT INTO orders VALUES (101, 1)")

    control.wish(id, RUN)
    resumed = control.wait(id, status=Status.RUNNING)
    assert resumed.endpoint_url == running.endpoint_url
    wait_until(lambda: ask(resumed.endpoint_url, "SELECT count(*) FROM orders") == 101, 30)

    (before,) = control.engines()
    resize(control, id, "small")
    wait_until(lambda: not before.is_running(), 60)
    control.wait(id, status=Status.RUNNING)
    health = httpx.get(f"{resumed.endpoint_url}/health", trust_env=False).json()
    assert health["memoryCapMb"] == 1024

    control.store.change_database(control.account, id, lambda old, _: replace(old, replication_paused=True))
    wait_until(lambda: health_phase(resumed.endpoint_url) == "paused", 30)
    control.store.change_database(control.account, id, lambda old, _: replace(old, replication_paused=False))
    wait_until(lambda: health_phase(resumed.endpoint_url) == "streaming", 30)

    (engine,) = control.engines()
    engine.send_signal(signal.SIGKILL)
    wait_until(lambda: [p for p in control.engines() if p.pid != engine.pid], 60)
    control.wait(id, status=Status.RUNNING, health_status=HealthStatus.OK)
    assert ask(resumed.endpoint_url, "SELECT count(*) FROM orders") == 101
    assert slots(source)

    control.wish(id, TERMINATE)
    control.wait(id, status=Status.TERMINATED, last_error=None)
    assert slots(source) == []
    assert publications(source) == 0
    assert not (control.folder / "control" / "instances" / str(id)).exists()
    assert control.engines() == []
    assert control.terminate() == 0


def health_phase(url: str | None) -> object:
    return httpx.get(f"{url}/health", trust_env=False).json()["phase"]


def test_ending_the_control_api_ends_its_instances_and_killing_it_does_not(control: Control, source: Database) -> None:
    control.start()
    id = control.instance(control.connection(source))
    control.wait(id, status=Status.RUNNING)
    (engine,) = control.engines()
    control.kill()
    control.start()
    control.store.record_status(id, health_status=None)
    control.wait(id, status=Status.RUNNING, health_status=HealthStatus.OK)
    assert [process.pid for process in control.engines()] == [engine.pid], "the process was adopted"
    assert control.terminate() == 0
    assert control.engines() == []
    stopped = control.read(id).database
    assert (stopped.status, stopped.desired_state, stopped.endpoint_url) == (Status.STOPPED, RUN, None)
    control.start()
    control.wait(id, status=Status.RUNNING, health_status=HealthStatus.OK)
    leaks = [
        str(file)
        for file in control.folder.rglob("*")
        if file.is_file() and REFLEX.password.encode() in file.read_bytes()
    ]
    assert leaks == []
    for file in (control.folder / "control").rglob("*"):
        assert file.stat().st_mode & 0o077 == 0 or file.parent.stat().st_mode & 0o077 == 0, file


def resize(control: Control, id: UUID, size: str) -> None:
    control.store.change_database(control.account, id, lambda old, _: replace(old, instance_size=size))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_any_moment_of_any_step_it_converges(control: Control, source: Database, seed: int) -> None:
    chance = random.Random(seed)
    id = control.instance(control.connection(source))
    for _ in range(8):
        control.start()
        control.wish(id, chance.choice([RUN, RUN, PAUSE]))
        if chance.random() < 0.3:
            size = chance.choice(["nano", "small"])
            resize(control, id, size)
        deadline = time.monotonic() + chance.uniform(0.3, 4.0)
        while time.monotonic() < deadline:
            assert len(control.engines()) <= 1, "two engines never run for one instance"
            time.sleep(0.05)
        control.kill()
    control.start()
    control.wish(id, RUN)
    url = control.wait(id, status=Status.RUNNING, health_status=HealthStatus.OK).endpoint_url
    assert ask(url, "SELECT count(*) FROM orders") == 100
    assert len(control.engines()) == 1
    control.wish(id, TERMINATE)
    for _ in range(4):
        time.sleep(chance.uniform(0.2, 1.5))  # the moment of the kill is what is varied
        control.kill()
        control.start()
    control.wait(id, status=Status.TERMINATED)
    assert (slots(source), publications(source), control.engines()) == ([], 0, [])


def test_what_an_operator_has_to_mend_is_told_and_a_new_password_mends_it(control: Control, source: Database) -> None:
    connection = control.connection(source)
    control.secrets.put(connection.secret_ref, Secret("no-password-of-anyone"))
    id = control.instance(connection)
    control.start()
    failed = wait_until(lambda: told(control, id), 60)
    assert "no-password-of-anyone" not in failed + control.logs()
    ref = f"connections/{connection.id}/2"
    control.secrets.put(ref, Secret(REFLEX.password))
    control.store.change_connection(control.account, connection.id, lambda old, _: replace(old, secret_ref=ref))
    control.wait(id, status=Status.RUNNING, last_error=None)


def told(control: Control, id: UUID) -> str:
    return control.read(id).database.last_error or ""


def test_a_source_that_is_gone_does_not_hold_up_the_others(control: Control, source: Database) -> None:
    dead = control.instance(control.connection(source, port=free_port()))
    live = control.instance(control.connection(source))
    control.start()
    control.wait(live, status=Status.RUNNING, health_status=HealthStatus.OK)
    assert control.read(dead).database.status in (Status.DEPLOYING, Status.FAILED)
    control.wish(dead, PAUSE)
    control.wait(dead, status=Status.PAUSED)
