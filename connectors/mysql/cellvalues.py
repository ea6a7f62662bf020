"""The values of one column of many row images: where each lies in one buffer, and which of them there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.columnar import Mask, Offsets, Raw


@dataclass(frozen=True)
class Values:
    """One column: a start and a length per row; both mean nothing where not `valid` (None: every row has a value)."""

    raw: Raw
    start: Offsets
    length: Offsets
    valid: Mask | None

    @property
    def count(self) -> int:
        return len(self.start)

    @cached_property
    def _rows(self) -> Offsets | None:
        return None if self.valid is None else np.flatnonzero(self.valid)

    @property
    def absent(self) -> int:
        """How many rows have no value."""
        return 0 if self._rows is None else self.count - len(self._rows)

    def valid_rows(self) -> Offsets | slice:
        """An index for the rows that have a value."""
        return slice(None) if self._rows is None else self._rows

    def starts(self) -> Offsets:
        """Where the values lie, of the rows that have one."""
        return self.start[self.valid_rows()]

    def spread(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Values of the rows that have one, put in their places among zeros."""
        if self._rows is None:
            return values
        spread = np.zeros(self.count, values.dtype)
        spread[self._rows] = values
        return spread

    def at(self, dtype: str) -> npt.NDArray[np.generic]:
        """Gather one fixed-width value per row, 0 where there is none."""
        return self.spread(self.raw.at(dtype, self.starts()))

    def binary(self, skip: int = 0) -> pa.Array:
        """The values' bytes behind their first `skip`. Every value must be that long."""
        if self.valid is None:
            return self.raw.binary(self.start + skip if skip else self.start, self.length - skip)
        # a missing value is put behind the one before it, for values in order are gathered without sorting them
        end = np.maximum.accumulate(np.where(self.valid, self.start + self.length, 0))
        start = np.where(self.valid, self.start + skip, end)
        return self.raw.binary(start, np.where(self.valid, self.length - skip, 0), self.valid)
