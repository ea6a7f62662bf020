"""Every character set and collation that real servers have, against what the servers themselves print."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from connectors.mysql import charsets
from tests.support.mysql_rowlog import raw_rows
from tests.support.servers.mysql_database import MySqlDatabase
from tests.support.servers.roles import ROOT

UNICODE = {"utf8mb3", "utf8mb4", "ucs2", "utf16", "utf16le", "utf32"}


def codes(width: int) -> Iterator[bytes]:
    yield from (bytes([a]) for a in range(256))
    if width > 1:
        yield from (bytes([a, b]) for a in range(0x80, 256) for b in range(0x20, 256))
    if width == 3:
        yield from (bytes([0x8F, a, b]) for a in range(0xA1, 0xFF) for b in range(0xA1, 0xFF))
    if width == 4:
        yield from (
            bytes([a, b, c, d])
            for a in (0x81, 0x84, 0x90, 0xA5, 0xE3)
            for b in range(0x30, 0x3A)
            for c in range(0x81, 0xFF, 7)
            for d in (0x30, 0x35, 0x39)
        )


def test_every_code_of_every_set(mysql_any: MySqlDatabase) -> None:
    with mysql_any.connect(ROOT) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_mode = ''")
        cursor.execute("SELECT character_set_name, maxlen FROM information_schema.character_sets")
        sets = {name: int(width) for name, width in cursor.fetchall()}
        assert set(sets) - {"binary"} <= charsets.CHARACTER_SETS
        cursor.execute("CREATE TEMPORARY TABLE codes (b varbinary(4) PRIMARY KEY)")
        everything = list(dict.fromkeys(code for width in (3, 4) for code in codes(width)))
        for i in range(0, len(everything), 5000):
            values = ",".join(f"(x'{code.hex()}')" for code in everything[i : i + 5000])
            cursor.execute(f"INSERT INTO codes VALUES {values}")
        for name, width in sorted(sets.items()):
            if name in UNICODE or name == "binary":
                continue
            # what the server takes for exactly one character, and would store
            kept = f"CAST(b AS CHAR CHARACTER SET {name})"
            cursor.execute(
                f"SELECT hex(b), hex(CONVERT({kept} USING utf8mb4)) FROM codes"
                f" WHERE CAST({kept} AS BINARY) = b AND CHAR_LENGTH({kept}) = 1 AND LENGTH(b) <= {width}"
            )
            printed = {bytes.fromhex(code): bytes.fromhex(text).decode() for code, text in cursor.fetchall()}
            if width == 1 and name != "ascii":
                assert len(printed) == 256
            if name in {"eucjpms", "ascii"}:
                # MySQL (not MariaDB) takes half characters for characters in them
                printed = {c: text for c, text in printed.items() if len(c) > 1 or c[0] < 0x80}
            got = charsets.decode(name, pa.array(list(printed), pa.binary())).to_pylist()
            differing = [
                (c.hex(), want, have) for (c, want), have in zip(printed.items(), got, strict=True) if want != have
            ]
            assert (name, differing[:5]) == (name, [])
            together = charsets.decode(name, pa.array([b"".join(printed)], pa.binary())).to_pylist()
            assert together == ["".join(printed.values())]


def test_every_collation(mysql_any: MySqlDatabase) -> None:
    table = "collation_character_set_applicability" if mysql_any.is_mariadb else "collations"
    rows = raw_rows(mysql_any, f"SELECT id, character_set_name FROM information_schema.{table} WHERE id IS NOT NULL")
    assert len(rows) > 200
    for number, name in rows:
        assert number is not None
        assert name is not None
        assert charsets.of_collation(int(number)) == name.decode()
