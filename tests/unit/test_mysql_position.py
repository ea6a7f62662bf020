"""Positions and GTID sets of MySQL and MariaDB."""

from __future__ import annotations

import struct
import uuid

import numpy as np
import pytest

from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.position import BinlogPosition
from engine.errors import DecodeError

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "4e11fa47-71ca-11e1-9e33-c80aa9429562"


def gtids(text: str) -> GtidSet:
    return GtidSet.parse(text)


class TestGtidSets:
    @pytest.mark.parametrize(
        "text,normal",
        [
            ("", ""),
            (f"{A}:1", f"{A}:1"),
            (f"{A}:1-5", f"{A}:1-5"),
            (f"{A}:1-5:7:6", f"{A}:1-7"),
            (f"{A}:5:1-3:2-4", f"{A}:1-5"),
            (f"{A.upper()}:1-5,\n{B}:7", f"{A}:1-5,{B}:7"),
            (f"{B}:7,{A}:1,{B}:8", f"{A}:1,{B}:7-8"),
            (f"{A}:1-3:tag:4-5:8:Other:1,", f"{A}:1-3:other:1:tag:4-5:8"),
            (f"{A}:tag:1", f"{A}:tag:1"),
            (f"{A}:9-3", ""),
        ],
    )
    def test_the_servers_text(self, text: str, normal: str) -> None:
        assert str(gtids(text)) == normal

    @pytest.mark.parametrize(
        "text",
        [
            A,
            f"{A}:",
            f"{A}:0",
            f"{A}:0-3",
            f"{A}:x-1",
            f"{A}:1-",
            f"{A}:1--2",
            f"{A[:-1]}:1",
            "bin.000001:4",
            f"{A}:1;{B}:2",
            f"{A}:{'t' * 33}:1",
            f"{A}:9223372036854775807",
            f"{A}:-5",
            f"{A}:tag-x:1",
            "0-1-2",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="GTID"):
            gtids(text)

    def test_containment(self) -> None:
        whole = gtids(f"{A}:1-10:15-20,{B}:1:tag:1-5")
        assert whole.contains(gtids(f"{A}:2-3:17,{B}:tag:5"))
        assert whole.contains(whole)
        assert whole.contains(GtidSet())
        for other in (f"{A}:11", f"{A}:10-15", f"{B}:2", f"{B}:other:1", f"{A}:1-20"):
            assert not whole.contains(gtids(other))

    def test_difference_and_union(self) -> None:
        left, right = gtids(f"{A}:1-10,{B}:1-3"), gtids(f"{A}:3-4:8-20,{B}:1-3:tag:1")
        assert str(left.minus(right)) == f"{A}:1-2:5-7"
        assert str(right.minus(left)) == f"{A}:11-20,{B}:tag:1"
        assert str(left.union(right)) == f"{A}:1-20,{B}:1-3:tag:1"
        assert left.count() == 13

    def test_adding_numbers(self) -> None:
        start = gtids(f"{A}:1-5")
        assert str(start.add((A, ""), np.array([6, 7, 9, 8], np.int64))) == f"{A}:1-9"
        assert str(start.add((B, "t"), np.array([5, 3, 4, 9], np.int64))) == f"{A}:1-5,{B}:t:3-5:9"
        assert start.add((A, ""), np.array([], np.int64)) is start
        with pytest.raises(DecodeError):
            start.add((A, ""), np.array([0], np.int64))

    def test_the_binary_form(self) -> None:
        plain = gtids(f"{A}:1-5:9")
        expected = struct.pack("<Q", 1) + uuid.UUID(A).bytes + struct.pack("<Qqqqq", 2, 1, 6, 9, 10)
        assert plain.encode() == expected
        tagged = gtids(f"{A}:1:tag:7")
        assert tagged.encode() == b"".join(
            (
                bytes([1, 2, 0, 0, 0, 0, 0, 1]),
                uuid.UUID(A).bytes + b"\0" + struct.pack("<Qqq", 1, 1, 2),
                uuid.UUID(A).bytes + b"\x06tag" + struct.pack("<Qqq", 1, 7, 8),
            )
        )
        assert GtidSet.decode(plain.encode()) == plain
        assert GtidSet.decode(tagged.encode()) == tagged

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            bytes(7),
            struct.pack("<Q", 1),
            struct.pack("<Q", 2 << 56),
            struct.pack("<Q", 1 << 56),
            struct.pack("<Q", 1 << 40),
            gtids(f"{A}:1-5").encode() + b"x",
            gtids(f"{A}:1-5").encode()[:-1],
            struct.pack("<Q", 1) + bytes(16) + struct.pack("<Q", 1 << 60),
            struct.pack("<Q", 1) + bytes(16) + struct.pack("<Qqq", 1, 0, 5),
            struct.pack("<Q", 1) + bytes(16) + struct.pack("<Qqq", 1, 5, 5),
            gtids(f"{A}:tag:1").encode().replace(b"\x06tag", b"\x06TAG"),
        ],
    )
    def test_what_is_no_binary_form(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            GtidSet.decode(data)


class TestMariadb:
    def test_text(self) -> None:
        assert str(MariadbGtids.parse("1-2-30, 0-1-18446744073709551615")) == "0-1-18446744073709551615,1-2-30"
        for text in ("0-1", "0-1-2-3", "a-1-2", "0-1-2,0-2-3", "4294967296-1-1", f"{A}:1"):
            with pytest.raises(ValueError, match="MariaDB"):
                MariadbGtids.parse(text)

    def test_containment_is_per_domain(self) -> None:
        position = MariadbGtids.parse("0-1-10,1-7-5")
        assert position.contains(MariadbGtids.parse("0-9-10"))
        assert position.contains(MariadbGtids.parse("1-7-4"))
        assert not position.contains(MariadbGtids.parse("0-1-11"))
        assert not position.contains(MariadbGtids.parse("2-1-1"))
        assert str(position.advance(0, 3, 11).advance(2, 3, 1)) == "0-3-11,1-7-5,2-3-1"


class TestPositions:
    @pytest.mark.parametrize(
        "text",
        [
            *("bin.000001:4", "mysql-bin.999999:5368709120", "a:b.c.000001:4", "bin.000001:4;", ";"),
            *(f"bin.000001:157;{A}:1-5:tag:7", f"{A}:1-5", "0-1-7", "bin.000001:4;0-1-7,1-1-2", "bin.1000000:1"),
        ],
    )
    def test_text_and_back(self, text: str) -> None:
        assert str(BinlogPosition.parse(text)) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "bin.000001",
            "bin:4",
            "bin.000001:-4",
            "bin.000001:x",
            "x;y",
            ";;",
            "bin.000001:4;x",
            "0-1",
            A,
            "bin.000001:99999999999999999999",
            "bin.000001:4;bin.000001:4",
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError):
            BinlogPosition.parse(text)

    def test_parts(self) -> None:
        position = BinlogPosition.parse(f" bin.000007:157;{A}:1-5\n")
        assert (position.file, position.offset) == ("bin.000007", 157)
        assert position.gtids == gtids(f"{A}:1-5")
        assert BinlogPosition.parse("bin.000007:157").gtids is None
        assert BinlogPosition.parse("bin.000007:157;").gtids == GtidSet()
        assert BinlogPosition("bin.000007", 4, MariadbGtids()) == BinlogPosition("bin.000007", 4, GtidSet())

    @pytest.mark.parametrize(
        "fields", [{"file": "bin"}, {"offset": 4}, {"file": "a.1", "offset": -1}, {}, {"file": "a;.1"}]
    )
    def test_nonsense_is_refused(self, fields: dict[str, object]) -> None:
        with pytest.raises(ValueError):
            BinlogPosition(**fields)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "later,earlier",
        [
            ("bin.000002:4", "bin.000001:900"),
            ("bin.1000000:4", "bin.999999:4"),
            ("bin.000001:5", "bin.000001:4"),
            (f"bin.000001:4;{A}:1-6", f"bin.000009:4;{A}:1-5"),
            (f"{A}:1-5,{B}:1", f"bin.000001:4;{A}:2"),
            ("0-1-6,1-1-1", "bin.000003:4;0-2-5"),
            (f"bin.000002:4;{A}:1", "bin.000001:4"),
            (f"{A}:1", ";"),
            ("0-1-1", "bin.000001:4;"),
        ],
    )
    def test_covers(self, later: str, earlier: str) -> None:
        after, before = BinlogPosition.parse(later), BinlogPosition.parse(earlier)
        assert after.covers(before)
        assert not before.covers(after)
        assert after.covers(after)

    @pytest.mark.parametrize(
        "one,other",
        [
            (f"{A}:1", f"{B}:1"),
            ("0-1-1", f"{A}:1"),
            ("0-1-1", "1-1-1"),
            ("bin.000001:4", "other.000001:4"),
            (f"{A}:1", "bin.000001:4"),
        ],
    )
    def test_what_cannot_be_compared_covers_neither_way(self, one: str, other: str) -> None:
        left, right = BinlogPosition.parse(one), BinlogPosition.parse(other)
        assert not left.covers(right)
        assert not right.covers(left)

    def test_a_foreign_position(self) -> None:
        with pytest.raises(TypeError):
            BinlogPosition("bin.000001", 4).covers("bin.000001:4")  # type: ignore[arg-type]
