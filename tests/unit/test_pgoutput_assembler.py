"""Transactions, boundaries, schema changes and identities, from frames written by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from connectors.postgres.position import Lsn
from engine.changes import ChangeBatch, SchemaChange
from engine.errors import DecodeError, ResyncRequired
from engine.schema import Column, Fill, Identity
from tests.fixtures.pgoutput import encoder as e
from tests.fixtures.pgoutput.tables import Catalog, assembler, events, layout, run, table

COLUMNS = [("id", 20), ("a", 25), ("b", 25)]
T = table(1, "t", COLUMNS, ("id",))
U = table(2, "u", COLUMNS, ("id",))
ROWS = table(3, "r", COLUMNS)
REL_T = e.relation(1, "public", "t", [("id", 20, -1, True), ("a", 25, -1, False), ("b", 25, -1, False)])
REL_U = e.relation(2, "public", "u", [("id", 20, -1, True), ("a", 25, -1, False), ("b", 25, -1, False)])
REL_R = e.relation(3, "public", "r", [(n, t, -1, True) for n, t in COLUMNS], "f")
FULL_T = e.relation(1, "public", "t", [(n, t, -1, True) for n, t in COLUMNS], "f")


def transaction(lsn: int, *rows: bytes) -> list[bytes]:
    return [e.begin(lsn), *rows, e.commit(lsn, lsn + 8)]


def batches(out: list[Any]) -> list[ChangeBatch]:
    assert all(isinstance(o, ChangeBatch) for o in out)
    return out


def only(out: list[Any]) -> ChangeBatch:
    (batch,) = out
    assert isinstance(batch, ChangeBatch)
    return batch


class TestPositions:
    def test_a_batch_ends_at_the_last_commit(self) -> None:
        made = assembler([T])
        frames = [*transaction(100, REL_T, e.insert(1, [1, "x", None])), *transaction(200), e.begin(300)]
        assert made.feed(frames) == []
        assert (made.in_transaction, made.has_changes) == (True, True)
        batch = made.flush()
        assert batch is not None
        assert (batch.position, batch.transactions, batch.complete) == (Lsn(208), 2, True)
        assert events(batch) == [("t", "INSERT", (1, "x", None))]
        assert made.flush() is None

    def test_the_commit_time_is_the_servers(self) -> None:
        made = assembler([T])
        batch = only(run(made, [e.begin(5), e.commit(5, 9, clock=1_500_000)]))
        assert batch.commit_time == 946684801.5

    def test_an_idle_source_moves_the_position(self) -> None:
        made = assembler([T])
        made.keepalive(Lsn(500))
        batch = made.flush()
        assert batch == ChangeBatch(Lsn(500))
        made.keepalive(Lsn(400))
        assert made.flush() is None

    def test_a_keepalive_within_a_transaction_says_nothing(self) -> None:
        made = assembler([T])
        made.feed([e.begin(100)])
        made.keepalive(Lsn(900))
        assert made.flush() is None
        assert made.position == Lsn(0)

    def test_what_committed_before_the_start_is_passed_over(self) -> None:
        made = assembler([T], start=108)
        early = transaction(100, REL_T, e.insert(1, [1, None, None]))
        assert run(made, early) == []
        batch = only(run(made, transaction(108, e.insert(1, [2, None, None]))))
        assert events(batch) == [("t", "INSERT", (2, None, None))]

    def test_tables_that_are_not_followed_only_move_the_position(self) -> None:
        batch = only(run(assembler([T]), transaction(100, REL_U, e.insert(2, ["not even", "a", "number"]))))
        assert (batch.changes, batch.position, batch.transactions) == ((), Lsn(108), 1)


class TestBoundaries:
    def test_a_batch_ends_exactly_at_a_cut(self) -> None:
        made = assembler([T], cuts=[150, 160, 400])
        out = batches(
            run(
                made,
                [
                    *transaction(100, REL_T, e.insert(1, [1, None, None])),
                    *transaction(200, e.insert(1, [2, None, None])),
                    *transaction(300, e.insert(1, [3, None, None])),
                    *transaction(400, e.insert(1, [4, None, None])),
                ],
            )
        )
        assert [b.position for b in out] == [Lsn(160), Lsn(400), Lsn(408)]
        assert [[row[0] for *_, row in events(b)] for b in out] == [[1], [2, 3], [4]]

    def test_an_idle_stream_passes_a_cut(self) -> None:
        made = assembler([T], cuts=[150])
        made.feed(transaction(100, REL_T, e.insert(1, [1, None, None])))
        made.keepalive(Lsn(180))
        out = batches([*made.feed(transaction(200, e.insert(1, [2, None, None]))), made.flush()])
        assert [b.position for b in out] == [Lsn(180), Lsn(208)]

    def test_a_table_is_followed_from_its_since_on(self) -> None:
        made = assembler([T, U], since={"u": 200})
        rows = [e.insert(1, [1, None, None]), e.insert(2, [1, None, None])]
        out = batches(run(made, [*transaction(100, REL_T, REL_U, *rows), *transaction(200, *rows)]))
        assert [b.position for b in out] == [Lsn(200), Lsn(208)]
        assert [[name for name, *_ in events(b)] for b in out] == [["t"], ["t", "u"]]

    def test_a_since_inside_a_commit_record_cannot_be_told(self) -> None:
        made = assembler([T, U], since={"u": 104})
        with pytest.raises(ResyncRequired) as caught:
            made.feed(transaction(100, REL_T))
        assert caught.value.tables == (U.id,)

    def test_only_used_layouts_are_looked_up(self) -> None:
        catalog = Catalog([T, U])
        made = assembler([T, U], since={"u": 200}, catalog=catalog)
        made.feed(transaction(100, REL_T, REL_U, e.insert(2, [1, None, None])))
        assert catalog.asked == []
        made.feed(transaction(200, e.insert(2, [1, None, None])))
        assert [i.name for i in catalog.asked] == ["u"]


class TestFragments:
    def test_a_large_transaction_goes_out_in_pieces(self) -> None:
        made = assembler([T], batch_bytes=2000)
        rows = [e.insert(1, [i, "x" * 100, None]) for i in range(50)]
        first = made.feed([*transaction(50, REL_T, e.insert(1, [99, None, None])), e.begin(100), *rows])
        assert made.flush() is None
        last = made.feed([e.commit(100, 108), *transaction(200, e.insert(1, [77, None, None]))])
        out = batches([*first, *last, made.flush()])
        assert [b.complete for b in out] == [True, *[False] * (len(out) - 2), True]
        assert {b.position for b in out[:-1]} == {Lsn(58)}
        assert out[-1].position == Lsn(208)
        assert [row[0] for b in out for *_, row in events(b)] == [99, *range(50), 77]
        assert sum(b.transactions for b in out) == 3
        assert all(b.size <= 4000 for b in out)

    def test_what_is_held_stays_within_the_cap(self) -> None:
        made = assembler([T], batch_bytes=10_000)
        made.feed([e.begin(100), REL_T])
        for i in range(100):
            made.feed([e.insert(1, [i, "x" * 500, None])] * 10)
            assert made.pending_bytes < 20_000

    def test_many_small_transactions_make_full_batches(self) -> None:
        made = assembler([T], batch_bytes=3000)
        frames = [f for i in range(100) for f in transaction(100 + 10 * i, REL_T, e.insert(1, [i, "x" * 50, None]))]
        out = batches(run(made, frames))
        assert len(out) > 3
        assert all(b.complete and b.size < 5000 for b in out)
        assert [row[0] for b in out for *_, row in events(b)] == list(range(100))

    def test_rows_of_others_are_not_held(self) -> None:
        made = assembler([T], batch_bytes=1 << 22)
        other = [e.insert(2, [1, "y" * 1000, None])] * 200
        made.feed([e.begin(100), REL_T, REL_U, *other, e.insert(1, [1, None, None])])
        assert 0 < made.pending_bytes < 1000


class TestIdentity:
    def test_an_update_with_its_old_key_moves_the_row(self) -> None:
        rows = [e.update(1, [2, "x", e.UNCHANGED], [1, None, None])]
        batch = only(run(assembler([T]), transaction(100, REL_T, *rows)))
        assert events(batch) == [("t", "DELETE", (1, None, None)), ("t", "UPDATE", (2, "x", None))]
        (changes,) = batch.changes
        assert changes.unchanged["b"].to_pylist() == [False, True]
        assert changes.base is not None
        assert changes.base.to_pylist() == [{"id": 1}, {"id": 1}]

    def test_an_old_key_that_is_the_new_one_moves_nothing(self) -> None:
        rows = [e.update(1, [e.UNCHANGED, "x", e.UNCHANGED], [1, None, None])]
        batch = only(run(assembler([T]), transaction(100, REL_T, *rows)))
        assert events(batch) == [("t", "UPDATE", (1, "x", None))]
        assert batch.changes[0].unchanged["b"].to_pylist() == [True]
        assert batch.changes[0].base is None

    def test_a_whole_old_row_of_a_keyed_table(self) -> None:
        rows = [
            e.update(1, [1, "x", e.UNCHANGED], [1, "w", "long"], b"O"),
            e.update(1, [2, "y", e.UNCHANGED], [1, "x", "long"], b"O"),
            e.update(1, [2, "z", e.UNCHANGED], [2, "y", None], b"O"),
            e.delete(1, [2, "z", None], b"O"),
        ]
        batch = only(run(assembler([T]), transaction(100, FULL_T, *rows)))
        assert [x[1:] for x in events(batch)] == [
            ("UPDATE", (1, "x", "long")),
            ("DELETE", (1, None, None)),
            ("UPDATE", (2, "y", "long")),
            ("UPDATE", (2, "z", None)),
            ("DELETE", (2, None, None)),
        ]
        assert batch.changes[0].unchanged == {}

    def test_rows_without_a_key(self) -> None:
        rows = [
            e.insert(3, [None, None, None]),
            e.update(3, [1, e.UNCHANGED, "c"], [1, "a", "b"], b"O"),
            e.delete(3, [1, "a", "c"], b"O"),
        ]
        batch = only(run(assembler([ROWS]), transaction(100, REL_R, *rows)))
        assert [x[1:] for x in events(batch)] == [
            ("INSERT", (None, None, None)),
            ("DELETE", (1, "a", "b")),
            ("INSERT", (1, "a", "c")),
            ("DELETE", (1, "a", "c")),
        ]

    def test_an_old_row_that_is_not_whole_is_refused(self) -> None:
        rows = [e.update(3, [1, "a", "c"], [1, e.UNCHANGED, "b"], b"O")]
        with pytest.raises(ResyncRequired):
            run(assembler([ROWS]), transaction(100, REL_R, *rows))

    def test_a_key_beside_other_columns(self) -> None:
        keyed = table(1, "t", COLUMNS, ("b", "id"))
        rel = e.relation(1, "public", "t", [("id", 20, -1, True), ("a", 25, -1, False), ("b", 25, -1, True)], "i")
        rows = [e.update(1, [1, "x", "k2"], [1, None, "k1"]), e.delete(1, [1, None, "k2"])]
        batch = only(run(assembler([keyed]), transaction(100, rel, *rows)))
        assert [x[1:] for x in events(batch)] == [
            ("DELETE", (1, None, "k1")),
            ("UPDATE", (1, "x", "k2")),
            ("DELETE", (1, None, "k2")),
        ]

    def test_columns_that_are_not_replicated(self) -> None:
        narrow = table(1, "t", [("b", 25), ("id", 20)], ("id",))
        batch = only(run(assembler([narrow]), transaction(100, REL_T, e.insert(1, [1, "secret", "b"]))))
        assert events(batch) == [("t", "INSERT", ("b", 1))]

    @pytest.mark.parametrize("row", [e.update(4, [1]), e.update(4, [1], [1], b"O"), e.delete(4, [1])])
    def test_changes_that_cannot_be_followed_ask_for_a_reload(self, row: bytes) -> None:
        inserts = table(4, "i", [("id", 20)], identity=Identity.INSERTS)
        rel = e.relation(4, "public", "i", [("id", 20, -1, False)], "n")
        made = assembler([inserts])
        frames = transaction(100, rel, e.insert(4, [1]), row, e.insert(4, [2]))
        change, batch = run(made, [*frames, *transaction(200, row)])
        assert isinstance(change, SchemaChange)
        assert (change.reload, change.old, bool(change.reason)) == (True, inserts, True)
        assert isinstance(batch, ChangeBatch)
        assert events(batch) == [("i", "INSERT", (1,))]

    def test_a_table_the_stream_cannot_give_asks_once(self) -> None:
        generated = replace(T, identity=Identity.RELOAD)
        made = assembler([generated])
        change, batch = run(made, transaction(100, REL_T, e.insert(1, [1, "a", "b"]), e.delete(1, [1, None, None])))
        assert isinstance(change, SchemaChange)
        assert change.reload
        assert isinstance(batch, ChangeBatch)
        assert batch.changes == ()

    def test_a_replica_identity_that_lost_the_key(self) -> None:
        rel = e.relation(1, "public", "t", [("id", 20, -1, False), ("a", 25, -1, True), ("b", 25, -1, False)], "i")
        change, _ = run(assembler([T]), transaction(100, rel, e.insert(1, [1, "a", "b"])))
        assert isinstance(change, SchemaChange)
        assert change.reload


class TestTruncate:
    def test_what_came_before_in_the_batch_is_dropped(self) -> None:
        rows = [e.insert(1, [1, None, None]), e.insert(2, [1, None, None]), e.truncate([1, 2, 99], 1)]
        rows.append(e.insert(1, [2, None, None]))
        other = e.relation(99, "public", "other", [("x", 23, -1, True)])
        batch = only(run(assembler([T, U]), transaction(100, REL_T, REL_U, other, *rows)))
        assert events(batch) == [("t", "TRUNCATE", ()), ("t", "INSERT", (2, None, None)), ("u", "TRUNCATE", ())]
        emptied = batch.changes[1]
        assert emptied.rows.schema.names == ["id", "a", "b"]
        assert emptied.rows.num_rows == 0

    def test_a_table_not_followed_yet_is_left_alone(self) -> None:
        made = assembler([T], since={"t": 150})
        (batch,) = run(made, transaction(100, REL_T, e.truncate([1])))
        assert isinstance(batch, ChangeBatch)
        assert batch.changes == ()

    def test_a_truncate_within_a_large_transaction(self) -> None:
        made = assembler([T], batch_bytes=600)
        rows = [e.insert(1, [i, "x" * 50, None]) for i in range(20)]
        out = batches(run(made, transaction(100, REL_T, *rows, e.truncate([1]), *rows[:3])))
        state: list[int] = []
        for batch in out:
            for _, op, row in events(batch):
                state = [] if op == "TRUNCATE" else [*state, row[0]]  # type: ignore[list-item]
        assert state == [0, 1, 2]


class TestSchemaChanges:
    WIDER = replace(T, columns=(*T.columns, Column("c", "INTEGER", "23", id=4, fill=Fill.NULL)))
    REL_WIDER = e.relation(
        1, "public", "t", [("id", 20, -1, True), ("a", 25, -1, False), ("b", 25, -1, False), ("c", 23, -1, False)]
    )

    def frames(self) -> list[bytes]:
        return [
            *transaction(100, REL_T, e.insert(1, [1, "a", "b"])),
            *transaction(200, self.REL_WIDER, e.insert(1, [2, "a", "b", 5])),
        ]

    def test_a_column_that_is_added(self) -> None:
        catalog = Catalog([T])
        made = assembler([T], catalog=catalog)
        assert made.feed(self.frames()[:4]) == []
        catalog.tables[1] = self.WIDER
        before, change, after = run(made, self.frames()[4:])
        assert isinstance(before, ChangeBatch)
        assert isinstance(after, ChangeBatch)
        assert (before.position, events(before)) == (Lsn(108), [("t", "INSERT", (1, "a", "b"))])
        assert change == SchemaChange(Lsn(108), T, self.WIDER, False, "the table's definition changed")
        assert events(after) == [("t", "INSERT", (2, "a", "b", 5))]
        assert after.changes[0].table == self.WIDER

    @pytest.mark.parametrize(
        "now",
        [
            replace(WIDER, columns=(*WIDER.columns[:3], replace(WIDER.columns[3], fill=Fill.UNKNOWN))),
            replace(WIDER, columns=(WIDER.columns[0], replace(WIDER.columns[1], type="JSON"), *WIDER.columns[2:])),
            replace(WIDER, storage="rewritten"),
            replace(WIDER, identity=Identity.RELOAD),
            replace(WIDER, source_id="77"),
        ],
        ids=["default", "type", "rewrite", "identity", "another table"],
    )
    def test_what_only_a_reload_can_follow(self, now) -> None:
        catalog = Catalog([T])
        made = assembler([T], catalog=catalog)
        made.feed(self.frames()[:4])
        catalog.tables[1] = now
        before, change, after = run(made, [*self.frames()[4:], *transaction(300, e.insert(1, [3, "a", "b", 5]))])
        assert isinstance(change, SchemaChange)
        assert (change.reload, change.new, change.position) == (True, now, Lsn(108))
        assert isinstance(before, ChangeBatch)
        assert isinstance(after, ChangeBatch)
        assert (after.changes, after.position) == ((), Lsn(308))

    def test_the_catalog_may_be_ahead_of_the_stream(self) -> None:
        catalog = Catalog([self.WIDER])
        catalog.layouts[1] = layout(*COLUMNS, ("c", 20))
        change, _ = run(
            assembler([T], catalog=catalog), transaction(100, self.REL_WIDER, e.insert(1, [2, "a", "b", 5]))
        )
        assert isinstance(change, SchemaChange)
        assert change.reload

    def test_a_change_within_a_transaction_that_changed_rows_before(self) -> None:
        catalog = Catalog([T])
        made = assembler([T], catalog=catalog)
        made.feed([e.begin(100), REL_T, e.insert(1, [1, "a", "b"])])
        catalog.tables[1] = self.WIDER
        out = made.feed([self.REL_WIDER, e.insert(1, [2, "a", "b", 5]), e.commit(100, 108)])
        assert [type(o) for o in out] == [SchemaChange]
        assert isinstance(out[0], SchemaChange)
        assert out[0].reload

    def test_also_when_its_rows_already_went_out(self) -> None:
        catalog = Catalog([T])
        made = assembler([T], catalog=catalog, batch_bytes=100)
        out = made.feed([e.begin(100), REL_T, e.insert(1, [1, "a" * 200, "b"])])
        assert not batches(out)[0].complete
        catalog.tables[1] = self.WIDER
        (change,) = made.feed([self.REL_WIDER, e.insert(1, [2, "a", "b", 5])])
        assert isinstance(change, SchemaChange)
        assert change.reload

    def test_other_tables_of_the_transaction_do_not_matter(self) -> None:
        catalog = Catalog([T, U])
        made = assembler([T, U], catalog=catalog)
        made.feed([*transaction(50, REL_T, e.insert(1, [0, "", ""])), e.begin(100), REL_U, e.insert(2, [1, "a", "b"])])
        catalog.tables[1] = self.WIDER
        out = run(made, [self.REL_WIDER, e.insert(1, [2, "a", "b", 5]), e.commit(100, 108)])
        assert [type(o) for o in out] == [ChangeBatch, SchemaChange, ChangeBatch]
        assert isinstance(out[2], ChangeBatch)
        assert events(out[2]) == [("u", "INSERT", (1, "a", "b")), ("t", "INSERT", (2, "a", "b", 5))]

    def test_the_same_relation_again_goes_on_in_the_same_layout(self) -> None:
        (batch,) = run(
            assembler([T]), transaction(100, REL_T, e.insert(1, [1, "a", "b"]), REL_T, e.insert(1, [2, "a", "b"]))
        )
        assert isinstance(batch, ChangeBatch)
        assert [len(c.ops) for c in batch.changes] == [2]

    def test_the_same_relation_again_may_hide_another_column(self) -> None:
        catalog = Catalog([T])
        made = assembler([T], catalog=catalog)
        made.feed(transaction(100, REL_T, e.insert(1, [1, "a", "b"])))
        catalog.tables[1] = replace(T, columns=(*T.columns[:2], replace(T.columns[2], id=4, fill=Fill.NULL)))
        catalog.dropped[1] = frozenset({3})
        _, change = made.feed(transaction(200, REL_T, e.insert(1, [2, "a", "b"])))
        assert isinstance(change, SchemaChange)
        assert change.reload

    def test_an_added_column_may_have_had_a_forerunner(self) -> None:
        catalog = Catalog([replace(self.WIDER, columns=(*T.columns, replace(self.WIDER.columns[3], id=5)))])
        catalog.dropped[1] = frozenset({4})
        change, _ = run(
            assembler([T], catalog=catalog), transaction(100, self.REL_WIDER, e.insert(1, [2, "a", "b", 5]))
        )
        assert isinstance(change, SchemaChange)
        assert change.reload

    def test_columns_in_another_order_are_others(self) -> None:
        swapped = e.relation(1, "public", "t", [("id", 20, -1, True), ("b", 25, -1, False), ("a", 25, -1, False)])
        catalog = Catalog([T])
        catalog.layouts[1] = layout(*COLUMNS)
        change, _ = run(assembler([T], catalog=catalog), transaction(100, swapped, e.insert(1, [2, "a", "b"])))
        assert isinstance(change, SchemaChange)
        assert change.reload

    def test_a_key_that_was_wider_when_the_row_changed(self) -> None:
        wider = e.relation(1, "public", "t", [("id", 20, -1, True), ("a", 25, -1, True), ("b", 25, -1, False)])
        change, _ = run(assembler([T]), transaction(100, wider, e.delete(1, [2, "a", None])))
        assert isinstance(change, SchemaChange)
        assert change.reload

    def test_a_new_table_is_reported_once(self) -> None:
        made = assembler([T], catalog=Catalog([T, U]))
        change, batch = run(made, transaction(100, REL_U, e.insert(2, [1, "a", "b"]), e.insert(2, [2, "a", "b"])))
        assert change == SchemaChange(Lsn(0), None, U, False, "a table that was not replicated before")
        assert isinstance(batch, ChangeBatch)
        assert batch.changes == ()

    def test_a_table_that_was_created_again(self) -> None:
        again = replace(T, source_id="9")
        rel = e.relation(9, "public", "t", [("id", 20, -1, True), ("a", 25, -1, False), ("b", 25, -1, False)])
        change, _ = run(assembler([T], catalog=Catalog([again])), transaction(100, rel, e.insert(9, [1, "a", "b"])))
        assert isinstance(change, SchemaChange)
        assert (change.old, change.new, change.reload) == (T, again, True)

    def test_a_table_that_is_gone(self) -> None:
        change, _ = run(assembler([T], catalog=Catalog([])), transaction(100, REL_T, e.insert(1, [1, "a", "b"])))
        assert isinstance(change, SchemaChange)
        assert (change.old, change.new) == (T, None)


class TestStreamed:
    def test_transactions_may_be_interleaved(self) -> None:
        made = assembler([T])
        frames = [
            e.stream_start(11, first=True),
            e.relation(1, "public", "t", [("id", 20, -1, True), ("a", 25, -1, False), ("b", 25, -1, False)], xid=11),
            e.insert(1, [1, "a", None], xid=11),
            e.insert(1, [2, "sub", None], xid=12),
            e.stream_stop(),
            e.stream_start(21, first=True),
            e.insert(1, [3, "b", None], xid=21),
            e.stream_stop(),
            *transaction(100, REL_T, e.insert(1, [9, "plain", None])),
            e.stream_start(11, first=False),
            e.update(1, [4, "c", None], [1, None, None], xid=11),
            e.truncate([5], xid=11),
            e.stream_stop(),
            e.stream_abort(11, 12),
            e.stream_commit(21, 200, 208),
            e.stream_commit(11, 300, 308),
        ]
        frames.insert(1, e.relation(5, "public", "x", [("id", 20, -1, True)], xid=11))
        batch = only(run(made, frames))
        assert [x[2][:2] for x in events(batch)] == [(9, "plain"), (3, "b"), (1, "a"), (1, None), (4, "c")]
        assert (batch.position, batch.transactions) == (Lsn(308), 3)

    def test_a_rolled_back_transaction_leaves_nothing(self) -> None:
        made = assembler([T])
        frames = [e.stream_start(11, first=True), e.insert(1, [1, "a", None], xid=11), e.stream_stop()]
        assert run(made, [*frames, e.stream_abort(11, 11)]) == []
        assert made.pending_bytes == 0

    def test_boundaries_hold(self) -> None:
        made = assembler([T], cuts=[150])
        block = [e.stream_start(11, first=True), e.insert(1, [1, "a", None], xid=11), e.stream_stop()]
        out = batches(
            run(made, [*block, *transaction(100, REL_T, e.insert(1, [9, "", ""])), e.stream_commit(11, 200, 208)])
        )
        assert [b.position for b in out] == [Lsn(150), Lsn(208)]

    @pytest.mark.parametrize(
        "frames",
        [
            [e.stream_commit(1, 10, 20)],
            [e.stream_abort(1, 2)],
            [e.stream_stop()],
            [e.stream_start(1, first=False)],
            [e.stream_start(1, first=True), e.begin(1)],
            [e.stream_start(1, first=True), e.stream_start(2, first=True)],
            [e.begin(1), e.stream_start(1, first=True)],
        ],
    )
    def test_blocks_out_of_order_are_refused(self, frames: list[bytes]) -> None:
        with pytest.raises(DecodeError):
            assembler([T]).feed(frames)


@pytest.mark.parametrize(
    "frames",
    [
        [e.insert(1, [1])],
        [e.commit(1, 2)],
        [e.begin(1), e.begin(2)],
        [REL_T],
        [e.truncate([1])],
        [e.begin(10), e.commit(11, 12)],
        [*transaction(100), *transaction(90)],
        [*transaction(100), e.begin(104), e.commit(104, 105)],
        [e.begin(1), e.insert(1, [1])],
        [e.frame(b"b" + bytes(30))],
        [e.frame(b"?")],
        [b"k" + bytes(17)],
        [b"w"],
        [b""],
    ],
)
def test_messages_that_form_no_stream_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        assembler([T]).feed(frames)
