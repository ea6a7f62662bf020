"""Figures: how passes become one number, how they are shown, and where they are kept."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Line:
    """One measured thing: its passes in `unit`, and what it must not exceed (or reach), if there is a bar."""

    name: str
    values: tuple[float, ...]
    unit: str = "s"
    note: str = ""
    bar: float | None = None
    at_least: bool = False
    """The bar is a floor, not a ceiling."""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        if self.bar is None:
            return None
        return self.median >= self.bar if self.at_least else self.median <= self.bar


@dataclass
class Result:
    """What one benchmark found."""

    name: str
    title: str
    lines: list[Line] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, name: str, values: Sequence[float], unit: str = "s", **more: Any) -> None:
        if values:
            self.lines.append(Line(name, tuple(values), unit, **more))

    def ratio(self, name: str, ours: Sequence[float], theirs: Sequence[float], **more: Any) -> None:
        """Ours divided by theirs, pass by pass (both of a pass ran next to each other), the median of those."""
        pairs = list(zip(ours, theirs, strict=False))
        self.add(name, [a / b for a, b in pairs], "x", **more)


def show(result: Result) -> str:
    """A table for the terminal."""
    lines = [f"\n{result.title}"]
    width = max(len(line.name) for line in result.lines) if result.lines else 0
    for line in result.lines:
        spread = f"{min(line.values):.2f}-{max(line.values):.2f}" if len(line.values) > 1 else ""
        verdict = ""
        if line.bar is not None:
            verdict = f"bar {'>=' if line.at_least else '<='} {line.bar:g} {'met' if line.met else 'MISSED'}"
        lines.append(
            f"  {line.name:<{width}}  {line.median:>10.2f} {line.unit:<4} {spread:>15}  {verdict} {line.note}".rstrip()
        )
    lines += [f"  {remark}" for remark in result.remarks]
    return "\n".join(lines)


def save(machine: dict[str, object], options: dict[str, object], results: Sequence[Result]) -> Path:
    """Write everything to `benchmarks/results/<time>.json`; returns the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    body = {
        "machine": machine,
        "options": options,
        "results": [
            {
                "name": result.name,
                "title": result.title,
                "lines": [{**asdict(line), "median": line.median, "met": line.met} for line in result.lines],
                "remarks": result.remarks,
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(body, indent=1))
    return path
