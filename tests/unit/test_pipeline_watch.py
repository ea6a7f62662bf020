"""What the watch at the source's side finds, and how much of it is kept."""

from __future__ import annotations

from dataclasses import replace

from engine.changes import SchemaChange
from engine.pipeline.watch import Watch, once
from engine.status import StatusBoard
from tests.support.fake_source import FakeDatabase, FakeSource, Tick


def test_a_finding_is_kept_once_and_as_early_as_it_was_told() -> None:
    database = FakeDatabase()
    database.create("a")
    (table,) = database.schemas.values()
    gone, changed = SchemaChange(Tick(1), table, None), SchemaChange(Tick(2), table, table, reload=True, reason="why")
    later = [replace(gone, position=Tick(7)), replace(changed, position=Tick(8))]
    assert once([gone, changed, *later]) == [gone, changed]


def test_what_nobody_takes_does_not_pile_up() -> None:
    database = FakeDatabase()
    database.create("a")
    source, board = FakeSource(database), StatusBoard()
    looked = 0
    inspect = source.inspect

    def counted(known: object) -> object:
        nonlocal looked
        looked += 1
        board.set_check("looked", str(looked))
        return inspect(known)  # type: ignore[arg-type]

    source.inspect = counted  # type: ignore[method-assign, assignment]
    watch = Watch(source, board, tuple, status_every=0.01, inspect_every=0.01)
    try:
        assert board.wait(lambda s: "looked" in s.checks and int(s.checks["looked"].status) > 5, 10)
        found = watch.findings()
    finally:
        watch.close()
    assert [each.new and each.new.id.name for each in found] == ["a"]
