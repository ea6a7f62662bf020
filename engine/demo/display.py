"""What the demo shows: a live table on a terminal, a line per second otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from engine.demo.compare import Comparison

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


@dataclass(slots=True)
class View:
    """One moment of the demo. Rates are per second; lag and freshness in milliseconds."""

    url: str
    phase: str = "starting"
    status: str = "-"
    lag_ms: int | None = None
    fresh_p50: float | None = None
    fresh_p99: float | None = None
    transactions_rate: float = 0.0
    changes_rate: float = 0.0
    memory_mb: int | None = None
    memory_cap_mb: int | None = None
    invariant_seen: int = 0
    invariant_broken: int = 0
    source_rows: dict[str, int] = field(default_factory=dict)
    replica_rows: dict[str, int | None] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The moment in one line of text."""
        replica = sum(n or 0 for n in self.replica_rows.values())
        return (
            f"{time.strftime('%H:%M:%S')} {self.phase}  lag {number(self.lag_ms)} ms"
            f"  commit→visible p50 {number(self.fresh_p50)} ms, p99 {number(self.fresh_p99)} ms"
            f"  {self.transactions_rate:.0f} tx/s, {self.changes_rate:.0f} changes/s"
            f"  rows {replica:,} of {sum(self.source_rows.values()):,}"
            f"  memory {number(self.memory_mb)} MB"
        )


def number(value: float | None) -> str:
    """A measurement as shown; a dash before there is one."""
    return "-" if value is None else f"{value:,.0f}"


class Rates:
    """Turns growing totals into rates over the last few seconds."""

    def __init__(self, window: float = 3.0) -> None:
        self._window = window
        self._samples: list[tuple[float, tuple[int, ...]]] = []

    def add(self, now: float, *totals: int) -> tuple[float, ...]:
        """The rate of each total; zero at first."""
        self._samples = [(t, v) for t, v in self._samples if now - t <= self._window]
        self._samples.append((now, totals))
        since, before = self._samples[0]
        elapsed = now - since
        return tuple((b - a) / elapsed if elapsed > 0 else 0.0 for a, b in zip(before, totals, strict=True))


class Display(Protocol):
    """Where the demo's messages and moments go."""

    def say(self, text: str) -> None: ...

    def update(self, view: View) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display() -> Display:
    """The display that fits standard output."""
    return LiveDisplay() if sys.stdout.isatty() else LineDisplay()


class LineDisplay:
    """Plain lines, at most one moment per second."""

    def __init__(self) -> None:
        self._shown = 0.0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def update(self, view: View) -> None:
        now = time.monotonic()
        if now - self._shown >= 1:
            self._shown = now
            print(view.line, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class LiveDisplay:
    """A table that is redrawn in place; messages stay above it."""

    def __init__(self, console: Console | None = None) -> None:
        from rich import console as rich_console

        self._console = console or rich_console.Console()
        self._live: Live | None = None

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def update(self, view: View) -> None:
        if self._live is None:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(_drawn(view), refresh=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _drawn(view: View) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    colour = {"ok": "green", "degraded": "yellow"}.get(view.status, "red")
    head = Text.assemble(
        ("reflex-engine demo  ", "bold"),
        (f"{view.status} ", colour),
        f"{view.phase}  ",
        (view.url, "underline"),
        f"\nlag {number(view.lag_ms)} ms   commit → visible: p50 {number(view.fresh_p50)} ms, "
        f"p99 {number(view.fresh_p99)} ms\n"
        f"written: {view.transactions_rate:.0f} transactions/s, {view.changes_rate:.0f} row changes/s   "
        f"memory {number(view.memory_mb)} of {number(view.memory_cap_mb)} MB\n"
        f"orders = payments seen in {view.invariant_seen} queries, broken in {view.invariant_broken}",
    )
    table = Table("table", box=None, pad_edge=False)
    for title in ("source rows", "replica rows", "behind"):
        table.add_column(title, justify="right", min_width=12)
    for name, source in view.source_rows.items():
        replica = view.replica_rows.get(name)
        behind = "-" if replica is None else f"{source - replica:,}"
        table.add_row(name, f"{source:,}", number(replica), behind)
    return Group(head, "", table, Text("Ctrl-C ends the demo and removes everything it made.", style="dim"))


def summary(comparisons: Sequence[Comparison], view: View, totals: Any, seconds: float) -> list[str]:
    """The closing lines: what was written, how fresh it was, and whether the replica equals the source."""
    width = max(len(c.table) for c in comparisons)
    lines = [
        "",
        f"In {seconds:.0f} s: {totals.transactions:,} transactions, {totals.changes:,} row changes;"
        f" commit → visible p50 {number(view.fresh_p50)} ms, p99 {number(view.fresh_p99)} ms",
        f"Invariant across two tables: looked at {view.invariant_seen} times, broken {view.invariant_broken} times",
        "Row by row, source beside replica:",
    ]
    for c in comparisons:
        verdict = "EQUAL" if c.equal else f"DIFFERENT ({c.different:,} rows)"
        lines.append(f"  {c.table.ljust(width)}  {c.source_rows:>10,}  {c.replica_rows:>10,}  {verdict}")
    return lines
