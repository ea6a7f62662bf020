"""Random transactions on a table that is not clustered by its key, told in any order within a statement.

Whatever a statement does to rows, only its end has to have one row per key. What the change table tells of that is either
applied exactly, or asks for a reload: it is never wrong.
"""

from __future__ import annotations

from random import Random

import pytest

from connectors.sqlserver import keymoves
from connectors.sqlserver.catalog import CatalogTable
from connectors.sqlserver.changetables import ChangeTable
from connectors.sqlserver.instances import Instance
from connectors.sqlserver.types import MAX, Definition
from engine.changes import Op, TableChanges
from engine.errors import ResyncRequired
from engine.schema import TableId

COLUMNS = (Definition("id", 1, "int"), Definition("n", 2, "int"), Definition("body", 3, "nvarchar", MAX))
KEYS, VALUES = range(4), range(2)
Row = tuple[int, ...]


def table(width: int) -> CatalogTable:
    columns = COLUMNS[:width]
    instance = Instance(100, 10, "dbo_t", 5, {d.id: d.id for d in columns}, {d.id: d.name for d in columns})
    return CatalogTable(TableId("dbo", "t"), 10, columns, {}, ((1,),), (instance,))


def statement(random: Random, rows: dict[int, Row], width: int) -> list[list[tuple[int, int, Row]]]:
    """Change the rows (by a number of their own); what is told of it: operation, mask and row, those together that stay so."""

    def row(key: int) -> Row:
        return (key, *(random.choice(VALUES) for _ in range(width - 1)))

    after = dict(rows)
    told: list[list[tuple[int, int, Row]]] = []
    for number, old in rows.items():
        match random.randrange(5):
            case 0:
                del after[number]
                told.append([(1, 7, old)])
            case 1:
                new = (random.choice(KEYS), *old[1:]) if random.random() < 0.7 else row(random.choice(KEYS))
                if new == old:
                    continue
                after[number] = new
                mask = sum(1 << i for i in range(width) if new[i] != old[i])
                if random.random() < 0.3 and mask & 1:
                    told += [[(1, 7, old)], [(2, 7, new)]]
                elif mask & 1:
                    told.append([(3, mask, old), (4, mask, new)])
                else:
                    told.append([(4, mask, new)])
    for _ in range(random.choice((0, 0, 1, 2))):
        # Most rows that a MERGE puts in another one's place are like it.
        new = random.choice([*rows.values(), row(random.choice(KEYS))])
        after[max([*after, *rows, -1]) + 1] = new
        told.append([(2, 7, new)])
    if len({key for key, *_ in after.values()}) < len(after):
        return []
    rows.clear()
    rows.update(after)
    random.shuffle(told)
    return told


def without_large(operation: int, mask: int, row: Row) -> tuple[object, ...]:
    """The row as it is told: text, and NULL where an update left a large value as it was."""
    if len(row) < 3:
        return row
    return (*row[:2], None if operation in (3, 4) and not mask & 4 else f"{row[2]}")


def apply(replica: dict[int, list[object]], made: TableChanges) -> bool:
    """As the replica does; whether no INSERT had a key that is there already."""
    ops, rows = made.ops.to_pylist(), made.rows.to_pylist()
    kept = made.unchanged["body"].to_pylist() if made.unchanged else [False] * len(ops)
    bases = [b["id"] for b in made.base.to_pylist()] if made.base is not None else [r["id"] for r in rows]
    large = {key: row[-1] for key, row in replica.items()}
    right = True
    for op, row, keep, base in zip(ops, rows, kept, bases, strict=True):
        if op == Op.DELETE:
            replica.pop(row["id"], None)
            continue
        right &= op == Op.UPDATE or row["id"] not in replica
        values = list(row.values())[1:]
        if keep:
            values[-1] = large[base]
        replica[row["id"]] = values
        large[row["id"]] = values[-1]
    return right


@pytest.mark.parametrize("most", [keymoves.MOST_INSERTED, 1])
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("page", [1, 3, 1000])
def test_a_transaction_is_applied_exactly_or_asks_for_a_reload(
    monkeypatch: pytest.MonkeyPatch, width: int, page: int, most: int
) -> None:
    monkeypatch.setattr(keymoves, "MOST_INSERTED", most)
    random = Random(width * page)
    exact = reloads = 0
    for _ in range(1500):
        reader = ChangeTable(table(width).newest)
        rows = {n: (key, *(random.choice(VALUES) for _ in range(width - 1))) for n, key in enumerate(KEYS) if key % 2}
        replica: dict[int, list[object]] = {key: [n, *(f"{v}" for v in large)] for key, n, *large in rows.values()}
        told = [part for _ in range(random.randrange(1, 5)) for part in statement(random, rows, width)]
        seq = iter(range(1, 1000))
        log = [
            [
                (bytes(9) + b"\x07", op, bytes([mask]), number, bytes(10), *without_large(op, mask, row))
                for op, mask, row in part
            ]
            for part in told
            if (number := next(seq))
        ]
        right = True
        try:
            while log:
                together, log = log[:page], log[page:]
                right &= apply(replica, reader.changes([row for part in together for row in part]))
        except ResyncRequired:
            reloads += 1
            continue
        assert right, told
        assert replica == {key: [n, *(f"{v}" for v in large)] for key, n, *large in rows.values()}, told
        exact += 1
    assert exact > 200
    assert reloads or (width, page) == (2, 1000)
    if (width, page) == (2, 1000):
        assert not reloads
