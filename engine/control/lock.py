"""What one control API at a time may use: two that drive the same instances would start each of them twice."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from engine.errors import ConfigError, Problem


def hold(path: Path, field: str, what: Path) -> IO[str]:
    """Lock the file at `path` (made when missing) until what is returned is closed, or the process dies.

    `what` is used through `field` of the configuration. Raises ConfigError when another process holds it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Who can read it could hold it.
        path.touch(mode=0o600)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem(field, f"{what} cannot be used: {error.strerror}")]) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError([Problem(field, f"{what} is in use by another control API")]) from None
    return file
