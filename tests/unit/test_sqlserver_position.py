"""Positions of SQL Server: text, order, and the ways in which the server writes LSNs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.mysql.position import BinlogPosition
from connectors.sqlserver.position import CdcPosition, literal, lsn_of, lsn_of_text

LSNS = st.integers(0, (1 << 80) - 1)


@settings(max_examples=50)
@given(LSNS, LSNS)
def test_text_bytes_and_order_agree(one: int, other: int) -> None:
    left, right = CdcPosition(one), CdcPosition(other)
    assert CdcPosition.parse(str(left)) == left
    assert lsn_of(bytes.fromhex(str(left)[2:])) == one
    assert left.covers(right) == (one.to_bytes(10) >= other.to_bytes(10))
    assert literal(one) == str(left)


def test_the_log_spells_lsns_with_colons() -> None:
    assert lsn_of_text("0000002e:00000168:0003") == 0x0000002E_00000168_0003
    assert lsn_of_text("0000002E:00000168:0003") == lsn_of(bytes.fromhex("0000002E000001680003"))


@pytest.mark.parametrize("junk", ["", "0x", "0x00", "0000002E000001680003", "0x" + "g" * 20, "0x" + "0" * 21])
def test_junk_is_no_position(junk: str) -> None:
    with pytest.raises(ValueError, match="position"):
        CdcPosition.parse(junk)


@pytest.mark.parametrize("junk", ["", "46:360:3", "0000002e:00000168", "0000002e:00000168:0003 "])
def test_junk_is_no_lsn_of_the_log(junk: str) -> None:
    with pytest.raises(ValueError, match="LSN"):
        lsn_of_text(junk)


def test_an_lsn_has_ten_bytes() -> None:
    assert lsn_of(None) == 0
    for junk in (b"", b"\0" * 9, 7, "0x00"):
        with pytest.raises(ValueError, match="LSN"):
            lsn_of(junk)
    with pytest.raises(ValueError, match="ten bytes"):
        CdcPosition(1 << 80)


def test_positions_of_other_servers_do_not_compare() -> None:
    with pytest.raises(TypeError, match="BinlogPosition"):
        CdcPosition(1).covers(BinlogPosition("binlog.000001", 4))
