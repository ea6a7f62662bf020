"""The supervisor with fake parts: order of ending, signals, exit codes, restarts, memory, progress."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from engine.config import parse_config
from engine.errors import ConfigError, TransientError
from engine.schema import TableId
from engine.source import Check
from engine.status import Phase, StatusBoard, TableState
from engine.supervisor import memory, progress
from engine.supervisor.instance import is_under_way
from engine.supervisor.memory import MemoryWatch
from engine.supervisor.preflight import ChecksFailed, FirstConnect, effective_mode
from engine.supervisor.restart import MOST, WINDOW, Restarts
from engine.supervisor.server import bind

MB = 1 << 20


class Supervised:
    """A process running `tests.unit.supervised`; reads its log lines as they come."""

    def __init__(self, behaviour: str, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.supervised", behaviour, str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        pytest.fail(f"no {event} in {self.events}")

    def finish(self) -> tuple[int, str]:
        out, err = self.process.communicate(timeout=120)
        self.events += [json.loads(line) for line in err.splitlines()]
        return self.process.returncode, out


@contextmanager
def supervised(behaviour: str, port: int = 0) -> Iterator[Supervised]:
    one = Supervised(behaviour, port)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: signal.Signals) -> None:
    with supervised("runs") as one:
        url = one.wait_for("listening")["url"]
        assert httpx.get(url).status_code == 200
        one.process.send_signal(number)
        code, out = one.finish()
        assert code == 0
        assert out.splitlines() == ["pipeline runs", "pipeline stopped", "replica closed"]
        assert [e["event"] for e in one.events][-2:] == ["stopping", "stopped"]


def test_a_part_that_hangs_delays_the_end_by_seconds_only() -> None:
    with supervised("hangs") as one:
        one.wait_for("listening")
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        assert one.finish()[0] == 0
        assert time.monotonic() - began < 10
        assert "stop_is_slow" in [e["event"] for e in one.events]


def test_an_instance_that_failed_and_hangs_has_failed() -> None:
    with supervised("fails and hangs") as one:
        assert one.finish()[0] == 1


def test_a_second_signal_ends_it_at_once() -> None:
    with supervised("hangs") as one:
        one.wait_for("listening")
        one.process.send_signal(signal.SIGTERM)
        one.wait_for("stopping")
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        assert one.finish()[0] == 128 + signal.SIGTERM
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("behaviour", "code"), [("config", 2), ("precondition", 3), ("replica", 1), ("unexpected", 1), ("returns", 1)]
)
def test_exit_codes(behaviour: str, code: int) -> None:
    with supervised(behaviour) as one:
        got, out = one.finish()
        assert got == code
        assert out.endswith("replica closed\n")
        assert one.events[-1]["exit_code"] == code
        assert "alice" not in str(one.events)


def test_an_exceeded_cap_is_served_on() -> None:
    with supervised("cap") as one:
        url = one.wait_for("listening")["url"]
        one.wait_for("cap_exceeded")
        assert httpx.get(url).json()["cap"] is True
        one.process.send_signal(signal.SIGTERM)
        assert one.finish()[0] == 0


def test_a_fatal_replica_error_restarts_a_bounded_number_of_times_on_the_same_port() -> None:
    with supervised("fatal") as one:
        code, out = one.finish()
        events = [e["event"] for e in one.events]
        assert code == 1
        assert out.count("pipeline runs") == MOST + 1
        assert events.count("restarting") == MOST
        assert len({e["url"] for e in one.events if e["event"] == "listening"}) == 1


def test_restarts_are_forgotten_after_the_window() -> None:
    left = {"REFLEX_RESTARTS": json.dumps({"at": [1000.0, 1000.0 + WINDOW / 2], "port": 99})}
    assert Restarts.read(left, now=1001.0 + WINDOW) == Restarts((1000.0 + WINDOW / 2,), 99)
    assert Restarts.read({}) == Restarts()
    assert Restarts.read({"REFLEX_RESTARTS": "{broken"}) == Restarts()
    assert Restarts.read({"REFLEX_RESTARTS": "[]"}) == Restarts()
    assert json.loads(Restarts((1.0,)).text(8080, now=2.0)) == {"at": [1.0, 2.0], "port": 8080}


def test_a_source_is_under_way_when_rows_are_asked_for_or_never_will_be() -> None:
    board = StatusBoard()
    assert not is_under_way(board.current)
    board.publish(phase=Phase.SNAPSHOT)
    assert not is_under_way(board.current)
    board.set_table(TableId("shop", "orders"), state=TableState.LOADING)
    assert is_under_way(board.current)
    for phase in (Phase.STREAMING, Phase.RETRYING, Phase.PAUSED, Phase.STOPPED):
        other = StatusBoard()
        other.publish(phase=phase)
        assert is_under_way(other.current)


def test_a_taken_port_names_its_field() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"http\.port: .* cannot be used: Address already in use"):
            bind("127.0.0.1", taken.getsockname()[1])


def test_a_foreign_address_names_its_field() -> None:
    with pytest.raises(ConfigError, match=r"http\.(host|port)"):
        bind("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("backend", "mode", "outcome"),
    [
        ("postgres", "logical", "logical"),
        ("postgres", "auto", "auto"),
        ("postgres", "poll", "poll"),
        ("mysql", "binlog", "binlog"),
        ("mysql", "auto", "auto"),
        ("mysql", "poll", "poll"),
        ("mssql", "cdc", "cdc"),
        ("mssql", "auto", "auto"),
        ("mssql", "poll", "poll"),
    ],
)
def test_sync_modes_of_this_version(backend: str, mode: str, outcome: str) -> None:
    config = parse_config(
        json.dumps(
            {
                "connection": {"backend": backend, "host": "h", "user": "u", "available_schemas": ["shop"]},
                "instance": {"name": "i", "sync_mode": mode},
            }
        )
    )
    assert effective_mode(config) == outcome


class FakeSource:
    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks
        self.checked = 0
        self.closed = False
        self.unreachable = False

    def status(self) -> None:
        if self.unreachable:
            raise TransientError("connection refused")

    def check(self) -> list[Check]:
        self.checked += 1
        return self.checks

    def close(self) -> None:
        self.closed = True


def test_first_connection_is_verified_until_it_holds() -> None:
    bad = FakeSource([Check("wal_level", False, "is replica", "FIX 1"), Check("slots", False, "none free", "FIX 2")])
    good = FakeSource([Check("wal_level", True, "logical"), Check("keys", False, "one table has none", warning=True)])
    sources: list[Any] = [bad, good, good]
    connect: Any = FirstConnect(lambda _: sources.pop(0), verify=True)
    with pytest.raises(ChecksFailed) as caught:
        connect(frozenset())
    assert [c.name for c in caught.value.checks] == ["wal_level", "slots"]
    assert caught.value.remedy == "FIX 1"
    assert bad.closed
    assert connect(frozenset()) is good
    assert connect(frozenset()) is good
    assert (good.checked, good.closed) == (1, False)


def test_a_source_out_of_reach_is_no_failed_check() -> None:
    source: Any = FakeSource([Check("connection", False, "refused")])
    source.unreachable = True
    connect: Any = FirstConnect(lambda _: source, verify=True)
    with pytest.raises(TransientError):
        connect(frozenset())
    assert (source.checked, source.closed) == (0, True)


class FakePipeline:
    def __init__(self, board: StatusBoard) -> None:
        self.board = board
        self.calls: list[str] = []

    def hold(self) -> None:
        self.calls.append("hold")
        self.board.publish(paused=True)

    def release(self) -> None:
        self.calls.append("release")
        self.board.publish(paused=False)


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    monkeypatch.setattr(memory, "release_unused", lambda: calls.append(1))
    return calls


def watch(used: list[int], board: StatusBoard, pipeline: FakePipeline) -> MemoryWatch:
    return MemoryWatch(100 * MB, board, pipeline, rss=lambda: used[0] * MB)


def test_memory_degrades_then_stops_sync_then_resumes(released: list[int]) -> None:
    board, used = StatusBoard(), [50]
    pipeline = FakePipeline(board)
    looking = watch(used, board, pipeline)

    def check() -> str:
        looking.sample()
        return board.current.checks["memory"].status

    assert check() == "ok"
    assert released == []
    used[0] = 95
    assert check() == "degraded"
    assert released
    used[0] = 120
    assert [check() for _ in range(memory.PATIENCE)] == ["degraded", "degraded", "failed"]
    assert (board.current.cap_exceeded, pipeline.calls) == (True, ["hold"])
    used[0] = 90
    assert check() == "failed"
    used[0] = 60
    assert check() == "ok"
    assert (board.current.cap_exceeded, pipeline.calls) == (False, ["hold", "release"])


def test_a_short_peak_does_not_stop_sync(released: list[int]) -> None:
    board, used = StatusBoard(), [120]
    pipeline = FakePipeline(board)
    looking = watch(used, board, pipeline)
    looking.sample()
    used[0] = 90
    looking.sample()
    used[0] = 120
    looking.sample()
    assert pipeline.calls == []


def test_a_pause_by_the_operator_is_not_lifted(released: list[int]) -> None:
    board, used = StatusBoard(), [120]
    pipeline = FakePipeline(board)
    board.publish(paused=True)
    looking = watch(used, board, pipeline)
    for _ in range(memory.PATIENCE + 1):
        looking.sample()
    used[0] = 10
    looking.sample()
    assert pipeline.calls == []
    assert board.current.paused


def stopped_sync(board: StatusBoard, used: list[int]) -> tuple[MemoryWatch, FakePipeline]:
    pipeline = FakePipeline(board)
    looking = watch(used, board, pipeline)
    for _ in range(memory.PATIENCE):
        looking.sample()
    assert pipeline.calls == ["hold"]
    return looking, pipeline


def test_memory_that_keeps_within_the_cap_lets_sync_be_tried_again(released: list[int]) -> None:
    board, used = StatusBoard(), [120]
    looking, pipeline = stopped_sync(board, used)
    used[0] = 99
    for _ in range(memory.CALM - 1):
        looking.sample()
    assert pipeline.calls == ["hold"]
    looking.sample()
    assert pipeline.calls == ["hold", "release"]


def test_sync_that_an_operator_resumes_is_stopped_again_if_memory_does_not_suffice(released: list[int]) -> None:
    board, used = StatusBoard(), [120]
    looking, pipeline = stopped_sync(board, used)
    board.publish(paused=False)
    looking.sample()
    assert not board.current.cap_exceeded
    for _ in range(memory.PATIENCE):
        looking.sample()
    assert pipeline.calls == ["hold", "hold"]
    assert board.current.cap_exceeded


def test_a_pipeline_that_ended_for_want_of_memory_stays_cap_exceeded(released: list[int]) -> None:
    board, used = StatusBoard(), [120]
    looking, _ = stopped_sync(board, used)
    board.publish(phase=Phase.STOPPED)
    used[0] = 10
    looking.sample()
    assert board.current.cap_exceeded


def test_release_unused_runs_for_real() -> None:
    memory.release_unused()


def test_progress_totals_and_drawing(capsys: pytest.CaptureFixture[str]) -> None:
    board = StatusBoard()
    shown = progress.SnapshotProgress(board, terminal=True)
    shown.start()
    board.set_table(TableId("public", "[orders]"), state=TableState.LOADING, rows_loaded=30, rows_expected=100)
    board.set_table(TableId("public", "live"), state=TableState.LIVE, rows_loaded=7, rows_expected=7)
    board.set_table(TableId("public", "unknown"), state=TableState.LOADED, rows_loaded=5, rows_expected=0)
    assert progress.totals(board.current) == (35, 105)
    board.publish(phase=Phase.SNAPSHOT)
    deadline = time.monotonic() + 5
    while "progress" not in [t.name for t in threading.enumerate()] and time.monotonic() < deadline:
        time.sleep(0.01)
    board.publish(phase=Phase.STREAMING)
    shown.stop()
    assert "progress" not in [t.name for t in threading.enumerate()]
