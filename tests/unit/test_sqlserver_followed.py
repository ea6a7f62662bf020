"""Which capture instance a followed table is read by, and what becomes of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from connectors.sqlserver.catalog import CatalogTable
from connectors.sqlserver.followed import CHANGED, GAP, GONE, RECREATED, Followed, Following
from connectors.sqlserver.inspect import compare
from connectors.sqlserver.instances import Instance, read_instances, read_marks
from connectors.sqlserver.position import CdcPosition
from connectors.sqlserver.types import Definition
from engine.schema import TableId

ID, V, EXTRA = Definition("id", 1, "int"), Definition("v", 2, "int"), Definition("extra", 3, "int")


def instance(id: int, start: int, *columns: Definition) -> Instance:
    ordinals = {d.id: n for n, d in enumerate(columns, 1)}
    return Instance(id, 10, f"i{id}", start, ordinals, {d.id: d.name for d in columns})


def catalog(*instances: Instance, columns: tuple[Definition, ...] = (ID, V), object_id: int = 10) -> CatalogTable:
    newest_first = tuple(sorted(instances, key=lambda i: i.age, reverse=True))
    return CatalogTable(TableId("dbo", "t"), object_id, columns, {}, ((1,),), newest_first)


OLD = instance(100, 50, ID, V)
TABLE = catalog(OLD)


def following(since: int = 0) -> Following:
    made = Following([Followed(TABLE.newest.schema, since)])
    made.learn([TABLE])
    return made


def reader_of(made: Following) -> int:
    (followed,) = made.tables
    assert followed.reader is not None
    return followed.reader.instance.id


def test_the_newest_instance_that_reaches_back_is_read() -> None:
    made = following()
    assert made.select(60) == []
    made.learn([catalog(OLD, instance(101, 70, ID, V))])
    assert made.turns(60) == [70]
    assert made.select(69) == []
    assert reader_of(made) == 100
    assert made.select(70) == []
    assert reader_of(made) == 101


def test_a_second_instance_with_more_columns_is_taken_over_where_it_begins() -> None:
    made = following()
    made.learn([catalog(OLD, instance(101, 70, ID, V, EXTRA), columns=(ID, V, EXTRA))])
    assert made.select(69) == []
    (change,) = made.select(70)
    assert change.position == CdcPosition(70)
    assert (change.reload, change.reason) == (True, CHANGED)
    assert change.new is not None
    assert change.new.column_names == ("id", "v", "extra")
    assert made.tables == []


def test_a_dropped_column_goes_in_place() -> None:
    made = following()
    made.learn([catalog(OLD, columns=(ID,))])
    (change,) = made.select(60)
    assert not change.reload
    assert change.new is not None
    assert change.new.column_names == ("id",)
    assert made.select(60) == []


def test_a_low_end_ahead_of_the_position_is_a_gap() -> None:
    made = following()
    (change,) = made.select(49)
    assert (change.reload, change.reason) == (True, GAP)
    # A table that is loaded later is not read before.
    assert following(since=50).select(49) == []


def test_what_is_lost_while_it_is_read_is_found() -> None:
    made = following()
    made.select(60)
    (followed,) = made.tables
    assert made.lost({100: 60}, 60) == []
    assert made.lost({100: 61}, 60) == [followed]
    assert made.lost({}, 60) == [followed]


def test_tables_that_are_gone_and_tables_made_again() -> None:
    made = following()
    made.learn([])
    (change,) = made.select(60)
    assert (change.new, change.reason) == (None, GONE)
    made = following()
    again = catalog(replace(instance(102, 80, ID, V), source_id=11), object_id=11)
    made.learn([again])
    (change,) = made.select(60)
    assert (change.new, change.reload, change.reason) == (again.newest.schema, True, RECREATED)
    (found,) = compare([TABLE.newest.schema], [again.newest.schema], CdcPosition(60))
    assert (found.new, found.reload) == (again.newest.schema, True)


def test_switching_capture_off_ends_replication_of_the_table() -> None:
    made = following()
    made.learn([catalog()])
    (change,) = made.select(60)
    assert (change.new, change.reason) == (None, GONE)


def test_a_rename_keeps_the_table() -> None:
    made = following()
    renamed = replace(TABLE, id=TableId("dbo", "u"))
    made.learn([renamed])
    (change,) = made.select(60)
    assert change.new is not None
    assert (change.new.id, change.reload) == (TableId("dbo", "u"), False)
    (found,) = compare([TABLE.newest.schema], [renamed.newest.schema], CdcPosition(60))
    assert (found.new, found.reload) == (renamed.newest.schema, False)


def test_rows_at_a_time_follow_their_size() -> None:
    followed = Followed(TABLE.newest.schema)
    followed.measured(1000, 100, 4 << 20)
    assert followed.rows == 4000
    followed.measured(4, 400 << 20, 4 << 20)
    assert followed.rows == 2
    followed.measured(0, 0, 4 << 20)
    assert followed.rows == 2


class FakeConnection:
    """Answers the queries of `connectors.sqlserver.instances`. Test data: rows by the view that is asked."""

    def __init__(self, starts: dict[int, bytes | None]) -> None:
        self._starts = starts

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        if "cdc.captured_columns" in statement:
            return [(i, 1, "id", 1) for i in self._starts]
        if "sys.columns" in statement:
            return [(i,) for i in self._starts]
        return [(i, 10, f"i{i}", start, dt.datetime(2024, 1, 1)) for i, start in self._starts.items()]

    def results(self, statements: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        assert len(statements) == 2
        yield list(self._starts.items())
        yield [(None,)]


def test_an_instance_without_a_low_end_is_not_in_force_yet() -> None:
    one = (70).to_bytes(10)
    before: Any = FakeConnection({100: one, 101: None, 102: bytes(10)})
    assert [(i.id, i.start) for i in read_instances(before)] == [(100, 70)]
    after: Any = FakeConnection({100: one, 101: one})
    assert read_marks(before).definitions != read_marks(after).definitions


class MeanwhileConnection(FakeConnection):
    """Between one query and the next, an instance is made and another one is disabled."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        rows = super().query(statement)
        self._starts.pop(100, None)
        self._starts[101] = (80).to_bytes(10)
        return rows


def test_an_instance_that_comes_or_goes_meanwhile_is_none_without_columns() -> None:
    """Its table would look like one that has no column to replicate, and be dropped from the replica."""
    connection: Any = MeanwhileConnection({99: (60).to_bytes(10), 100: (70).to_bytes(10)})
    assert [(i.id, dict(i.ordinals)) for i in read_instances(connection)] == [(99, {1: 1})]


def test_the_newest_instance_is_the_one_made_last_wherever_clean_up_has_moved_the_low_ends() -> None:
    older = replace(instance(300, 90, ID, V), created=dt.datetime(2024, 1, 1))
    newer = replace(instance(200, 80, ID, V, EXTRA), created=dt.datetime(2024, 1, 2))
    assert catalog(older, newer).newest.schema.column_names == catalog(newer, older).newest.schema.column_names
    assert catalog(older, newer, columns=(ID, V, EXTRA)).instances[0] is newer
