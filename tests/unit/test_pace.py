"""When a batch is closed, and how long what arrives may gather before it is decoded."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from connectors.pace import LONGEST_GATHERING, Pace


@dataclass
class Assembling:
    has_changes: bool = False
    in_transaction: bool = False


def test_nothing_gathers_beyond_its_window() -> None:
    pace = Pace(0.02, 1 << 20)
    assert pace.gather() == pytest.approx(0.02)
    pace.data(time.monotonic() - 0.015)
    assert pace.gather() < 0.0051
    pace.data(time.monotonic())
    assert pace.gather() < 0.0051, "the first change counts"
    pace.sent(Assembling())
    assert pace.gather() == pytest.approx(0.02)


def test_however_long_the_window_gathering_is_short() -> None:
    assert Pace(10, 1 << 20).gather() == LONGEST_GATHERING


def test_a_backlog_keeps_a_batch_open_beyond_its_window() -> None:
    pace, changed = Pace(0.05, 4000), Assembling(has_changes=True)
    pace.data(time.monotonic() - 0.1)
    assert pace.due(changed, waiting=0)
    assert not pace.due(changed, waiting=1000)
    pace.sent(changed)
    pace = Pace(0.05, 4000)
    pace.data(time.monotonic() - 2)
    assert pace.due(changed, waiting=1000), "at most a second longer"
