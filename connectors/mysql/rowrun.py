"""Row events of one table map on their way to being decoded: how the table looks, and where the events lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from connectors.columnar import Mask, Offsets
from connectors.mysql.generated import inputs
from connectors.mysql.rowimages import ImageShape
from connectors.mysql.tablemap import TableMap
from connectors.mysql.types import Definition
from engine.schema import TableSchema

Kinds = npt.NDArray[np.int8]
INSERT, UPDATE, DELETE, PARTIAL_UPDATE = 1, 2, 3, 4
"""What a row event does, as `RowRun.kinds` says it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of one table map become the replica's rows.

    `table` is what is replicated (excluded columns are not in it); `places` says for each of its columns the ordinal
    in the table map; `definitions` holds the catalog's column for every ordinal of the map, for what the wire does not
    say (sign, character set, labels, the type behind BINARY(n)).
    """

    map: TableMap
    table: TableSchema
    places: tuple[int, ...]
    definitions: tuple[Definition, ...]
    shapes: dict[tuple[bytes, bool], ImageShape] = field(default_factory=dict, init=False, repr=False, compare=False)
    """How to walk images, by the bitmap of columns present; filled as bitmaps come."""
    _inputs: dict[int, frozenset[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def inputs_of(self, place: int) -> frozenset[int]:
        """The columns (ordinals of the map) that the generated one there is computed from."""
        if place not in self._inputs:
            self._inputs[place] = inputs(self.definitions, place)
        return self._inputs[place]


@dataclass(slots=True)
class RowRun:
    """Row events of one table map layout, in stream order.

    `starts` and `ends` bound in `data` what follows each event's column bitmaps, without the checksum. `kinds` is
    INSERT, UPDATE, DELETE or PARTIAL_UPDATE. `present_before` and `present_after` say per event which of `bitmaps`
    (one boolean per column of the map: it is in the image) applies to its old and new images, -1 where it has none.
    """

    data: bytes | bytearray | memoryview
    starts: Offsets
    ends: Offsets
    kinds: Kinds
    present_before: npt.NDArray[np.int32]
    present_after: npt.NDArray[np.int32]
    bitmaps: list[Mask]

    def __len__(self) -> int:
        return len(self.starts)
