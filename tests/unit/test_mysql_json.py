"""Binary JSON to text, and partial updates of it."""

from __future__ import annotations

import json
import struct
from typing import Any

import pyarrow as pa
import pytest

from connectors.mysql import json_binary
from connectors.mysql.json_diff import path
from connectors.mysql.json_scalars import double, quoted
from engine.errors import DecodeError
from tests.fixtures.mysql.json import INSERT, REMOVE, REPLACE, Opaque, Value, change, document

# What MySQL 9.7.4 logged and printed.
RECORDED = [
    (
        "0002004c001200010013000100001400022300616201000f000b000000000b00000004000700290005010005feff0719000b1d00040000"
        "0401000c250070110100000000000000f83f0378c3a9",
        '{"a": {"": {}}, "b": [1, -2, 70000, 1.5, null, true, "xé"]}',
    ),
    (
        "02060049000f16000f20000f2a000f34000f3d000a41000c08c0d40119761f95190b08e05ef87cefffffff0a0800000000001e9519f607"
        "0b027ffffff3cd0f0200ffffffffffffffffff",
        '["2015-01-15 23:24:25.120000", "-01:02:03.500000", "2015-01-15", -12.50, "base64:type15:AP8=",'
        " 18446744073709551615]",
    ),
]


@pytest.mark.parametrize("raw,text", RECORDED)
def test_recorded_documents(raw: str, text: str) -> None:
    assert json_binary.text(bytes.fromhex(raw)) == text


VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        32767,
        -32768,
        65535,
        -32769,
        1 << 31,
        -(1 << 31),
        (1 << 32) - 1,
        1 << 32,
        (1 << 64) - 1,
    ),
    *(0.5, "", "text", 'q"\\\n', "ü€😀", "x" * 70_000, [], {}, [[], {}], {"": None}),
    [1, -2, 70_000, -70_000, 1.5, None, True, "x", {"a": [1]}],
    {"b": 1, "aa": 2, "a": 3, "é": 4, "zzz": [1, 2]},
    {f"k{i}": i * 1000 for i in range(500)},
    ["y" * 70_000, -5, 5, 70_000, -70_000],
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("large", [False, True])
def test_every_shape(value: Value, large: bool) -> None:
    text = json_binary.text(document(value, large=large))
    assert json.loads(text) == value
    if not isinstance(value, float | dict):
        assert text == json.dumps(value, ensure_ascii=False) or isinstance(value, list)


def test_members_are_ordered_by_length_and_bytes() -> None:
    assert json_binary.text(document({"b": 1, "aa": 2, "a": 3})) == '{"a": 3, "b": 1, "aa": 2}'


def test_an_empty_value_is_null() -> None:
    assert json_binary.text(b"") == "null"


def test_columns() -> None:
    values = [document({"a": 1}), None, document([1])]
    found = json_binary.decode(pa.array(values, pa.binary()))
    assert found.to_pylist() == ['{"a": 1}', None, "[1]"]
    assert found.type == pa.string()
    assert json_binary.decode(pa.array(values, pa.large_binary())).type == pa.large_string()


@pytest.mark.parametrize(
    "value,text",
    [
        *((0.0, "0.0"), (-0.0, "-0.0"), (1.0, "1.0"), (100.0, "100.0"), (1e14, "100000000000000.0"), (1e15, "1e15")),
        *((-1.5e16, "-1.5e16"), (123456789012345680.0, "1.2345678901234568e17"), (1e-14, "0.00000000000001")),
        *((1.5e-15, "0.0000000000000015"), (1e-15, "0.000000000000001"), (1e-16, "1e-16"), (1.7e308, "1.7e308")),
        *((5e-324, "5e-324"), (2251799813685248.5, "2251799813685248.5"), (0.1, "0.1"), (12.5, "12.5")),
    ],
)
def test_doubles(value: float, text: str) -> None:
    assert double(value) == text
    assert float(text) == value


def test_strings_are_escaped_as_the_server_does() -> None:
    assert quoted(b'\b\t\n\f\r"\\/\x00\x1f\x7f') == r'"\b\t\n\f\r\"\\/\u0000\u001f' + '\x7f"'


@pytest.mark.parametrize(
    "value,text",
    [
        (Opaque(246, bytes.fromhex("06027ff3cd")), "-12.50"),
        (Opaque(246, b"\x01\x01\x85"), "0.5"),
        (Opaque(252, b""), '"base64:type252:"'),
        (Opaque(12, bytes(8)), '"0000-00-00 00:00:00.000000"'),
        (Opaque(10, bytes(8)), '"0000-00-00"'),
        (Opaque(11, bytes(8)), '"00:00:00.000000"'),
    ],
)
def test_opaque_values(value: Opaque, text: str) -> None:
    assert json_binary.text(document(value)) == text


def test_long_base64_has_lines() -> None:
    text = json.loads(json_binary.text(document(Opaque(252, bytes(100)))))
    assert [len(line) for line in text.removeprefix("base64:type252:").split("\n")] == [76, 60]


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"\x0d",
            b"\x04\x03",
            b"\x04",
            b"\x05\x01",
            b"\x0b" + bytes(7),
            b"\x0c\x05abc",
            b"\x0c" + b"\xff" * 6,
            b"\x0f",
        ),
        *(b"\x0c\x01\xff", b"\x0f\xf6\x02\x00\x00", b"\x0f\x0a\x02\x00\x00", b"\x0b" + struct.pack("<d", float("inf"))),
        *(b"\x0f\xf6\x06\x0a\x0b\x80\x00\x00\x00", b"\x0f\xf6\x06\x09\x00\xff\xff\xff\xff", b"\x02\x01\x00\x04\x00"),
        *(
            document([1, 2])[:-1],
            document({"a": "b"})[:-1],
            b"\x02\x01\x00\x07\x00\x0c\x00\x00",
            b"\x02\xff\xff\x04\x00",
        ),
        b"\x00\x02\x00\x14\x00\x12\x00\x01\x00\x12\x00\x01\x00\x04\x00\x00\x04\x00\x00aa",  # a key twice
    ],
)
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(DecodeError):
        json_binary.text(data)


def test_nesting_is_bounded() -> None:
    value: Value = 1
    for _ in range(100):
        value = [value]
    assert json_binary.text(document(value)) == "[" * 100 + "1" + "]" * 100
    with pytest.raises(DecodeError, match="deep"):
        json_binary.text(document([value]))


def test_offsets_that_share_content_cost_no_more_than_the_document_is_long() -> None:
    # Arrays whose elements are all the same next array: read by its offsets it would be 20**40 elements.
    level = document([1])[1:]
    for _ in range(40):
        count = 20
        size = 4 + 3 * count + len(level)
        level = struct.pack("<2H", count, size) + (b"\x02" + struct.pack("<H", 4 + 3 * count)) * count + level
    with pytest.raises(DecodeError):
        json_binary.text(b"\x02" + level)
    shared = struct.pack("<2H", 1000, 4 + 3000 + 10_003) + (b"\x0c" + struct.pack("<H", 3004)) * 1000
    with pytest.raises(DecodeError):
        json_binary.text(b"\x02" + shared + b"\x90\x4e" + b"x" * 10_001)


BEFORE: Any = {"a": 1, "list": [1, 2, 3], "deep": {"er": {"k": "v"}}, 'q"\\': True}


def applied(*changes: bytes, before: Any = BEFORE) -> object:
    text = json_binary.apply_partial(document(before), b"".join(changes))
    return json.loads(str(text))


class TestPartialUpdates:
    def test_each_operation(self) -> None:
        assert applied(change(REPLACE, "$.a", "new")) == {**BEFORE, "a": "new"}
        assert applied(change(INSERT, "$.b", [None])) == {**BEFORE, "b": [None]}
        assert applied(change(REMOVE, "$.a")) == {k: v for k, v in BEFORE.items() if k != "a"}
        assert applied(change(REPLACE, "$.list[1]", 9), before={"list": [1, 2, 3]}) == {"list": [1, 9, 3]}
        assert applied(change(INSERT, "$.list[1]", 9), before={"list": [1, 2, 3]}) == {"list": [1, 9, 2, 3]}
        assert applied(change(INSERT, "$.list[7]", 9), before={"list": [1, 2, 3]}) == {"list": [1, 2, 3, 9]}
        assert applied(change(REMOVE, "$.list[last]"), before={"list": [1, 2, 3]}) == {"list": [1, 2]}
        assert applied(change(REMOVE, "$[last - 1]"), before=[1, 2, 3]) == [1, 3]
        assert applied(change(REPLACE, "$.deep.er.k", 2), change(REMOVE, "$.deep.er.k")) == {
            **BEFORE,
            "deep": {"er": {}},
        }
        assert applied(change(REMOVE, '$."q\\"\\\\"')) == {k: v for k, v in BEFORE.items() if '"' not in k}

    def test_members_stay_in_order(self) -> None:
        text = json_binary.apply_partial(document({"b": 1, "cc": 2}), change(INSERT, "$.a", 3))
        assert text == '{"a": 3, "b": 1, "cc": 2}'

    def test_nothing_changed(self) -> None:
        assert applied() == BEFORE

    def test_null(self) -> None:
        assert json_binary.apply_partial(None, b"") is None
        assert json_binary.apply_partial(document(1), None) is None

    @pytest.mark.parametrize(
        "changes",
        [
            change(REPLACE, "$.missing", 1),
            change(INSERT, "$.a", 1),
            change(REMOVE, "$.missing"),
            change(REPLACE, "$.list[3]", 1),
            change(REMOVE, "$.list[last-3]"),
            change(REPLACE, "$.a.b", 1),
            change(REPLACE, "$.a[0]", 1),
            change(REPLACE, "$.list.x", 1),
            change(REPLACE, "$[0]", 1),
            change(REPLACE, "$", 1),
            change(3, "$.a", 1),
            change(REPLACE, "$.a", 1)[:-1],
            change(REMOVE, "$.a")[:-1],
            change(REMOVE, "a"),
            change(REMOVE, "$**.a"),
            change(REMOVE, "$.*"),
            change(REMOVE, "$[*]"),
            change(REMOVE, "$[1 to 2]"),
            change(REMOVE, '$."open'),
        ],
    )
    def test_changes_that_do_not_fit_are_refused(self, changes: bytes) -> None:
        with pytest.raises(DecodeError):
            applied(changes)

    def test_paths(self) -> None:
        assert path("$") == []
        assert path('$.a . "b.c"[ 3 ][last][last - 2].é') == [
            b"a",
            b"b.c",
            (3, False),
            (0, True),
            (2, True),
            "é".encode(),
        ]
        assert path(r'$."\u00e9\n"') == ["é\n".encode()]
