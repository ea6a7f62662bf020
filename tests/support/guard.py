"""No process outlives the tests, not even when pytest is killed with SIGKILL.

One small watcher process per test process holds the read end of a pipe. The kernel closes the write end when the test
process ends, however it ends; the watcher then kills what is still registered and removes the registered folders.
(PR_SET_PDEATHSIG would not do: it is bound to the thread that started the child, and is lost on a change of user.)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import psutil

_lock = threading.Lock()
_pipes: dict[int, int] = {}
"""Per process id (a fork makes its own) the write end of the watcher's pipe."""


def _tell(**message: object) -> None:
    with _lock:
        pipe = _pipes.get(os.getpid())
        if pipe is None:
            read_end, pipe = os.pipe()
            os.posix_spawn(
                sys.executable,
                [sys.executable, __file__],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 0)],
                setpgroup=0,
            )
            os.close(read_end)
            _pipes[os.getpid()] = pipe
        os.write(pipe, json.dumps(message).encode() + b"\n")


def watch(pid: int) -> None:
    """Kill this process and its children when the test process ends."""
    _tell(watch=pid)


def forget(pid: int) -> None:
    """The process has ended in the ordinary way."""
    _tell(forget=pid)


def watch_folder(path: Path) -> None:
    """Remove this folder when the test process ends."""
    _tell(folder=str(path))


def kill_tree(process: psutil.Process) -> None:
    """Kill a process and all its descendants, and wait until they are gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        victims = [process, *process.children(recursive=True)]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        psutil.wait_procs(victims, timeout=10)


def _main() -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    processes: dict[int, psutil.Process] = {}
    folders: list[str] = []
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if pid := message.get("watch"):
            with contextlib.suppress(psutil.NoSuchProcess):
                processes[pid] = psutil.Process(pid)
        elif pid := message.get("forget"):
            processes.pop(pid, None)
        elif folder := message.get("folder"):
            folders.append(folder)
    for process in processes.values():
        # psutil compares the creation time, so a reused process id is never hit.
        if process.is_running():
            kill_tree(process)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()
