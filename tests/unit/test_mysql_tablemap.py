"""TABLE_MAP events of both servers."""

from __future__ import annotations

import pytest

from connectors.mysql import tablemap as t
from connectors.mysql.tablemap import TableName, WireColumn, parse_table_map, parse_table_name
from engine.errors import DecodeError
from tests.fixtures.mysql.events import bits_high_first, lenenc, table_map, texts

# The event of the same table on MySQL 9.7.4 and MariaDB 11.8.9 with binlog_row_metadata = FULL, as it was in the log:
# i int unsigned, y year, d decimal(10,3), c char(200) utf8mb4, vc varchar(300) latin2, e enum('a','ü') latin1,
# s set('x','y'), g point not null, ts timestamp(3), b bit(11), and v vector(4), inv int invisible or u uuid,
# tc text compressed; primary key (i, vc(3)).
MYSQL = bytes.fromhex(
    "790000000000010001640003636170000c030df6fe0ffefeff1110f2030f0a03ce202c01f701f80104030301046e0f0101c00305fcff00093f"
    "0701010d0104041c01690179016401630276630165017301670274730162017603696e760b0408fcff0005050201780179060502016101fc09"
    "04000004030c02ffe0"
)
MARIADB = bytes.fromhex(
    "210000000000010001640003636170000c030df6fe0ffefeff1110fe8c110a03ce202c01f701f80104030301fe10026e0f0101c00309fc0009"
    "093f3ffc0009070101041b0169017901640163027663016501730167027473016201750274630b0408fc000905050201780179060502016101"
    "fc090400000403"
)

KINDS: list[tuple[int, bytes, int, int]] = [
    (t.TINY, b"", t.TINY, 0),
    (t.LONGLONG, b"", t.LONGLONG, 0),
    (t.FLOAT, b"\x04", t.FLOAT, 4),
    (t.NEWDECIMAL, b"\x0a\x03", t.NEWDECIMAL, 10 << 8 | 3),
    (t.BIT, b"\x03\x01", t.BIT, 0x0103),
    (t.VARCHAR, b"\xb8\x0b", t.VARCHAR, 3000),
    (t.STRING, b"\xfe\x0a", t.STRING, 10),
    (t.STRING, b"\xce\x20", t.STRING, 0x320),  # CHAR(200) in utf8mb4: two bits of its 800 bytes are in the type
    (t.STRING, b"\xee\xfc", t.STRING, 0x1FC),
    (t.STRING, b"\xf7\x01", t.ENUM, 1),
    (t.STRING, b"\xf8\x08", t.SET, 8),
    (t.BLOB, b"\x03", t.BLOB, 3),
    (t.JSON, b"\x04", t.JSON, 4),
    (t.GEOMETRY, b"\x04", t.GEOMETRY, 4),
    (t.VECTOR, b"\x04", t.VECTOR, 4),
    (t.DATETIME2, b"\x06", t.DATETIME2, 6),
    (t.BLOB_COMPRESSED, b"\x02", t.BLOB_COMPRESSED, 2),
    (t.VARCHAR_COMPRESSED, b"\x91\x01", t.VARCHAR_COMPRESSED, 401),
]


def test_names_and_types() -> None:
    body = table_map(
        [(kind, meta) for kind, meta, _, _ in KINDS], schema="schöma", table="a.b`c", table_id=0x123456789A
    )
    found = parse_table_map(body)
    assert (found.table_id, found.schema, found.table, found.primary_key) == (0x123456789A, "schöma", "a.b`c", None)
    assert [(c.type, c.meta) for c in found.columns] == [(kind, meta) for _, _, kind, meta in KINDS]
    assert parse_table_name(body) == TableName(0x123456789A, "schöma", "a.b`c")


@pytest.mark.parametrize("mariadb", [False, True])
def test_recorded_events(mariadb: bool) -> None:
    found = parse_table_map(MARIADB if mariadb else MYSQL, mariadb=mariadb, labels=lambda raw, _: raw.decode("latin1"))
    assert (found.schema, found.table, found.primary_key) == ("d", "cap", (0, 4))
    by_name = {column.name: column for column in found.columns}
    unicode = 2304 if mariadb else 255
    assert {n: c.unsigned for n, c in by_name.items() if c.unsigned is not None and n != "inv"} == {
        "i": True,
        "y": True,
        "d": False,
    }
    assert {n: c.collation for n, c in by_name.items() if n in {"c", "vc", "e", "s"}} == {
        "c": unicode,
        "vc": 9,
        "e": 8,
        "s": unicode,
    }
    assert (by_name["e"].labels, by_name["s"].labels) == (("a", "ü"), ("x", "y"))
    assert (by_name["c"].type, by_name["c"].meta) == (t.STRING, 800)
    assert (by_name["b"].type, by_name["b"].meta) == (t.BIT, 1 << 8 | 3)
    assert by_name["g"].geometry == 1
    assert [n for n, c in by_name.items() if not c.nullable] == ["i", "vc", "g"]
    if mariadb:
        assert (by_name["u"].type, by_name["u"].meta, by_name["u"].collation) == (t.STRING, 16, 63)
        assert (by_name["tc"].type, by_name["tc"].collation) == (t.BLOB_COMPRESSED, unicode)
    else:
        assert (by_name["v"].type, by_name["v"].dimension) == (t.VECTOR, 4)
        assert [n for n, c in by_name.items() if not c.visible] == ["inv"]


def test_null_bits() -> None:
    nullable = [i % 3 == 0 for i in range(17)]
    body = table_map([(t.LONG, b"")] * 17, nullable=nullable)
    assert [c.nullable for c in parse_table_map(body).columns] == nullable


COLUMNS = [
    (t.LONG, b""),
    (t.VARCHAR, b"\x0a\0"),
    (t.YEAR, b""),
    (t.STRING, b"\xf7\x01"),
    (t.GEOMETRY, b"\x04"),
    (t.VECTOR, b"\x04"),
    (t.BLOB, b"\x02"),
    (t.STRING, b"\xf8\x01"),
    (t.JSON, b"\x04"),
    (t.BIT, b"\x01\0"),
]


def parsed(*optional: tuple[int, bytes], mariadb: bool = False) -> tuple[WireColumn, ...]:
    return parse_table_map(table_map(COLUMNS, optional=optional), mariadb=mariadb).columns


def test_signs_are_said_of_numbers_and_years() -> None:
    assert [c.unsigned for c in parsed((1, bits_high_first([True, False])))] == [True, None, False, *[None] * 7]


def test_collations_are_said_of_what_either_server_holds_for_text() -> None:
    columns = parsed((3, lenenc(45) + lenenc(63) + lenenc(255)), (11, lenenc(8) + lenenc(2304)))
    assert [c.collation for c in columns] == [None, 45, None, 8, None, 63, 255, 2304, None, None]
    columns = parsed((3, lenenc(45) + lenenc(63) + lenenc(255)), mariadb=True)
    assert [c.collation for c in columns] == [None, 45, None, None, 63, None, 255, None, None, None]


def test_a_default_collation_with_exceptions() -> None:
    columns = parsed((2, lenenc(255) + lenenc(1) + lenenc(63)), (10, lenenc(8) + lenenc(0) + lenenc(9)))
    assert [c.collation for c in columns] == [None, 255, None, 9, None, 63, 255, 8, None, None]


def test_names_visibility_geometry_and_dimension() -> None:
    names = [f"c{i}" for i in range(9)] + ["ü`"]
    visible = [True] * 9 + [False]
    columns = parsed(
        (4, texts([n.encode() for n in names])), (12, bits_high_first(visible)), (7, lenenc(3)), (13, lenenc(768))
    )
    assert [c.name for c in columns] == names
    assert [c.visible for c in columns] == visible
    assert (columns[4].geometry, columns[5].dimension) == (3, 768)


def test_labels_are_read_in_their_collation() -> None:
    optional = (
        (6, lenenc(2) + texts([b"a", b"\xfc"])),
        (5, lenenc(1) + texts([b"x"])),
        (11, lenenc(8) + lenenc(255)),
    )
    body = table_map(COLUMNS, optional=optional)
    assert parse_table_map(body).columns[3].labels is None
    assert parse_table_map(body).columns[7].labels == ("x",)
    asked = []

    def decode(raw: bytes, collation: int) -> str:
        asked.append(collation)
        return raw.decode("latin1")

    columns = parse_table_map(body, labels=decode).columns
    assert (columns[3].labels, columns[7].labels) == (("a", "ü"), ("x",))
    assert sorted(asked) == [8, 8, 255]


def test_primary_keys() -> None:
    assert parse_table_map(table_map(COLUMNS, optional=[(8, b"\2\0")])).primary_key == (2, 0)
    assert parse_table_map(table_map(COLUMNS, optional=[(9, b"\1\3\0\0")])).primary_key == (1, 0)


def test_unknown_optional_metadata_is_no_error() -> None:
    assert parsed((99, b"anything"), (1, bits_high_first([True, True])))[0].unsigned is True


@pytest.mark.parametrize(
    "columns",
    [
        [(200, b"")],
        [(t.TYPED_ARRAY, b"\x03")],
        [(t.STRING, b"\x05\x01")],
        [(t.NEWDECIMAL, b"\x50\x00")],
        [(t.NEWDECIMAL, b"\x05\x06")],
        [(t.LONG, b"\x01")],
        [(t.VARCHAR, b"\x01")],
        [],
    ],
)
def test_a_layout_that_is_not_known_is_refused_but_its_table_is_named(columns: list[tuple[int, bytes]]) -> None:
    body = table_map(columns)
    with pytest.raises(DecodeError):
        parse_table_map(body)
    assert parse_table_name(body).table == "orders"


@pytest.mark.parametrize(
    "optional",
    [
        (1, b""),
        (1, b"\0\0"),
        (2, b"\x08\x09\x09"),
        (3, b"\x08"),
        (4, texts([b"a"])),
        (4, texts([b"\xff"] * 10)),
        (6, lenenc(200) + b"\x01a"),
        (6, lenenc(1) + b"\x05a"),
        (8, b"\x0a"),
        (9, b"\x01"),
        (12, b"\xff"),
        (7, b"\xfb"),
    ],
)
def test_optional_metadata_that_does_not_fit_is_refused(optional: tuple[int, bytes]) -> None:
    with pytest.raises(DecodeError):
        parsed(optional)


def test_truncated_anywhere() -> None:
    body = table_map(COLUMNS, optional=[(4, texts([b"n"] * 10)), (8, b"\0")])
    whole = len(table_map(COLUMNS))
    for end in range(len(body)):
        if end in {whole, len(table_map(COLUMNS, optional=[(4, texts([b"n"] * 10))]))}:
            continue  # that is a shorter event, and a valid one
        with pytest.raises(DecodeError):
            parse_table_map(body[:end])
