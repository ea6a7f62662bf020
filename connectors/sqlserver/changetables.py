"""Change tables: how their rows are asked for, and what they are as changes.

learn.microsoft.com, "cdc.<capture_instance>_CT": ``__$operation`` is 1 delete, 2 insert, 3 the row before an update and 4
after it; ``__$update_mask`` has a bit per captured column, the first column's is the lowest one of the last byte.
``__$command_id`` is the order within a transaction ("__$seqval should not be used for ordering"). Large values are NULL in
4 where the mask says that the update left them as they were, and in 1 and 3 in part. An update of a key is 1 and 2; where
it should be 3 and 4, the two keys tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.columnar import booleans
from connectors.sqlserver.keymoves import Gone, Key, KeyMoves, hashes
from connectors.sqlserver.layouts import Layout
from connectors.sqlserver.position import literal, lsn_of
from connectors.sqlserver.values import RowReader
from engine.changes import Op, TableChanges
from engine.errors import DecodeError, ResyncRequired
from engine.schema import Identity

Rows = Sequence[Sequence[Any]]
Operations = npt.NDArray[np.int64]

DELETED, INSERTED, BEFORE, AFTER = 1, 2, 3, 4
LSN, OPERATION, MASK, COMMAND, SEQUENCE = range(5)
"""Columns of a result before the table's own."""
_LEAD = 5
_KEY_OPS = np.array([0, Op.DELETE, Op.INSERT, Op.DELETE, Op.UPDATE], np.int8)
_ROW_OPS = np.array([0, Op.DELETE, Op.INSERT, Op.DELETE, Op.INSERT], np.int8)


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place within its transaction."""

    command: int
    sequence: int
    operation: int

    @classmethod
    def of(cls, row: Sequence[Any]) -> Place:
        """The place of a row of a result."""
        return cls(int(row[COMMAND] or 0), lsn_of(row[SEQUENCE]), int(row[OPERATION]))


class ChangeTable:
    """One table's change table, read by one layout. `deleted`: the last transaction seen to delete rows of it."""

    def __init__(self, layout: Layout) -> None:
        assert layout.instance is not None
        self.layout = layout
        self.instance = layout.instance
        self._keyed = layout.schema.identity is Identity.KEY
        self._reader = RowReader(layout.schema.id, [(f.definition, f.as_text) for f in layout.fields])
        self._kept = [(i, f) for i, f in enumerate(layout.fields) if f.unchangeable] if self._keyed else []
        self._key = [layout.schema.column_names.index(name) for name in layout.schema.key] if self._keyed else []
        kept = {i for i, _ in self._kept}
        self._key_of = itemgetter(LSN, *(_LEAD + i for i in self._key))
        """A row's key, which is one of its transaction's."""
        self._image_of = itemgetter(LSN, *(_LEAD + i for i in range(len(layout.fields)) if i not in kept))
        """Its values but for large ones."""
        self._keys = KeyMoves(layout.schema.id, settled=layout.settled)
        self._deleted = 0

    def select(self, most: int, after: int, upto: int) -> str:
        """The statement for the changes behind one LSN and up to another, `most` of them at the most, in order."""
        where = f"[__$start_lsn] > {literal(after)} AND [__$start_lsn] <= {literal(upto)}"
        return self._select(most, where)

    def select_transaction(self, most: int, lsn: int, behind: Place | None) -> str:
        """The statement for `most` changes of one transaction, behind a place in it."""
        where = f"[__$start_lsn] = {literal(lsn)}"
        if behind is not None:
            sequence = literal(behind.sequence)
            place = (
                f"[__$seqval] > {sequence} OR ([__$seqval] = {sequence} AND [__$operation] > {int(behind.operation)})"
            )
            if self.instance.ordered:
                command = int(behind.command)
                place = f"[__$command_id] > {command} OR ([__$command_id] = {command} AND ({place}))"
            where += f" AND ({place})"
        return self._select(most, where)

    def _select(self, most: int, where: str) -> str:
        command = "[__$command_id]" if self.instance.ordered else "0"
        order = "[__$command_id], [__$seqval]" if self.instance.ordered else "[__$seqval]"
        columns = ["[__$start_lsn]", "[__$operation]", "[__$update_mask]", command, "[__$seqval]"]
        if self.layout.schema.identity is not Identity.RELOAD:
            columns += [f.change_sql for f in self.layout.fields]
        if self._keyed:
            where += f" AND ({self._wanted()})"
        return (
            f"SELECT TOP ({int(most)}) {', '.join(columns)} FROM {self.instance.change_table} WHERE {where} "
            f"ORDER BY [__$start_lsn], {order}, [__$operation]"
        )

    def _wanted(self) -> str:
        """Rows before an update are wanted only where the key may have changed."""
        mask = "[__$update_mask]"
        by_byte: dict[int, int] = {}
        for ordinal in self.layout.key_ordinals:
            place, bit = divmod(ordinal - 1, 8)
            by_byte[place] = by_byte.get(place, 0) | 1 << bit
        changed = [
            f"CONVERT(int, SUBSTRING({mask}, DATALENGTH({mask}) - {place}, 1)) & {bits} <> 0"
            for place, bits in by_byte.items()
        ]
        return " OR ".join([f"[__$operation] <> {BEFORE}", *changed])

    def changes(self, rows: Rows) -> TableChanges:
        """Rows of a result (at least one) as changes.

        Raises ResyncRequired where they do not tell what the table holds, UnsupportedValue, DecodeError.
        """
        operations = np.array([row[OPERATION] for row in rows], np.int64)
        if bool(((operations < DELETED) | (operations > AFTER)).any()):
            raise DecodeError(f"the change table of {self.layout.schema.id} has an operation that is not known")
        if not self._keyed:
            columns = list(zip(*rows, strict=True))[_LEAD:]
            return TableChanges(self.layout.schema, pa.array(_ROW_OPS[operations]), self._reader.batch(columns))
        self._refuse_lost_values(rows, operations)
        rows, operations, bases = self._told(rows, operations)
        columns = list(zip(*rows, strict=True))[_LEAD:] if rows else [()] * len(self.layout.fields)
        batch = self._reader.batch(columns)
        unchanged = self._unchanged(rows, operations)
        base = self._base(bases) if unchanged and bases is not None else None
        return TableChanges(self.layout.schema, pa.array(_KEY_OPS[operations]), batch, unchanged=unchanged, base=base)

    def _told(self, rows: Rows, operations: Operations) -> tuple[Rows, Operations, list[Key] | None]:
        """The rows that tell what becomes of their keys; where keys move, also the key that each row had before it."""
        keys, lsn = self._keys, rows[0][LSN]
        moving = bool((operations == BEFORE).any()) or keys.under_way(lsn)
        inserted, deleted = operations == INSERTED, operations == DELETED
        # A page of a large transaction holds nothing else.
        page = lsn == rows[-1][LSN] and not self.layout.settled
        keys.begin(lsn)
        if not moving and not page and not (bool(inserted.any()) and bool(deleted.any())):
            return rows, operations, None
        every = list(map(self._key_of, rows))
        numbers = hashes(every)
        doubtful = np.full(len(rows), moving)
        if not moving and bool(deleted.any()):
            doubtful = np.isin(numbers, numbers[deleted])
            doubtful &= np.isin(numbers, numbers[inserted]) | keys.inserted_before(numbers)
        keep, operations = np.ones(len(rows), np.bool_), operations.copy()
        before = self._settle(rows, operations, every, np.flatnonzero(doubtful).tolist(), keep)
        keys.end_page(numbers[inserted & ~doubtful] if page else numbers[:0])
        kept = np.flatnonzero(keep).tolist()
        bases = [before.get(i, every[i])[1:] for i in kept] if before else None
        return [rows[i] for i in kept] if len(kept) < len(rows) else rows, operations[keep], bases

    def _settle(
        self, rows: Rows, operations: Operations, every: list[Key], places: list[int], keep: npt.NDArray[np.bool_]
    ) -> dict[int, Key]:
        """Keep of the rows in these places those that went only where they leave their key empty.

        `every`: the key of each row. `operations` and `keep` are changed. Returns, by place, the keys that rows had before.
        """
        keys, told = self._keys, operations.tolist()
        put: dict[Key, int] = {}
        bases: dict[int, Key] = {}
        for i in places:
            row, key, operation = rows[i], every[i], told[i]
            keys.begin(row[LSN])
            if operation == BEFORE:
                if i + 1 == len(rows) or told[i + 1] != AFTER:
                    raise DecodeError(f"the change table of {self.layout.schema.id} lacks the row after an update")
                if key == every[i + 1]:
                    keep[i] = False
                    continue
                bases[i + 1] = key
            if operation in (BEFORE, DELETED):
                gone = keys.gone(key, self._image_of(row))
                keep[i] = gone is Gone.ONLY
                if gone is Gone.EITHER:
                    self._refuse_unlike(put[key], i, rows, told)
                    keep[put[key]] = False
                elif gone is Gone.OLD:
                    if key in put:
                        # It takes the place of the one that goes.
                        operations[put[key]] = AFTER
                    if operation == BEFORE:
                        self._refuse_lost_base(rows[i + 1])
            elif operation == INSERTED or i in bases:
                put[key] = i
                keys.put(key, self._image_of(row), moved=i in bases)
            else:
                keys.changed(key)
        return bases

    def _refuse_unlike(self, put: int, gone: int, rows: Rows, told: Sequence[int]) -> None:
        """Ask for a reload where the large values of two rows, equal otherwise, are not certain to be equal."""
        sure = (told[put], told[gone]) == (INSERTED, DELETED)
        for i, field in self._kept:
            if not sure or not field.definition.told_when_deleted or rows[put][_LEAD + i] != rows[gone][_LEAD + i]:
                table = self.layout.schema.id
                raise ResyncRequired(
                    f"which of two rows of one key in {table} has gone, only large values tell", [table]
                )

    def _refuse_lost_base(self, row: Sequence[Any]) -> None:
        """Ask for a reload where large values are to be kept of a row whose key has another one by now."""
        if self._unchanged([row], np.array([AFTER])):
            table = self.layout.schema.id
            raise ResyncRequired(f"keys of {table} were exchanged beside values that were left out", [table])

    def _base(self, bases: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        fields = [self.layout.fields[i] for i in self._key]
        reader = RowReader(self.layout.schema.id, [(f.definition, f.as_text) for f in fields])
        return reader.rows(bases)

    def _unchanged(self, rows: Rows, operations: Operations) -> dict[str, pa.BooleanArray]:
        """Per large column: where the update left its value as it was, so that it is not in the row."""
        updates = operations == AFTER
        if not self._kept or not bool(updates.any()):
            return {}
        bits = self._mask(rows, updates)
        unchanged: dict[str, pa.BooleanArray] = {}
        for _, field in self._kept:
            place, bit = divmod(field.ordinals[0] - 1, 8)
            left = updates & (bits[:, -1 - place] & (1 << bit) == 0)
            if bool(left.any()):
                unchanged[field.definition.name] = booleans(left)
        return unchanged

    def _mask(self, rows: Rows, updates: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """The update masks as a matrix; whatever is no update has every bit set."""
        width = (max(self.instance.ordinals.values()) + 7) // 8
        full = b"\xff" * width
        masks = [row[MASK] if update else full for row, update in zip(rows, updates.tolist(), strict=True)]
        if any(not isinstance(mask, bytes) or len(mask) < width for mask in masks):
            raise DecodeError(f"the change table of {self.layout.schema.id} has an update mask that is too short")
        return np.frombuffer(b"".join(mask[-width:] for mask in masks), np.uint8).reshape(len(masks), width)

    def _refuse_lost_values(self, rows: Rows, operations: Operations) -> None:
        """Ask for a reload where an update of a key, told as delete and insert, may have left a large value out."""
        if not self._kept:
            return
        inserts = np.flatnonzero(operations == INSERTED).tolist()
        lost = {i for place, _ in self._kept for i in inserts if rows[i][_LEAD + place] is None}
        if not lost and DELETED not in operations:
            return
        for i, operation in enumerate(operations.tolist()):
            lsn = lsn_of(rows[i][LSN])
            if operation == DELETED:
                self._deleted = lsn
            elif i in lost and self._deleted == lsn:
                table = self.layout.schema.id
                raise ResyncRequired(f"a key of {table} may have changed beside values that were left out", [table])
