"""Framing of the binary log stream: runs, positions, checksums, packets over 16 MB, and everything compressed."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest

from connectors.mysql import events as e
from connectors.mysql.binlog import Ended, Events, Framer, Refused
from connectors.mysql.inflate import WHOLE
from engine.errors import DecodeError
from tests.fixtures.mysql.events import Packets, event, mariadb_compressed, payload, query

Item = Events | Refused | Ended


def feed(framer: Framer, *chunks: bytes) -> list[Item]:
    return [item for chunk in chunks for item in framer.feed(chunk)]


def runs(items: Iterable[Item]) -> list[Events]:
    return [item for item in items if isinstance(item, Events)]


def flat(items: Iterable[Item]) -> list[tuple[str, int, int, bytes]]:
    """File, type, offset behind and body of each event."""
    return [
        (run.file, int(run.types[i]), int(run.ends_at[i]), run.body_of(i))
        for run in runs(items)
        for i in range(len(run))
    ]


def transaction(packets: Packets, at: int, *, checksum: bool = True) -> bytes:
    return b"".join(
        packets.event(kind, body, at=(at + i * 100) & 0xFFFFFFFF, checksum=checksum)
        for i, (kind, body) in enumerate(
            [(e.GTID, bytes(42)), (e.QUERY, query(b"BEGIN")), (e.WRITE_ROWS, b"rows"), (e.XID, bytes(8))], 1
        )
    )


class TestRuns:
    def test_a_stream_becomes_runs_of_one_file_each(self) -> None:
        p = Packets()
        data = p.start() + transaction(p, 200)
        data += p.event(e.ROTATE, struct.pack("<Q", 4) + b"bin.000002", at=700)
        data += p.start("bin.000002") + transaction(p, 300)
        items = feed(Framer(), data)
        kinds = [e.GTID, e.QUERY, e.WRITE_ROWS, e.XID]
        assert [(r.file, r.types.tolist()) for r in runs(items)] == [
            ("", [e.ROTATE]),
            ("bin.000001", [e.FORMAT_DESCRIPTION]),
            ("bin.000001", kinds),
            ("bin.000001", [e.ROTATE]),
            ("bin.000002", [e.ROTATE]),
            ("bin.000002", [e.FORMAT_DESCRIPTION]),
            ("bin.000002", kinds),
        ]
        assert [at for _, _, at, _ in flat(items)][2:7] == [300, 400, 500, 600, 700]
        assert flat(items)[-4:] == [
            ("bin.000002", e.GTID, 400, bytes(42)),
            ("bin.000002", e.QUERY, 500, query(b"BEGIN")),
            ("bin.000002", e.WRITE_ROWS, 600, b"rows"),
            ("bin.000002", e.XID, 700, bytes(8)),
        ]

    def test_any_cut_of_the_bytes_gives_the_same(self) -> None:
        p = Packets()
        data = p.start() + transaction(p, 200) + transaction(p, 600)
        whole = flat(feed(Framer(), data))
        for size in (1, 2, 3, 4, 5, 7, 19, 64):
            framer = Framer()
            assert flat(feed(framer, *(data[i : i + size] for i in range(0, len(data), size)))) == whole
            assert framer.pending == 0

    def test_headers_are_in_vectors(self) -> None:
        p = Packets()
        (run,) = runs(feed(Framer(checksum=False), p.event(e.XID, bytes(8), flags=0x180, at=900, checksum=False)))
        assert (run.timestamps[0], run.servers[0], run.flags[0], run.ends_at[0]) == (1_700_000_000, 7, 0x180, 900)
        assert run.pick(slice(0, 1)).body_of(0) == run.span(0, 1).body_of(0) == bytes(8)

    def test_the_description_says_who_the_server_is(self) -> None:
        framer = Framer()
        feed(framer, Packets().start(version="11.8.1-MariaDB-log", checksum=False))
        assert framer.description is not None
        assert framer.description.mariadb
        assert not framer.checksum


class TestEndings:
    def test_an_error_packet_comes_last(self) -> None:
        p = Packets()
        data = p.start() + transaction(p, 200)
        refusal = p.pack(b"\xff" + struct.pack("<H", 1236) + b"#HY000" + "purged ü".encode())
        assert feed(Framer(), data + refusal)[-1] == Refused(1236, "HY000", "purged ü")
        assert feed(Framer(), Packets().pack(b"\xff\x07\x04"))[-1] == Refused(1031, "", "")

    def test_an_end_packet_comes_last(self) -> None:
        p = Packets()
        items = feed(Framer(), p.start() + p.pack(b"\xfe\0\0\2\0"))
        assert items[-1] == Ended()
        assert len(items) == 3

    @pytest.mark.parametrize("content", [b"", b"\x01abc", b"\xfe" + bytes(20), b"\xff\x01"])
    def test_any_other_packet_is_refused(self, content: bytes) -> None:
        with pytest.raises(DecodeError):
            feed(Framer(), Packets().pack(content))


class TestChecksums:
    def test_off(self) -> None:
        p = Packets()
        data = p.start(checksum=False) + transaction(p, 200, checksum=False)
        assert flat(feed(Framer(checksum=True), data))[-1] == ("bin.000001", e.XID, 600, bytes(8))

    def test_switched_in_the_next_file(self) -> None:
        p = Packets()
        data = p.start(checksum=False) + transaction(p, 200, checksum=False) + p.start("bin.000002") + transaction(p, 9)
        assert [body for _, kind, _, body in flat(feed(Framer(), data)) if kind == e.XID] == [bytes(8)] * 2

    @pytest.mark.parametrize("place", [30, -1, -30, -60])
    def test_a_damaged_event_is_refused(self, place: int) -> None:
        p = Packets()
        data = bytearray(p.start() + transaction(p, 200))
        start = len(Packets().start())
        data[start + place if place > 0 else place] ^= 1
        with pytest.raises(DecodeError, match="checksum"):
            feed(Framer(), bytes(data))

    def test_not_verified_when_told_so(self) -> None:
        p = Packets()
        data = bytearray(p.start() + transaction(p, 200))
        data[-1] ^= 1
        assert flat(feed(Framer(verify=False), bytes(data)))[-1][1] == e.XID

    def test_a_description_that_was_in_use_has_the_checksum_of_a_closed_file(self) -> None:
        data = bytearray(Packets().start())
        flags = data.rindex(bytes([e.FORMAT_DESCRIPTION]) + struct.pack("<I", 7)) - 4 + 17
        data[flags] |= 1
        assert flat(feed(Framer(), bytes(data)))[-1][1] == e.FORMAT_DESCRIPTION
        data[-1] ^= 1
        with pytest.raises(DecodeError, match="checksum"):
            feed(Framer(), bytes(data))


class TestLargePackets:
    @pytest.mark.parametrize("size", [0xFFFFFF - 1, 0xFFFFFF, 0xFFFFFF + 1, 2 * 0xFFFFFF, 40_000_000])
    def test_a_packet_over_16_mb_is_put_together(self, size: int) -> None:
        p = Packets()
        body = bytes(size - 1 - e.HEADER - 4)  # so that the payload (marker, header, body, checksum) is of this size
        data = transaction(p, 200) + p.event(e.WRITE_ROWS, body, at=650) + transaction(p, 700)
        framer = Framer()
        items = feed(framer, *(data[i : i + (1 << 20)] for i in range(0, len(data), 1 << 20)))
        assert [kind for _, kind, _, _ in flat(items)] == [
            *(e.GTID, e.QUERY, e.WRITE_ROWS, e.XID),
            e.WRITE_ROWS,
            *(e.GTID, e.QUERY, e.WRITE_ROWS, e.XID),
        ]
        assert [len(b) for _, _, _, b in flat(items)][4] == len(body)
        assert framer.pending == 0

    def test_all_in_one_read(self) -> None:
        p = Packets()
        data = transaction(p, 200) + p.event(e.WRITE_ROWS, bytes(17_000_000), at=650) + transaction(p, 700)
        assert len(flat(feed(Framer(), data))) == 9


class TestPositions:
    def test_files_over_4_gib_have_64_bit_offsets(self) -> None:
        p = Packets()
        start = (1 << 32) - 250
        items = feed(Framer(), p.start(offset=start) + transaction(p, start) + transaction(p, start + 400))
        expected = [start + 100 * i for i in range(1, 9)]
        assert [at for _, kind, at, _ in flat(items) if kind not in {e.ROTATE, e.FORMAT_DESCRIPTION}] == expected

    def test_events_without_a_position_have_the_one_before(self) -> None:
        p = Packets()
        data = (
            p.start(offset=500)
            + p.event(e.XID, bytes(8), at=600)
            + p.event(e.TABLE_MAP, b"x")
            + p.event(e.XID, bytes(8), at=800)
        )
        assert [at for _, _, at, _ in flat(feed(Framer(), data))][2:] == [600, 600, 800]

    def test_a_heartbeat_that_is_not_ahead_counts_for_nothing(self) -> None:
        p = Packets()
        data = p.start(offset=500) + p.event(e.XID, bytes(8), at=600)
        data += p.event(e.HEARTBEAT, b"bin.000001", at=580) + p.event(e.XID, bytes(8), at=700)
        assert [at for _, _, at, _ in flat(feed(Framer(), data))][2:] == [600, 600, 700]

    def test_a_heartbeat_moves_the_offset_on(self) -> None:
        p = Packets()
        data = p.start(offset=500) + p.event(e.HEARTBEAT, b"bin.000001", at=9000)
        assert flat(feed(Framer(), data))[-1][2] == 9000


class TestRefused:
    def test_an_unknown_event_stops_the_stream(self) -> None:
        p = Packets()
        with pytest.raises(DecodeError, match="unknown type 99"):
            feed(Framer(), p.start() + p.event(99, b"data"))

    def test_unless_it_says_that_it_may_be_passed_over(self) -> None:
        p = Packets()
        items = feed(Framer(), p.start() + p.event(99, b"data", flags=e.IGNORABLE) + transaction(p, 200))
        assert e.ROLES[flat(items)[2][1]] == e.Role.UNKNOWN

    def test_packets_out_of_order(self) -> None:
        p = Packets()
        data = p.start()
        p.sequence += 1
        with pytest.raises(DecodeError, match="out of order"):
            feed(Framer(), data + transaction(p, 200))

    def test_an_event_of_another_length_than_its_packet(self) -> None:
        raw = event(e.XID, bytes(8), checksum=True)
        with pytest.raises(DecodeError, match="another length"):
            feed(Framer(), Packets().pack(b"\0" + raw + b"x"))
        with pytest.raises(DecodeError, match="shorter"):
            feed(Framer(), Packets().pack(b"\0" + raw[:10]))


INNER = [
    event(e.QUERY, query(b"BEGIN"), flags=8),
    event(e.TABLE_MAP, b"a map"),
    event(e.WRITE_ROWS, b"rows" * 50),
    event(e.XID, bytes(8)),
]
INNER_BODIES = [query(b"BEGIN"), b"a map", b"rows" * 50, bytes(8)]


class TestCompressedTransactions:
    @pytest.mark.parametrize("compress", [True, False])
    def test_they_become_their_events(self, compress: bool) -> None:
        p = Packets()
        data = p.start() + transaction(p, 200) + p.event(e.GTID, bytes(42), at=700)
        data += p.event(e.TRANSACTION_PAYLOAD, payload(INNER, compress=compress), at=900) + transaction(p, 1000)
        found = flat(feed(Framer(), data))
        assert [body for _, _, _, body in found[7:11]] == INNER_BODIES
        assert [(kind, at) for _, kind, at, _ in found[6:12]] == [
            *((e.GTID, 700), (e.QUERY, 900), (e.TABLE_MAP, 900), (e.WRITE_ROWS, 900), (e.XID, 900), (e.GTID, 1100)),
        ]

    def test_a_large_one_comes_in_several_runs(self) -> None:
        rows = [event(e.WRITE_ROWS, bytes([i]) * 300_000) for i in range(60)]
        p = Packets()
        data = (
            p.start()
            + p.event(e.TRANSACTION_PAYLOAD, payload([INNER[0], *rows, INNER[3]]), at=900)
            + transaction(p, 1000)
        )
        items = runs(feed(Framer(), data))
        assert max(len(run.data) for run in items) < 3 * WHOLE
        assert len(items) > 4
        assert [body[:1] for _, kind, _, body in flat(items) if kind == e.WRITE_ROWS][:-1] == [
            bytes([i]) for i in range(60)
        ]
        assert [kind for _, kind, _, _ in flat(items)][-6:] == [
            e.WRITE_ROWS,
            e.XID,
            e.GTID,
            e.QUERY,
            e.WRITE_ROWS,
            e.XID,
        ]

    def test_an_event_longer_than_a_piece(self) -> None:
        sizes = [WHOLE + 1, 10, 3 * WHOLE, 0, WHOLE - 30]
        inner = [event(e.WRITE_ROWS, bytes([i]) * size) for i, size in enumerate(sizes)]
        p = Packets()
        data = p.start() + p.event(e.TRANSACTION_PAYLOAD, payload([INNER[0], *inner, INNER[3]]), at=900)
        data += p.event(e.TRANSACTION_PAYLOAD, payload(INNER), at=1000) + transaction(p, 1000)
        found = flat(feed(Framer(), data))[2:]
        assert [(kind, len(body)) for _, kind, _, body in found[:7]] == [
            *((e.QUERY, len(INNER_BODIES[0])), *((e.WRITE_ROWS, size) for size in sizes), (e.XID, 8)),
        ]
        assert [at for _, _, at, _ in found] == [900] * 7 + [1000] * 4 + [1100, 1200, 1300, 1400]
        assert [body for _, _, _, body in found[7:11]] == INNER_BODIES

    def test_many_small_ones_in_one_run(self) -> None:
        p = Packets()
        data = p.start() + b"".join(p.event(e.TRANSACTION_PAYLOAD, payload(INNER), at=100 + i) for i in range(50))
        assert [body for _, _, _, body in flat(feed(Framer(), data))[2:]] == INNER_BODIES * 50
        assert len(feed(Framer(), data)) == 3

    @pytest.mark.parametrize(
        "body",
        [
            payload(INNER)[:-3],
            payload(INNER)[:-1] + b"x",
            payload(INNER, size=0),
            payload(INNER, size=10),
            payload(INNER, size=(1 << 64) - 1),
            payload(INNER, size=100_000),
            payload([b"".join(INNER)[:-1]]),
            payload([*INNER, bytes(19)]),
            payload([event(e.TRANSACTION_PAYLOAD, payload(INNER))]),
            payload([event(99, b"unknown")]),
            b"\x02\x01\x05\x00" + b"content",
            b"\x02\x01",
        ],
    )
    def test_a_damaged_one_is_refused(self, body: bytes) -> None:
        p = Packets()
        with pytest.raises(DecodeError):
            feed(Framer(), p.start() + p.event(e.TRANSACTION_PAYLOAD, body))


ROWS_HEAD = bytes(6) + b"\1\0" + b"\3" + b"\7"


class TestMariadbCompressedEvents:
    @pytest.mark.parametrize(
        "kind,plain,prefix",
        [
            (e.QUERY_COMPRESSED, e.QUERY, query(b"", status=b"\1" + bytes(8))),
            (e.WRITE_ROWS_COMPRESSED_V1, e.WRITE_ROWS_V1, ROWS_HEAD),
            (e.UPDATE_ROWS_COMPRESSED_V1, e.UPDATE_ROWS_V1, ROWS_HEAD + b"\7"),
            (e.DELETE_ROWS_COMPRESSED_V1, e.DELETE_ROWS_V1, ROWS_HEAD),
            (e.WRITE_ROWS_COMPRESSED, e.WRITE_ROWS, ROWS_HEAD[:8] + b"\4\0xx" + b"\3\7"),
            (e.UPDATE_ROWS_COMPRESSED, e.UPDATE_ROWS, ROWS_HEAD[:8] + b"\2\0" + b"\3\7\7"),
            (e.DELETE_ROWS_COMPRESSED, e.DELETE_ROWS, ROWS_HEAD[:8] + b"\2\0" + b"\3\7"),
        ],
    )
    @pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
    def test_they_become_plain_ones(self, kind: int, plain: int, prefix: bytes, size: int) -> None:
        content = b"x" * size
        p = Packets()
        data = p.start() + transaction(p, 200)
        data += p.event(kind, mariadb_compressed(prefix, content), at=900) + transaction(p, 900)
        found = flat(feed(Framer(), data))
        assert found[6] == ("bin.000001", plain, 900, prefix + content)
        assert len(found) == 11

    @pytest.mark.parametrize(
        "body",
        [
            mariadb_compressed(ROWS_HEAD, b"x" * 100)[:-2],
            mariadb_compressed(ROWS_HEAD, b"x" * 100).replace(b"\x81\x64", b"\x81\x63"),
            mariadb_compressed(ROWS_HEAD, b"x" * 100).replace(b"\x81\x64", b"\x91\x64"),
            mariadb_compressed(ROWS_HEAD, b"x" * 100).replace(b"\x81\x64", b"\x80\x64"),
            ROWS_HEAD,
            b"",
        ],
    )
    def test_a_damaged_one_is_refused(self, body: bytes) -> None:
        p = Packets()
        with pytest.raises(DecodeError):
            feed(Framer(), p.start() + p.event(e.WRITE_ROWS_COMPRESSED_V1, body))
