"""Peer: psycopg2's replication cursor with every pgoutput message parsed in Python, only counting.

The floor for a consumer written in Python the usual way: it parses every column of every row image into
(kind, bytes) and keeps nothing. It reads whatever has arrived before it waits again.
"""

import json
import select
import sys
import time
from pathlib import Path
from struct import Struct

read_int16 = Struct(">H").unpack_from
read_int32 = Struct(">I").unpack_from
read_begin = Struct(">QQI").unpack_from
read_commit = Struct(">BQQQ").unpack_from


def peak_mb() -> float:
    """This process's peak resident set in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def parse_tuple(data: bytes, at: int) -> tuple[list, int]:
    """The columns of a TupleData message part: bytes, None for NULL, Ellipsis for an unchanged TOAST value."""
    values: list = []
    count = read_int16(data, at)[0]
    at += 2
    for _ in range(count):
        kind = data[at]
        if kind == 0x74:  # 't': length and text
            start = at + 5
            at = start + read_int32(data, at + 1)[0]
            values.append(data[start:at])
        else:  # 'n' or 'u'
            values.append(None if kind == 0x6E else ...)
            at += 1
    return values, at


def text(data: bytes, at: int) -> tuple[str, int]:
    """A zero-terminated string."""
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


class Reader:
    """Parses messages and counts what they say."""

    def __init__(self) -> None:
        self.relations: dict[int, tuple[str, list[str]]] = {}
        self.inserts = self.updates = self.deletes = self.transactions = 0
        self.end = 0
        """The end of the last commit seen (an LSN)."""

    def message(self, data: bytes) -> None:
        kind = data[0]
        if kind == 0x49:  # Insert: relation, 'N', new row
            read_int32(data, 1)
            parse_tuple(data, 6)
            self.inserts += 1
        elif kind == 0x55:  # Update: relation, perhaps 'K' or 'O' and the old row, 'N', new row
            read_int32(data, 1)
            at = 5
            if data[at] != 0x4E:
                _, at = parse_tuple(data, at + 1)
            parse_tuple(data, at + 1)
            self.updates += 1
        elif kind == 0x44:  # Delete: relation, 'K' or 'O', old row
            read_int32(data, 1)
            parse_tuple(data, 6)
            self.deletes += 1
        elif kind == 0x42:  # Begin: final LSN, commit time, xid
            read_begin(data, 1)
        elif kind == 0x43:  # Commit: flags, commit LSN, end LSN, commit time
            _, _, self.end, _ = read_commit(data, 1)
            self.transactions += 1
        elif kind == 0x52:  # Relation
            self.relation(data)

    def relation(self, data: bytes) -> None:
        (oid,) = read_int32(data, 1)
        schema, at = text(data, 5)
        name, at = text(data, at)
        (count,) = read_int16(data, at + 1)
        at += 3
        columns = []
        for _ in range(count):
            column, at = text(data, at + 1)
            columns.append(column)
            at += 8
        self.relations[oid] = (f"{schema}.{name}", columns)


def main() -> None:
    options = json.loads(sys.argv[1])
    import psycopg2
    import psycopg2.extras

    target = options["target"]
    connection = psycopg2.connect(options["dsn"], connection_factory=psycopg2.extras.LogicalReplicationConnection)
    cursor = connection.cursor()
    reader = Reader()
    began = time.time()
    cursor.start_replication(
        slot_name=options["slot"],
        decode=False,
        options={"proto_version": "1", "publication_names": options["publication"]},
    )
    read, parse = cursor.read_message, reader.message
    while True:
        message = read()
        if message is not None:
            parse(message.payload)
            continue
        if reader.end >= target or cursor.wal_end >= target:
            break
        select.select([connection], [], [], 1.0)
    ended = time.time()
    cursor.send_feedback(flush_lsn=max(reader.end, target), reply=True, force=True)
    connection.close()
    print(
        json.dumps(
            {
                "began": began,
                "ended": ended,
                "inserts": reader.inserts,
                "updates": reader.updates,
                "deletes": reader.deletes,
                "transactions": reader.transactions,
                "peak_mb": peak_mb(),
                "cpu_s": time.process_time(),
            }
        )
    )


main()
