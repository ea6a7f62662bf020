"""Change tables: the statements that read them, and their rows as changes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from connectors.sqlserver import keymoves
from connectors.sqlserver.catalog import CatalogTable
from connectors.sqlserver.changetables import ChangeTable, Place
from connectors.sqlserver.instances import Instance
from connectors.sqlserver.layouts import Computed
from connectors.sqlserver.types import MAX, Definition
from engine.changes import Op
from engine.errors import DecodeError, ResyncRequired
from engine.schema import Identity, TableId

TABLE = TableId("dbo", "t")
ID, NAME, BODY = (
    Definition("id", 1, "int"),
    Definition("na]me", 2, "nvarchar", 40),
    Definition("body", 3, "nvarchar", MAX),
)
TOTAL = Definition("total", 4, "int", computed=True)


def instance(*columns: Definition, ordered: bool = True) -> Instance:
    ordinals = {d.id: n for n, d in enumerate(columns, 1)}
    return Instance(100, 10, "dbo_t", 5, ordinals, {d.id: d.name for d in columns}, ordered)


def table(*columns: Definition, key: tuple[int, ...] = (1,), ordered: bool = True, **more: Any) -> CatalogTable:
    captured = [d for d in columns if not d.computed]
    keys = (key,) if key else ()
    more.setdefault("computed", {})
    return CatalogTable(TABLE, 10, columns, keys=keys, instances=(instance(*captured, ordered=ordered),), **more)


def lsn(number: int) -> bytes:
    return number.to_bytes(10)


def row(at: int, operation: int, mask: int, *values: object) -> tuple[object, ...]:
    return (lsn(at), operation, mask.to_bytes(1), 1, lsn(at), *values)


def changes(catalog: CatalogTable, rows: Sequence[tuple[object, ...]]) -> Any:
    return ChangeTable(catalog.newest).changes(rows)


def test_inserts_updates_and_deletes_of_a_table_with_a_key() -> None:
    made = changes(table(ID, NAME), [row(7, 2, 3, 1, "a"), row(8, 4, 2, 1, "b"), row(9, 1, 3, 1, "b")])
    assert made.ops.to_pylist() == [Op.INSERT, Op.UPDATE, Op.DELETE]
    assert made.rows.to_pylist() == [{"id": 1, "na]me": v} for v in ("a", "b", "b")]
    assert made.unchanged == {}
    assert made.base is None


def test_a_key_that_changes_in_place_is_deleted_and_written_anew() -> None:
    rows = [row(7, 3, 1, 1, "a"), row(7, 4, 1, 2, "a"), row(8, 3, 1, 2, "a"), row(8, 4, 1, 2, "b")]
    made = changes(table(ID, NAME), rows)
    # The second one has the bit of the key set, but the key is the same.
    assert made.ops.to_pylist() == [Op.DELETE, Op.UPDATE, Op.UPDATE]
    assert made.rows.column("id").to_pylist() == [1, 2, 2]


def moves(*pairs: tuple[int, int, str], at: int = 7) -> list[Any]:
    """Rows of one transaction in which keys change: from, to, and what is beside the key."""
    return [row(at, op, 1, key, name) for old, new, name in pairs for op, key in ((3, old), (4, new))]


def test_a_row_that_goes_from_a_key_that_was_taken_is_the_one_from_before() -> None:
    made = changes(table(ID, NAME), moves((1, 2, "a"), (2, 3, "b"), (3, 1, "c")))
    assert list(zip(made.ops.to_pylist(), made.rows.column("id").to_pylist(), strict=True)) == [
        (Op.DELETE, 1),
        (Op.UPDATE, 2),
        (Op.UPDATE, 3),
        (Op.UPDATE, 1),
    ]


def test_a_row_that_goes_from_a_key_of_another_transaction_is_the_only_one() -> None:
    made = changes(table(ID, NAME), [*moves((1, 2, "a")), *moves((2, 3, "b"), at=8)])
    assert made.ops.to_pylist() == [Op.DELETE, Op.UPDATE, Op.DELETE, Op.UPDATE]


def test_of_equal_rows_it_does_not_matter_which_has_gone() -> None:
    """1 to 2 and on to 3, or the one from before from 2 to 3: what 2 has stays as it is."""
    made = changes(table(ID, NAME), moves((1, 2, "a"), (2, 3, "a")))
    assert made.ops.to_pylist() == [Op.DELETE, Op.UPDATE]
    assert made.rows.column("id").to_pylist() == [1, 3]
    # Large values are not in these rows: they are those of 1 or of 2.
    rows = [(*r, None) for r in moves((1, 2, "a"), (2, 3, "a"))]
    with pytest.raises(ResyncRequired, match="large values") as caught:
        changes(table(ID, NAME, BODY), rows)
    assert caught.value.tables == (TABLE,)
    # A change between them was another statement: by then the key had one row.
    rows = [*moves((1, 2, "a")), row(7, 4, 2, 2, "b"), *moves((2, 3, "b"))]
    made = changes(table(ID, NAME), rows)
    assert made.ops.to_pylist() == [Op.DELETE, Op.UPDATE, Op.UPDATE, Op.DELETE, Op.UPDATE]


def test_keys_are_followed_from_page_to_page() -> None:
    reader = ChangeTable(table(ID, NAME).newest)
    reader.changes(moves((1, 2, "a")))
    made = reader.changes([row(7, 1, 3, 2, "b")])
    assert (made.ops.to_pylist(), made.rows.num_rows) == ([], 0)
    made = reader.changes([row(7, 1, 3, 2, "a")])
    assert made.ops.to_pylist() == [Op.DELETE]


def test_more_changed_keys_than_can_be_followed_ask_for_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keymoves, "MOST", 2)
    changes(table(ID, NAME), [*moves((1, 11, "a"), (2, 12, "b")), *moves((3, 13, "c"), at=8)])
    with pytest.raises(ResyncRequired, match="more keys"):
        changes(table(ID, NAME), moves((1, 11, "a"), (2, 12, "b"), (3, 13, "c")))


def test_a_row_that_is_merged_over_one_that_goes_stays() -> None:
    rows = [row(7, 2, 3, 1, "new"), row(7, 1, 3, 1, "old"), row(7, 2, 3, 2, "x")]
    made = changes(table(ID, NAME), rows)
    assert made.ops.to_pylist() == [Op.UPDATE, Op.INSERT]
    assert made.rows.to_pylist() == [{"id": 1, "na]me": "new"}, {"id": 2, "na]me": "x"}]


CAME, WENT = row(7, 2, 3, 1, "x"), row(7, 1, 3, 1, "x")


def test_a_row_that_came_and_went_or_took_an_equal_ones_place_is_not_told() -> None:
    made = changes(table(ID, NAME), [CAME, row(7, 2, 3, 5, "x"), WENT])
    assert list(zip(made.ops.to_pylist(), made.rows.column("id").to_pylist(), strict=True)) == [(Op.INSERT, 5)]
    # An update between them was another statement: by then the key had one row.
    made = changes(table(ID, NAME), [CAME, row(7, 4, 2, 1, "y"), row(7, 1, 3, 1, "y")])
    assert made.ops.to_pylist() == [Op.INSERT, Op.UPDATE, Op.DELETE]
    # So it had before an insert, where the one from before was told to have gone.
    reader = ChangeTable(table(ID, NAME).newest)
    assert reader.changes([WENT, CAME]).ops.to_pylist() == [Op.DELETE, Op.INSERT]
    assert reader.changes([WENT]).ops.to_pylist() == [Op.DELETE]


def test_large_values_of_rows_that_are_equal_otherwise() -> None:
    xml = Definition("body", 3, "xml")
    came, other = row(7, 2, 7, 1, "a", "x"), row(7, 1, 7, 1, "a", "y")
    assert changes(table(ID, NAME, BODY), [came, row(7, 1, 7, 1, "a", "x")]).rows.num_rows == 0
    for body, went in ((BODY, other), (xml, other), (xml, row(7, 1, 7, 1, "a", "x"))):
        with pytest.raises(ResyncRequired, match="large values"):
            changes(table(ID, NAME, body), [came, went])
    clustered = table(ID, NAME, xml, clustered=(1,))
    assert changes(clustered, [came, other]).ops.to_pylist() == [Op.INSERT, Op.DELETE]


def test_what_an_earlier_page_inserted_and_a_later_one_deletes_asks_for_a_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The insert was told on. Whether the key had a row before it nobody knows, whatever the rows' values are."""
    for went in (WENT, row(7, 1, 3, 1, "y"), row(7, 3, 1, 1, "x")):
        reader = ChangeTable(table(ID, NAME).newest)
        reader.changes([row(7, 2, 3, 2, "x"), CAME])
        rest = [went, row(7, 4, 1, 9, "x")] if went[1] == 3 else [went]
        with pytest.raises(ResyncRequired, match="too far apart"):
            reader.changes(rest)
    # Not where it was another key, another transaction, or a page that tells of an update first.
    reader = ChangeTable(table(ID, NAME).newest)
    reader.changes([CAME])
    assert reader.changes([row(7, 1, 3, 2, "x"), row(7, 2, 3, 3, "x")]).ops.to_pylist() == [Op.DELETE, Op.INSERT]
    assert reader.changes([row(7, 4, 2, 3, "y"), row(7, 1, 3, 3, "y")]).ops.to_pylist() == [Op.UPDATE, Op.DELETE]
    assert reader.changes([row(8, 1, 3, 1, "x")]).ops.to_pylist() == [Op.DELETE]
    # Behind more than are remembered, any row that goes may be one of them. Those that come are no question.
    monkeypatch.setattr(keymoves, "MOST_INSERTED", 2)
    for n in range(4):
        reader.changes([row(9, 2, 3, n, "x")])
    with pytest.raises(ResyncRequired, match="too far apart"):
        reader.changes([row(9, 1, 3, 7, "x")])


@pytest.mark.parametrize(
    ("clustered", "ordered", "sure"),
    [((1,), True, True), ((1,), False, False), ((), True, False), ((2,), True, False), ((1, 2), True, False)],
)
def test_a_table_that_is_clustered_by_its_key_has_one_row_of_a_key_at_a_time(
    clustered: tuple[int, ...], ordered: bool, sure: bool
) -> None:
    catalog = table(ID, NAME, clustered=clustered, ordered=ordered)
    assert catalog.newest.settled is sure
    reader = ChangeTable(catalog.newest)
    assert reader.changes([CAME]).ops.to_pylist() == [Op.INSERT]
    if sure:
        assert reader.changes([WENT]).ops.to_pylist() == [Op.DELETE]
        return
    with pytest.raises(ResyncRequired):
        reader.changes([WENT])


def test_a_row_that_is_merged_over_one_that_moves_away_stays() -> None:
    """What has its key in the replica already is no insert."""
    made = changes(table(ID, NAME), [row(7, 2, 3, 1, "new"), *moves((1, 5, "old"))])
    assert list(zip(made.ops.to_pylist(), made.rows.to_pylist(), strict=True)) == [
        (Op.UPDATE, {"id": 1, "na]me": "new"}),
        (Op.UPDATE, {"id": 5, "na]me": "old"}),
    ]


def test_a_large_value_may_be_left_out_beside_a_row_whose_place_was_taken() -> None:
    rows = [row(7, 2, 7, 1, "new", "x"), row(7, 1, 7, 1, "old", "y"), row(7, 2, 7, 5, "old", None)]
    with pytest.raises(ResyncRequired, match="may have changed"):
        changes(table(ID, NAME, BODY), rows)


def test_moved_rows_are_told_apart_from_page_to_page_without_keeping_them() -> None:
    reader = ChangeTable(table(ID, NAME).newest)
    tracemalloc.start()
    try:
        reader.changes(moves(*((n, n + 1000, f"{n:05}" * 1000) for n in range(1000))))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert reader.changes([row(7, 1, 3, 1001, "another")]).rows.num_rows == 0
    # That was the one from before: the one that goes now is the one that came.
    assert reader.changes([row(7, 1, 3, 1001, f"{1:05}" * 1000)]).ops.to_pylist() == [Op.DELETE]
    with pytest.raises(ResyncRequired, match="to and fro"):
        reader.changes([row(7, 1, 3, 1002, f"{2:05}" * 1000)])


def test_exchanged_keys_beside_large_values_that_were_left_out_ask_for_a_reload() -> None:
    swap = [
        row(7, 3, 1, 1, "a", None),
        row(7, 4, 1, 2, "a", None),
        row(7, 3, 1, 2, "b", None),
        row(7, 4, 1, 1, "b", None),
    ]
    with pytest.raises(ResyncRequired, match="exchanged"):
        changes(table(ID, NAME, BODY), swap)


def test_a_row_before_an_update_needs_the_row_after() -> None:
    for rows in ([row(7, 3, 1, 1, "a")], [row(7, 3, 1, 1, "a"), row(8, 2, 3, 2, "b")]):
        with pytest.raises(DecodeError):
            changes(table(ID, NAME), rows)


def test_unknown_operations_are_never_passed_over() -> None:
    with pytest.raises(DecodeError):
        changes(table(ID, NAME), [row(7, 5, 1, 1, "a")])


def test_large_values_that_an_update_left_as_they_were_are_told_by_the_mask() -> None:
    rows = [
        row(7, 2, 7, 1, "a", "x"),
        row(8, 4, 2, 1, "b", None),
        row(9, 4, 4, 1, "b", None),
        row(9, 4, 6, 1, "c", "y"),
    ]
    made = changes(table(ID, NAME, BODY), rows)
    assert list(made.unchanged) == ["body"]
    assert made.unchanged["body"].to_pylist() == [False, True, False, False]
    assert made.base is None


def test_the_row_to_keep_large_values_from_is_the_one_before_its_key_changed() -> None:
    rows = [row(7, 3, 1, 1, "a", None), row(7, 4, 1, 2, "a", None), row(8, 4, 2, 5, "b", None)]
    made = changes(table(ID, NAME, BODY), rows)
    assert made.ops.to_pylist() == [Op.DELETE, Op.UPDATE, Op.UPDATE]
    assert made.unchanged["body"].to_pylist() == [False, True, True]
    assert made.base.to_pylist() == [{"id": 1}, {"id": 1}, {"id": 5}]


def test_a_mask_has_the_first_column_in_its_last_byte() -> None:
    many = [Definition(f"c{n}", n, "int") for n in range(1, 10)]
    body = Definition("body", 10, "nvarchar", MAX)
    catalog = table(*many, body)
    wide = [(lsn(7), 4, mask, 1, lsn(7), *range(9), None) for mask in (b"\x01\xff", b"\x02\x00")]
    assert changes(catalog, wide).unchanged["body"].to_pylist() == [True, False]
    with pytest.raises(DecodeError):
        changes(catalog, [(lsn(7), 4, b"\x01", 1, lsn(7), *range(9), None)])


def test_a_key_change_told_as_delete_and_insert_may_have_left_large_values_out() -> None:
    catalog = table(ID, NAME, BODY)
    reader = ChangeTable(catalog.newest)
    with pytest.raises(ResyncRequired) as caught:
        reader.changes([row(7, 1, 7, 1, "a", None), row(7, 2, 7, 2, "a", None)])
    assert caught.value.tables == (TABLE,)
    # Also when they are on two pages; not when the value is there, nor in two transactions.
    reader = ChangeTable(catalog.newest)
    reader.changes([row(8, 1, 7, 1, "a", None)])
    with pytest.raises(ResyncRequired):
        reader.changes([row(8, 2, 7, 2, "a", None)])
    reader.changes([row(9, 1, 7, 1, "a", None), row(9, 2, 7, 2, "a", "x"), row(10, 2, 7, 3, "a", None)])


def test_a_table_without_a_key_is_a_multiset_of_whole_rows() -> None:
    catalog = table(ID, NAME, key=())
    assert catalog.newest.schema.identity is Identity.ROW
    made = changes(catalog, [row(7, 2, 3, 1, "a"), row(8, 3, 2, 1, "a"), row(8, 4, 2, 1, "b"), row(9, 1, 3, 1, "b")])
    assert made.ops.to_pylist() == [Op.INSERT, Op.DELETE, Op.INSERT, Op.DELETE]


def test_large_values_without_a_key_ask_for_reloads() -> None:
    layout = table(ID, BODY, key=()).newest
    assert layout.schema.identity is Identity.RELOAD
    assert "no key" in layout.unstreamed
    assert "[body]" not in ChangeTable(layout).select(10, 1, 2)


def test_statements_are_bounded_ordered_and_quoted() -> None:
    statement = ChangeTable(table(ID, NAME).newest).select(500, 7, 0xFF)
    assert statement.startswith("SELECT TOP (500) [__$start_lsn], [__$operation], [__$update_mask], [__$command_id], ")
    assert "[id], CONVERT(nvarchar(20), [na]]me]) FROM [cdc].[dbo_t_CT]" in statement
    assert "[__$start_lsn] > 0x00000000000000000007 AND [__$start_lsn] <= 0x000000000000000000FF" in statement
    assert "([__$operation] <> 3 OR CONVERT(int, SUBSTRING([__$update_mask], " in statement
    assert statement.endswith("ORDER BY [__$start_lsn], [__$command_id], [__$seqval], [__$operation]")


def test_a_large_transaction_is_read_on_behind_a_place() -> None:
    place = Place.of(row(7, 4, 1, 1, "a"))
    reader = ChangeTable(table(ID, NAME, key=()).newest)
    assert "[__$command_id]" not in reader.select_transaction(5, 7, None).partition("WHERE")[2].partition("ORDER")[0]
    statement = reader.select_transaction(5, 7, place)
    sequence = "0x00000000000000000007"
    inner = f"[__$seqval] > {sequence} OR ([__$seqval] = {sequence} AND [__$operation] > 4)"
    assert f"[__$start_lsn] = {sequence} AND ([__$command_id] > 1 OR ([__$command_id] = 1 AND ({inner})))" in statement
    old = ChangeTable(table(ID, NAME, key=(), ordered=False).newest).select_transaction(5, 7, place)
    assert "__$command_id" not in old
    assert f"AND ({inner}) ORDER BY [__$start_lsn], [__$seqval], [__$operation]" in old


class TestComputedColumns:
    def layout(self, text: str, *, deterministic: bool = True, columns: Sequence[Definition] = (ID, NAME, BODY)) -> Any:
        return table(*columns, TOTAL, computed={4: Computed(text, deterministic)}).newest

    def test_they_are_computed_anew_over_the_change_table(self) -> None:
        layout = self.layout("([id]*(2))")
        assert layout.schema.column_names == ("id", "na]me", "body", "total")
        assert layout.fields[3].change_sql == "([id]*(2))"
        assert layout.fields[3].table_sql == "[total]"
        assert layout.fields[3].ordinals == (1,)
        assert layout.missing == ()

    def test_names_in_brackets_are_columns_but_not_in_literals(self) -> None:
        layout = self.layout("(len([na]]me])+charindex('[body]',[na]]me]))")
        assert layout.fields[3].ordinals == (2,)
        assert layout.schema.identity is Identity.KEY

    def test_what_change_rows_may_lack_asks_for_reloads(self) -> None:
        layout = self.layout("(len([body]))")
        assert layout.schema.identity is Identity.RELOAD
        assert "body" in layout.unstreamed

    @pytest.mark.parametrize(
        ("text", "deterministic", "why"),
        [("(getdate())", False, "not deterministic"), ("", True, "VIEW DEFINITION"), ("([later]+(1))", True, "later")],
    )
    def test_what_cannot_be_computed_is_left_out_with_its_reason(
        self, text: str, deterministic: bool, why: str
    ) -> None:
        later = Definition("later", 5, "int")
        catalog = table(ID, TOTAL, later, computed={4: Computed(text, deterministic)})
        only = instance(ID)
        layout = catalog.layout(only)
        assert layout.schema.column_names == ("id",)
        reasons = dict(layout.missing)
        assert why in reasons["total"]
        assert "does not hold it" in reasons["later"]
