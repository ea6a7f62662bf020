"""Waiting for a whole scan of the log: it is never taken for done before one was, however a server shows its scans."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sqlserver.capture import ScanWatch
from connectors.sqlserver.connection import Connection, Row


@dataclass
class Server:
    """A capture job whose scans find nothing, and how sys.dm_cdc_log_scan_sessions shows them.

    `merged`: scans that find nothing share a row. `counts_first`: they are counted when they begin. `keeps_end`: a shared row
    shows when the scan before ended while one is under way. `moves_end`: it shows when the newest one ended, not the first.
    """

    merged: bool
    counts_first: bool
    keeps_end: bool
    moves_end: bool
    session: int = 1
    empty: int = 1
    ended: str | None = "0000"
    phase: str = "Done"
    errors: int = 0
    failures: int = 0
    clock: int = 0
    began: int | None = None
    whole: list[tuple[int, int]] = field(default_factory=list)
    """When each scan that met no error began, and when it ended."""

    def step(self, what: str) -> None:
        self.clock += 1
        if what == "begin" and self.began is None:
            self._begin()
        elif what == "end" and self.began is not None:
            self.whole.append((self.began, self.clock))
            self._end()
        elif what == "fail" and self.began is not None:
            self.errors = 1
            self.failures += 1
            self._end(phase="Second scan")

    def _begin(self) -> None:
        self.began = self.clock
        if not self.merged or self.errors:
            self.session += 1
            self.empty = self.errors = 0
            self.ended = None
        elif not self.keeps_end:
            self.ended = None
        self.phase = "First scan, building hash table"
        self.empty += self.counts_first

    def _end(self, phase: str = "Done") -> None:
        self.began = None
        self.phase = phase
        self.empty += not self.counts_first
        if self.ended is None or self.moves_end:
            self.ended = f"{self.clock:04}"

    def query_one(self, statement: str) -> Row | None:
        assert "dm_cdc_log_scan_sessions" in statement
        return self.session, self.empty, self.ended, self.phase, self.errors, self.failures, self.failures


SERVERS = st.builds(Server, st.booleans(), st.booleans(), st.booleans(), st.booleans())
STEPS = st.lists(st.sampled_from(["begin", "begin", "end", "end", "fail", "look"]), max_size=60)


@given(SERVERS, STEPS, STEPS)
def test_a_whole_scan_lies_within_what_was_waited_for(server: Server, before: list[str], after: list[str]) -> None:
    watch, connection = ScanWatch(), cast("Connection", server)
    for step in before:
        server.step(step)
    asked = server.clock
    assert not watch.passed(connection)
    for step in after:
        server.step(step)
        if step == "look" and watch.passed(connection):
            assert any(began > asked for began, _ in server.whole)
            return


@pytest.mark.parametrize("before", [(), ("begin",), ("begin", "fail"), ("begin", "fail", "begin")])
def test_no_short_course_of_scans_is_taken_for_a_whole_one(before: tuple[str, ...]) -> None:
    """All of them: what is drawn at random seldom has a scan that was under way when it was asked."""
    courses = list(itertools.product(("begin", "end", "fail", "look"), repeat=4))
    for merged, counts_first, keeps_end, moves_end in itertools.product((True, False), repeat=4):
        for after in courses:
            server, watch = Server(merged, counts_first, keeps_end, moves_end), ScanWatch()
            connection = cast("Connection", server)
            for step in before:
                server.step(step)
            asked = server.clock
            assert not watch.passed(connection)
            for step in (*after, "look"):
                server.step(step)
                if step == "look" and watch.passed(connection):
                    assert any(began > asked for began, _ in server.whole), (server, after)
                    break


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("counts_first", [True, False])
@pytest.mark.parametrize("keeps_end", [True, False])
@pytest.mark.parametrize("moves_end", [True, False])
def test_a_few_scans_are_enough(*, merged: bool, counts_first: bool, keeps_end: bool, moves_end: bool) -> None:
    server = Server(merged, counts_first, keeps_end, moves_end)
    watch, connection = ScanWatch(), cast("Connection", server)
    assert not watch.passed(connection)
    for _ in range(3):
        for step in ("begin", "look", "end", "look"):
            server.step(step)
            passed = watch.passed(connection)
    assert passed


def test_scans_that_fail_show_nothing_however_many_there_are() -> None:
    server = Server(merged=True, counts_first=False, keeps_end=False, moves_end=True)
    watch, connection = ScanWatch(), cast("Connection", server)
    for _ in range(9):
        server.step("begin")
        server.step("fail")
        assert not watch.passed(connection)
        # Also when the look comes while the next one is under way.
        server.step("begin")
        assert not watch.passed(connection)
        server.step("fail")
    for step in ("begin", "end", "begin", "end", "begin", "end"):
        assert not watch.passed(connection) or len(server.whole) > 1
        server.step(step)
    assert watch.passed(connection)
