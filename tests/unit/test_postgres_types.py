"""The type table and the text decoders, by hand-written values."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.position import Lsn
from connectors.postgres.text_values import decode_text
from connectors.postgres.type_text import ListOf, Map, Scalar, Struct, parse_type
from connectors.postgres.types import Attribute, PgType, TypeCatalog, numeric_typmod
from engine.errors import DecodeError, ResyncRequired, UnsupportedValue
from engine.schema import Column, TableId

TABLE = TableId("public", "t")
MAX64, MAX32 = 2**63 - 1, 2**31 - 1
CATALOG = TypeCatalog(
    {
        t.oid: t
        for t in (
            PgType(23, "pg_catalog", "int4"),
            PgType(25, "pg_catalog", "text"),
            PgType(1700, "pg_catalog", "numeric"),
            PgType(1007, "pg_catalog", "_int4", element=23),
            PgType(1231, "pg_catalog", "_numeric", element=1700),
            PgType(603, "pg_catalog", "box"),
            PgType(1020, "pg_catalog", "_box", element=603, delimiter=";"),
            PgType(22, "pg_catalog", "int2vector"),
            PgType(790, "pg_catalog", "money"),
            PgType(500, "public", "price", "d", base=1700, base_typmod=(10 << 16 | 2) + 4),
            PgType(501, "public", "matrix", "d", base=1007, base_dimensions=2),
            PgType(502, "public", "_matrix", element=501),
            PgType(503, "public", "mood", "e"),
            PgType(504, "public", "pt", "c", attributes=(Attribute("a b", 23, -1, 0), Attribute('q"q', 500, -1, 0))),
            PgType(505, "public", "twice", "c", attributes=(Attribute("a", 23, -1, 0), Attribute("A", 23, -1, 0))),
            PgType(506, "public", "hstore", extension="hstore"),
            PgType(507, "public", "hstore"),
            PgType(508, "public", "vector", extension="vector"),
            PgType(509, "public", "_vector", element=508),
            PgType(510, "pg_catalog", "int4range", "r"),
            PgType(511, "public", "geometry", extension="postgis"),
        )
    }
)


def decode(kind: str, *values: str | None, source: str = "") -> pa.Array:
    data = pa.array([None if v is None else v.encode() for v in values], pa.binary())
    return decode_text(TABLE, Column("c", kind, source or kind), data)


def listed(kind: str, *values: str | None) -> list[Any]:
    found: list[Any] = decode(kind, *values).to_pylist()
    return found


class TestTypes:
    @pytest.mark.parametrize(
        ("oid", "typmod", "dimensions", "expected"),
        [
            (23, -1, 0, "INTEGER"),
            (1700, -1, 0, "VARCHAR"),
            (1700, (12 << 16 | 2) + 4, 0, "DECIMAL(12,2)"),
            (1700, (38 << 16 | 38) + 4, 0, "DECIMAL(38,38)"),
            (1700, (39 << 16 | 2) + 4, 0, "VARCHAR"),
            (1700, (5 << 16 | 2046) + 4, 0, "VARCHAR"),
            (1700, (3 << 16 | 5) + 4, 0, "VARCHAR"),
            (1007, -1, 0, "INTEGER[]"),
            (1007, -1, 3, "INTEGER[][][]"),
            (1231, (12 << 16 | 2) + 4, 1, "DECIMAL(12,2)[]"),
            (1020, -1, 1, "VARCHAR"),
            (22, -1, 0, "VARCHAR"),
            (790, -1, 0, "DECIMAL(19,2)"),
            (500, -1, 0, "DECIMAL(10,2)"),
            (501, -1, 0, "INTEGER[][]"),
            (502, -1, 1, "VARCHAR"),
            (503, -1, 0, "VARCHAR"),
            (504, -1, 0, 'STRUCT("a b" INTEGER, "q""q" DECIMAL(10,2))'),
            (505, -1, 0, "VARCHAR"),
            (506, -1, 0, "MAP(VARCHAR, VARCHAR)"),
            (507, -1, 0, "VARCHAR"),
            (508, -1, 0, "FLOAT[]"),
            (509, -1, 1, "VARCHAR"),
            (510, -1, 0, "VARCHAR"),
            (511, -1, 0, "BLOB"),
            (99999, -1, 0, "VARCHAR"),
        ],
    )
    def test_replica_types(self, oid: int, typmod: int, dimensions: int, expected: str) -> None:
        assert CATALOG.replica_type(oid, typmod, dimensions).type == expected

    def test_a_representation_states_its_rule(self) -> None:
        assert CATALOG.replica_type(23).rule is None
        assert CATALOG.replica_type(1700).rule
        assert CATALOG.replica_type(99999).rule
        kept = CATALOG.replica_type(1700, (12 << 16 | 2) + 4, as_text=True)
        assert kept.type == "VARCHAR"
        assert "DECIMAL(12,2)" in (kept.rule or "")

    def test_numeric_typmods(self) -> None:
        assert numeric_typmod(-1) is None
        assert numeric_typmod((5 << 16 | 2046) + 4) == (5, -2)

    def test_type_text_is_understood_again(self) -> None:
        assert parse_type("DECIMAL(12,2)[][]") == ListOf(ListOf(Scalar("DECIMAL", (12, 2))))
        assert parse_type("MAP(VARCHAR, VARCHAR)") == Map(Scalar("VARCHAR"), Scalar("VARCHAR"))
        struct = parse_type(CATALOG.replica_type(504).type + "[]")
        assert struct == ListOf(Struct((("a b", Scalar("INTEGER")), ('q"q', Scalar("DECIMAL", (10, 2))))))

    @pytest.mark.parametrize("text", ["", "MAP(VARCHAR)", "STRUCT(", "INTEGER]", "INTEGER INTEGER"])
    def test_other_text_is_refused(self, text: str) -> None:
        with pytest.raises((ValueError, IndexError)):
            parse_type(text)


class TestScalars:
    def test_numbers(self) -> None:
        assert listed("BIGINT", "-9223372036854775808", None) == [-(2**63), None]
        assert listed("UINTEGER", "4294967295") == [4294967295]
        assert listed("DECIMAL(4,2)", "-0.01", "99.99", None) == [Decimal("-0.01"), Decimal("99.99"), None]
        assert listed("DECIMAL(19,2)", "-$92,233,720,368,547,758.08") == [Decimal("-92233720368547758.08")]
        assert str(listed("DOUBLE", "-0", "NaN", "-Infinity")) == "[-0.0, nan, -inf]"
        assert listed("BOOLEAN", "t", "f", None) == [True, False, None]

    def test_days_and_times(self) -> None:
        days = decode("DATE", "1970-01-02", "infinity", "-infinity", "0001-12-31 BC", "5874897-12-31", None)
        assert days.cast(pa.int32()).to_pylist() == [1, MAX32, -MAX32, -719163, 2145042905, None]
        moments = decode("TIMESTAMP", "1970-01-01 00:00:00.000001", "infinity", "-infinity", "0001-12-31 23:59:59.5 BC")
        assert moments.cast(pa.int64()).to_pylist() == [1, MAX64, -MAX64, -719162 * 86_400_000_000 - 500_000]
        assert listed("TIMESTAMPTZ", "2024-02-29 01:02:03.5+00") == [dt.datetime(2024, 2, 29, 1, 2, 3, 500_000, dt.UTC)]
        assert decode("TIME", "24:00:00", "00:00:00.000001", None).cast(pa.int64()).to_pylist() == [
            86400000000,
            1,
            None,
        ]

    def test_intervals(self) -> None:
        found = listed("INTERVAL", "1 year 2 mons +3 days -04:05:06.000007", "-1 mons", "00:00:00", None, "1 day")
        nanos = -(4 * 3600 + 5 * 60 + 6) * 10**9 - 7000
        assert found == [(14, 3, nanos), (-1, 0, 0), (0, 0, 0), None, (0, 1, 0)]
        far = listed("INTERVAL", "-2562047788:00:54.775807", None, "-1 years")
        assert far == ["0 months 0 days -9223372036854775807 microseconds", None, "-12 months 0 days 0 microseconds"]

    def test_bytes_and_uuids(self) -> None:
        assert listed("BLOB", "\\x", "\\x00FFab", None, "0101") == [b"", b"\x00\xff\xab", None, b"\x01\x01"]
        text = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
        assert listed("UUID", None, text, text.upper()) == [None, UUID(text), UUID(text)]

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("DECIMAL(4,2)", "NaN"),
            ("DECIMAL(4,2)", "Infinity"),
            ("TIMESTAMP", "294276-12-31 23:59:59.999999"),
            ("INTERVAL", "infinity"),
            ("INTERVAL", "-2562047788:00:54.775808"),
            ("BIT", ""),
            ("JSON", r'"\ud800"'),
            ("JSON", r'"\udc00"'),
            ("JSON", r'"\ud800x\udc00"'),
            ("INTEGER[]", "{{1}}"),
            ("INTEGER[][]", "{1}"),
            ("DECIMAL(4,2)[]", "{NaN}"),
        ],
    )
    def test_values_that_do_not_fit(self, kind: str, value: str) -> None:
        with pytest.raises(UnsupportedValue) as caught:
            decode(kind, None, value)
        assert (caught.value.table, caught.value.columns) == (TABLE, ("c",))

    def test_json_with_whole_surrogate_pairs_fits(self) -> None:
        values = [r'"\ud83d\ude00"', r'"\\ud800"', '{"a":  1}']
        assert listed("JSON", *values) == values

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("INTEGER", "x"),
            ("INTEGER", "2147483648"),
            ("INTEGER", ""),
            ("BOOLEAN", "true"),
            ("DECIMAL(4,2)", "1.234"),
            ("DECIMAL(4,2)", "100"),
            ("DATE", "tomorrow"),
            ("TIME", "noon"),
            ("INTERVAL", ""),
            ("INTERVAL", "1 fortnight"),
            ("UUID", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1"),
            ("UUID", "a0eebc9999c0b-4ef8-bb6d-6bb9bd380a11"),
            ("BLOB", "\\x0"),
            ("BLOB", "\\xzz"),
            ("INTEGER[]", ""),
            ("INTEGER[]", "1,2"),
            ("INTEGER[]", "{1,2"),
            ("INTEGER[]", "{1,,2}"),
            ("INTEGER[]", "{1}}"),
            ("INTEGER[]", '{"1}'),
            ("INTEGER[]", "{1}{2}"),
            ("VARCHAR[]", '{"a"b}'),
            ("VARCHAR[]", '{"a\\'),
            ("INTEGER[][]", "{{1},2}"),
            ("INTEGER[][]", "{{1}x,{2}}"),
            ("STRUCT(a INTEGER)", "1"),
            ("MAP(VARCHAR, VARCHAR)", '"a"=>1'),
            ("MAP(VARCHAR, VARCHAR)", '"a"=>"b" "c"=>"d"'),
            ("MAP(VARCHAR, VARCHAR)", '"a"'),
        ],
    )
    def test_what_is_no_text_of_the_type(self, kind: str, value: str) -> None:
        with pytest.raises(DecodeError) as caught:
            decode(kind, value)
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize("kind", ["INTEGER", "DATE", "UUID", "INTERVAL", "DECIMAL(4,2)", "INTEGER[]", "BLOB"])
    def test_no_error_tells_the_value(self, kind: str) -> None:
        with pytest.raises(DecodeError) as caught:
            decode(kind, "hunter2")
        assert "hunter2" not in str(caught.value)

    def test_bytes_that_are_no_utf8(self) -> None:
        with pytest.raises(DecodeError):
            decode_text(TABLE, Column("c", "VARCHAR", "text"), pa.array([b"\xff"]))


class TestNested:
    def test_arrays(self) -> None:
        assert listed("INTEGER[]", "{1,NULL,-3}", "{}", None, "[0:1]={7,8}") == [[1, None, -3], [], None, [7, 8]]
        assert listed("INTEGER[][]", "{{1,2},{3,4}}", "{}", "[0:0][5:6]={{5,NULL}}") == [
            [[1, 2], [3, 4]],
            [],
            [[5, None]],
        ]
        tricky = r'{"",NULL,"NULL","a,b","c\"d","e\\f","{g}"," h ",é}'
        assert listed("VARCHAR[]", tricky) == [["", None, "NULL", "a,b", 'c"d', "e\\f", "{g}", " h ", "é"]]

    def test_vectors(self) -> None:
        assert listed("FLOAT[]", "[1,2.5,-3]", None) == [[1.0, 2.5, -3.0], None]

    def test_composites(self) -> None:
        kind = 'STRUCT("a" INTEGER, "b" VARCHAR, "c" VARCHAR[])'
        found = listed(kind, r'(1,"x ""y"" \\z","{a,""b,c""}")', "(,,)", None, '(2,"",{})')
        assert found == [
            {"a": 1, "b": 'x "y" \\z', "c": ["a", "b,c"]},
            {"a": None, "b": None, "c": None},
            None,
            {"a": 2, "b": "", "c": []},
        ]

    def test_a_composite_of_another_shape_is_discovered_again(self) -> None:
        with pytest.raises(ResyncRequired) as caught:
            decode("STRUCT(a INTEGER)", "(1,2)")
        assert caught.value.tables == (TABLE,)

    def test_hstore(self) -> None:
        found = listed("MAP(VARCHAR, VARCHAR)", r'"a"=>"1", "b c"=>NULL, "q\"x"=>"=>, \\"', "", None, '"x"=>"NULL"')
        assert found == [[("a", "1"), ("b c", None), ('q"x', "=>, \\")], [], None, [("x", "NULL")]]

    @given(
        st.lists(
            st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))), max_size=8
        )
    )
    def test_any_text_in_arrays(self, values: list[list[str | None]]) -> None:
        def quoted(item: str | None) -> str:
            return "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'

        texts = ["{" + ",".join(map(quoted, row)) + "}" for row in values]
        assert listed("VARCHAR[]", *texts) == values

    @given(st.lists(st.text(st.sampled_from('{}[]()",\\=>N1 '), max_size=12), max_size=4))
    def test_noise_is_refused_or_read(self, values: list[str]) -> None:
        for kind in (
            "INTEGER[]",
            "VARCHAR[][]",
            "STRUCT(a VARCHAR, b INTEGER)",
            "MAP(VARCHAR, VARCHAR)",
            "STRUCT(a VARCHAR)[]",
        ):
            try:
                decode(kind, *values).validate(full=True)
            except (DecodeError, UnsupportedValue, ResyncRequired):
                continue

    @pytest.mark.parametrize(
        "kind",
        [
            "INTEGER",
            "BLOB",
            "UUID",
            "INTERVAL",
            "TIME",
            "DATE",
            "JSON",
            "INTEGER[]",
            "VARCHAR[][]",
            "STRUCT(a INTEGER, b UUID[])",
            "MAP(VARCHAR, VARCHAR)",
            "STRUCT(a DATE)[]",
        ],
    )
    def test_no_rows_and_only_nulls(self, kind: str) -> None:
        assert len(decode(kind)) == 0
        empty = decode(kind, None, None)
        empty.validate(full=True)
        assert empty.null_count == 2
        assert decode(kind).type == empty.type


class TestLsn:
    @given(st.integers(0, 2**64 - 1))
    def test_text_and_back(self, value: int) -> None:
        assert Lsn.parse(str(Lsn(value))) == Lsn(value)

    def test_order(self) -> None:
        assert str(Lsn.parse("0/1A2B3C8")) == "0/1A2B3C8"
        assert Lsn.parse("1/0") > Lsn.parse("0/FFFFFFFF")
        assert Lsn(5).covers(Lsn(5))
        assert not Lsn(4).covers(Lsn(5))

    @pytest.mark.parametrize("text", ["", "0", "0/", "/0", "g/0", "0/0/0", "000000000/0", "0/0\n", " 0/0", "٠/٠"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            Lsn.parse(text)
