"""The decoder on messages that a real server sent."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest

from connectors.postgres import pgoutput
from connectors.postgres.pgoutput import RelationInfo, messages, parse_relation
from engine.changes import ChangeBatch, SchemaChange
from engine.schema import Column, Fill, Identity, TableId, TableSchema
from tests.fixtures.pgoutput.tables import Catalog, assembler, events, recorded, run

IDENTITY = {"keyed": Identity.KEY, "whole": Identity.ROW, "indexed": Identity.KEY}
KEY = {"keyed": ("id",), "whole": (), "indexed": ("b",)}
REPLICA = {20: "BIGINT", 23: "INTEGER", 1700: "DECIMAL(8,2)"}


def relations(frames: list[bytes]) -> list[RelationInfo]:
    """The Relation messages, without the transaction id of streamed ones."""
    run = messages(frames)
    return [parse_relation(run.bytes_of(i)) for i in run.rare() if run.kinds[i] == pgoutput.RELATION]


def schema_of(info: RelationInfo) -> TableSchema:
    columns = tuple(
        Column(c.name, REPLICA.get(c.type_oid, "VARCHAR"), str(c.type_oid), id=i, fill=Fill.NULL)
        for i, c in enumerate(info.columns)
    )
    return TableSchema(TableId("capture", info.name), columns, KEY[info.name], IDENTITY[info.name], str(info.oid))


def first_layouts(frames: list[bytes]) -> list[TableSchema]:
    found: dict[int, TableSchema] = {}
    for info in relations(frames):
        found.setdefault(info.oid, schema_of(info))
    return list(found.values())


class Latest(Catalog):
    """Describes every relation just as it was announced."""

    def describe(self, info):
        self.tables[info.oid] = schema_of(info)
        return super().describe(info)


def test_relations_say_how_rows_are_identified() -> None:
    found = {info.name: info for info in relations(recorded("simple"))}
    assert found["whole"].replica_identity == "f"
    assert found["indexed"].replica_identity == "i"
    assert [c.name for c in found["indexed"].columns if c.key] == ["b"]
    assert [(c.name, c.type_oid) for c in found["keyed"].columns][:2] == [("id", 20), ("name", 25)]
    assert found["keyed"].columns[3].typmod == (8 << 16 | 2) + 4


def test_rare_messages_are_parsed() -> None:
    run_ = messages(recorded("simple"))
    rare = {chr(run_.kinds[i]): run_.bytes_of(i) for i in run_.rare() if run_.kinds[i] != pgoutput.RELATION}
    truncate = pgoutput.parse_truncate(rare["T"])
    assert (len(truncate.relations), truncate.cascade, truncate.restart_identity) == (2, True, True)
    assert pgoutput.parse_message(rare["M"])[2:] == ("outside", b"of a transaction")
    pgoutput.check_type(rare["Y"])


def test_every_kind_of_change() -> None:
    frames = recorded("simple")
    before = frames[: next(i for i, f in enumerate(frames) if f[25] == pgoutput.TRUNCATE)]
    tables = first_layouts(frames)
    (batch,) = run(assembler(tables, catalog=Latest(tables)), before)
    assert isinstance(batch, ChangeBatch)
    found = events(batch)
    one = ("uno", "sad", Decimal("1.25"))
    assert [e[1:] for e in found if e[0] == "keyed"] == [
        ("INSERT", (1, "one", "sad", Decimal("1.25"), "x" * 3000)),
        ("INSERT", (2, None, None, None, None)),
        ("UPDATE", (1, *one, None)),
        ("DELETE", (1, None, None, None, None)),
        ("UPDATE", (10, *one, None)),
        ("DELETE", (2, None, None, None, None)),
    ]
    keyed = next(c for c in batch.changes if c.table.id.name == "keyed")
    assert keyed.unchanged["long"].to_pylist() == [False, False, True, False, True, False]
    assert keyed.base is not None
    assert keyed.base.column("id").to_pylist() == [1, 2, 1, 1, 1, 2]
    assert [e[1:] for e in found if e[0] == "whole"] == [
        ("INSERT", (1, "a")),
        ("INSERT", (1, "a")),
        ("INSERT", (None, None)),
        *[("DELETE", (1, "a")), ("INSERT", (1, "b"))] * 2,
        ("DELETE", (None, None)),
    ]
    assert [e[1:] for e in found if e[0] == "indexed"] == [
        ("INSERT", (1, 2, "x")),
        ("UPDATE", (3, 2, "x")),
        ("DELETE", (None, 2, None)),
        ("UPDATE", (3, 4, "x")),
        ("DELETE", (None, 4, None)),
    ]


def test_truncate_a_new_column_and_an_origin() -> None:
    frames = recorded("simple")
    tables = first_layouts(frames)
    first, change, last = run(assembler(tables, catalog=Latest(tables)), frames)
    assert isinstance(first, ChangeBatch)
    assert isinstance(change, SchemaChange)
    assert isinstance(last, ChangeBatch)
    assert [e for e in events(first) if e[0] != "indexed"] == [("keyed", "TRUNCATE", ()), ("whole", "TRUNCATE", ())]
    assert (change.reload, change.position) == (False, first.position)
    assert change.new is not None
    assert change.new.column_names[-1] == "extra"
    assert sorted(events(last)) == [
        ("keyed", "INSERT", (3, "three", "glad", Decimal("3.00"), "short", 33)),
        ("whole", "INSERT", (7, "from elsewhere")),
    ]
    assert first.transactions + last.transactions == sum(f[25] == pgoutput.COMMIT for f in frames)
    assert last.commit_time is not None
    assert last.commit_time > 1_600_000_000


@pytest.mark.parametrize("piece", [1, 2, 7])
def test_how_frames_are_grouped_does_not_matter(piece: int) -> None:
    frames = recorded("simple")
    tables = first_layouts(frames)
    whole = run(assembler(tables, catalog=Latest(tables)), frames)
    made = assembler(tables, catalog=Latest(tables))
    out = [o for i in range(0, len(frames), piece) for o in made.feed(frames[i : i + piece])]
    last = made.flush()
    assert last is not None
    assert [_shown(o) for o in [*out, last]] == [_shown(o) for o in whole]


def _shown(out: ChangeBatch | SchemaChange) -> object:
    return (out.position, out.transactions, events(out)) if isinstance(out, ChangeBatch) else out


def test_positions_grow_with_every_commit() -> None:
    frames = recorded("simple")
    tables = first_layouts(frames)
    made = assembler(tables, catalog=Latest(tables))
    positions = []
    for frame in frames:
        made.feed([frame])
        if frame[25] == pgoutput.COMMIT:
            assert not made.in_transaction
            made.flush()
            positions.append(made.position)
    assert all(a < b for a, b in pairwise(positions))


def test_a_streamed_transaction_less_its_rolled_back_part() -> None:
    frames = recorded("streamed")
    info = next(_streamed_relation(f) for f in frames if f[25] == pgoutput.RELATION)
    tables = [schema_of(info)]
    made = assembler(tables)
    assert made.feed(frames[:-1]) == []
    assert made.flush() is None
    assert made.pending_bytes > 0
    (batch,) = run(made, frames[-1:])
    assert isinstance(batch, ChangeBatch)
    assert batch.transactions == 1
    ids = [(op, row[0]) for _, op, row in events(batch)]
    kept = [*range(1000, 1600), *range(3000, 3600)]
    assert ids == [*(("INSERT", i) for i in kept), ("DELETE", 1000)]
    assert made.pending_bytes == 0


def _streamed_relation(frame: bytes) -> RelationInfo:
    return parse_relation(frame[pgoutput.HEADER + 5 :])
