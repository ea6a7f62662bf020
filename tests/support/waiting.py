"""Waiting for a condition instead of sleeping and hoping."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    timeout: float = 30.0,
    *,
    message: str | Callable[[], str] = "",
    interval: float = 0.02,
    ignore: tuple[type[BaseException], ...] = (),
) -> T:
    """Call `condition` until it is truthy, and return what it then gave; fail after `timeout` seconds.

    Exceptions of the types in `ignore` count as "not yet"; the last one is named in the failure. The pause between
    calls grows from `interval` to half a second.
    """
    deadline = time.monotonic() + timeout
    pause = interval
    while True:
        last: object
        try:
            result = condition()
            if result:
                return result
            last = result
        except ignore as error:
            last = error
        if time.monotonic() >= deadline:
            what = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s{': ' + what if what else ''} (last: {last!r})")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
