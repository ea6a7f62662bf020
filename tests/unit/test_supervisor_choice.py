"""`sync_mode: auto`: which source is opened, and what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import PreconditionError, TransientError
from engine.source import Check
from engine.status import StatusBoard
from engine.supervisor.choice import AutoConnect

LACKING = Check("wal_level", ok=False, detail="wal_level is replica", remedy="ALTER SYSTEM SET wal_level = logical;")


class Capture:
    """A source for change data capture, as far as the choice looks at it."""

    def __init__(self) -> None:
        self.checks = [Check("wal_level", ok=True, detail="logical"), Check("keys", ok=False, detail="-", warning=True)]
        self.failure: Exception | None = None
        self.opened = self.closed = self.checked = 0

    def __call__(self, _: object) -> Any:
        self.opened += 1
        return self

    def status(self) -> None:
        if self.failure is not None:
            raise self.failure

    def check(self) -> list[Check]:
        self.checked += 1
        return self.checks

    def parse_position(self, text: str) -> int:
        return int(text)

    def close(self) -> None:
        self.closed += 1


class Choice:
    def __init__(self, stored: str | None = None) -> None:
        self.capture = Capture()
        self.board = StatusBoard()
        self.connect = AutoConnect(self.capture, lambda _: "polled", self.board, mode="logical", stored=stored)  # type: ignore[arg-type, return-value]

    def open(self) -> object:
        return self.connect(frozenset())


def test_capture_is_taken_where_its_checks_pass() -> None:
    choice = Choice()
    assert choice.open() is choice.capture
    assert choice.board.current.sync_mode == "logical"
    assert not choice.board.current.checks
    choice.capture.checks = [LACKING]
    assert choice.open() is choice.capture
    assert choice.capture.checked == 1


@pytest.mark.parametrize("stored", [None, "poll/1"])
def test_polling_is_taken_where_they_do_not_and_says_why(stored: str | None) -> None:
    choice = Choice(stored)
    choice.capture.checks = [LACKING]
    assert choice.open() == "polled"
    assert choice.capture.closed == 1
    assert choice.board.current.sync_mode == "poll"
    check = choice.board.current.checks["sync_mode"]
    assert check.status == "ok"
    assert "wal_level is replica (ALTER SYSTEM SET wal_level = logical;)" in str(check.detail)
    assert choice.open() == "polled"
    assert choice.capture.opened == 1


def test_a_source_out_of_reach_decides_nothing() -> None:
    choice = Choice()
    choice.capture.failure = TransientError("refused")
    with pytest.raises(TransientError):
        choice.open()
    choice.capture.failure = None
    choice.capture.checks = [Check("connection", ok=False, detail="refused")]
    with pytest.raises(TransientError):
        choice.open()
    assert choice.capture.closed == 2
    assert choice.board.current.sync_mode is None
    choice.capture.checks = []
    assert choice.open() is choice.capture


def test_a_log_that_may_not_be_looked_at_is_for_the_checks_to_say() -> None:
    choice = Choice()
    choice.capture.failure, choice.capture.checks = PreconditionError("no right"), [LACKING]
    assert choice.open() == "polled"


def test_what_capture_has_stored_goes_on() -> None:
    choice = Choice("42")
    choice.capture.checks = [LACKING]
    assert choice.open() is choice.capture
    assert choice.capture.checked == 0
