"""Packets are found where they are, whatever they hold and wherever the stretch is cut."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.mysql import packetheads
from connectors.mysql.packetheads import packet_heads


def packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number & 0xFF]) + body


def misleading(dice: random.Random, size: int) -> bytes:
    """A body that looks like packets itself."""
    number, inside = dice.randrange(256), b""
    while len(inside) < size:
        inside += packet(number, dice.randbytes(dice.randrange(40)))
        number += 1
    return inside


BODIES = {
    "noise": lambda dice: dice.randbytes(dice.randrange(1, 160)),
    "zeros": lambda dice: bytes(dice.randrange(1, 160)),
    "empty": lambda dice: b"",
    "long": lambda dice: dice.randbytes(dice.randrange(1000, 9000)),
    "misleading": lambda dice: misleading(dice, dice.randrange(1, 600)),
}


def stream(dice: random.Random, kinds: list[str], size: int) -> tuple[bytes, list[int]]:
    """Packets of these kinds, and where each begins."""
    parts, heads, at, number = [], [], 0, dice.randrange(256)
    while at < size:
        made = packet(number, BODIES[dice.choice(kinds)](dice))
        heads.append(at)
        parts.append(made)
        at, number = at + len(made), number + 1
    return b"".join(parts), heads


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 32),
    kinds=st.lists(st.sampled_from(sorted(BODIES)), min_size=1, max_size=4),
    size=st.sampled_from([100, 5_000, 140_000, 300_000]),
)
def test_packets_are_found(seed: int, kinds: list[str], size: int) -> None:
    dice = random.Random(seed)
    data, heads = stream(dice, kinds, size)
    cut = dice.randrange(len(data) + 1)
    begun = [head for head in heads if head + 4 <= cut]
    following = [*heads, len(data)][len(begun)]
    for given_data in (data[:cut], bytearray(data[:cut])):
        found, at = packet_heads(given_data)
        assert found.tolist() == begun
        assert at == following


def test_a_long_stretch_is_walked_from_many_places() -> None:
    """Not packet by packet: what is guessed of ordinary packets is right."""
    data, heads = stream(random.Random(1), ["noise"], 1 << 20)
    found = packetheads._many_walks(data)
    assert found is not None
    assert found[0].tolist() == heads


def test_a_wrong_guess_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    data, heads = stream(random.Random(2), ["noise"], 1 << 18)
    right = packetheads._guesses

    def wrong(*given: object) -> object:
        guesses = right(*given)  # type: ignore[arg-type]
        guesses[7] += 1
        return guesses

    monkeypatch.setattr(packetheads, "_guesses", wrong)
    assert packetheads._many_walks(data) is None
    assert packet_heads(data)[0].tolist() == heads
