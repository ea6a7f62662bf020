"""Message boundaries, found by likeness: the same as a walk finds, whatever the messages hold and however they are cut."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres import framing
from connectors.postgres.framing import message_starts
from engine.errors import DecodeError


def message(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack(">I", 4 + len(content)) + content


def walked(data: bytes) -> tuple[list[int], int]:
    """The boundaries by the format's definition."""
    starts, at = [], 0
    while at + 5 <= len(data):
        end = at + 1 + struct.unpack_from(">I", data, at + 1)[0]
        if end > len(data):
            break
        starts.append(at)
        at = end
    return starts, at


# Contents full of what a message begins with, so that false beginnings are everywhere.
bits = st.sampled_from(
    [b"d", b"\0\x08", b"\0\0\0\x08", b"\0\0\0\x0ad", message(b"d", b"\0\x08xy"), b"w\0", b"x", b"\xff\xff"]
)
contents = st.lists(bits, max_size=8).map(b"".join)
rows = contents.map(lambda content: message(b"d", b"\0\x08" + content))
others = st.builds(message, st.sampled_from([b"d", b"c", b"N", b"Z"]), contents)


@given(st.lists(st.one_of(rows, rows, rows, others), max_size=40), st.integers(0, 40), st.booleans())
def test_boundaries_are_those_of_a_walk(messages: list[bytes], cut: int, few: bool) -> None:
    data = b"".join(messages)
    data = data[: len(data) - cut] if cut < len(data) else data
    found, end = framing._alike(data, len(data)) if len(data) > 8 else message_starts(data, len(data))
    assert (found.tolist(), end) == walked(data)
    if few and len(data) > 8:
        # The rest of a larger buffer takes no part.
        found, end = framing._alike(bytearray(data + b"d\0\0\0\x08rest"), len(data))
        assert (found.tolist(), end) == walked(data)


def test_a_large_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(message(b"d", b"\0\x08" + b"d\0\0\0\0\x08" * (i % 7)) for i in range(5_000))
    data += message(b"N", b"notice") + message(b"d", b"\0\x08") * 3 + b"d\0\0\1"
    assert len(data) > framing._WORTHWHILE
    found, end = message_starts(data, len(data))
    assert (found.tolist(), end) == walked(data)
    monkeypatch.setattr(framing, "_STRAY", 1)
    assert message_starts(data, len(data))[0].tolist() == found.tolist()


@pytest.mark.parametrize("before", [0, 3, 3_000])
def test_an_impossible_length(before: int) -> None:
    data = message(b"d", b"\0\x08text") * before + b"d\0\0\0\x03\0\x08" + b"d" * 20
    with pytest.raises(DecodeError):
        message_starts(data, len(data))
