"""Starting the process again from the replica file, a bounded number of times.

A fatal DuckDB error leaves the library unusable in this process; the file on disk is sound (its last commit). The
process replaces itself by a new one with the same command line. What the next process must know travels in one
environment variable: when restarts happened, and the port that was served (a free port must not change).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

VARIABLE = "REFLEX_RESTARTS"
MOST = 5
WINDOW = 600.0
"""More than `MOST` restarts within this many seconds mean that a restart does not help."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """The restarts of this instance within the window (epoch seconds), and the port it serves on, if it has one."""

    at: tuple[float, ...] = ()
    port: int | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str], now: float | None = None) -> Restarts:
        """What the process before this one left; nothing if it left nothing sensible."""
        moment = time.time() if now is None else now
        try:
            raw = json.loads(environ.get(VARIABLE, "{}"))
            at = tuple(float(t) for t in raw.get("at", ()) if moment - float(t) < WINDOW)
            port = raw.get("port")
            return cls(at, int(port) if port is not None else None)
        except (ValueError, TypeError, AttributeError):
            return cls()

    @property
    def exhausted(self) -> bool:
        """Whether one more restart would be one too many."""
        return len(self.at) >= MOST

    def text(self, port: int, now: float | None = None) -> str:
        """The variable's value for the next process."""
        moment = time.time() if now is None else now
        return json.dumps({"at": [*self.at, moment], "port": port})


def restart_process(restarts: Restarts, port: int) -> NoReturn:
    """Replace this process by a new one with the same command line. Open files and sockets are closed by it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606 - the same program again
        sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: restarts.text(port)}
    )
