"""Instance sizes: what CPU and memory each one stands for, and how an engine divides them.

The task sizes are those of the interface (ECS CPU units, MiB). The divisions are this project's: what Python, the
drivers and one batch in flight need was measured and is kept off DuckDB's share, so that the process stays under its
cap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_MIB = 1 << 20

_PYTHON_MB = 160
"""Resident size of the interpreter with pyarrow, DuckDB's code, the HTTP server and an idle connector loaded."""


@dataclass(frozen=True, slots=True)
class Size:
    """One instance size. `cpu_units` are 1/1024 of a CPU, `memory_mb` the cap on the resident set in MiB."""

    name: str
    cpu_units: int
    memory_mb: int

    @property
    def memory_bytes(self) -> int:
        """The cap on the process's resident set."""
        return self.memory_mb * _MIB

    @property
    def duckdb_bytes(self) -> int:
        """DuckDB's `memory_limit`: about 60 % of what Python leaves, for it exceeds its limit by a part of it."""
        return int((self.memory_mb - _PYTHON_MB) * 0.6) * _MIB

    @property
    def batch_bytes(self) -> int:
        """Source bytes in one change batch; its decoded form takes a few times as much, twice over (read-ahead)."""
        return min(max(self.memory_mb // 96, 4), 32) * _MIB

    @property
    def snapshot_workers(self) -> int:
        """Connections that read a snapshot side by side."""
        return min(max(self.cpu_units // 512, 2), 8)

    def threads(self, cores: int | None = None) -> int:
        """DuckDB's threads: at least 2 (a task bursts over its CPU units), at most what the machine has."""
        available = cores if cores is not None else (os.cpu_count() or 1)
        return max(1, min(available, max(2, self.cpu_units // 1024)))


SIZES: dict[str, Size] = {
    size.name: size
    for size in (
        Size("nano", 256, 512),
        Size("small", 512, 1024),
        Size("medium", 1024, 4096),
        Size("large", 2048, 8192),
        Size("xlarge", 4096, 16384),
        Size("2xlarge", 8192, 32768),
    )
}
