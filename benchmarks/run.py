"""What one run of the benchmarks shares: its options, its server, its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Result
from benchmarks.server import Server


@dataclass(frozen=True)
class Options:
    """How much to do. Sizes in rows, `passes` how often each thing is measured."""

    passes: int = 5
    rows: int = 2_000_000
    changes: int = 300_000
    transactions: int = 50_000
    seconds: int = 30
    rate: int = 500
    memory_rows: int = 10_000_000
    memory_changes: int = 5_000_000
    size: str = "nano"
    """The engine's `instance_size`."""
    engine: bool = True
    """Measure the engine, too; without, only the peers."""
    extension: bool = True
    debezium: bool = False
    mysql: str = "mysql-9.7"
    """Which server the benchmark `mysql` uses, as the tests' fixtures spell it."""


@dataclass(frozen=True)
class Run:
    """One run: `say` prints progress."""

    options: Options
    server: Server
    folder: Path
    say: Callable[[str], None]


Benchmark = Callable[[Run], Result]
