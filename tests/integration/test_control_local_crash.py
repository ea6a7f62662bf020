"""The local launcher cut short between any two of its steps: its next life finds, and never doubles, what was started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from engine.control.launchers import local, place
from engine.control.launchers.launcher import Observation, Presence, Spec
from engine.control.launchers.local import LocalLauncher
from engine.control.secrets.file import FileSecretStore
from engine.errors import ConfigError
from engine.sizes import SIZES
from engine.source import Secret
from tests.support.waiting import free_port, wait_until


class Killed(BaseException):
    """The control API's process ends here."""


class Lives:
    """One folder, and one launcher after the other in it. The engines' source does not answer: they wait for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = FileSecretStore(folder / "secrets", folder / "key")
        self.secrets.put("connections/x", Secret("a-password-of-none"))
        config = {
            "connection": {
                "backend": "postgres",
                "host": "127.0.0.1",
                "port": free_port(),
                "user": "x",
                "password": "${REFLEX_SOURCE_PASSWORD}",
                "available_schemas": ["shop"],
            },
            "instance": {"name": "x", "schema": "shop", "sync_mode": "logical"},
        }
        id, secrets = str(uuid4()), {"REFLEX_SOURCE_PASSWORD": "connections/x"}
        self.spec = Spec(id, config, secrets, SIZES["nano"], "1")
        self.launcher = self._launcher()

    def _launcher(self) -> LocalLauncher:
        return LocalLauncher(self.folder / "instances", self.secrets)

    def again(self) -> None:
        """What a kill does: nothing is said to anyone, the lock goes with the process. Then the next one starts."""
        reaped.extend(self.launcher._children.values())
        self.launcher._lock.close()
        self.launcher = self._launcher()

    def seen(self) -> Observation:
        return self.launcher.observe([self.spec.id])[self.spec.id]

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd().startswith(str(self.folder)):
                    found.append(process)
            except psutil.Error:
                continue
        return found


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    lives = Lives(tmp_path)
    yield lives
    for process in lives.processes():
        process.kill()
    for child in [*lives.launcher._children.values(), *reaped]:
        child.wait(10)
    reaped.clear()
    lives.launcher._lock.close()


def dies(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *, after: bool) -> None:
    """Have the `call`-th call of a function be the last thing that is done (`after`), or not be done any more."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def once(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed
        done = real(*args, **kwargs)
        if calls == call:
            if name == "Popen":
                reaped.append(done)
            raise Killed
        return done

    monkeypatch.setattr(owner, name, once)


reaped: list[subprocess.Popen[bytes]] = []
"""Children of a launcher that "died": in truth they are this process's, which has to reap them."""

LAUNCHING = [
    (place.Place, "prepare", 1, True),
    (place.Place, "write", 1, False),
    (place.Place, "write", 1, True),
    (subprocess, "Popen", 1, False),
    (subprocess, "Popen", 1, True),
    (place.Place, "write", 2, False),
    (place.Place, "write", 2, True),
]


@pytest.mark.parametrize(("owner", "name", "call", "after"), LAUNCHING)
def test_a_launch_cut_short(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, after: bool
) -> None:
    with monkeypatch.context() as patched, pytest.raises(Killed):
        dies(patched, owner, name, call, after=after)
        lives.launcher.launch(lives.spec)
    started = lives.processes()
    lives.again()
    assert (lives.seen().presence is Presence.RUNNING) == (len(started) == 1)
    lives.launcher.launch(lives.spec)
    seen = lives.seen()
    assert (seen.presence, seen.revision) == (Presence.RUNNING, "1")
    (process,) = lives.processes()
    assert not started or process.pid == started[0].pid
    lives.launcher.stop(lives.spec.id)
    wait_until(lambda: reap() and lives.seen().presence is Presence.IDLE, 30)
    assert lives.seen().ended is None
    lives.launcher.remove(lives.spec.id)
    assert lives.seen().presence is Presence.ABSENT
    assert lives.processes() == []


def reap() -> bool:
    for child in reaped:
        child.poll()
    return True


def test_a_stop_cut_short_ends_the_process_all_the_same(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    lives.launcher.launch(lives.spec)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        dies(patched, LocalLauncher, "_signal", 1, after=False)
        lives.launcher.stop(lives.spec.id)
    lives.again()
    assert lives.seen().presence is Presence.STOPPING
    monkeypatch.setattr(local, "STOP_WITHIN", 0.2)
    wait_until(lambda: lives.seen().presence is Presence.IDLE and reap(), 30)
    assert lives.processes() == []


def test_a_removal_cut_short_is_taken_up_again(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    lives.launcher.launch(lives.spec)
    lives.launcher.stop(lives.spec.id)
    wait_until(lambda: lives.seen().presence is Presence.IDLE, 30)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        dies(patched, Path, "unlink", 2, after=False)
        lives.launcher.remove(lives.spec.id)
    lives.again()
    assert lives.seen().presence is Presence.IDLE
    lives.launcher.remove(lives.spec.id)
    assert lives.seen().presence is Presence.ABSENT


def test_a_number_that_is_anothers_by_now_is_left_alone(lives: Lives) -> None:
    lives.launcher.launch(lives.spec)
    (process,) = lives.processes()
    process.kill()
    wait_until(lambda: lives.seen().presence is Presence.IDLE, 30)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        of_stranger = place.Place(lives.folder / "instances" / lives.spec.id)
        note = of_stranger.read()
        assert note is not None
        of_stranger.write(place.Note(note.task, note.token, note.revision, note.port, stranger.pid))
        lives.again()
        assert lives.seen().presence is Presence.IDLE
        lives.launcher.stop(lives.spec.id)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_control_apis_never_share_a_folder(lives: Lives) -> None:
    with pytest.raises(ConfigError, match=r"control\.data_dir"):
        LocalLauncher(lives.folder / "instances", lives.secrets)


def test_a_log_is_kept_within_bounds_while_it_is_written(lives: Lives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "LONGEST_LOG", 1000)
    monkeypatch.setattr(place, "KEPT_LOG", 500)
    folder = place.Place(lives.folder / "log")
    folder.prepare()
    with folder.log.open("ab", buffering=0) as writer:
        for number in range(200):
            writer.write(b"line %03d\n" % number)
            folder.bound_log()
    lines = folder.log.read_text().splitlines()
    assert folder.log.stat().st_size <= 1000
    assert lines[-1] == "line 199"
    assert lines == [f"line {n:03}" for n in range(200 - len(lines), 200)]


def test_a_folder_that_cannot_be_read_hides_no_other_and_strangers_folders_are_left_alone(lives: Lives) -> None:
    lives.launcher.launch(lives.spec)
    other = str(uuid4())
    (lives.folder / "instances" / other / "process.json").mkdir(parents=True)
    strange = lives.folder / "instances" / "lost+found"
    strange.mkdir()
    seen = lives.launcher.observe([other, lives.spec.id])
    assert {id: observation.presence for id, observation in seen.items()} == {lives.spec.id: Presence.RUNNING}
    lives.launcher.close()
    assert lives.processes() == []
    assert strange.is_dir()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_keeps_no_process_that_was_asked_to_end(
    lives: Lives, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    lives.launcher.launch(lives.spec)
    monkeypatch.setattr(LocalLauncher, "_signal", lambda *_: None)
    lives.launcher.stop(lives.spec.id)
    monkeypatch.undo()
    assert lives.seen().presence is Presence.STOPPING
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    wait_until(lambda: lives.seen().presence is Presence.IDLE, 30)


def test_what_stopped_an_engine_is_told_without_the_marks_of_a_terminal(tmp_path: Path) -> None:
    kept = place.Place(tmp_path)
    kept.mark_log("t")
    for said in (
        '{"event": "stopped_by_error", "message": ["\u2717 wal_level: replica", "error: another"], "exit_code": 3}',
        "error: no such file",
    ):
        with kept.log.open("a", encoding="utf-8") as log:
            log.write(f"{said}\n")
        told = kept.ending(None, "t")
        assert told.code == 3
        assert told.message in ("wal_level: replica; another", "no such file")
