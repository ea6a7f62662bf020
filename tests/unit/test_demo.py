"""The demo's own parts that need no server: rates, lines, the verdict, percentiles."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest
from rich.console import Console

from engine.demo.compare import Comparison
from engine.demo.display import LineDisplay, LiveDisplay, Rates, View, display, summary
from engine.demo.postgres import EmbeddedPostgres, find_install
from engine.demo.probes import Probe
from engine.demo.session import Demo, interruptible
from engine.demo.shop import TABLES, Counts
from engine.errors import ConfigError


def test_rates_over_a_window() -> None:
    rates = Rates(window=3)
    assert rates.add(0, 0, 0) == (0.0, 0.0)
    assert rates.add(2, 200, 800) == (100.0, 400.0)
    assert rates.add(4, 300, 800) == (50.0, 0.0)


def test_counts_tell_rows_from_changes() -> None:
    counts = Counts()
    counts.add("orders", 3)
    counts.add("orders", -1)
    counts.add("orders", 0, changes=2)
    assert (counts.rows["orders"], counts.changes) == (2, 6)


def view() -> View:
    return View(
        "http://127.0.0.1:1234",
        phase="streaming",
        status="ok",
        lag_ms=41,
        transactions_rate=99.6,
        changes_rate=400,
        source_rows=dict.fromkeys(TABLES, 1000),
        replica_rows={**dict.fromkeys(TABLES, 999), "payments": None},
    )


def test_plain_lines_come_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    with LineDisplay() as out:
        out.say("hello")
        out.update(view())
        out.update(view())
    first, second = capsys.readouterr().out.splitlines()
    assert first == "hello"
    assert (
        "streaming  lag 41 ms  commit→visible p50 - ms, p99 - ms  100 tx/s, 400 changes/s  rows 3,996 of 5,000"
        in second
    )


def test_live_table_on_a_terminal() -> None:
    stream = io.StringIO()
    out = LiveDisplay(Console(file=stream, force_terminal=True, width=120))
    with out:
        out.say("[not markup]")
        out.update(view())
    text = stream.getvalue()
    assert "[not markup]" in text
    for part in ("http://127.0.0.1:1234", "order_items", "1,000", "999"):
        assert part in text


def test_display_is_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(display(), LineDisplay)


def test_summary_gives_counts_and_verdicts() -> None:
    lines = summary([Comparison("orders", 10, 10, 0), Comparison("payments", 10, 9, 3)], view(), Counts(), 20.2)
    assert lines[-2].split() == ["orders", "10", "10", "EQUAL"]
    assert lines[-1].split() == ["payments", "10", "9", "DIFFERENT", "(3", "rows)"]


def test_percentiles() -> None:
    connect: Any = None
    probe = Probe(connect, connect)
    assert probe.percentile(0.5) is None
    probe.freshness.extend(n / 1000 for n in range(1, 101))
    assert probe.percentile(0.5) == pytest.approx(51)
    assert probe.percentile(0.99) == pytest.approx(100)


def test_without_the_wheel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"\.\[demo\]"):
        find_install()
    with pytest.raises(ConfigError, match=r"\.\[demo\]"), EmbeddedPostgres():
        pass


class Swallowing:
    """A signal comes while it is finalised: Python reports the exception that the handler raises, and drops it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_an_interrupt_that_comes_in_a_finaliser_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(report.exc_type))
    with interruptible() as interrupted:
        made = Swallowing()
        assert not interrupted.is_set()
        del made
        assert reported == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            Demo(LineDisplay(), interrupted).heed()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
