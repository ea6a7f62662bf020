"""The contract of `engine.source.Source`, the same for every backend."""

from __future__ import annotations

import time

import pytest

from engine.changes import ChangeBatch
from engine.errors import TransientError
from engine.schema import Identity, TableId, evolve
from engine.source import Follow
from tests.contract.harness import Harness, end_of, position_of
from tests.support.replay import Replay


def fill(harness: Harness, name: str = "t", rows: int = 20) -> TableId:
    table = harness.create(name)
    harness.commit(*((table, i, i * 10) for i in range(rows)))
    return table


def test_discover_tells_columns_and_key(harness: Harness, replay: Replay) -> None:
    table = fill(harness)
    (found,) = replay.source.discover()
    assert found.id == table
    assert [(c.name, c.type) for c in found.columns] == [("id", "BIGINT"), ("v", "BIGINT")]
    assert found.key == ("id",)
    assert found.identity is Identity.KEY
    assert found.source_id is not None
    assert len({c.id for c in found.columns} - {None}) == (2 if harness.stable_columns else 0)


def test_the_parts_of_a_snapshot_are_the_table(harness: Harness, replay: Replay) -> None:
    table = fill(harness, rows=500)
    found = replay.source.discover()
    replay.source.prepare(found, None, None)
    with replay.source.snapshot(found, start=True) as snapshot:
        harness.commit((table, 1000, 1), (table, 3, None))
        position = replay.load(snapshot)
    if not harness.exact_snapshots:
        # Rows may be later than the position: the stream up to where they settle makes them one state.
        assert replay.settled is not None
        replay.follow(position)
        replay.reach(replay.settled)
        assert replay.content(table) == sorted(harness.rows(table), key=repr)
        return
    assert [r[0] for r in replay.content(table)] == sorted(range(500), key=lambda i: repr((i, i * 10)))


def test_snapshot_and_stream_together_are_the_source(harness: Harness, replay: Replay) -> None:
    table, other = fill(harness), fill(harness, "other")
    replay.start()
    for n in range(30):
        harness.commit((table, n, n), (other, n + 5, None if n % 3 == 0 else n), (table, n + 1, None))
    harness.truncate(other)
    harness.commit((other, 1, 1))
    replay.reach(end_of(harness, replay))
    for each in (table, other):
        assert replay.content(each) == sorted(harness.rows(each), key=repr)


def test_a_transaction_is_never_torn(harness: Harness, replay: Replay) -> None:
    left, right = harness.create("left_side"), harness.create("right_side")
    harness.commit((left, 1, 0), (right, 1, 0))
    replay.start()
    seen = []
    take = replay.take

    def watch(item: object) -> None:
        take(item)  # type: ignore[arg-type]
        if isinstance(item, ChangeBatch) and item.complete:
            seen.append((replay.content(left)[0][1], replay.content(right)[0][1]))

    replay.take = watch  # type: ignore[method-assign]
    for n in range(1, 40):
        harness.commit((left, 1, n), (right, 1, -n))
    replay.wait(lambda: seen and seen[-1][0] == 39, message="the last transaction seen")
    assert all(a == -b for a, b in seen)


def test_streaming_continues_anywhere_without_repeating_or_skipping(harness: Harness, replay: Replay) -> None:
    table = fill(harness)
    replay.start()
    identity = replay.source.identity()
    for n in range(10):
        harness.commit((table, 100 + n, n))
    replay.reach(end_of(harness, replay))
    replay.close()
    places = [b.position for b in replay.batches if b.complete]
    for n in range(5):
        harness.commit((table, 200 + n, n))
    again = Replay(harness.source(), confirm=False)
    again.tables = replay.tables
    try:
        state = again.source.prepare(again.source.discover(), places[-1], identity)
        assert state.position == places[-1]
        again.follow(places[-1])
        again.reach(end_of(harness, again))
        assert sum(b.row_count for b in again.batches) == 5 or not harness.has_log
        assert again.content(table) == sorted(harness.rows(table), key=repr)
    finally:
        again.close()


def test_another_history_cannot_be_continued(harness: Harness, replay: Replay) -> None:
    fill(harness)
    position = replay.start()
    replay.close()
    source = harness.source()
    try:
        state = source.prepare(source.discover(), position, "another server")
        assert state.position is None
        assert state.reason
        assert source.prepare(source.discover(), None, None).position is None
    finally:
        source.close()


def test_an_idle_stream_moves_with_the_log(harness: Harness, replay: Replay) -> None:
    fill(harness)
    loose = harness.create("not_followed")
    followed = [t for t in replay.source.discover() if t.id != loose]
    replay.start(followed)
    harness.commit((loose, 1, 1))
    replay.reach(end_of(harness, replay), timeout=5)
    assert all(b.complete for b in replay.batches)
    assert sum(b.row_count for b in replay.batches) == 0 or not harness.has_log
    assert loose not in {c.table.id for b in replay.batches for c in b.changes}


def test_a_batch_ends_at_a_cut_and_a_since(harness: Harness, replay: Replay) -> None:
    if not harness.has_log:
        pytest.skip("a poll reads states: there is nothing between two of them to be cut")
    table, late = fill(harness), fill(harness, "late")
    found = {t.id: t for t in replay.source.discover()}
    replay.source.prepare(list(found.values()), None, None)
    with replay.source.snapshot(list(found.values()), start=True) as snapshot:
        start = replay.load(snapshot)
    harness.commit((table, 50, 1), (late, 50, 1))
    since = position_of(replay.source)
    harness.commit((table, 51, 1), (late, 51, 1))
    cut = position_of(replay.source)
    harness.commit((table, 52, 1), (late, 52, 1))
    layouts = {t.id: t for t in snapshot.tables}
    replay.follow(start, [Follow(layouts[table]), Follow(layouts[late], since)], [cut])
    replay.reach(end_of(harness, replay))
    for boundary in (since, cut):
        covering = [i for i, b in enumerate(replay.batches) if b.complete and b.position.covers(boundary)]
        first = covering[0]
        keys = [k for b in replay.batches[: first + 1] for c in b.changes for k in c.rows.column("id").to_pylist()]
        assert max(keys) == (50 if boundary is since else 51)
    late_keys = {r[0] for r in replay.content(late)}
    assert 50 not in late_keys
    assert {51, 52} <= late_keys


def test_a_new_column_comes_between_the_batches_that_it_parts(harness: Harness, replay: Replay) -> None:
    table = fill(harness)
    replay.start()
    harness.commit((table, 1, 111))
    harness.add_column(table, "extra")
    harness.commit((table, 2, 222))
    replay.wait(lambda: replay.changes, message="schema change")
    replay.reach(end_of(harness, replay))
    change = replay.changes[0]
    # A poll tells of it every round until the table is followed as it is.
    assert {(c.old, c.new) for c in replay.changes} == {(change.old, change.new)}
    assert len(replay.changes) == 1 or not harness.has_log
    assert change.old is not None
    assert change.new is not None
    assert change.new.column_names == ("id", "v", "extra")
    assert change.reload or evolve(change.old, change.new) is not None


def test_inspection_finds_what_the_stream_does_not_say(harness: Harness, replay: Replay) -> None:
    kept, gone, moved = fill(harness, "kept"), fill(harness, "gone"), fill(harness, "moved")
    altered = fill(harness, "altered")
    replay.start()
    known = [r.table for r in replay.tables.values()]
    assert list(replay.source.inspect(known)) == []
    harness.drop(gone)
    renamed = harness.rename(moved, "elsewhere")
    harness.add_column(altered, "extra")
    new = harness.create("fresh")
    if harness.has_log:
        found = replay.source.inspect(known)
        assert all(c.position.covers(replay.position) for c in found if replay.position is not None)
    else:
        replay.reach(end_of(harness, replay))
        assert list(replay.source.inspect(known)) == []
        found = replay.changes
    told = {((c.old and c.old.id), (c.new and c.new.id)) for c in found}
    renaming = {(moved, renamed)} if harness.follows_renames else {(moved, None), (None, renamed)}
    assert told == {(gone, None), (altered, altered), (None, new)} | renaming
    assert kept not in {c.old.id for c in found if c.old is not None}


def test_positions_survive_as_text(harness: Harness, replay: Replay) -> None:
    fill(harness)
    position = position_of(replay.source) if harness.has_log else replay.start()
    again = replay.source.parse_position(str(position))
    assert again == position
    assert again.covers(position)
    assert position.covers(again)
    for junk in ("", "nonsense", f"{position}x", f" {position}"):
        with pytest.raises(ValueError, match=r".+"):
            replay.source.parse_position(junk)


def test_close_ends_a_stream_at_once(harness: Harness, replay: Replay) -> None:
    fill(harness)
    replay.start()
    began = time.monotonic()
    replay.close()
    replay.source.close()
    assert time.monotonic() - began < 2
    assert replay.error is None
    with pytest.raises(TransientError):
        replay.source.status()


def test_confirm_does_not_block_and_takes_any_order(harness: Harness, replay: Replay) -> None:
    fill(harness)
    position = replay.start()
    began = time.monotonic()
    for _ in range(100):
        replay.source.confirm(position)
    assert time.monotonic() - began < 1
