"""Round trips through encoders of our own, and what corruption can and cannot do to every decoder of the binary log."""

from __future__ import annotations

import itertools
import random
import struct
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.mysql import events as e
from connectors.mysql import transactions as x
from connectors.mysql.binlog import Events, Framer
from connectors.mysql.gtids import GtidSet, MariadbGtids
from connectors.mysql.inflate import inflate_event, inflated, parse_payload
from connectors.mysql.position import BinlogPosition
from connectors.mysql.statements import read
from connectors.mysql.tablemap import parse_table_map, parse_table_name
from engine.errors import DecodeError
from engine.schema import TableId
from tests.fixtures.mysql.events import (
    Packets,
    bits_high_first,
    event,
    format_description,
    lenenc,
    mariadb_compressed,
    payload,
    query,
    table_map,
    tagged_gtid,
    texts,
)

SERVERS = [str(uuid.UUID(int=i << 64 | i)) for i in (1, 2, 1 << 60)]
TAGS = ["", "t", "_x9", "z" * 32]
intervals = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1])), max_size=4)
sets = st.dictionaries(st.tuples(st.sampled_from(SERVERS), st.sampled_from(TAGS)), intervals, max_size=5).map(
    GtidSet.of
)
domains = st.dictionaries(
    st.integers(0, (1 << 32) - 1), st.tuples(st.integers(0, 99), st.integers(0, (1 << 64) - 1)), max_size=4
)
positions = domains.map(lambda d: MariadbGtids.of((k, s, n) for k, (s, n) in d.items()))


def members(gtids: GtidSet) -> set[tuple[tuple[str, str], int]]:
    return {(source, n) for source, spans in gtids.sources for first, last in spans for n in range(first, last + 1)}


class TestGtids:
    @given(sets, sets)
    @settings(max_examples=150)
    def test_sets_behave_like_sets(self, one: GtidSet, other: GtidSet) -> None:
        left, right = members(one), members(other)
        assert members(one.union(other)) == left | right
        assert members(one.minus(other)) == left - right
        assert one.contains(other) == (right <= left)
        assert one.count() == len(left)
        assert GtidSet.parse(str(one)) == one
        assert GtidSet.decode(one.encode()) == one

    @given(sets, st.sampled_from(SERVERS), st.lists(st.integers(1, 40), max_size=20))
    @settings(max_examples=100)
    def test_adding(self, gtids: GtidSet, server: str, numbers: list[int]) -> None:
        source = (server, "")
        grown = gtids.add(source, np.array(numbers, np.int64))
        assert members(grown) == members(gtids) | {(source, n) for n in numbers}

    @given(st.none() | sets | positions, st.integers(0, (1 << 64) - 1), st.integers(1, 10**9))
    @settings(max_examples=150)
    def test_positions(self, gtids: GtidSet | MariadbGtids | None, offset: int, number: int) -> None:
        position = BinlogPosition(f"a-b:c.{number:06}", offset, gtids)
        assert BinlogPosition.parse(str(position)) == position
        assert position.covers(position)
        if gtids is not None:
            bare = BinlogPosition(gtids=gtids)
            assert BinlogPosition.parse(str(bare)) == bare
            assert bare.covers(position)

    @given(st.text(alphabet="0123456789abcdef-:;,. \ntag", max_size=60))
    @settings(max_examples=300)
    @example(":" * 60)
    def test_any_text_is_a_position_or_a_value_error(self, text: str) -> None:
        try:
            position = BinlogPosition.parse(text)
        except ValueError:
            return
        assert BinlogPosition.parse(str(position)) == position


# Framing

bodies = st.tuples(st.sampled_from([e.GTID, e.QUERY, e.TABLE_MAP, e.WRITE_ROWS, e.XID]), st.binary(max_size=60))
inner = st.lists(bodies, min_size=1, max_size=5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("plain"), bodies),
        st.tuples(st.just("payload"), inner),
        st.tuples(st.just("mariadb"), st.binary(max_size=60)),
        st.tuples(st.just("rotate"), st.booleans()),
    ),
    max_size=12,
)
ROWS_HEAD = bytes(8) + b"\3\7"


def stream(plan: list[tuple[str, Any]], *, checksum: bool, offset: int) -> tuple[bytes, list[tuple[object, ...]]]:
    """The bytes of a dump, and the file, type, offset and body of each event that it stands for."""
    p = Packets()
    file = 1
    out = p.start("bin.1", offset, checksum=checksum)
    expected: list[tuple[object, ...]] = []
    at = offset
    for what, value in plan:
        name = f"bin.{file}"
        at += 1000
        if what == "plain":
            kind, body = value
            out += p.event(kind, body, at=at & 0xFFFFFFFF, checksum=checksum)
            expected.append((name, kind, at, body))
        elif what == "payload":
            raw = payload([event(kind, body) for kind, body in value])
            out += p.event(e.TRANSACTION_PAYLOAD, raw, at=at & 0xFFFFFFFF, checksum=checksum)
            expected += [(name, kind, at, body) for kind, body in value]
        elif what == "mariadb":
            raw = mariadb_compressed(ROWS_HEAD, value)
            out += p.event(e.WRITE_ROWS_COMPRESSED_V1, raw, at=at & 0xFFFFFFFF, checksum=checksum)
            expected.append((name, e.WRITE_ROWS_V1, at, ROWS_HEAD + value))
        else:
            file += 1
            body = struct.pack("<Q", 4) + f"bin.{file}".encode()
            out += p.event(e.ROTATE, body, at=at & 0xFFFFFFFF, checksum=checksum)
            checksum = bool(value)
            out += p.start(f"bin.{file}", checksum=checksum)
            at = 4
    return out, expected


def flat(framer: Framer, chunks: list[bytes]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for chunk in chunks:
        for run in framer.feed(chunk):
            assert isinstance(run, Events)
            found += [
                (run.file, int(run.types[i]), int(run.ends_at[i]), run.body_of(i))
                for i in range(len(run))
                if run.types[i] not in {e.ROTATE, e.FORMAT_DESCRIPTION}
            ]
    return found


@given(
    steps, st.booleans(), st.sampled_from([4, (1 << 32) - 2500, 5 << 32]), st.lists(st.integers(1, 4000), max_size=8)
)
@settings(max_examples=120)
def test_any_stream_under_any_cut(plan: list[tuple[str, Any]], checksum: bool, offset: int, cuts: list[int]) -> None:
    data, expected = stream(plan, checksum=checksum, offset=offset)
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    chunks = [data[a:b] for a, b in itertools.pairwise(places)]
    framer = Framer()
    assert flat(framer, chunks) == expected
    assert framer.pending == 0


@given(steps, st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=150)
def test_a_corrupted_stream_gives_events_of_the_stream_or_an_error(
    plan: list[tuple[str, Any]], chooser: random.Random, checksum: bool
) -> None:
    data, expected = stream(plan, checksum=checksum, offset=4)
    damaged = bytearray(data)
    for _ in range(chooser.randrange(1, 4)):
        damaged[chooser.randrange(len(damaged))] ^= 1 << chooser.randrange(8)
    framer = Framer()
    found: list[tuple[object, ...]] = []
    try:
        for item in framer.feed(bytes(damaged)):
            if isinstance(item, Events):
                found += [(int(item.types[i]), item.body_of(i)) for i in range(len(item))]
    except DecodeError:
        pass
    if checksum and not any(what == "rotate" for what, _ in plan):
        # What is behind a checksum and came out is what was written; a damaged event never does.
        told = [pair for pair in found if pair[0] not in {e.ROTATE, e.FORMAT_DESCRIPTION}]
        assert told == [(kind, body) for _, kind, _, body in expected][: len(told)]


# Corruption of single events

COLUMNS = [(3, b""), (15, b"\x0a\0"), (13, b""), (254, b"\xf7\x01"), (255, b"\x04"), (242, b"\x04"), (246, b"\x0a\x02")]
FULL_MAP = table_map(
    COLUMNS,
    optional=[
        *(
            (1, bits_high_first([True, False, True])),
            (2, lenenc(255) + lenenc(0) + lenenc(8)),
            (4, texts([b"name"] * 7)),
        ),
        *(
            (6, lenenc(2) + texts([b"a", b"b"])),
            (7, lenenc(1)),
            (9, b"\0\0\1\3"),
            (11, lenenc(8)),
            (12, b"\xfe"),
            (13, b"\3"),
        ),
    ],
)
STATUS = b"\1" + bytes(8) + b"\4" + bytes(6) + b"\x0c\2a\0b\0"
LOAD = query(b"LOAD", status=STATUS)[:13] + bytes(13) + query(b"LOAD", status=STATUS)[13:]
DECODERS: list[tuple[str, bytes, Callable[[bytes], object]]] = [
    ("table map", FULL_MAP, parse_table_map),
    ("table map of MariaDB", FULL_MAP, lambda body: parse_table_map(body, mariadb=True)),
    ("table name", FULL_MAP, parse_table_name),
    ("gtid", bytes([1]) + bytes(16) + struct.pack("<qBqq", 5, 2, 3, 4) + bytes(20), lambda b: x.parse_gtid(b, e.GTID)),
    ("tagged gtid", tagged_gtid(SERVERS[2], "tag", 5, committed=7), lambda b: x.parse_gtid(b, e.GTID_TAGGED)),
    ("mariadb gtid", struct.pack("<QIBIBB", 9, 7, 0x40, 7, 3, 1) + b"abcb", x.parse_mariadb_gtid),
    ("gtid list", struct.pack("<I", 2) + bytes(32), x.parse_gtid_list),
    (
        "gtid set",
        GtidSet.of({(SERVERS[0], "t"): [(1, 5)], (SERVERS[1], ""): [(1, 2), (5, 9)]}).encode(),
        GtidSet.decode,
    ),
    ("query", query(b"BEGIN", status=STATUS), e.parse_query),
    ("load", LOAD, lambda b: e.parse_query(b, e.EXECUTE_LOAD_QUERY)),
    ("format", format_description(), e.parse_format_description),
    ("rotate", bytes(8) + b"bin.000001", e.parse_rotate),
    ("heartbeat", bytes(8) + b"bin.000001", lambda b: e.parse_heartbeat(b, e.HEARTBEAT)),
    ("heartbeat v2", b"\1\x0abin.000007\2\x03\xfc\0\0", lambda b: e.parse_heartbeat(b, e.HEARTBEAT_V2)),
    ("xa prepare", struct.pack("<BIII", 0, 7, 3, 1) + b"abcb", e.parse_xa_prepare),
    ("incident", b"\1\0\2hi", e.parse_incident),
    ("payload", payload([event(e.XID, bytes(8))]), lambda b: list(inflated(parse_payload(b)))),
    ("compressed", mariadb_compressed(ROWS_HEAD, b"x" * 90), lambda b: inflate_event(b, e.WRITE_ROWS_COMPRESSED_V1)),
    ("compressed query", mariadb_compressed(query(b""), b"y" * 90), lambda b: inflate_event(b, e.QUERY_COMPRESSED)),
]


@pytest.mark.parametrize("body,decode", [d[1:] for d in DECODERS], ids=[d[0] for d in DECODERS])
def test_a_damaged_event_is_decoded_or_refused(body: bytes, decode: Callable[[bytes], object]) -> None:
    decode(body)
    chooser = random.Random(3)
    samples = [body[:end] for end in range(len(body))]
    for _ in range(1500):
        damaged = bytearray(body)
        for _ in range(chooser.randrange(1, 4)):
            damaged[chooser.randrange(len(damaged))] = chooser.choice(
                [0, 1, 0x7F, 0x80, 0xFB, 0xFE, 0xFF, chooser.randrange(256)]
            )
        samples.append(bytes(damaged))
    samples += [chooser.randbytes(chooser.randrange(80)) for _ in range(500)]
    for sample in samples:
        try:
            decode(sample)
        except DecodeError:
            pass


# Statements

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


@given(
    st.lists(st.tuples(names, names), min_size=1, max_size=4),
    st.sampled_from(["/* c */ ", "\n", " -- x\n", "/*!50000 */"]),
)
@settings(max_examples=150)
def test_quoted_names_of_any_kind(tables: list[tuple[str, str]], gap: str) -> None:
    listed = ",".join(f"{quote(schema)}{gap}.{quote(table)}" for schema, table in tables)
    assert read(f"DROP{gap} TABLE {listed}").tables == tuple(TableId(*t) for t in tables)


@given(
    st.sampled_from(["ALTER TABLE t ", "RENAME TABLE t TO u", "CREATE ", "DROP TABLE IF EXISTS t", "XA COMMIT ", ""]),
    st.text(alphabet="`'\"\\/*!-# .,()=;TOtabRENM x1é\n", max_size=40),
)
@settings(max_examples=400)
def test_any_text_is_read_without_an_error(start: str, text: str) -> None:
    statement = read(start + text, "d")
    if start.startswith(("ALTER", "RENAME", "DROP")):
        # However the rest reads, the table that is named first is never left out.
        assert statement.touches(TableId("d", "t")) or not text[:1].isspace()
