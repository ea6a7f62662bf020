"""The demo for real: it starts by itself, shows live numbers, proves equality, and leaves nothing behind."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

import engine
from engine.demo import postgres as embedded
from engine.demo.postgres import EmbeddedPostgres, find_install
from engine.demo.shop import INVARIANT, TABLES, Counts, Writer, fill
from engine.errors import ConfigError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)
PROMISE = 60.0
"""Seconds within which a newcomer sees the replica move."""


@pytest.fixture(scope="module", autouse=True)
def _wheel() -> None:
    try:
        find_install()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that every user of the system can enter."""
    folder = Path(tempfile.mkdtemp(prefix="reflex-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def identity(name: str | None) -> dict[str, Any]:
    """The arguments that run a child as the system user `name` (None: as oneself)."""
    if name is None:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def interpreter(user: str | None) -> str:
    """A Python that `user` may run with this one's packages; skips the test when there is none."""
    for program in dict.fromkeys((sys.executable, f"/usr/bin/python3.{sys.version_info.minor}")):
        try:
            done = subprocess.run(
                [program, "-c", "import engine, duckdb"], env=environment(), cwd="/", check=False, **identity(user)
            )
        except OSError:
            continue
        if done.returncode == 0:
            return program
    pytest.skip(f"user {user} has no Python that finds the project's packages")


def environment() -> dict[str, str]:
    paths = [str(Path(engine.__file__).parents[1]), *site.getsitepackages()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def start(temporary: Path, *arguments: str, user: str | None = None) -> subprocess.Popen[str]:
    """As from a terminal, though the tests themselves may run under nohup."""
    return subprocess.Popen(
        ["env", "--default-signal=HUP", interpreter(user), "-m", "engine.cli", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment(), "TMPDIR": str(temporary), "HOME": str(temporary)},
        cwd=temporary,
        **identity(user),
    )


def of_the_demo(temporary: Path) -> list[psutil.Process]:
    """Processes that were started on something in the demo's folders."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(temporary) in word for word in process.info["cmdline"] or ())
    ]


def assert_nothing_left(temporary: Path) -> None:
    assert of_the_demo(temporary) == []
    assert [p.name for p in temporary.iterdir() if p.name.startswith("reflex-demo")] == []


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        match = re.search(pattern, line)
        if match:
            return match
    pytest.fail(f"no {pattern!r} in:\n{''.join(lines)}")


@pytest.mark.parametrize("user", [None, "nobody"])
def test_demo_replicates_compares_and_cleans_up(temporary: Path, user: str | None) -> None:
    if user is not None and os.geteuid() != 0:
        pytest.skip("only root can start it as another user")
    began = time.monotonic()
    process = start(temporary, "--duration", "4", user=user)
    try:
        read_until(process, r"streaming +lag \d+ ms")
        first_numbers = time.monotonic() - began
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, out
    assert first_numbers < PROMISE
    for table in TABLES:
        assert re.search(rf"^ +{table} +[\d,]+ +[\d,]+ +EQUAL$", out, re.MULTILINE), out
    assert "The replica is EQUAL to the source." in out
    assert re.search(r"looked at [1-9]\d* times, broken 0 times", out), out
    assert_nothing_left(temporary)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_removes_everything(temporary: Path, number: signal.Signals) -> None:
    process = start(temporary)
    try:
        url = read_until(process, r"The engine serves (\S+)")[1]
        command = read_until(process, r"Ask it yourself: (.*)")[1]
        answer = subprocess.run(command, shell=True, env=environment(), capture_output=True, check=False, text=True)
        assert answer.returncode == 0, answer
        read_until(process, r"streaming +lag \d+ ms")
        assert httpx.get(url).status_code == 200
        assert of_the_demo(temporary)
        process.send_signal(number)
        # The engine, the server and the threads each have a limit of their own; all of them together stay below this.
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, out
    assert "Traceback" not in out
    assert_nothing_left(temporary)


def test_a_killed_demo_leaves_no_process(temporary: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells children of their parent's death")
    process = start(temporary)
    try:
        read_until(process, r"The engine serves (\S+)")
    finally:
        process.kill()
        process.communicate()
    wait_until(lambda: not of_the_demo(temporary), timeout=20)


def test_writer_keeps_the_invariant_and_its_counts() -> None:
    counts = Counts()
    with EmbeddedPostgres() as postgres, postgres.connect() as connection:
        fill(connection, counts, orders=500)
        writer = Writer(postgres.connect, counts, rate=1000, orders=500)
        writer.start()
        wait_until(lambda: counts.transactions > 300 or writer.error is not None, timeout=20)
        writer.stop()
        assert writer.error is None
        assert connection.execute(INVARIANT).fetchone() == (True,)
        actual = {t: connection.execute(f"SELECT count(*) FROM {t}").fetchone() for t in TABLES}
        assert actual == {t: (n,) for t, n in counts.rows.items()}
        folder = postgres._folder
    assert not folder.exists()
    with pytest.raises(psycopg.OperationalError):
        postgres.connect()


def test_root_uses_a_wheel_that_the_unprivileged_user_cannot_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root runs the server as another user")
    closed = Path(tempfile.mkdtemp(prefix="reflex-test-closed-"))
    try:
        install = embedded.copied(find_install(), closed / "install")
        monkeypatch.setattr(embedded, "find_install", lambda: install)
        with EmbeddedPostgres() as postgres, postgres.connect() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        shutil.rmtree(closed)
