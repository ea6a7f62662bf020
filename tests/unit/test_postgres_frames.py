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
    assert joined(items) == expected
