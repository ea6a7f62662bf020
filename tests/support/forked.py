"""`reflex-engine` as a fork of a process that has imported everything already: most of what a start costs are imports.

The fork has its own session, environment, memory and signals, and runs the command from its first line on. The command
as users start it is tested where that is the point (`test_cli`, `test_demo`, `test_container`, `test_control_process`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

COMMAND = "reflex-engine"


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.forked_imports"])
    return context


class Forked:
    """A running `reflex-engine` with these arguments, which prints to the end of `log`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._process = _context().Process(target=_main, args=(list(arguments), dict(environment), str(log)))
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with, a signal as a negative number; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended."""
        if self.exit_code is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        """Wait until it ends; returns its exit code. TimeoutError when it does not."""
        self._process.join(timeout)
        if self.exit_code is None:
            raise TimeoutError(f"the process still runs after {timeout} s")
        return self.exit_code


def _main(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [COMMAND, *arguments]
    # What an engine starts anew that replaces itself.
    sys.orig_argv = [sys.executable, "-m", "engine.cli", *arguments]

    from engine.cli import main

    main(arguments, prog_name=COMMAND)
