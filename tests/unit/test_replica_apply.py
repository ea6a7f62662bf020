"""Applying batches to the replica: each identity, each way a batch may be cut, and what must be refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.changes import ChangeBatch, Op, TableChanges
from engine.destination import Copy
from engine.errors import ReplicaError, ResyncRequired, UnsupportedValue
from engine.replica.store import DuckDBReplica
from engine.schema import Column, Identity, TableId, TableSchema

I, U, D = Op.INSERT, Op.UPDATE, Op.DELETE
DOCS = TableSchema(
    TableId("shop", "docs"),
    (
        Column("id", "BIGINT", "bigint"),
        Column("body", "VARCHAR", "text"),
        Column("price", "DECIMAL(9,2)", "numeric(9,2)"),
    ),
    ("id",),
    Identity.KEY,
)
LOG = TableSchema(
    TableId("shop", "log"), (Column("at", "DOUBLE", "float8"), Column("span", "INTERVAL", "interval")), (), Identity.ROW
)
KEPT = object()
"""In a row: the source did not send this value."""


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[DuckDBReplica]:
    replica = DuckDBReplica.open(
        tmp_path / "r.duckdb", instance="t", memory_limit_bytes=200 << 20, threads=2, search_schema="shop"
    )
    yield replica
    replica.close()


@pytest.fixture(params=["straight", "staged"])
def path_taken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "staged":
        monkeypatch.setattr("engine.replica.apply._STRAIGHT_ROWS", 0)
        monkeypatch.setattr("engine.replica.merge._parts", lambda writer, staged: 2)
    return str(request.param)


def entry(table: TableSchema, *events: tuple[Any, ...], truncate: bool = False) -> TableChanges:
    """Events as (op, row) or (op, row, base key); text columns, KEPT for a value that is not sent."""
    rows = [e[1] for e in events]
    columns = [[None if r[i] is KEPT else r[i] for r in rows] for i in range(len(table.columns))]
    unchanged = {
        c.name: pa.array([r[i] is KEPT for r in rows])
        for i, c in enumerate(table.columns)
        if any(r[i] is KEPT for r in rows)
    }
    base = None
    if any(len(e) > 2 for e in events):
        base = pa.record_batch({"id": pa.array([e[2] if len(e) > 2 else e[1][0] for e in events], pa.string())})
    batch = pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in columns], names=list(table.column_names))
    return TableChanges(table, pa.array([int(e[0]) for e in events], pa.int8()), batch, truncate, unchanged, base)


def batch(position: int, *changes: TableChanges, complete: bool = True) -> ChangeBatch:
    return ChangeBatch(str(position), changes, complete=complete)  # type: ignore[arg-type]


def begin(replica: DuckDBReplica, *tables: TableSchema) -> None:
    for table in tables:
        replica.load(table).finish("0")
    replica.swap([t.id for t in tables], "0", "source")


def rows(replica: DuckDBReplica, sql: str) -> list[tuple[Any, ...]]:
    cursor = replica.cursor()
    try:
        return cursor.execute(sql).fetchall()
    finally:
        cursor.close()


def docs(replica: DuckDBReplica) -> list[tuple[Any, ...]]:
    return rows(replica, "SELECT id, body, CAST(price AS VARCHAR) FROM docs ORDER BY id, body")


@pytest.mark.usefixtures("path_taken")
class TestKeyed:
    def test_last_image_of_each_key(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(
            batch(
                1, entry(DOCS, (I, ("1", "a", "1")), (U, ("1", "b", "2")), (I, ("2", "c", "3")), (D, ("2", None, None)))
            )
        )
        assert docs(replica) == [(1, "b", "2.00")]
        assert replica.position == "1"

    def test_delete_and_insert_of_an_existing_key(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "a", "1")))))
        replica.apply(batch(2, entry(DOCS, (D, ("1", None, None)), (I, ("1", "b", "2")))))
        assert docs(replica) == [(1, "b", "2.00")]

    def test_upsert_and_delete_of_absent_keys(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (U, ("7", "x", None)), (D, ("8", None, None)))))
        assert docs(replica) == [(7, "x", None)]

    def test_truncate_kills_what_came_before_it(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "a", "1")))))
        replica.apply(
            batch(2, entry(DOCS, (I, ("2", "b", "1"))), entry(DOCS, truncate=True), entry(DOCS, (I, ("1", "z", "9"))))
        )
        assert docs(replica) == [(1, "z", "9.00")]
        replica.apply(batch(3, entry(DOCS, (I, ("5", "b", "1")), truncate=True)))
        assert docs(replica) == [(5, "b", "1.00")]

    def test_typed_and_text_entries_in_one_batch(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        typed = pa.record_batch({"id": [3], "body": ["t"], "price": pa.array(["4.50"]).cast(pa.decimal128(9, 2))})
        changes = TableChanges(DOCS, pa.array([1], pa.int8()), typed)
        replica.apply(batch(1, entry(DOCS, (I, ("2", "a", "1"))), changes))
        assert docs(replica) == [(2, "a", "1.00"), (3, "t", "4.50")]


class TestKeptValues:
    def test_value_is_kept_from_the_replica(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "long", "1")))))
        replica.apply(batch(2, entry(DOCS, (U, ("1", KEPT, "2")), (U, ("1", KEPT, "3")))))
        assert docs(replica) == [(1, "long", "3.00")]

    def test_value_is_kept_from_an_earlier_image(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "old", "1")))))
        replica.apply(
            batch(
                2,
                entry(DOCS, (U, ("1", "new", "2")), (U, ("1", KEPT, "3"))),
                entry(DOCS, (I, ("2", "b", "1")), (U, ("2", KEPT, "5"))),
            )
        )
        assert docs(replica) == [(1, "new", "3.00"), (2, "b", "5.00")]

    def test_value_of_a_new_life_of_the_key(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "old", "1")))))
        replica.apply(batch(2, entry(DOCS, (D, ("1", None, None)), (I, ("1", "new", "2")), (U, ("1", KEPT, "3")))))
        assert docs(replica) == [(1, "new", "3.00")]

    def test_keys_swapped_through_a_third(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "one", "1")), (I, ("2", "two", "2")))))
        moves = [(D, ("1", None, None)), (U, ("9", KEPT, "1"), "1"), (D, ("2", None, None)), (U, ("1", KEPT, "2"), "2")]
        moves += [(D, ("9", None, None)), (U, ("2", KEPT, "1"), "9")]
        replica.apply(batch(2, entry(DOCS, *moves)))
        assert docs(replica) == [(1, "two", "2.00"), (2, "one", "1.00")]

    @pytest.mark.parametrize("cut", range(1, 4))
    def test_chain_across_fragments(self, replica: DuckDBReplica, cut: int) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "one", "1")))))
        chain: list[tuple[Any, ...]] = [
            (U, ("1", KEPT, "2")),
            (U, ("1", KEPT, KEPT)),
            (D, ("1", None, None)),
            (U, ("3", KEPT, KEPT), "1"),
            (U, ("3", KEPT, KEPT)),
        ]
        cuts = {1: [0, 1, 2, 4, 5], 2: [0, 2, 5], 3: [0, 4, 5]}[cut]
        for start, end in pairwise(cuts):
            replica.stage(batch(1, entry(DOCS, *chain[start:end]), complete=False), {DOCS.id: Copy.LIVE})
        assert docs(replica) == [(1, "one", "1.00")]
        replica.apply(batch(2))
        assert docs(replica) == [(3, "one", "2.00")]

    @pytest.mark.parametrize(
        "events",
        [
            [(U, ("5", KEPT, "1"))],
            [(D, ("1", None, None)), (I, ("2", "x", "1")), (U, ("1", KEPT, "1"))],
            [(D, ("5", None, None)), (U, ("6", KEPT, "1"), "5")],
        ],
        ids=["absent", "deleted", "moved"],
    )
    @pytest.mark.parametrize("fragments", [False, True])
    def test_a_row_that_is_not_there_asks_for_a_reload(
        self, replica: DuckDBReplica, events: Sequence[tuple[Any, ...]], fragments: bool
    ) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "one", "1")))))
        with pytest.raises(ResyncRequired) as caught:
            if fragments:
                for event in events[:-1]:
                    replica.stage(batch(1, entry(DOCS, event), complete=False), {DOCS.id: Copy.LIVE})
                events = events[-1:]
            replica.apply(batch(2, entry(DOCS, *events)))
        assert caught.value.tables == (DOCS.id,)
        assert replica.position == "1"
        assert docs(replica) == [(1, "one", "1.00")]

    def test_truncated_rows_keep_nothing(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "one", "1")))))
        with pytest.raises(ResyncRequired):
            replica.apply(batch(2, entry(DOCS, truncate=True), entry(DOCS, (U, ("1", KEPT, "2")))))


@pytest.mark.usefixtures("path_taken")
class TestMultiset:
    def log(self, replica: DuckDBReplica) -> list[tuple[Any, ...]]:
        return rows(replica, 'SELECT CAST("at" AS VARCHAR), CAST(span AS VARCHAR) FROM log ORDER BY ALL')

    def test_exactly_as_many_copies_as_the_changes_say(self, replica: DuckDBReplica) -> None:
        begin(replica, LOG)
        one, null = ("1", None), (None, None)
        replica.apply(batch(1, entry(LOG, *[(I, one)] * 3, (I, null), (I, null))))
        replica.apply(batch(2, entry(LOG, (D, one), (D, null), (D, one), (I, one), (D, one))))
        assert self.log(replica) == [("1.0", None), (None, None)]

    def test_rows_that_compare_equal_are_told_apart(self, replica: DuckDBReplica) -> None:
        begin(replica, LOG)
        replica.apply(batch(1, entry(LOG, (I, ("0.0", "1 month")), (I, ("-0.0", "30 days")))))
        replica.apply(batch(2, entry(LOG, (D, ("0.0", "1 month")), (I, ("-0.0", "1 month")), (I, ("0.0", "30 days")))))
        expected = [("-0.0", "1 month"), ("-0.0", "30 days"), ("0.0", "30 days")]
        assert sorted(self.log(replica)) == expected

    def test_a_row_that_is_not_there_asks_for_a_reload(self, replica: DuckDBReplica) -> None:
        begin(replica, LOG)
        replica.apply(batch(1, entry(LOG, (I, ("1", None)))))
        with pytest.raises(ResyncRequired):
            replica.apply(batch(2, entry(LOG, (D, ("1", None)), (D, ("1", None)))))
        assert self.log(replica) == [("1.0", None)]

    def test_an_update_is_refused(self, replica: DuckDBReplica) -> None:
        begin(replica, LOG)
        with pytest.raises(ReplicaError, match="delete and an insert"):
            replica.apply(batch(1, entry(LOG, (U, ("1", None)))))


class TestRefused:
    @pytest.mark.parametrize("identity", [Identity.INSERTS, Identity.RELOAD])
    def test_changes_that_the_identity_cannot_follow(self, replica: DuckDBReplica, identity: Identity) -> None:
        table = replace(LOG, identity=identity)
        begin(replica, table)
        replica.apply(batch(1, entry(table, (I, ("1", None)))))
        with pytest.raises(ResyncRequired):
            replica.apply(batch(2, entry(table, (D, ("1", None)))))

    @pytest.mark.parametrize(
        "price",
        ["1.005", "123456789012", "NaN", "x", "1e-3", ""],
    )
    @pytest.mark.parametrize("how", ["apply", "stage", "load"])
    def test_a_value_that_does_not_fit(self, replica: DuckDBReplica, price: str, how: str) -> None:
        begin(replica, DOCS)
        replica.apply(batch(1, entry(DOCS, (I, ("1", "one", "1")))))
        bad = entry(DOCS, (I, ("2", "secret", "1.10")), (I, ("3", "secret", price)))
        with pytest.raises(UnsupportedValue) as caught:
            if how == "apply":
                replica.apply(batch(2, bad))
            elif how == "stage":
                replica.stage(batch(1, bad, complete=False), {DOCS.id: Copy.LIVE})
            else:
                replica.load(DOCS).append([bad.rows])
        assert caught.value.columns == ("price",)
        assert caught.value.table == DOCS.id
        assert "secret" not in str(caught.value)
        assert price not in str(caught.value) or not price
        replica.apply(batch(3, entry(DOCS, (I, ("4", "four", "4")))))
        assert docs(replica) == [(1, "one", "1.00"), (4, "four", "4.00")]

    def test_another_layout(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        other = replace(DOCS, columns=(*DOCS.columns, Column("new", "VARCHAR", "text")))
        with pytest.raises(ResyncRequired, match="layout"):
            replica.apply(batch(1, entry(other, (I, ("1", "a", "1", "x")))))
        with pytest.raises(ResyncRequired, match="no live copy"):
            replica.apply(batch(1, entry(LOG, (I, ("1", None)))))

    def test_a_type_that_would_change_values(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        floats = pa.record_batch({"id": [1], "body": ["x"], "price": [1.239]})
        with pytest.raises(ReplicaError, match=r"price.*double"):
            replica.apply(batch(1, TableChanges(DOCS, pa.array([1], pa.int8()), floats)))

    def test_a_fragment(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        with pytest.raises(ReplicaError, match="fragment"):
            replica.apply(batch(1, complete=False))


class TestStaged:
    def test_staged_changes_are_invisible_until_the_apply(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS, LOG)
        replica.stage(batch(0, entry(DOCS, (I, ("1", "a", "1"))), complete=False), {DOCS.id: Copy.LIVE})
        replica.stage(
            batch(0, entry(DOCS, (U, ("1", "b", "1"))), entry(LOG, (I, ("1", None))), complete=False),
            {DOCS.id: Copy.LIVE},
        )
        assert docs(replica) == []
        replica.apply(batch(1, entry(DOCS, (I, ("2", "c", "1")))))
        assert docs(replica) == [(1, "b", "1.00"), (2, "c", "1.00")]
        assert rows(replica, "SELECT * FROM log") == []

    def test_discarded(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.stage(batch(0, entry(DOCS, (I, ("1", "a", "1"))), complete=False), {DOCS.id: Copy.LIVE})
        replica.discard_staged()
        replica.apply(batch(1))
        assert docs(replica) == []
        assert replica.position == "1"

    def test_a_failed_apply_keeps_what_was_staged(self, replica: DuckDBReplica) -> None:
        begin(replica, DOCS)
        replica.stage(batch(0, entry(DOCS, (I, ("1", "a", "1"))), complete=False), {DOCS.id: Copy.LIVE})
        with pytest.raises(UnsupportedValue):
            replica.apply(batch(1, entry(DOCS, (I, ("2", "b", "x")))))
        replica.apply(batch(1, entry(DOCS, (I, ("2", "b", "2")))))
        assert docs(replica) == [(1, "a", "1.00"), (2, "b", "2.00")]
