"""Days that no calendar has, as text, from every form in which a log holds dates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from connectors.columnar import Raw
from connectors.mysql import temporal
from connectors.mysql.cellvalues import Values


def values(*cells: bytes | None) -> Values:
    data = b"".join(cell or b"" for cell in cells) + bytes(16)
    lengths = np.array([len(cell or b"") for cell in cells], np.int64)
    valid = np.array([cell is not None for cell in cells])
    return Values(Raw(data), np.cumsum(lengths) - lengths, lengths, None if bool(valid.all()) else valid)


def date(year: int, month: int, day: int) -> bytes:
    return (year << 9 | month << 5 | day).to_bytes(3, "little")


def datetime2(year: int, month: int, day: int, clock: tuple[int, int, int], micros: int = 0) -> bytes:
    hour, minute, second = clock
    packed = (year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second
    return (packed + (1 << 39)).to_bytes(5, "big") + micros.to_bytes(3, "big")


def old_datetime(digits: int) -> bytes:
    return digits.to_bytes(8, "little")


CASES: list[tuple[Callable[[], Values], Callable[[Values], pa.Array], list[str | None]]] = [
    (
        lambda: values(date(0, 0, 0), None, date(2024, 0, 10), date(2023, 2, 30), date(9999, 12, 31)),
        lambda found: temporal.dates(found, text=True),
        ["0000-00-00", None, "2024-00-10", "2023-02-30", "9999-12-31"],
    ),
    (
        lambda: values(datetime2(0, 0, 0, (0, 0, 0)), datetime2(2024, 2, 31, (23, 59, 58), 1234), None),
        lambda found: temporal.datetimes(found, 6, text=True),
        ["0000-00-00 00:00:00.000000", "2024-02-31 23:59:58.001234", None],
    ),
    (
        lambda: values(bytes(4), None, (1_709_251_199).to_bytes(4, "big"), (0xFFFFFFFF).to_bytes(4, "big")),
        lambda found: temporal.timestamps(found, 0, text=True),
        ["0000-00-00 00:00:00", None, "2024-02-29 23:59:59", "2106-02-07 06:28:15"],
    ),
    (
        lambda: values(bytes(6), (1).to_bytes(4, "big") + (2500).to_bytes(2, "big")),
        lambda found: temporal.timestamps(found, 3, text=True),
        ["0000-00-00 00:00:00.000", "1970-01-01 00:00:01.250"],
    ),
    (
        lambda: values(old_datetime(0), old_datetime(20240010_010203), None),
        lambda found: temporal.old_datetimes(found, 0, text=True),
        ["0000-00-00 00:00:00", "2024-00-10 01:02:03", None],
    ),
    (
        lambda: values(bytes(4), (86_400).to_bytes(4, "little")),
        lambda found: temporal.old_timestamps(found, 0, text=True),
        ["0000-00-00 00:00:00", "1970-01-02 00:00:00"],
    ),
    (values, lambda found: temporal.dates(found, text=True), []),
]


@pytest.mark.parametrize(("made", "decoded", "expected"), CASES)
def test_texts(made: Callable[[], Values], decoded: Callable[[Values], pa.Array], expected: list[str | None]) -> None:
    found = decoded(made())
    assert found.to_pylist() == expected
