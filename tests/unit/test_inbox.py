"""What waits between the reading and the decoding thread: in order, bounded, and ended once."""

from __future__ import annotations

import threading

import pytest

from connectors.inbox import PLENTY, Inbox
from engine.errors import TransientError


def test_what_waits_comes_out_in_order() -> None:
    inbox: Inbox[str | int] = Inbox(100)
    for item in ("a", 1, "b"):
        inbox.put(item, 10)
    assert inbox.size == 30
    assert inbox.take(0.0) == ["a", 1, "b"]
    assert inbox.size == 0
    assert inbox.take(0.0) == []


def test_an_item_takes_the_place_of_the_last_one_of_its_type_alone() -> None:
    inbox: Inbox[str | int] = Inbox(100)
    inbox.put(1, 0, instead_of=int)
    inbox.put(2, 0, instead_of=int)
    inbox.put("a", 10)
    inbox.put(3, 0, instead_of=int)
    assert inbox.take(0.0) == [2, "a", 3]


def test_the_first_end_counts() -> None:
    inbox: Inbox[str] = Inbox(100)
    inbox.put("a", 1)
    inbox.end(None)
    inbox.end(TransientError("late"))
    assert inbox.take(0) == ["a"]
    assert inbox.take(0) is None


def test_an_error_comes_after_what_waits() -> None:
    inbox: Inbox[str] = Inbox(100)
    inbox.put("a", 1)
    inbox.end(TransientError("lost"))
    assert inbox.take(0) == ["a"]
    with pytest.raises(TransientError, match="lost"):
        inbox.take(0)


@pytest.mark.parametrize("what", ["taken", "ended"])
def test_room_is_waited_for_until_it_is_there_or_nobody_takes_any_more(what: str) -> None:
    inbox: Inbox[str] = Inbox(10)
    inbox.put("a", 10)
    assert inbox.full
    thread = threading.Thread(target=inbox.wait_for_room, daemon=True)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    if what == "taken":
        inbox.take(0)
    else:
        inbox.end(None)
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("ends", ["plenty", "full", "ended"])
def test_what_comes_gathers_until_there_is_plenty(ends: str) -> None:
    inbox: Inbox[str] = Inbox(200 if ends == "full" else PLENTY * 2)
    inbox.put("a", 10)
    taken: list[list[str] | None] = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take(0, gather=60)), daemon=True)
    thread.start()
    inbox.put("b", 10)
    thread.join(0.05)
    assert thread.is_alive(), "twenty bytes are not plenty"
    if ends == "ended":
        inbox.end(None)
    else:
        inbox.put("c", PLENTY if ends == "plenty" else 180)
    thread.join(5)
    assert taken == [["a", "b"] if ends == "ended" else ["a", "b", "c"]]


def test_gathering_ends_by_itself_and_is_not_for_what_has_no_size() -> None:
    inbox: Inbox[str] = Inbox(100)
    inbox.put("a", 10)
    assert inbox.take(0, gather=0.01) == ["a"]
    inbox.put("keepalive", 0)
    assert inbox.take(0, gather=60) == ["keepalive"]
