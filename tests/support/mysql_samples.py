"""A column of every type of MySQL and MariaDB, values at its edges, and how to ask the server for their text.

`oracle` is a SQL expression over column ``v`` whose text the server prints; `read` turns that text into the Python
value that the replica (DuckDB, by its Python client) must hold.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

UTC = dt.UTC


@dataclass(frozen=True, slots=True)
class Sample:
    """One column type with values as SQL literals (NULL is added to all)."""

    name: str
    type: str
    values: Sequence[str]
    read: Callable[[str], object]
    oracle: str = "v"
    only: str = ""
    """Restrict to servers whose name begins so."""

    @property
    def table(self) -> str:
        return f"s_{self.name}"

    def fits(self, server: str) -> bool:
        return any(server.startswith(part) for part in self.only.split()) if self.only else True


def number(text: str) -> int:
    return int(text)


def text(value: str) -> str:
    return value


def hexadecimal(value: str) -> bytes:
    return bytes.fromhex(value)


def date(value: str) -> dt.date:
    return dt.date.fromisoformat(value)


def moment(value: str) -> dt.datetime:
    return dt.datetime.fromisoformat(value)


def instant(value: str) -> dt.datetime:
    return dt.datetime.fromisoformat(value).replace(tzinfo=UTC)


def nothing(_: str) -> None:
    return None


def duration(value: str) -> dt.timedelta:
    sign = -1 if value.startswith("-") else 1
    hours, minutes, seconds = value.lstrip("-").split(":")
    whole, _, fraction = seconds.partition(".")
    micros = int(fraction.ljust(6, "0")) if fraction else 0
    return sign * dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=int(whole), microseconds=micros)


def single(value: str) -> float:
    return float(struct.unpack("<f", struct.pack("<f", float(value)))[0])


def floats(value: str) -> tuple[float, ...]:
    return tuple(single(str(x)) for x in json.loads(value))


def integers(name: str, bits: int) -> list[Sample]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    top = (1 << bits) - 1
    return [
        Sample(name, name, [str(x) for x in (0, 1, -1, low, high, low + 1)], number),
        Sample(f"{name}_u", f"{name} unsigned", [str(x) for x in (0, 1, high, high + 1, top)], number),
    ]


def decimals() -> list[Sample]:
    found = []
    for precision, scale in [
        (1, 0),
        (1, 1),
        (9, 0),
        (10, 0),
        (9, 9),
        (18, 9),
        (19, 0),
        (20, 10),
        (38, 0),
        (38, 30),
        (38, 13),
    ]:
        whole, fraction = "9" * (precision - scale), "9" * scale
        top = f"{whole or 0}.{fraction}" if scale else whole
        tiny = "0." + "0" * (scale - 1) + "1" if scale else "1"
        values = [top, f"-{top}", "0", tiny, f"-{tiny}"]
        found.append(Sample(f"dec_{precision}_{scale}", f"decimal({precision},{scale})", values, Decimal))
    values = [
        "0",
        "1",
        "-1.5",
        "9" * 35 + "." + "9" * 30,
        "-" + "9" * 35 + "." + "9" * 30,
        "-0." + "0" * 29 + "1",
        "1000000000.000000001",
    ]
    found.append(Sample("dec_65_30", "decimal(65,30)", values, text))
    found.append(Sample("dec_65_0", "decimal(65,0)", ["0", "-7", "9" * 65], text))
    found.append(Sample("dec_40_30", "decimal(40,30)", ["0.5", "-9999999999." + "9" * 30], text))
    return found


def temporals() -> list[Sample]:
    found = [
        Sample(
            "date",
            "date",
            ["'1000-01-01'", "'9999-12-31'", "'1970-01-01'", "'1969-12-31'", "'2024-02-29'", "'0001-01-01'"],
            date,
        ),
        Sample("date_zero", "date", ["'0000-00-00'", "'2024-00-10'", "'2024-02-00'", "'0000-01-00'"], nothing),
        Sample("date_invalid", "date", ["'2024-02-31'", "'2023-02-29'"], nothing),
        Sample(
            "datetime_zero",
            "datetime(3)",
            ["'0000-00-00 00:00:00'", "'2024-00-10 01:02:03'", "'2024-04-31 01:02:03'"],
            nothing,
        ),
        Sample("timestamp_zero", "timestamp(2) null", ["'0000-00-00 00:00:00'"], nothing),
        Sample("year", "year", ["0", "1901", "2155", "'0000'", "2024"], number),
    ]
    for fsp in range(7):
        parts = [("." + "123456"[:fsp]), ("." + "999999"[:fsp]), ("." + "000001"[:fsp])] if fsp else ["", "", ""]
        times = [
            f"'{sign}{clock}{part}'"
            for part in parts
            for sign in ("", "-")
            for clock in ("12:34:56", "838:59:58", "00:00:00")
        ]
        found.append(Sample(f"time{fsp}", f"time({fsp})", list(dict.fromkeys(times)), duration))
        stamps = [
            f"'{d} 23:59:59{part}'" for part in parts for d in ("1000-01-01", "9999-12-31", "2024-02-29", "1969-12-31")
        ]
        found.append(Sample(f"datetime{fsp}", f"datetime({fsp})", list(dict.fromkeys(stamps)), moment))
        last = [
            f"'{d}{part}'"
            for part in parts
            for d in (
                "1970-01-01 00:00:01",
                "2038-01-19 03:14:07" if fsp == 0 else "2038-01-19 03:14:06",
                "2001-09-09 01:46:40",
            )
        ]
        found.append(Sample(f"timestamp{fsp}", f"timestamp({fsp}) null", list(dict.fromkeys(last)), instant))
    found.append(
        Sample(
            "timestamp_2106",
            "timestamp(3) null",
            ["'2106-02-07 06:28:15.999'", "'2040-01-01 00:00:00'"],
            instant,
            only="mariadb-11",
        )
    )
    # the first second of 1970 is the zero date of MySQL only
    found.append(Sample("timestamp_first", "timestamp(3) null", ["'1970-01-01 00:00:00.001'"], instant, only="mariadb"))
    return found


STRINGS = ["''", "'a'", "'ab  '", "'ü'", "'\\'\\\\\"'", "'line\\nbreak'", "' x'"]


def strings() -> list[Sample]:
    found = [
        Sample("char10", "char(10) character set utf8mb4", [*STRINGS, "'😀'"], text),
        Sample("char255", "char(255) character set utf8mb4", [*STRINGS, "repeat('ü', 255)", "repeat('😀', 200)"], text),
        Sample("varchar10", "varchar(10) character set utf8mb4", [*STRINGS, "repeat('😀', 10)"], text),
        Sample(
            "varchar300", "varchar(300) character set utf8mb4", [*STRINGS, "repeat('x', 300)", "repeat('x', 255)"], text
        ),
        Sample("latin1", "varchar(300) character set latin1", [*STRINGS, "'€üÿ'", "repeat('ß', 300)"], text),
        Sample("latin1_char", "char(20) character set latin1", [*STRINGS, "'€'"], text),
        Sample("ucs2", "varchar(20) character set ucs2", [*STRINGS, "'日本'"], text),
        Sample("ucs2_char", "char(20) character set ucs2", ["''", "'a  '", "'日本'"], text),
        Sample("utf16", "text character set utf16", [*STRINGS, "'😀'"], text),
        Sample("utf16le", "varchar(9) character set utf16le", ["''", "'a '", "'😀'"], text),
        Sample("utf32", "char(9) character set utf32", ["''", "'a '", "'😀'"], text),
        Sample("gbk", "varchar(20) character set gbk", ["''", "'a'", "'中文'"], text),
        Sample("sjis", "varchar(20) character set sjis", ["''", "'a\\\\'", "'日本ｱ'"], text),
        Sample("swe7", "varchar(20) character set swe7", ["'a'", "'ÅÄÖ'"], text),
        Sample("tinytext", "tinytext character set utf8mb4", STRINGS, text),
        Sample("text", "text character set utf8mb3", [*STRINGS, "repeat('y', 60000)"], text),
        Sample("mediumtext", "mediumtext character set utf8mb4", [*STRINGS, "repeat('z', 70000)"], text),
        Sample("longtext", "longtext character set cp1251", [*STRINGS[:3], "'Привет'"], text),
        Sample("enum", "enum('a','b''c','ü','x y') character set latin1", ["'a'", "'b''c'", "'ü'", "4", "0"], text),
        Sample("enum_marks", "enum('it''s','a,b','x\\\\y','l\\nn','')", ["1", "2", "3", "4", "5", "0"], text),
        Sample(
            "enum300", "enum(" + ",".join(f"'l{i}'" for i in range(300)) + ")", ["'l0'", "'l299'", "255", "256"], text
        ),
        Sample("set", "set('a','b','ü','d')", ["''", "'a'", "'a,ü'", "15"], text),
        Sample(
            "set64",
            "set(" + ",".join(f"'s{i}'" for i in range(64)) + ")",
            ["''", "'s0'", "'s63'", "18446744073709551615"],
            text,
        ),
        Sample("set20", "set(" + ",".join(f"'s{i}'" for i in range(20)) + ")", ["'s19,s0'", "'s8'"], text),
    ]
    found.append(Sample("set10", "set(" + ",".join(f"'s{i}'" for i in range(10)) + ")", ["'s9'", "1023"], text))
    return found


BYTES = ["x''", "x'00'", "x'0100'", "x'ff'", "x'2020'", "x'deadbeef00'"]


def binaries() -> list[Sample]:
    return [
        Sample("binary5", "binary(5)", BYTES, hexadecimal, "hex(v)"),
        Sample("binary255", "binary(255)", [*BYTES, "repeat(x'ab00', 127)"], hexadecimal, "hex(v)"),
        Sample("varbinary", "varbinary(20)", BYTES, hexadecimal, "hex(v)"),
        Sample("varbinary300", "varbinary(300)", [*BYTES, "repeat(x'00', 300)"], hexadecimal, "hex(v)"),
        *(
            Sample(f"{size}blob", f"{size}blob", [*BYTES, f"repeat(x'ff', {count})"], hexadecimal, "hex(v)")
            for size, count in (("tiny", 255), ("", 65535), ("medium", 66000), ("long", 70000))
        ),
        Sample("bit1", "bit(1)", ["0", "1"], lambda v: v != "0", "cast(v as unsigned)"),
        *(
            Sample(
                f"bit{n}", f"bit({n})", ["0", "1", str((1 << n) - 1), str(1 << n - 1)], number, "cast(v as unsigned)"
            )
            for n in (2, 7, 8, 9, 16, 17, 24, 31, 33, 40, 48, 56, 63, 64)
        ),
    ]


def others() -> list[Sample]:
    shapes = ["POINT(1 2)", "LINESTRING(0 0,1 1.5)", "POLYGON((0 0,1 0,1 1,0 0))", "GEOMETRYCOLLECTION(POINT(3 4))"]
    wkb = [f"ST_GeomFromText('{s}')" for s in shapes]
    documents = [
        "'{}'",
        "'[1, 2.5, \"a\", null, true]'",
        '\'{"b": 1, "a": {"ü": ["\\\\\\\\"]}}\'',
        "'\"x\"'",
        "'-0.0'",
        "'1e300'",
    ]
    nested = [
        "cast(1.25 as json)",
        "cast(cast('2024-01-02' as date) as json)",
        "json_array(cast('12:00:00.5' as time(6)), now(6) > 0)",
    ]
    return [
        Sample("float", "float", ["0", "-0.0", "0.1", "3.4e38", "-1e-38", "16777217", "1.17549e-38", "123456.789"], single, "cast(v as double)"),
        Sample("float_7_2", "float(7,2)", ["0.1", "12345.67", "-99999.99"], single, "cast(v as double)"),
        Sample("double", "double", ["0", "-0.0", "0.1", "1.7976931348623157e308", "-2.2250738585072014e-308", "0.30000000000000004"], float),
        Sample("double_10_3", "double(10,3)", ["0.1", "1234567.891", "-0.001"], float, "cast(v as double)"),
        Sample("geometry", "geometry", wkb, hexadecimal, "hex(st_aswkb(v))"),
        Sample("point_srid", "point", ["ST_GeomFromText('POINT(10 20)', 4326)"], hexadecimal, "hex(substr(v, 5))"),
        Sample("json_my", "json", [*documents, *nested], text, only="mysql"),
        Sample("json_ma", "json", documents, text, only="mariadb"),
        Sample("vector_my", "vector(3)", ["string_to_vector('[1,2.5,-3e10]')"], floats, "vector_to_string(v)", only="mysql"),
        Sample("vector_ma", "vector(3)", ["vec_fromtext('[1,2.5,-3e10]')"], floats, "vec_totext(v)", only="mariadb-11"),
        Sample(
            "uuid", "uuid",
            [f"'{u}'" for u in ("123e4567-e89b-12d3-a456-426614174000", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "01890a5d-ac96-774b-bcce-b302099a8057")],
            uuid.UUID, only="mariadb",
        ),
        Sample("inet4", "inet4", ["'0.0.0.0'", "'255.255.255.255'", "'10.0.0.0'"], text, only="mariadb"),
        Sample("inet6", "inet6", ["'::'", "'::1'", "'::ffff:10.0.0.0'", "'2001:db8::ff00:42:8329'", "'::10.1.2.3'", "'1:0:0:2::'"], text, only="mariadb"),
        Sample("compressed_text", "varchar(300) compressed character set latin1", ["''", "'ü'", "repeat('ab', 150)"], text, only="mariadb"),
        Sample("compressed_blob", "mediumblob compressed", ["x''", "x'00'", "repeat(x'ab00', 40000)"], hexadecimal, "hex(v)", only="mariadb"),
    ]  # fmt: skip


SAMPLES: list[Sample] = [
    *(
        s
        for name, bits in (("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64))
        for s in integers(name, bits)
    ),
    Sample("zerofill", "int(9) zerofill", ["0", "4294967295"], number),
    *decimals(),
    *temporals(),
    *strings(),
    *binaries(),
    *others(),
]
