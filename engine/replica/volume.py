"""Room on the replica's volume, asked for before DuckDB writes.

A write that DuckDB cannot complete leaves its whole instance unusable, for readers too. So sync stops while there is
still room, and what is there stays served.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.errors import CapExceeded

RESERVE = 64 << 20
"""Bytes that stay free: a WAL at its limit fits in, and so does what a checkpoint writes before it frees anything."""

_WRITTEN = 3
"""How many times a batch's size a transaction may write: into staging, into the WAL, into the table."""


def free_bytes(path: Path) -> int:
    """What is free on the volume of `path`, for this process's user."""
    return shutil.disk_usage(path.parent).free


def file_bytes(path: Path) -> int:
    """The size of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def require_room(path: Path, size: int) -> None:
    """Raise CapExceeded unless changes of `size` bytes can be written beside the file at `path`."""
    free = free_bytes(path)
    if free < RESERVE + _WRITTEN * size:
        raise CapExceeded(
            f"the volume of the replica file is full ({free >> 20} MB are free): give it more room, then restart the instance"
        )
