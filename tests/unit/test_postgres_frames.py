"""What the receiver took in: all frames as one run, and the keepalive behind them."""

from __future__ import annotations

import pytest

from connectors.postgres.position import Lsn
from connectors.postgres.receiver import Frames, Item, Keepalive, joined


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], []),
        ([Frames([b"a"], 1, 5.0)], [Frames([b"a"], 1, 5.0)]),
        ([Frames([b"a"], 1, 5.0), Frames([b"b", b"c"], 2, 6.0)], [Frames([b"a", b"b", b"c"], 3, 5.0)]),
        (
            [Keepalive(Lsn(1)), Frames([b"a"], 1, 5.0), Keepalive(Lsn(2)), Frames([b"b"], 1, 6.0)],
            [Frames([b"a", b"b"], 2, 5.0)],
        ),
        (
            [Frames([b"a"], 1, 5.0), Keepalive(Lsn(1)), Frames([b"b"], 1, 6.0), Keepalive(Lsn(2))],
            [Frames([b"a", b"b"], 2, 5.0), Keepalive(Lsn(2))],
        ),
        ([Keepalive(Lsn(1)), Keepalive(Lsn(2))], [Keepalive(Lsn(2))]),
    ],
)
def test_frames_become_one_run(items: list[Item], expected: list[Item]) -> None:
    assert list(joined(items, 1000)) == expected
    assert not items


def test_runs_are_cut_where_they_have_enough() -> None:
    items: list[Item] = []
    for n in range(5):
        items += [Frames([b"%d" % n], 10, float(n)), Keepalive(Lsn(n))]
    assert list(joined(items, 20)) == [
        Frames([b"0", b"1"], 20, 0.0),
        Frames([b"2", b"3"], 20, 2.0),
        Frames([b"4"], 10, 4.0),
        Keepalive(Lsn(4)),
    ]
