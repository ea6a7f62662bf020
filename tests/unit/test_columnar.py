"""The gathers that the binary decoders share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.columnar import Raw, booleans, fixed, valid_mask, with_validity


def offsets(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_fixed_width_values_at_any_offset() -> None:
    raw = Raw(b"\x00\xff\xff\xff\xfe\x01" + (2**63 + 5).to_bytes(8, "big"))
    assert raw.i32(offsets(1)).tolist() == [-2]
    assert raw.i16(offsets(0, 1, 4)).tolist() == [255, -1, -511]
    assert raw.u64(offsets(6)).tolist() == [2**63 + 5]
    assert raw.i64(offsets(6)).tolist() == [5 - 2**63]


def test_nothing_is_read_behind_the_end() -> None:
    with pytest.raises(IndexError):
        Raw(b"1234567").i32(offsets(4))
    with pytest.raises(IndexError):
        Raw(b"1").i32(offsets(0))
    with pytest.raises(IndexError):
        Raw(b"12345").binary(offsets(3), offsets(3))
    with pytest.raises(IndexError):
        Raw(b"12345").binary(offsets(3), offsets(-1))
    assert Raw(b"").i32(offsets()).tolist() == []


def test_overlapping_values_are_refused() -> None:
    with pytest.raises(IndexError):
        Raw(b"abcdef").binary(offsets(0, 2), offsets(3, 2))


@given(st.binary(max_size=60), st.data())
def test_variable_length_values(data: bytes, draw) -> None:
    edges = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=12)))
    places = list(zip(edges[::2], edges[1::2], strict=False))
    chosen = draw.draw(st.lists(st.sampled_from(places), max_size=10)) if places else []
    if draw.draw(st.booleans()):
        chosen = places
    valid = np.array([draw.draw(st.booleans()) for _ in chosen], bool)
    # the same start means the same value: empty ones at another's start are left out
    starts = dict(chosen)
    chosen = [(a, starts[a]) for a, _ in chosen]
    array = Raw(data).binary(
        offsets(*(a for a, _ in chosen)),
        np.where(valid, offsets(*(b - a for a, b in chosen)), 0),
        valid,
    )
    array.validate(full=True)
    assert array.to_pylist() == [data[a:b] if v else None for (a, b), v in zip(chosen, valid, strict=True)]


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=40))
def test_validity(values: list[int | None]) -> None:
    valid = np.array([v is not None for v in values], bool)
    numbers = np.array([v or 0 for v in values], ">i4")
    array = fixed(numbers, pa.int32(), valid)
    array.validate(full=True)
    assert array.to_pylist() == values
    mask = valid_mask(array)
    assert (mask is None) == bool(valid.all())
    assert with_validity(fixed(numbers, pa.int32()), valid).to_pylist() == values
    assert booleans(numbers > 0, valid).to_pylist() == [None if v is None else v > 0 for v in values]
