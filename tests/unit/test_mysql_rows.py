"""Row events by hand: headers, walks, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from connectors.mysql import tablemap as t
from connectors.mysql.rowheaders import parse_row_headers
from connectors.mysql.rows import DELETE, INSERT, UPDATE, Layout, RowRun, decode_rows
from connectors.mysql.tablemap import TableMap, WireColumn
from connectors.mysql.types import Definition
from engine.changes import Op, TableChanges
from engine.errors import DecodeError, ResyncRequired, UnsupportedValue
from tests.fixtures.mysql import encoder as e
from tests.support.mysql_rowlog import schema_of

ID = (WireColumn(t.LONG, 0, nullable=False), Definition("id", "int", "int", nullable=False))
NAME = (WireColumn(t.VARCHAR, 40, nullable=True), Definition("name", "varchar", "varchar(10)", character_set="utf8mb4"))
SIZE = (WireColumn(t.SHORT, 0, nullable=True), Definition("size", "smallint", "smallint"))
PLAIN = [ID, NAME, SIZE]


def layout_for(columns=PLAIN, key: tuple[str, ...] = ("id",), wire: TableMap | None = None) -> Layout:
    definitions = tuple(d for _, d in columns)
    table_map = wire or TableMap(7, "db", "t", tuple(w for w, _ in columns))
    return Layout(table_map, schema_of("t", definitions, key), tuple(range(len(columns))), definitions)


def image(*row: object, columns=PLAIN, present=None, padding: bool = False) -> bytes:
    return e.image([w for w, _ in columns], row, present, padding=padding)


def headers(*bodies: tuple[int, bytes]):
    data = b"".join(body for _, body in bodies)
    ends = np.cumsum([len(body) for _, body in bodies])
    starts = ends - [len(body) for _, body in bodies]
    return parse_row_headers(data, np.array([kind for kind, _ in bodies], np.uint8), starts, ends)


def decoded(layout: Layout, *bodies: tuple[int, bytes]):
    found = headers(*bodies)
    (changes,) = decode_rows(layout, found.run(np.arange(len(found)), len(layout.map.columns)))
    return changes


def pairs(changes) -> list[tuple[str, tuple[object, ...]]]:
    return [
        (Op(op).name, tuple(row.values()))
        for op, row in zip(changes.ops.to_pylist(), changes.rows.to_pylist(), strict=True)
    ]


def test_headers_of_both_versions() -> None:
    one = e.rows_body(INSERT, 3, [], table_id=(1 << 48) - 2, version=1)
    two = e.rows_body(UPDATE, 3, [], version=2, extra=b"\0\x05abc")
    wide = e.rows_body(DELETE, 300, [], version=2)
    found = headers((23, one), (31, two), (32, wide))
    assert found.table_ids.tolist() == [(1 << 48) - 2, 7, 7]
    assert found.kinds.tolist() == [INSERT, UPDATE, DELETE]
    assert found.columns.tolist() == [3, 3, 300]
    assert found.flags.tolist() == [1, 1, 1]
    assert found.starts.tolist() == found.ends.tolist()


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_header_that_is_cut_short(cut: int) -> None:
    body = e.rows_body(INSERT, 3, [], version=2)
    with pytest.raises(DecodeError):
        headers((30, body[:-cut]))


def test_headers_that_make_no_sense() -> None:
    body = bytearray(e.rows_body(INSERT, 3, [image(1, b"a", 2)]))
    for at, value, what in ((8, 1, "impossible"), (10, 0, "without columns"), (10, 255, "not understood")):
        broken = bytearray(body)
        broken[at] = value
        with pytest.raises(DecodeError, match=what):
            headers((30, bytes(broken)))
    with pytest.raises(DecodeError, match="not a row event"):
        headers((19, bytes(body)))
    with pytest.raises(DecodeError, match="column count"):
        headers((30, bytes(body))).run(np.arange(1), 4)


@pytest.mark.parametrize("count", [1, 3, 39, 40, 41, 100])
def test_few_and_many_events_of_many_rows(count: int) -> None:
    rows = [(i, None if i % 3 == 0 else b"x" * (i % 7), None if i % 5 == 0 else i) for i in range(count * 4)]
    bodies = [(30, e.rows_body(INSERT, 3, [image(*r) for r in rows[i::count]])) for i in range(count)]
    changes = decoded(layout_for(), *bodies)
    wanted = [r for i in range(count) for r in rows[i::count]]
    assert [v for _, v in pairs(changes)] == [(i, None if n is None else n.decode(), s) for i, n, s in wanted]


def test_kinds_and_bitmaps_in_turn_keep_their_order() -> None:
    some = [True, False, True]
    bodies = [
        (30, e.rows_body(INSERT, 3, [image(1, b"a", 1), image(2, b"b", 2)])),
        (31, e.rows_body(UPDATE, 3, [image(1, b"a", 1) + image(1, b"aa", 1)])),
        (31, e.rows_body(UPDATE, 3, [image(2, None, None, present=[True, False, False]) + image(3, None, 9, present=some)],
                         before=[True, False, False], after=some)),
        (32, e.rows_body(DELETE, 3, [image(1, b"aa", 1)])),
        (30, e.rows_body(INSERT, 3, [image(1, None, None)])),
    ]  # fmt: skip
    changes = decoded(layout_for(), *bodies)
    assert pairs(changes) == [
        ("INSERT", (1, "a", 1)),
        ("INSERT", (2, "b", 2)),
        ("UPDATE", (1, "aa", 1)),
        ("DELETE", (2, None, None)),
        ("UPDATE", (3, None, 9)),
        ("DELETE", (1, None, None)),
        ("INSERT", (1, None, None)),
    ]
    assert {n: np.flatnonzero(m).tolist() for n, m in changes.unchanged.items()} == {"name": [4]}
    assert changes.base.column(0).to_pylist() == [1, 2, 1, 2, 2, 1, 1]


def test_the_old_row_gives_what_the_new_one_leaves_out() -> None:
    after = [False, False, True]
    body = e.rows_body(UPDATE, 3, [image(1, b"a", 1) + image(None, None, 5, present=after)], after=after)
    for key in (("id",), ()):
        changes = decoded(layout_for(key=key), (31, body))
        assert pairs(changes)[-1][1] == (1, "a", 5)
        assert changes.unchanged == {}


def test_a_row_without_its_key_asks_for_a_reload() -> None:
    present = [False, True, True]
    body = e.rows_body(DELETE, 3, [image(None, b"a", 1, present=present)], before=present)
    with pytest.raises(ResyncRequired):
        decoded(layout_for(), (32, body))


def test_a_null_in_the_key_is_no_row() -> None:
    with pytest.raises(DecodeError, match="key"):
        decoded(layout_for(), (30, e.rows_body(INSERT, 3, [image(None, b"a", 1)])))


def test_generated_columns_left_out_by_mariadb() -> None:
    made = Definition("size", "smallint", "smallint", extra="STORED GENERATED", expression="`id` + 1", mariadb=True)
    columns = [ID, NAME, (SIZE[0], made)]
    kept = [True, True, False]

    def update(
        old: bytes, new: bytes, before: list[bool] | None = None, after: list[bool] | None = None
    ) -> TableChanges:
        body = e.rows_body(UPDATE, 3, [old + new], version=1, before=before, after=after or kept)
        return decoded(layout_for(columns, key=("name",)), (24, body))

    whole = image(1, b"a", 2)
    same = update(whole, image(1, b"a", None, present=kept))
    assert pairs(same) == [("UPDATE", (1, "a", 2))]
    assert same.unchanged == {}
    moved = update(whole, image(1, b"b", None, present=kept))
    assert pairs(moved)[-1] == ("UPDATE", (1, "b", 2))
    # Neither image says it: it stays what it was.
    assert update(image(1, b"a", None, present=kept), image(1, b"a", None, present=kept), kept).unchanged[
        "size"
    ].to_pylist() == [True]
    named = [False, True, False]
    assert set(
        update(image(None, b"a", None, present=named), image(None, b"a", None, present=named), named, named).unchanged
    ) == {"id", "size"}
    for old, before in (
        (whole, None),
        (image(1, b"a", None, present=kept), kept),
        (image(None, b"a", None, present=named), named),
    ):
        with pytest.raises(ResyncRequired, match="size is computed from"):
            update(old, image(2, b"a", None, present=kept), before)
    insert = e.rows_body(INSERT, 3, [image(1, b"a", None, present=kept)], version=1, after=kept)
    with pytest.raises(ResyncRequired, match="left column size out"):
        decoded(layout_for(columns), (23, insert))
    delete = e.rows_body(DELETE, 3, [image(1, b"a", None, present=kept)], version=1, before=kept)
    assert pairs(decoded(layout_for(columns), (25, delete))) == [("DELETE", (1, None, None))]


def test_excluded_columns_are_walked_over() -> None:
    definitions = tuple(d for _, d in PLAIN)
    table = schema_of("t", [definitions[0], definitions[2]])
    layout = Layout(TableMap(7, "db", "t", tuple(w for w, _ in PLAIN)), table, (0, 2), definitions)
    assert pairs(decoded(layout, (30, e.rows_body(INSERT, 3, [image(1, b"secret", 5)])))) == [("INSERT", (1, 5))]


def test_a_type_that_is_not_understood_asks_for_a_reload() -> None:
    columns = [ID, (WireColumn(200, 0, nullable=True), Definition("x", "plugin", "plugin"))]
    body = e.rows_body(INSERT, 2, [b"\0\1\0\0\0abc"])
    with pytest.raises(ResyncRequired, match="column x"):
        decoded(layout_for(columns), (30, body))


@pytest.mark.parametrize(
    "wire, definition, data",
    [
        (WireColumn(t.NEWDECIMAL, 4 << 8, True), Definition("v", "decimal", "decimal", precision=4), b"\xff\xff"),
        (WireColumn(t.DATETIME2, 0, True), Definition("v", "datetime", "datetime"), b"\0\0\0\0\1"),
        (WireColumn(t.DATETIME2, 0, True), Definition("v", "datetime", "datetime"), b"\x99\xb2\x42\xff\xff"),
        (WireColumn(t.TIME2, 2, True), Definition("v", "time", "time(2)", fsp=2), b"\x80\0\0\x64"),
        (WireColumn(t.TIME2, 0, True), Definition("v", "time", "time"), b"\xbf\xff\xff"),
        (WireColumn(t.ENUM, 1, True), Definition("v", "enum", "enum('a')"), b"\x02"),
        (WireColumn(t.SET, 1, True), Definition("v", "set", "set('a')"), b"\x02"),
        (WireColumn(t.VARCHAR, 9, True), Definition("v", "varchar", "varchar(3)", character_set="utf8mb4"), b"\1\xff"),
        (WireColumn(t.VARCHAR, 9, True), Definition("v", "varchar", "varchar(3)", character_set="klingon"), b"\1a"),
        (WireColumn(t.STRING, 2, True), Definition("v", "binary", "binary(2)", octets=2), b"\3abc"),
        (WireColumn(t.GEOMETRY, 1, True), Definition("v", "point", "point"), b"\3abc"),
        (WireColumn(t.VARCHAR_COMPRESSED, 9, True), Definition("v", "varbinary", "varbinary(9)"), b"\2\x50a"),
        (WireColumn(t.VARCHAR_COMPRESSED, 9, True), Definition("v", "varbinary", "varbinary(9)"), b"\3\x81\1a"),
    ],
)
def test_values_that_are_none_of_their_type(wire: WireColumn, definition: Definition, data: bytes) -> None:
    body = e.rows_body(INSERT, 2, [b"\0\1\0\0\0" + data])
    with pytest.raises(DecodeError) as caught:
        decoded(layout_for([ID, (wire, definition)]), (30, body))
    assert caught.value.__cause__ is None


def test_a_short_vector_asks_for_text() -> None:
    wire, definition = WireColumn(t.VECTOR, 4, True), Definition("v", "vector", "vector(3)")
    body = e.rows_body(INSERT, 2, [image(1, b"\0\0\x80?" * 2, columns=[ID, (wire, definition)])])
    with pytest.raises(UnsupportedValue) as caught:
        decoded(layout_for([ID, (wire, definition)]), (30, body))
    assert caught.value.columns == ("v",)


def test_an_empty_run_and_events_without_rows() -> None:
    layout = layout_for()
    empty = np.zeros(0, np.int64)
    numbers = np.zeros(0, np.int32)
    assert decode_rows(layout, RowRun(b"", empty, empty, np.zeros(0, np.int8), numbers, numbers, [])) == []
    found = headers((30, e.rows_body(INSERT, 3, [])))
    assert decode_rows(layout, found.run(np.arange(1), 3)) == []


def test_an_event_that_carries_no_column_is_refused() -> None:
    nothing = [False, False, False]
    found = headers((30, e.rows_body(INSERT, 3, [b"\0"], after=nothing)))
    with pytest.raises(DecodeError):
        decode_rows(layout_for(), found.run(np.arange(1), 3))
