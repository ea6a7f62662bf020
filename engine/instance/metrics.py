"""``GET /metrics``: the instance in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import SupportsInt

from engine.instance.health import lag_seconds, memory_mb, status_word, sync_mode
from engine.instance.settings import InstanceSettings
from engine.schema import TableId
from engine.status import Phase, Status, TableState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COUNTER_HELP = {
    "batches": "Batches applied.",
    "transactions": "Source transactions applied.",
    "row_changes": "Row changes applied.",
    "bytes": "Bytes received from the source's stream.",
    "swaps": "Loads made visible.",
    "reloads": "Tables loaded anew.",
    "resyncs": "Times that everything was loaded anew.",
    "retries": "Times that the source was asked again after an error.",
    "schema_changes": "Definitions of tables that changed at the source.",
    "apply_seconds": "Seconds spent applying batches.",
}
Sample = tuple[Mapping[str, str], float]


class QueryMetrics:
    """Counts queries by outcome and their duration until the answer began. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.buckets = [0] * len(_BUCKETS)
        self.seconds = 0.0
        self.total = 0
        self.running = 0
        self.in_flight = 0
        self.rows = 0
        self.cut_off = 0

    def count(self, outcome: str, form: str | None, seconds: float) -> None:
        """Add one answered query."""
        with self._lock:
            self.outcomes[outcome, str(form or "none")] += 1
            self.total += 1
            self.seconds += seconds
            for i, bound in enumerate(_BUCKETS):
                if seconds <= bound:
                    self.buckets[i] += 1


def render(
    status: Status,
    settings: InstanceSettings,
    row_counts: Mapping[TableId, int],
    queries: QueryMetrics,
    now: float | None = None,
) -> str:
    """All metrics as text. Times in seconds, sizes in bytes."""
    now = time.time() if now is None else now
    out = _Text()
    word = status_word(status, settings, now)
    labels = {"instance": settings.name, "backend": settings.backend, "sync_mode": sync_mode(status, settings)}
    out.gauge("info", "The instance.", [(labels, 1.0)])
    states = ("ok", "degraded", "unreachable", "cap_exceeded")
    out.gauge("status", "1 for the status that health has.", [({"status": s}, float(s == word)) for s in states])
    out.gauge("phase", "1 for what sync is doing.", [({"phase": str(p)}, float(p is status.phase)) for p in Phase])
    out.gauge("ready", "Whether queries are served.", [({}, float(status.ready))])
    out.gauge("paused", "Whether sync is paused.", [({}, float(status.paused))])
    _lag(out, status, now)
    out.gauge("memory_bytes", "Resident memory of the process.", [({}, float(memory_mb() << 20))])
    if settings.memory_cap_mb is not None:
        out.gauge("memory_cap_bytes", "The cap on it.", [({}, float(settings.memory_cap_mb << 20))])
    for field in fields(status.counters):
        value = float(getattr(status.counters, field.name))
        out.counter(f"{field.name}_total", _COUNTER_HELP.get(field.name, field.name), [({}, value)])
    out.gauge("table_rows", "Rows that readers see.", [({"table": str(t)}, float(n)) for t, n in row_counts.items()])
    _tables(out, status)
    checks = [({"check": c.name}, float(c.status == "ok")) for c in status.checks.values()]
    out.gauge("check_ok", "Whether a check of the instance holds.", checks)
    _queries(out, queries)
    return out.text()


def _lag(out: _Text, status: Status, now: float) -> None:
    lag = lag_seconds(status, now)
    if lag is not None:
        out.gauge("lag_seconds", "How stale the replica is at most.", [({}, lag)])
    if status.lag_bytes is not None:
        out.gauge("lag_bytes", "Bytes of the source's log that are not applied.", [({}, float(status.lag_bytes))])
    if status.applied_at is not None:
        out.gauge("applied_age_seconds", "Since the last batch.", [({}, max(0.0, now - status.applied_at))])
    if status.source_seen_at is not None:
        out.gauge(
            "source_seen_age_seconds", "Since the source answered.", [({}, max(0.0, now - status.source_seen_at))]
        )
    positions: dict[str, object] = {"replica": status.position, "source": status.source_position}
    samples = [({"at": at}, float(int(p))) for at, p in positions.items() if isinstance(p, SupportsInt)]
    out.gauge("position", "Log positions, for sources where they are numbers.", samples)


def _tables(out: _Text, status: Status) -> None:
    states = [
        ({"table": str(table), "state": str(state)}, float(state is at.state))
        for table, at in status.tables.items()
        for state in TableState
    ]
    out.gauge("table_state", "1 for the state that a table is in.", states)
    loading = [(t, s) for t, s in status.tables.items() if s.state is not TableState.LIVE]
    out.gauge("table_rows_loaded", "Rows read so far.", [({"table": str(t)}, float(s.rows_loaded)) for t, s in loading])
    expected = [({"table": str(t)}, float(s.rows_expected)) for t, s in loading]
    out.gauge("table_rows_expected", "Rows expected, about.", expected)


def _queries(out: _Text, queries: QueryMetrics) -> None:
    outcomes = [({"outcome": o, "format": f}, float(n)) for (o, f), n in sorted(queries.outcomes.items())]
    out.counter("queries_total", "Queries by how they ended.", outcomes)
    out.counter("query_rows_total", "Rows of complete answers.", [({}, float(queries.rows))])
    out.counter("queries_cut_off_total", "Answers that broke off while they were sent.", [({}, float(queries.cut_off))])
    out.gauge("queries_running", "Queries in DuckDB now.", [({}, float(queries.running))])
    waiting = max(0, queries.in_flight - queries.running)
    out.gauge("queries_waiting", "Queries that wait for a place or a position.", [({}, float(waiting))])
    buckets = [({"le": str(b)}, float(n)) for b, n in zip(_BUCKETS, queries.buckets, strict=True)]
    buckets.append(({"le": "+Inf"}, float(queries.total)))
    out.histogram("query_seconds", "Seconds until an answer began.", buckets, queries.seconds, queries.total)


class _Text:
    """Collects metrics in the text format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, help: str, samples: Iterable[Sample]) -> None:
        self._add(name, "gauge", help, samples)

    def counter(self, name: str, help: str, samples: Iterable[Sample]) -> None:
        self._add(name, "counter", help, samples)

    def histogram(self, name: str, help: str, buckets: Iterable[Sample], total: float, count: int) -> None:
        self._head(name, "histogram", help)
        self._lines += [self._line(f"{name}_bucket", labels, value) for labels, value in buckets]
        self._lines += [self._line(f"{name}_sum", {}, total), self._line(f"{name}_count", {}, float(count))]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def _add(self, name: str, kind: str, help: str, samples: Iterable[Sample]) -> None:
        lines = [self._line(name, labels, value) for labels, value in samples]
        if lines:
            self._head(name, kind, help)
            self._lines += lines

    def _head(self, name: str, kind: str, help: str) -> None:
        self._lines += [f"# HELP reflex_{name} {help}", f"# TYPE reflex_{name} {kind}"]

    def _line(self, name: str, labels: Mapping[str, str], value: float) -> str:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        number = repr(int(value)) if float(value).is_integer() and abs(value) < 1e17 else repr(value)
        return f"reflex_{name}{{{inner}}} {number}" if inner else f"reflex_{name} {number}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
