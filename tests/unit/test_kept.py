"""A connection that is kept: opened when needed, given up after an error, closed once."""

from __future__ import annotations

import pytest

from connectors.kept import Kept
from engine.errors import TransientError


class Connections:
    """Counts what is opened and released."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.released: list[int] = []

    def open(self, doing: str) -> int:
        if doing == "refused":
            raise TransientError("no server")
        self.opened.append(doing)
        return len(self.opened)

    def kept(self) -> Kept[int]:
        return Kept(self.open, self.released.append)


def test_one_connection_serves_every_use() -> None:
    connections = Connections()
    kept = connections.kept()
    assert connections.opened == []
    for _ in range(3):
        with kept.use("asking") as connection:
            assert connection == 1
    kept.close()
    kept.close()
    assert (connections.opened, connections.released) == (["asking"], [1])


def test_what_a_failed_block_leaves_is_not_used_again() -> None:
    connections = Connections()
    kept = connections.kept()
    with pytest.raises(TransientError), kept.use("first"):
        raise TransientError("lost")
    assert connections.released == [1]
    with kept.use("second") as connection:
        assert connection == 2


def test_a_connection_that_is_refused_is_tried_again_next_time() -> None:
    connections = Connections()
    kept = connections.kept()
    with pytest.raises(TransientError), kept.use("refused"):
        raise AssertionError("there is no connection")
    with kept.use("asking") as connection:
        assert connection == 1
    assert connections.released == []
