"""Rows through an independent encoder and back, and what corruption can and cannot do."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.mysql import tablemap as t
from connectors.mysql.rowheaders import parse_row_headers
from connectors.mysql.rows import DELETE, INSERT, UPDATE, Layout, decode_rows
from connectors.mysql.tablemap import TableMap, WireColumn
from connectors.mysql.types import Definition
from engine.changes import Op, TableChanges
from engine.errors import DecodeError, EngineError, ResyncRequired
from tests.fixtures.mysql import encoder as e
from tests.support.mysql_rowlog import schema_of

UTC = dt.UTC


def same(value: Any) -> Any:
    return value


def fixed_text(scale: int) -> Callable[[Any], str]:
    return lambda v: f"{v:.{scale}f}" if v else f"{0:.{scale}f}"


@dataclass(frozen=True)
class Kind:
    """A column type: as the wire and as the catalog have it, values to encode, and what must come out."""

    wire: WireColumn
    definition: Definition
    values: st.SearchStrategy[Any]
    out: Callable[[Any], Any] = same
    fsp: int = 0


def column(
    type: int, meta: int, data_type: str, column_type: str = "", *, unsigned: bool | None = None, **rest: Any
) -> tuple[WireColumn, Definition]:
    return (
        WireColumn(type, meta, nullable=True, unsigned=unsigned),
        Definition("c", data_type, column_type or data_type, **rest),
    )


def integers() -> list[Kind]:
    found = []
    for code, name, width in (
        (t.TINY, "tinyint", 1), (t.SHORT, "smallint", 2), (t.INT24, "mediumint", 3), (t.LONG, "int", 4), (t.LONGLONG, "bigint", 8),
    ):  # fmt: skip
        half = 1 << 8 * width - 1
        found.append(Kind(*column(code, 0, name), st.integers(-half, half - 1)))
        found.append(Kind(*column(code, 0, name, f"{name} unsigned"), st.integers(0, 2 * half - 1)))
        found.append(Kind(*column(code, 0, name, unsigned=False), st.integers(-half, half - 1)))
    return found


def scaled(scale: int) -> Callable[[int], Decimal]:
    return lambda n: Decimal(n).scaleb(-scale, CONTEXT)


def span(step: int) -> Callable[[int], dt.timedelta]:
    return lambda n: dt.timedelta(microseconds=n * step)


def micros(value: dt.timedelta) -> int:
    return value // dt.timedelta(microseconds=1)


def zoned(value: dt.datetime) -> dt.datetime:
    return value.replace(tzinfo=UTC)


def decimals() -> list[Kind]:
    found = []
    for precision, scale in ((1, 0), (5, 5), (12, 2), (18, 9), (19, 0), (38, 10), (38, 38), (65, 30), (40, 0)):
        top = 10**precision - 1
        values = st.integers(-top, top).map(scaled(scale))
        pair = column(t.NEWDECIMAL, precision << 8 | scale, "decimal", precision=precision, scale=scale)
        out = fixed_text(scale) if precision > 38 else same
        found.append(Kind(*pair, values, out))
    return found


CONTEXT = Context(prec=80)
DATES = st.dates(dt.date(1, 1, 1), dt.date(9999, 12, 31))


def cut(fsp: int):
    """Keep as many digits of a second as the column does."""
    step = 10 ** (6 - fsp)
    return lambda v: v.replace(microsecond=v.microsecond // step * step)


def temporals() -> list[Kind]:
    found = [
        Kind(*column(t.DATE, 0, "date"), DATES),
        Kind(*column(t.YEAR, 0, "year"), st.integers(1901, 2155) | st.just(0)),
    ]
    moments = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999))
    instants = st.datetimes(dt.datetime(1970, 1, 1, 0, 0, 1), dt.datetime(2106, 2, 7, 6, 28, 15, 999999))
    seconds = 838 * 3600 + 59 * 60 + 59
    for fsp in range(7):
        step = 10 ** (6 - fsp)
        spans = st.integers(-seconds * 10**fsp, seconds * 10**fsp).map(span(step))
        exact = moments.map(cut(fsp))
        found += [
            Kind(*column(t.DATETIME2, fsp, "datetime", fsp=fsp), exact),
            Kind(*column(t.DATETIME, 0, "datetime", fsp=fsp), exact, fsp=fsp),
            Kind(*column(t.TIMESTAMP2, fsp, "timestamp", fsp=fsp), instants.map(cut(fsp)), zoned),
            Kind(*column(t.TIMESTAMP, 0, "timestamp", fsp=fsp), instants.map(cut(fsp)), zoned, fsp=fsp),
            Kind(*column(t.TIME2, fsp, "time", fsp=fsp), spans, micros),
            Kind(*column(t.TIME, 0, "time", fsp=fsp), spans, micros, fsp=fsp),
        ]
    return found


def strings() -> list[Kind]:
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    latin = st.text(st.sampled_from("aé€ÿ ~\x81"), max_size=12)
    found = [
        Kind(*column(kind, meta, name, character_set="utf8mb4"), texts.map(str.encode), bytes.decode)
        for kind, meta, name in (
            (t.VARCHAR, 40, "varchar"), (t.VARCHAR, 400, "varchar"), (t.STRING, 40, "char"), (t.STRING, 1020, "char"),
            (t.BLOB, 1, "tinytext"), (t.BLOB, 2, "text"), (t.BLOB, 3, "mediumtext"), (t.BLOB, 4, "longtext"),
        )
    ]  # fmt: skip
    holes = {c: bytes([ord(c)]) for c in "\x81"}

    def to_latin1(value: str) -> bytes:
        return b"".join(holes.get(c) or c.encode("cp1252") for c in value)

    def from_latin1(value: bytes) -> str:
        return "".join("\x81" if b == 0x81 else bytes([b]).decode("cp1252") for b in value)

    blobs = st.binary(max_size=30)
    found += [
        Kind(*column(t.VARCHAR, 40, "varchar", character_set="latin1"), latin.map(to_latin1), from_latin1),
        Kind(*column(t.VARCHAR, 60, "varbinary"), blobs, same),
        Kind(*column(t.BLOB, 2, "blob"), blobs, same),
        Kind(
            *column(t.STRING, 16, "binary", octets=16),
            st.binary(min_size=16, max_size=16).map(lambda b: b.rstrip(b"\0")),
            lambda v: v.ljust(16, b"\0"),
        ),
        Kind(*column(t.GEOMETRY, 4, "geometry"), st.binary(min_size=4, max_size=40), lambda v: v[4:]),
        Kind(
            *column(t.VECTOR, 4, "vector", "vector(2)"),
            st.binary(min_size=8, max_size=8).map(lambda b: np.nan_to_num(np.frombuffer(b, "<f4")).tobytes()),
            lambda v: np.frombuffer(v, "<f4").tolist(),
        ),
        Kind(*column(t.ENUM, 1, "enum", "enum('a','b','')"), st.integers(0, 3), lambda v: ["", "a", "b", ""][v]),
        Kind(*column(t.SET, 1, "set", "set('a','b')"), st.integers(0, 3), lambda v: ["", "a", "b", "a,b"][v]),
        Kind(*column(t.BIT, 0 << 8 | 1, "bit", "bit(1)"), st.integers(0, 1), bool),
        Kind(*column(t.BIT, 8 << 8, "bit", "bit(64)"), st.integers(0, 2**64 - 1), same),
        Kind(*column(t.BIT, 2 << 8 | 3, "bit", "bit(19)"), st.integers(0, 2**19 - 1), same),
        Kind(*column(t.DOUBLE, 8, "double"), st.floats(allow_nan=False), same),
        Kind(*column(t.FLOAT, 4, "float"), st.floats(allow_nan=False, width=32), same),
    ]
    return found


KINDS = [*integers(), *decimals(), *temporals(), *strings()]
ID = Kind(*column(t.LONG, 0, "int"), st.integers(-(2**31), 2**31 - 1))


def named(kinds: Sequence[Kind], *, mariadb: bool) -> list[Definition]:
    from dataclasses import replace

    names = ["id", *(f"c{i}" for i in range(1, len(kinds)))]
    return [replace(k.definition, name=n, mariadb=mariadb) for k, n in zip(kinds, names, strict=True)]


def layout_for(kinds: Sequence[Kind], *, keyed: bool = True, mariadb: bool = False) -> Layout:
    definitions = named(kinds, mariadb=mariadb)
    table = schema_of("t", definitions, ("id",) if keyed else ())
    return Layout(
        TableMap(7, "db", "t", tuple(k.wire for k in kinds)), table, tuple(range(len(kinds))), tuple(definitions)
    )


@dataclass
class Event:
    kind: int
    rows: list[list[Any]]
    """For an update old and new rows in turn."""


@st.composite
def cases(draw) -> tuple[list[Kind], list[Event], int, bool]:
    kinds = [ID, *draw(st.lists(st.sampled_from(KINDS), min_size=0, max_size=9))]
    row = st.tuples(ID.values, *(st.none() | k.values for k in kinds[1:])).map(list)
    events = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([INSERT, UPDATE, DELETE]))
        rows = draw(st.lists(row, min_size=1, max_size=3))
        if kind == UPDATE:
            kept = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
            rows = [
                r
                for old, keep in zip(rows, kept, strict=True)
                for r in (old, [old[0] if keep else old[0] ^ 1, *draw(row)[1:]])
            ]
        events.append(Event(kind, rows))
    # many events take another way through the rows than few
    return kinds, events * draw(st.sampled_from([1, 1, 20])), draw(st.sampled_from([1, 2])), draw(st.booleans())


def encoded(kinds: Sequence[Kind], events: Sequence[Event], version: int, *, padding: bool):
    fsp = {i: k.fsp for i, k in enumerate(kinds)}
    wires = [k.wire for k in kinds]
    bodies = [
        e.rows_body(
            event.kind, len(kinds), [e.image(wires, r, padding=padding, fsp=fsp) for r in event.rows], version=version
        )
        for event in events
    ]
    types = np.array([e.TYPE_CODES[version][event.kind] for event in events], np.uint8)
    ends = np.cumsum([len(b) for b in bodies])
    return b"".join(bodies), types, ends - [len(b) for b in bodies], ends


def decoded(layout: Layout, given) -> list[TableChanges]:
    headers = parse_row_headers(*given)
    return decode_rows(layout, headers.run(np.arange(len(headers)), len(layout.map.columns)))


def shown(kind: Kind, value: Any) -> Any:
    return None if value is None else kind.out(value)


def expectation(kinds: Sequence[Kind], events: Sequence[Event], *, keyed: bool) -> list[tuple[Any, ...]]:
    found = []
    for event in events:
        values = [tuple(shown(k, v) for k, v in zip(kinds, row, strict=True)) for row in event.rows]
        if event.kind == UPDATE:
            for old, new in zip(values[::2], values[1::2], strict=True):
                if not keyed:
                    found += [(Op.DELETE, *old), (Op.INSERT, *new)]
                    continue
                if old[0] != new[0]:
                    found.append((Op.DELETE, old[0], *[None] * (len(kinds) - 1)))
                found.append((Op.UPDATE, *new))
        elif event.kind == INSERT:
            found += [(Op.INSERT, *row) for row in values]
        else:
            found += [(Op.DELETE, *(row if keyed is False else (row[0], *[None] * (len(kinds) - 1)))) for row in values]
    return found


def python_rows(changes: TableChanges) -> list[tuple[Any, ...]]:
    columns = []
    for i, field in enumerate(changes.rows.schema):
        values = changes.rows.column(i).to_pylist()
        if str(field.type) == "month_day_nano_interval":
            values = [None if v is None else v.nanoseconds // 1000 for v in values]
        columns.append(values)
    return list(zip(changes.ops.to_pylist(), *columns, strict=True))


@settings(max_examples=150)
@given(cases(), st.booleans())
def test_rows_come_back(case, keyed: bool) -> None:
    kinds, events, version, padding = case
    (changes,) = decoded(layout_for(kinds, keyed=keyed), encoded(kinds, events, version, padding=padding))
    assert python_rows(changes) == expectation(kinds, events, keyed=keyed)
    changes.rows.validate(full=True)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_every_kind_survives_a_few_rows(kind: int) -> None:
    kinds = [ID, KINDS[kind]]

    @settings(max_examples=15)
    @given(st.lists(st.none() | KINDS[kind].values, min_size=1, max_size=5))
    def check(values) -> None:
        events = [Event(INSERT, [[i, v] for i, v in enumerate(values)])]
        (changes,) = decoded(layout_for(kinds), encoded(kinds, events, 2, padding=False))
        assert python_rows(changes) == expectation(kinds, events, keyed=True)

    check()


@settings(max_examples=60)
@given(cases(), st.randoms(use_true_random=False))
def test_corruption_is_an_error_or_other_rows_but_never_a_crash(case, rnd: random.Random) -> None:
    kinds, events, version, padding = case
    layout = layout_for(kinds)
    data, types, starts, ends = encoded(kinds, events, version, padding=padding)
    for _ in range(10):
        broken = bytearray(data)
        for _ in range(rnd.randint(1, 4)):
            broken[rnd.randrange(len(broken))] = rnd.randrange(256)
        try:
            for changes in decoded(layout, (bytes(broken), types, starts, ends)):
                changes.rows.validate(full=True)
        except EngineError:
            pass


@settings(max_examples=60)
@given(cases(), st.randoms(use_true_random=False))
def test_what_is_cut_short_is_an_error(case, rnd: random.Random) -> None:
    kinds, events, version, padding = case
    data, types, starts, ends = encoded(kinds, events[:1], version, padding=padding)
    layout = layout_for(kinds)
    (whole,) = decoded(layout, (data, types, starts, ends))
    for _ in range(10):
        end = rnd.randrange(len(data))
        try:
            found = decoded(layout, (data[:end], types, starts, np.array([end])))
        except DecodeError:
            continue
        # a cut between two rows leaves whole rows
        rows = python_rows(found[0]) if found else []
        assert rows == python_rows(whole)[: len(rows)]
        assert len(rows) < whole.rows.num_rows


@settings(max_examples=80)
@given(st.data())
def test_minimal_images_keep_what_they_do_not_carry(data) -> None:
    kinds = [ID, *data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))]
    after = [False, *data.draw(st.lists(st.booleans(), min_size=len(kinds) - 1, max_size=len(kinds) - 1))]
    row = data.draw(st.tuples(ID.values, *(st.none() | k.values for k in kinds[1:])))
    fsp = {i: k.fsp for i, k in enumerate(kinds)}
    wires = [k.wire for k in kinds]
    before = [True, *[False] * (len(kinds) - 1)]
    images = [e.image(wires, row, before, fsp=fsp) + e.image(wires, row, after, fsp=fsp)]
    body = e.rows_body(UPDATE, len(kinds), images, before=before, after=after)
    given_ = (body, np.array([31], np.uint8), np.array([0]), np.array([len(body)]))
    (changes,) = decoded(layout_for(kinds), given_)
    assert changes.ops.to_pylist() == [Op.UPDATE]
    assert changes.base is None
    left = {n for n, a in changes.unchanged.items() if a.to_pylist() == [True]}
    assert left == {f"c{i}" for i in range(1, len(kinds)) if not after[i]}
    (found,) = python_rows(changes)
    for i, kind in enumerate(kinds):
        if i == 0 or after[i]:
            assert found[1 + i] == shown(kind, row[i])
    with pytest.raises(ResyncRequired):
        decoded(layout_for(kinds, keyed=False), given_)
