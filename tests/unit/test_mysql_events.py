"""The rare events of both servers, one by one and, where they come often, in vectors."""

from __future__ import annotations

import struct
import uuid

import numpy as np
import pytest

from connectors.mysql import events as e
from connectors.mysql import transactions as x
from connectors.mysql.events import Heartbeat, Incident, Query, Role, Rotate, Xid
from connectors.mysql.transactions import Gtid, gtid_run, mariadb_gtid_run, parse_gtid, parse_mariadb_gtid
from connectors.mysql.wire import Cursor
from engine.errors import DecodeError
from tests.fixtures.mysql.events import format_description, query, signed_varint, tagged_gtid, varint

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
# A body as it was in the log of MySQL 9.7.4.
TAGGED = bytes.fromhex(
    "0276000000024c290205028902a103b90222c5036d02d404f103000000020404060a6d7974616708040a080c7f7c690a3516610610b9041283120b"
)


def plain_gtid(
    number: int = 5, *, committed: int = 0, original: int | None = None, length: bytes = b"", server: str = A
) -> bytes:
    body = b"\1" + uuid.UUID(server).bytes + struct.pack("<qBqq", number, 2, 3, 4)
    if committed:
        flag = 0 if original is None else 1 << 55
        body += (committed | flag).to_bytes(7, "little")
        body += b"" if original is None else original.to_bytes(7, "little")
    return body + length


class TestControl:
    def test_format_description(self) -> None:
        found = e.parse_format_description(format_description("10.11.6-MariaDB-log", checksum=False))
        assert (found.server_version, found.checksum, found.mariadb) == ("10.11.6-MariaDB-log", False, True)
        assert len(found.post_headers) == 41
        assert not e.parse_format_description(format_description()).mariadb

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            format_description()[:57],
            struct.pack("<H50sIB", 3, b"4.0", 0, 19) + bytes(20),
            struct.pack("<H50sIB", 4, b"9.0", 0, 20) + bytes(20),
            format_description()[:-1] + b"\2",
        ],
    )
    def test_a_log_of_another_format(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            e.parse_format_description(body)

    def test_rotate(self) -> None:
        assert e.parse_rotate(struct.pack("<Q", 5 << 32) + b"bin.000007") == Rotate(5 << 32, "bin.000007")
        for body in (b"", bytes(8), bytes(8) + b"a\0b", bytes(8) + b"\xff", bytes(8) + b"a\n"):
            with pytest.raises(DecodeError):
                e.parse_rotate(body)

    def test_heartbeats(self) -> None:
        assert e.parse_heartbeat(b"bin.000007", e.HEARTBEAT) == Heartbeat("bin.000007", None)
        large = struct.pack("<Q", 5 << 32) + b"bin.000007"
        assert e.parse_heartbeat(large, e.HEARTBEAT) == Heartbeat("bin.000007", 5 << 32)
        second = b"\1\x0abin.000007" + b"\2\x09\xfe" + struct.pack("<Q", 5 << 32) + b"\0"
        assert e.parse_heartbeat(second, e.HEARTBEAT_V2) == Heartbeat("bin.000007", 5 << 32)

    def test_incident(self) -> None:
        assert e.parse_incident(b"\1\0\x05hello") == Incident(1)

    def test_xid(self) -> None:
        assert e.parse_xid(struct.pack("<Q", 77)) == 77

    def test_xa_prepare(self) -> None:
        found = e.parse_xa_prepare(struct.pack("<BIII", 0, 7, 3, 1) + b"abcb")
        assert found == (Xid(7, b"abc", b"b"), False)
        for body in (struct.pack("<BIII", 2, 7, 0, 0), struct.pack("<BIII", 0, 7, 65, 0) + bytes(65), bytes(12)):
            with pytest.raises(DecodeError):
                e.parse_xa_prepare(body)

    def test_roles_cover_every_type_that_is_named(self) -> None:
        named = {
            value
            for name, value in vars(e).items()
            if name.isupper() and isinstance(value, int) and not name.startswith("_")
        } - {e.HEADER, e.IGNORABLE, e.ARTIFICIAL, e.SUPPRESS_USE}
        unknown = {kind for kind in named if e.ROLES[kind] == Role.UNKNOWN}
        packed = {e.TRANSACTION_PAYLOAD, *range(e.QUERY_COMPRESSED, e.DELETE_ROWS_COMPRESSED + 1)}
        assert unknown <= packed

    def test_unknown_types(self) -> None:
        types = np.array([e.XID, 200], np.uint8)
        e.check_known(types, np.array([0, e.IGNORABLE], np.int64))
        with pytest.raises(DecodeError, match="200"):
            e.check_known(types, np.array([e.IGNORABLE, 0], np.int64))


class TestQueries:
    def test_the_session_is_told(self) -> None:
        status = (
            *(b"\0" + bytes(4), b"\1" + struct.pack("<Q", 4), b"\6\3std", b"\3" + bytes(4), b"\4" + struct.pack("<3H", 8, 9, 10)),
            *(b"\5\3UTC", b"\7\0\0", b"\x08\0\0", b"\x09" + bytes(8), b"\x0a" + bytes(4), b"\x0b\1u\1h", b"\x0c\2a\0b\0"),
            *(b"\x0d" + bytes(3), b"\x10\0", b"\x11" + bytes(8), b"\x12" + bytes(2), b"\x13\0", b"\x14\0", b"\x80" + bytes(3)),
        )  # fmt: skip
        found = e.parse_query(query(b"DROP TABLE t", "shöp", status=b"".join(status), error=3))
        assert found == Query("shöp", b"DROP TABLE t", 4, 8, 3, False, ("a", "b"))

    def test_behind_an_unknown_variable_nothing_is_read(self) -> None:
        found = e.parse_query(query(b"x", status=b"\1" + struct.pack("<Q", 4) + b"\x63\1\2\3"))
        assert (found.sql_mode, found.client, found.written) == (4, None, None)

    def test_too_many_schemas_are_none_known(self) -> None:
        assert e.parse_query(query(b"x", status=b"\x0c\xfe")).written is None

    def test_load_data(self) -> None:
        body = query(b"LOAD DATA INFILE 'f' INTO TABLE t", "d")
        body = body[:13] + bytes(13) + body[13:]
        assert e.parse_query(body, e.EXECUTE_LOAD_QUERY)[:2] == ("d", b"LOAD DATA INFILE 'f' INTO TABLE t")

    @pytest.mark.parametrize(
        "body", [b"", query(b"x")[:-3], query(b"", status=b"\1\0"), query(b"").replace(b"shop\0", b"shopx")]
    )
    def test_truncated(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            e.parse_query(body)


class TestGtids:
    def test_plain(self) -> None:
        assert parse_gtid(plain_gtid(), e.GTID) == Gtid(A, "", 5, 0, 0, 0)
        body = plain_gtid(committed=1_700_000_000_000_000, length=b"\xfc\x2c\x01" + bytes(4))
        assert parse_gtid(body, e.GTID) == Gtid(A, "", 5, 1_700_000_000_000_000, 1_700_000_000_000_000, 300)
        body = plain_gtid(committed=1_700_000_000_000_000, original=1_600_000_000_000_000)
        assert parse_gtid(body, e.GTID)[3:5] == (1_700_000_000_000_000, 1_600_000_000_000_000)

    def test_of_mysql_5_6(self) -> None:
        assert parse_gtid(plain_gtid()[:25], e.GTID) == Gtid(A, "", 5, 0, 0, 0)

    def test_anonymous(self) -> None:
        assert parse_gtid(plain_gtid(0), e.ANONYMOUS_GTID).number == 0
        with pytest.raises(DecodeError):
            parse_gtid(plain_gtid(0), e.GTID)

    def test_tagged(self) -> None:
        body = tagged_gtid(A, "my_tag", 9, committed=1_700_000_000_000_000)
        assert parse_gtid(body, e.GTID_TAGGED) == Gtid(
            A, "my_tag", 9, 1_700_000_000_000_000, 1_700_000_000_000_000, 300
        )
        body = tagged_gtid(A, "", 1 << 62, committed=2, original=1)
        assert parse_gtid(body, e.GTID_TAGGED) == Gtid(A, "", 1 << 62, 2, 1, 300)

    def test_recorded_tagged(self) -> None:
        found = parse_gtid(TAGGED, e.GTID_TAGGED)
        assert (found.server, found.tag, found.number) == ("268a81a2-e8ae-11f1-9b6a-02fc00000001", "mytag", 1)
        assert found.length == 302

    def test_tagged_with_fields_of_a_later_version(self) -> None:
        body = tagged_gtid(A, "t", 9, extra=varint(30) + b"whatever")
        assert parse_gtid(body, e.GTID_TAGGED).number == 9
        needed = bytearray(tagged_gtid(A, "t", 9))
        needed[needed.index(varint(9), 2)] = varint(40)[0]
        with pytest.raises(DecodeError, match="field that is not known"):
            parse_gtid(bytes(needed), e.GTID_TAGGED)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            tagged_gtid(A, "t", 9)[:-1],
            tagged_gtid(A, "t", 9) + b"x",
            tagged_gtid(A, "t", 0),
            tagged_gtid(A, "t", -4),
            varint(2) + tagged_gtid(A, "t", 9)[1:],
        ],
    )
    def test_tagged_malformed(self, body: bytes) -> None:
        with pytest.raises(DecodeError):
            parse_gtid(body, e.GTID_TAGGED)

    @pytest.mark.parametrize(
        "value", [0, 1, 127, 128, 16383, 16384, (1 << 56) - 1, 1 << 56, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    )
    def test_numbers_of_any_length(self, value: int) -> None:
        cursor = Cursor(varint(value), "a test")
        assert x._unsigned(cursor) == value
        cursor.finish()

    @pytest.mark.parametrize("value", [0, -1, 1, 65535, -65535, -65536, (1 << 63) - 1, -(1 << 63)])
    def test_signed_numbers(self, value: int) -> None:
        assert x._signed(Cursor(signed_varint(value), "a test")) == value

    def test_the_examples_of_the_documentation(self) -> None:
        assert x._unsigned(Cursor(bytes([0b11111011, 0b11111111, 0b00000111]), "")) == 65535
        assert x._signed(Cursor(bytes([0b11110011, 0b11111111, 0b00001111]), "")) == 65535
        assert x._signed(Cursor(bytes([0b11111011, 0b11111111, 0b00001111]), "")) == -65536

    def test_in_vectors(self) -> None:
        other = "4e11fa47-71ca-11e1-9e33-c80aa9429562"
        bodies = [
            plain_gtid(5, committed=1_700_000_000_000_001),
            plain_gtid(1 << 40, committed=1_700_000_000_000_002, original=1, server=other),
            plain_gtid(7),
            plain_gtid(8, committed=3)[:25],
        ]
        u8 = np.frombuffer(b"".join(bodies), np.uint8)
        end = np.cumsum([len(b) for b in bodies])
        body = end - np.array([len(b) for b in bodies])
        run = gtid_run(u8, body, end)
        assert [run.servers[i] for i in run.which.tolist()] == [A, other, A, A]
        assert run.numbers.tolist() == [5, 1 << 40, 7, 8]
        assert run.committed.tolist() == [1_700_000_000_000_001, 1_700_000_000_000_002, 0, 0]
        assert gtid_run(u8, body[:1], end[:1]).servers == [A]
        assert gtid_run(u8, body[:0], end[:0]).servers == []
        for wrong in ((body, end + 1), (body + 60, end), (body, body + 24)):
            with pytest.raises(DecodeError):
                gtid_run(u8, *wrong)
        zero = np.frombuffer(plain_gtid(0), np.uint8)
        with pytest.raises(DecodeError):
            gtid_run(zero, np.array([0]), np.array([len(zero)]))


class TestMariadbGtids:
    def test_plain(self) -> None:
        found = parse_mariadb_gtid(struct.pack("<QIB", 9, 7, 0x0C) + bytes(6))
        assert (found.number, found.domain, found.flags, found.xid) == (9, 7, 0x0C, None)
        assert not (found.standalone)
        assert not (found.ddl)
        assert not (found.prepared)
        assert not (found.completed)
        assert parse_mariadb_gtid(struct.pack("<QIBQ", 9, 7, 0x23, 5)).ddl

    def test_xa(self) -> None:
        body = struct.pack("<QIBIBB", 9, 7, 0x40, 7, 3, 1) + b"abcb"
        assert parse_mariadb_gtid(body).xid == Xid(7, b"abc", b"b")
        assert parse_mariadb_gtid(struct.pack("<QIBQIBB", 9, 7, 0x82, 1, 7, 1, 0) + b"a").completed
        with pytest.raises(DecodeError):
            parse_mariadb_gtid(body[:-1])

    def test_list(self) -> None:
        body = struct.pack("<I", 2 | 1 << 28) + struct.pack("<IIQ", 0, 1, 5) + struct.pack("<IIQ", 7, 1, 1 << 40)
        assert x.parse_gtid_list(body) == [(0, 1, 5), (7, 1, 1 << 40)]
        with pytest.raises(DecodeError):
            x.parse_gtid_list(body[:-1])

    def test_in_vectors(self) -> None:
        bodies = [struct.pack("<QIB", i, 7 + i, 12) + bytes(6) for i in range(5)]
        u8 = np.frombuffer(b"".join(bodies), np.uint8)
        body = np.arange(5) * 19
        run = mariadb_gtid_run(u8, body, body + 19)
        assert (run.numbers.tolist(), run.domains.tolist(), run.flags.tolist()) == (
            [0, 1, 2, 3, 4],
            [7, 8, 9, 10, 11],
            [12] * 5,
        )
        with pytest.raises(DecodeError):
            mariadb_gtid_run(u8, body, body + 12)
