"""The folder of one local instance: its replica, its log, and the note of the process that was started last.

The note is what makes processes survive the control API. It is written before a process is started and again when its
id is known, each time whole (rename); the process carries the note's token in its environment, so that it is found and
known again even when the control API died between the two. It holds no secret.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from engine.control.launchers.launcher import Ending

TOKEN = "REFLEX_INSTANCE_TOKEN"  # noqa: S105 - a variable's name
"""The variable by which a process is known again. It opens nothing."""
LONGEST_LOG = 16 << 20
"""Bytes; a longer log is cut down to its last part when it is looked at."""
KEPT_LOG = 4 << 20
SPOKEN = ("error: ", "✗ ")
"""How a command that speaks to a person begins to say what stopped it."""
EXEC_LOOKS = 10
TAIL = 64 << 10
"""Bytes at the end of a log in which the engine's last word is looked for."""


@dataclass(frozen=True, slots=True)
class Note:
    """The process that was started last. `stopping_since` (epoch seconds): it was asked to end, and when."""

    task: str
    """``run`` or ``teardown``."""
    token: str
    revision: str
    port: int
    pid: int | None = None
    stopping_since: float | None = None


class Place:
    """The folder of one instance. Nothing is created before `prepare`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.replica = folder / "replica.duckdb"
        self.log = folder / "engine.log"
        self._note = folder / "process.json"

    def prepare(self) -> None:
        """Make the folder, for nobody but this user."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self) -> Note | None:
        """The note, None when nothing was started here (or only ever began to be)."""
        try:
            raw = json.loads(self._note.read_text(encoding="utf-8"))
            return Note(**raw)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            # Written whole or not at all: this is no note of ours, and its process cannot be known.
            return None

    def write(self, note: Note) -> Note:
        """Keep a note durably."""
        draft = self._note.with_suffix(".new")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(asdict(note), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._note)
        return note

    def remove(self) -> None:
        """Delete the folder; the note goes last, so that what is cut short is seen, and done again."""
        if not self.folder.exists():
            return
        for entry in self.folder.iterdir():
            if entry == self._note:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.folder.rmdir()

    def bound_log(self) -> None:
        """Keep the end of a log that has grown too long. Processes append, so they go on at its new end."""
        try:
            size = self.log.stat().st_size
        except FileNotFoundError:
            return
        if size <= LONGEST_LOG:
            return
        with self.log.open("r+b") as file:
            file.seek(size - KEPT_LOG)
            kept = file.read().partition(b"\n")[2]
            file.truncate(0)
        with self.log.open("ab") as file:
            file.write(kept)

    def ending(self, code: int | None, token: str) -> Ending:
        """How the process with this token ended: `code` when it is known, and what its log says."""
        said = ""
        for event in self._events_since(token):
            match event.get("event"):
                case "stopped_by_error":
                    message = event.get("message")
                    lines = message if isinstance(message, list) else [message]
                    said = "; ".join(_spoken(str(line)) for line in lines)
                    told = event.get("exit_code")
                    code = told if code is None and isinstance(told, int) else code
                case "unexpected_error":
                    exception = event.get("exception")
                    said = str(exception.get("error")) if isinstance(exception, dict) else said
                case "stopped":
                    code = 0 if code is None else code
                case _:
                    said = str(event.get("text", said))
        return Ending(code, said)

    def mark_log(self, token: str) -> None:
        """Note in the log that a process begins here, on a line of its own."""
        with self.log.open("ab") as file:
            file.write(f"{json.dumps({'event': 'launched', 'launch': token})}\n".encode())

    def _events_since(self, token: str) -> list[dict[str, object]]:
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL))
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        events: list[dict[str, object]] = []
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                if line.startswith(SPOKEN):
                    events.append({"text": _spoken(line)})
                continue
            if not isinstance(event, dict):
                continue
            if event.get("event") == "launched":
                events.clear()
                if event.get("launch") != token:
                    continue
            events.append(event)
        return events


def _spoken(line: str) -> str:
    """A line without the mark that a command puts before what stopped it."""
    return next((line.removeprefix(mark) for mark in SPOKEN if line.startswith(mark)), line)


def process_of(note: Note) -> psutil.Process | None:
    """The living process of a note, wherever it came from; None when there is none."""
    if note.pid is not None:
        try:
            process = psutil.Process(note.pid)
        except psutil.NoSuchProcess:
            return None
        return process if _carries(process, note.token) else None
    for process in psutil.process_iter():
        if _carries(process, note.token):
            return process
    return None


def _carries(process: psutil.Process, token: str) -> bool:
    """Whether a process lives and was started with this token. A number can be another's by now, a token cannot."""
    try:
        for _ in range(EXEC_LOOKS):
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            environment = process.environ()
            if environment:
                return environment.get(TOKEN) == token
            # A process that is just replacing its program (an engine that restarts itself) has none for a moment.
            time.sleep(0.01)
    except (psutil.Error, OSError):
        return False
    return False
