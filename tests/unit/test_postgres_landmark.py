"""A landmark tells one history of a log from another, and never mistakes a log for another because of a crash."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.postgres.landmark import Landmark, Trail
from connectors.postgres.pgoutput import Commits
from connectors.postgres.position import Lsn
from connectors.postgres.slot import History
from engine.errors import ResyncRequired

Transaction = tuple[int, int, int]
"""Where the commit record begins and ends, and the clock."""


def commits(*transactions: Transaction) -> Commits:
    lsn, end, clock = zip(*transactions, strict=True)
    return Commits(np.array(lsn, np.uint64), np.array(end, np.uint64), np.array(clock, np.int64))


def trail(landmark: Landmark | None, begins: int, after: int) -> tuple[Trail, list[bool]]:
    told: list[bool] = []
    return Trail(landmark, Lsn(begins), Lsn(after), lambda: told.append(True)), told


REMEMBERED = Landmark(100, 80, 90, 7)


def test_a_slot_at_the_remembered_position_needs_no_comparison() -> None:
    made, told = trail(REMEMBERED, 100, 100)
    assert told == [True]
    made.committed(commits((110, 120, 1)))
    assert made.at(130) == Landmark(130, 110, 120, 1)


def test_the_remembered_transaction_is_recognised() -> None:
    made, told = trail(REMEMBERED, 80, 100)
    made.passed(85)
    made.committed(commits((80, 90, 7)))
    assert told == []
    made.passed(100)
    assert told == [True]
    assert made.at(100) == REMEMBERED


def test_what_follows_in_one_run_is_told_apart() -> None:
    made, told = trail(REMEMBERED, 80, 100)
    made.committed(commits((80, 90, 7), (105, 110, 8)))
    assert told == [True]
    assert made.at(115) == Landmark(115, 105, 110, 8)


@pytest.mark.parametrize(
    "sent",
    [
        [(80, 90, 8)],
        [(80, 91, 7)],
        [(81, 90, 7)],
        [(80, 90, 7), (92, 99, 9)],
        [(105, 110, 7)],
        [(92, 99, 7)],
    ],
)
def test_another_transaction_in_its_place_is_another_log(sent: list[Transaction]) -> None:
    made, told = trail(REMEMBERED, 80, 100)
    with pytest.raises(ResyncRequired, match="restored"):
        made.committed(commits(*sent))
    assert told == []


def test_a_log_without_it_is_another_log() -> None:
    made, told = trail(REMEMBERED, 80, 100)
    made.passed(89)
    with pytest.raises(ResyncRequired, match="restored"):
        made.passed(90)
    assert told == []


def test_behind_a_slot_that_is_past_it_there_is_nothing() -> None:
    made, told = trail(REMEMBERED, 95, 100)
    made.passed(100)
    assert told == [True]
    made, told = trail(REMEMBERED, 95, 100)
    with pytest.raises(ResyncRequired, match="restored"):
        made.committed(commits((96, 99, 1)))


def test_without_a_landmark_nothing_is_claimed_until_a_transaction_is_seen() -> None:
    made, told = trail(None, 50, 100)
    assert told == [True]
    made.passed(150)
    assert made.at(150) is None
    made.committed(commits((160, 170, 3)))
    assert made.at(175) == Landmark(175, 160, 170, 3)


def test_an_older_landmark_claims_nothing_of_what_came_after_it() -> None:
    made, told = trail(REMEMBERED, 80, 200)
    made.committed(commits((80, 90, 7), (150, 160, 8)))
    assert told == [True]
    assert made.at(200) == Landmark(200, 150, 160, 8)
    made, _ = trail(REMEMBERED, 95, 200)
    assert made.at(200) is None


def test_a_landmark_beyond_the_position_is_not_of_it() -> None:
    made, told = trail(REMEMBERED, 80, 99)
    assert told == [True]
    assert made.at(99) is None


def test_the_identity_keeps_it() -> None:
    history = History("7", 1, 2, "slot", REMEMBERED)
    assert History.parse(history.to_text()) == history
    bare = History("7", 1, 2, "slot")
    assert History.parse(bare.to_text()) == bare
    assert "landmark" not in bare.to_text()
    for broken in ("[1]", '{"system":"7","timeline":1,"database":2,"slot":"s","landmark":[1]}x', "null", "3"):
        assert History.parse(broken) is None
    for landmark in ("3", "[1.5]", '["1"]', "[1,2,3,4,5]", "[]", "{}"):
        assert History.parse(f'{{"system":"7","timeline":1,"database":2,"slot":"s","landmark":{landmark}}}') is None


class Log:
    """A log as a slot sees it: transactions in order, and where the log ends."""

    def __init__(self, transactions: Sequence[Transaction], end: int) -> None:
        self.transactions = list(transactions)
        self.end = end

    def commit(self, gap: int, size: int, clock: int) -> None:
        begin = self.end + gap
        self.transactions.append((begin, begin + size, clock))
        self.end = begin + size

    def from_(self, begins: int) -> list[Transaction]:
        return [t for t in self.transactions if t[0] >= begins]


def resumed(log: Log, landmark: Landmark | None, confirmed: int, after: int) -> tuple[Landmark | None, bool]:
    """Stream a log to its end as a source does; the landmark of the end, and whether the log was recognised."""
    begins = after
    if landmark is not None:
        begins = min(after, max(landmark.commit, confirmed))
    made, told = trail(landmark, max(begins, confirmed), after)
    for transaction in log.from_(max(begins, confirmed)):
        made.passed(transaction[0])
        made.committed(commits(transaction))
    made.passed(log.end)
    return made.at(log.end), bool(told)


steps = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=6)


@settings(max_examples=300, deadline=None)
@given(steps, steps, steps, st.data())
def test_the_same_log_is_always_recognised_and_another_never(
    before: list[tuple[int, int]], ours: list[tuple[int, int]], theirs: list[tuple[int, int]], data: st.DataObject
) -> None:
    clock = iter(range(1, 1000))
    log = Log([], 10)
    start = log.end
    for gap, size in before:
        log.commit(gap, size, next(clock))
    shared = len(log.transactions)
    other = Log(log.transactions, log.end + data.draw(st.integers(0, 2)))
    parted = other.end
    copied = data.draw(st.integers(start, log.end))
    for gap, size in ours:
        log.commit(gap, size, next(clock))
    log.end += data.draw(st.integers(0, 2))
    landmark, _ = resumed(log, Landmark(start), start, start)
    after = log.end
    # The same log, with a slot that a crash may have set back to anything that was confirmed.
    confirmed = data.draw(st.integers(start, after))
    log.commit(1, 1, next(clock))
    assert resumed(log, landmark, confirmed, after)[1]
    # A copy of an earlier moment, whose slot is older than that, and which has written past our position.
    for gap, size in theirs:
        other.commit(gap, size, next(clock))
    missing = [t for t in log.transactions[shared:] if t[1] <= after]
    foreign = [t for t in other.transactions[shared:] if t[1] <= after]
    other.end = max(other.end, after) + 1
    if missing or foreign:
        with pytest.raises(ResyncRequired):
            resumed(other, landmark, min(copied, parted), after)
    else:
        assert resumed(other, landmark, min(copied, parted), after)[1]
