"""PostgreSQL's text of nested values read, and replica values brought to the same canonical form.

The canonical form of a scalar is PostgreSQL's own text (of a float: its bits). That of an array, composite, hstore or
vector is a JSON text of canonical scalars: source text is parsed by the source's type, replica values come as lists and dicts.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from tests.support.pgtypes import PgType

_UNESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPES = str.maketrans({"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"})


def escape(text: str) -> str:
    """A value as COPY's text format writes it."""
    return text.translate(_ESCAPES)


def unescape(text: str) -> str:
    """A value of COPY's text format (not NULL) as it is."""
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda m: _UNESCAPED.get(m[1], m[1]), text, flags=re.DOTALL)


def float_bits(value: str | float, pg_name: str) -> str:
    """The IEEE bits of a float (or its text), in hex, as ``encode(float8send(x), 'hex')`` gives them."""
    return struct.pack(">f" if pg_name == "float4" else ">d", float(value)).hex()


def show_bits(bits: str) -> str:
    """The float behind `float_bits`, for a person."""
    return repr(struct.unpack(">f" if len(bits) == 8 else ">d", bytes.fromhex(bits))[0])


def canonical_json(value: Any) -> str:
    """One spelling for one nested value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_INTERVAL_UNIT = re.compile(r"(-?\d+) (year|month|day)s?")
_INTERVAL_TIME = re.compile(r"(-?)(\d+):(\d\d):(\d\d(?:\.\d+)?)$")


def interval_text(duck: str) -> str:
    """DuckDB's text of an interval in PostgreSQL's ``postgres`` style."""
    parts = {unit: int(number) for number, unit in _INTERVAL_UNIT.findall(duck)}
    written: list[str] = []
    negative = False
    for unit, short in (("year", "year"), ("month", "mon"), ("day", "day")):
        value = parts.get(unit, 0)
        if value:
            plus = "+" if negative and value > 0 else ""
            written.append(f"{plus}{value} {short}{'' if value == 1 else 's'}")
            negative = value < 0
    clock = _INTERVAL_TIME.search(duck)
    if clock or not written:
        sign, hours, minutes, seconds = clock.groups() if clock else ("", "0", "0", "00")
        zero = int(hours) == int(minutes) == 0 and float(seconds) == 0
        if not (zero and written):
            plus = "+" if negative and not sign else ""
            whole, _, fraction = seconds.partition(".")
            fraction = fraction.rstrip("0")
            written.append(f"{sign or plus}{int(hours):02d}:{minutes}:{whole}{'.' + fraction if fraction else ''}")
    return " ".join(written)


def leaf_from_replica(value: str | float, pg: PgType, duck_name: str) -> str:
    """A scalar of the replica, as the oracle's SQL gives it, in canonical form."""
    if isinstance(value, float) or duck_name in ("FLOAT", "DOUBLE"):
        return float_bits(value, pg.name)
    return interval_text(value) if duck_name == "INTERVAL" else value


def leaf_from_source(text: str, pg: PgType) -> str:
    """A scalar within a nested value of the source, in canonical form."""
    if pg.name in ("float4", "float8"):
        return float_bits(text, pg.name)
    if pg.name == "money":
        return text.replace("$", "").replace(",", "")
    return text


def parse_nested(text: str, pg: PgType) -> Any:
    """Read the server's text of a nested value (bounds are dropped) into lists of canonical texts and None."""
    if pg.kind == "array":
        return _parse_array(text, pg)
    if pg.kind == "composite":
        return _parse_composite(text, pg)
    if pg.kind == "hstore":
        return sorted(_parse_hstore(text))
    if pg.kind == "vector":
        inner = text[1:-1]
        return [float_bits(item, "float4") for item in inner.split(",")] if inner else []
    return leaf_from_source(text, pg)


def _quoted(text: str, at: int) -> tuple[str, int]:
    """Read a quoted item that begins at `at`: backslash escapes, and doubled quotes as composites write them."""
    out: list[str] = []
    at += 1
    while True:
        char = text[at]
        if char == "\\":
            out.append(text[at + 1])
            at += 2
        elif char == '"':
            if text[at + 1 : at + 2] != '"':
                return "".join(out), at + 1
            out.append('"')
            at += 2
        else:
            out.append(char)
            at += 1


def _parse_array(text: str, pg: PgType) -> list[Any]:
    assert pg.element is not None
    element = pg.element
    text = re.sub(r"^(\[-?\d+:-?\d+\])+=", "", text)
    stop = re.compile(r"[{}\\" + re.escape(pg.delimiter) + r"]")

    def level(at: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        at += 1
        while text[at] != "}":
            if text[at] == pg.delimiter:
                at += 1
            elif text[at] == "{":
                inner, at = level(at)
                items.append(inner)
            elif text[at] == '"':
                item, at = _quoted(text, at)
                items.append(parse_nested(item, element))
            else:
                end = at
                while not stop.match(text, end) or text[end] == "\\":
                    end += 2 if text[end] == "\\" else 1
                item = text[at:end]
                items.append(None if item == "NULL" else parse_nested(re.sub(r"\\(.)", r"\1", item), element))
                at = end
        return items, at + 1

    items, end = level(0)
    assert end == len(text), "the server's array text has an unexpected end"
    return items


def _parse_composite(text: str, pg: PgType) -> list[Any]:
    items: list[Any] = []
    at = 1
    for _, inner in pg.fields:
        if text[at] in ",)":
            items.append(None)
        elif text[at] == '"':
            item, at = _quoted(text, at)
            items.append(parse_nested(item, inner))
        else:
            end = re.compile(r"[,)]").search(text, at)
            assert end is not None
            items.append(parse_nested(text[at : end.start()], inner))
            at = end.start()
        at += 1
    assert at == len(text), "the server's composite text has an unexpected end"
    return items


def _parse_hstore(text: str) -> list[list[str | None]]:
    pairs: list[list[str | None]] = []
    at = 0
    while at < len(text):
        key, at = _quoted_hstore(text, at)
        assert text[at : at + 2] == "=>"
        at += 2
        if text[at : at + 4] == "NULL":
            value, at = None, at + 4
        else:
            value, at = _quoted_hstore(text, at)
        pairs.append([key, value])
        if at < len(text):
            assert text[at : at + 2] == ", "
            at += 2
    return pairs


def _quoted_hstore(text: str, at: int) -> tuple[str, int]:
    assert text[at] == '"'
    out: list[str] = []
    at += 1
    while text[at] != '"':
        if text[at] == "\\":
            at += 1
        out.append(text[at])
        at += 1
    return "".join(out), at + 1
