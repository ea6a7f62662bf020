"""Character sets: what is known of each; the servers themselves are asked in an integration test."""

from __future__ import annotations

import pyarrow as pa
import pytest

from connectors.mysql import charsets
from engine.errors import DecodeError


def decoded(name: str, *values: bytes | None) -> list[str | None]:
    return charsets.decode(name, pa.array(values, pa.binary())).to_pylist()


@pytest.mark.parametrize(
    "name, data, text",
    [
        ("latin1", b"\x80\x81\xff\x9f", "€\x81ÿŸ"),
        ("utf8", "é日".encode(), "é日"),
        ("utf8mb4", "😀".encode(), "😀"),
        ("ucs2", "日a".encode("utf-16-be"), "日a"),
        ("utf16", "😀".encode("utf-16-be"), "😀"),
        ("utf16le", "😀".encode("utf-16-le"), "😀"),
        ("utf32", "😀".encode("utf-32-be"), "😀"),
        ("sjis", b"a\x81\x5f\xb1", "a\\ｱ"),
        ("cp932", b"\xfa\x40", "ⅰ"),
        ("ujis", b"\xa1\xc0\x8e\xb1\xf5\xa1\x8f\xf5\xa1", "\\ｱ\ue000\ue3ac"),
        ("eucjpms", b"\xad\xa1\x8f\xf3\xf3\xa1\xc1", "①ⅰ～"),
        ("big5", b"\xa1\x5a\xf9\xd6", "\ufffd碁"),
        ("gb18030", b"\xa8\xbc\x90\x30\x81\x30", "\u1e3f𐀀"),
        ("euckr", b"\x81\x41", "갂"),
        ("swe7", b"a[}~", "aÄåü"),
        ("geostd8", b"\xc0\x80", "ა€"),
        ("keybcs2", b"\x80\xff", "Č\xa0"),
        ("armscii8", b"\xa2\xff", "§'"),
        ("dec8", b"\xd7\xff", "Œ?"),
        ("cp1256", b"\x8a", "?"),
        ("ascii", b"a~", "a~"),
    ],
)
def test_text_of_each_kind_of_set(name: str, data: bytes, text: str) -> None:
    assert decoded(name, data, None, b"", data) == [text, None, "", text]


def test_slices_are_decoded_where_they_stand() -> None:
    whole = pa.array([b"\xe4", b"a", None, b"\xf6\xf6", b"x"], pa.binary())
    assert charsets.decode("latin1", whole[1:4]).to_pylist() == ["a", None, "öö"]
    assert charsets.decode("gbk", whole[1:3]).to_pylist() == ["a", None]


def test_large_binary() -> None:
    assert charsets.decode("latin1", pa.array([b"\xe4"], pa.large_binary())).to_pylist() == ["ä"]
    assert charsets.decode("utf8mb4", pa.array([b"a"], pa.large_binary())).to_pylist() == ["a"]


@pytest.mark.parametrize("name", sorted(charsets.CHARACTER_SETS))
def test_empty_and_null(name: str) -> None:
    assert decoded(name) == []
    assert decoded(name, None, b"") == [None, ""]


@pytest.mark.parametrize(
    "name, data",
    [
        ("utf8mb4", b"\xff"),
        ("ucs2", b"a"),
        ("utf16", b"\xd8\x00"),
        ("gbk", b"\x81"),
        ("ujis", b"\x8f\xa1"),
        ("utf32", b"abc"),
    ],
)
def test_half_a_character_is_an_error_that_does_not_show_it(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(name, b"fine"[: len(data)] if name.startswith(("ucs", "utf16", "utf32")) else b"fine", data)
    assert name in str(caught.value)
    assert caught.value.__cause__ is None


def test_unknown_sets_and_collations_are_errors() -> None:
    with pytest.raises(DecodeError):
        decoded("klingon", b"a")
    for number in (0, 17, 100, 2**16):
        with pytest.raises(DecodeError):
            charsets.of_collation(number)


@pytest.mark.parametrize(
    "number, name",
    [
        (8, "latin1"),
        (33, "utf8mb3"),
        (45, "utf8mb4"),
        (255, "utf8mb4"),
        (63, "binary"),
        (1071, "latin1"),
        (2309, "utf8mb4"),
    ],
)
def test_collations(number: int, name: str) -> None:
    assert charsets.of_collation(number) == name
