"""How query results leave the replica: SQL expressions that turn any DuckDB value into exact JSON, text or Arrow.

The conversion is done by DuckDB itself, column by column in C++, so that no value passes through a Python or JSON
number that would round it. The rules, for JSON:

- integers of every width: a number within ±(2^53 - 1), else a string of its digits (JavaScript would round it);
- DECIMAL: a string, with its scale; FLOAT and DOUBLE: the shortest number that reads back as the same value,
  ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` as strings;
- DATE, TIME, TIMESTAMP: ISO 8601 (``2024-01-31T12:00:00.5``; years BC as ``0044-03-15 (BC)``, ``infinity`` as itself);
  TIMESTAMPTZ in UTC with a ``Z``; INTERVAL: DuckDB's text (``1 year 2 months 3 days 04:05:06``);
- BLOB: base64; BIT: zeros and ones; UUID, ENUM: text; JSON: a string that holds the source's own text;
- LIST, ARRAY and unnamed STRUCT: arrays; STRUCT: object; MAP: object when its keys are strings, else an array of
  ``{"key", "value"}``; UNION: ``{"tag", "value"}``;
- any other type: DuckDB's text.

CSV has the same text without JSON's quotes (integers and non-finite numbers always plain), nested values as JSON.
Arrow keeps DuckDB's types, save those that Arrow has no exact equal of: HUGEINT and UHUGEINT become decimal(38, 0) (a
value of 39 digits is an error that says so), TIMETZ, BIT, BIGNUM, UUID and VARIANT become strings.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from engine.replica.sql import literal, quote

_MAX_EXACT = (1 << 53) - 1
_ALWAYS_EXACT = frozenset({"tinyint", "smallint", "integer", "utinyint", "usmallint", "uinteger"})
_BIG = frozenset({"bigint", "ubigint", "hugeint", "uhugeint", "bignum"})
_TIMESTAMPS = frozenset({"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"})
_TEXT_KEYS = frozenset({"varchar", "uuid", "enum"})
_ARROW_TEXT = frozenset({"time with time zone", "bit", "bignum", "uuid", "variant"})
_ARROW_DECIMAL = frozenset({"hugeint", "uhugeint"})


class Form(enum.StrEnum):
    """The representation a result is asked for in."""

    JSON = "json"
    CSV = "csv"
    ARROW = "arrow"


def select_rows(
    query: str, names: Sequence[str], types: Sequence[Any], form: Form, limit: int | None = None
) -> str | None:
    """The statement that gives `query`'s rows in `form`, in their order; None when the query itself already does.

    JSON and CSV: one VARCHAR column, each row a JSON array or a CSV record without its line end. Arrow: the query's
    own columns. `types` are the DuckDB types of the columns. `limit`: no more rows than this are wanted, which lets
    DuckDB keep the first few of an ORDER BY instead of sorting everything.
    """
    aliases = [f"c{i}" for i in range(len(names))]
    source = f"FROM (\n{query}\n) AS q({', '.join(aliases)})" + ("" if limit is None else f" LIMIT {limit}")
    columns = [f"q.{alias}" for alias in aliases]
    if form is Form.JSON:
        values = ", ".join(json_expression(c, t) for c, t in zip(columns, types, strict=True))
        return f"SELECT CAST(json_array({values}) AS VARCHAR) AS r {source}"
    if form is Form.CSV:
        fields = ", ',', ".join(_csv_field(c, t) for c, t in zip(columns, types, strict=True))
        return f"SELECT concat({fields}) AS r {source}"
    rendered = [arrow_expression(c, t) for c, t in zip(columns, types, strict=True)]
    if limit is None and all(expression is None for expression in rendered):
        return None
    picked = ", ".join(
        f"{expression or column} AS {quote(name)}"
        for expression, column, name in zip(rendered, columns, names, strict=True)
    )
    return f"SELECT {picked} {source}"


def text_rows(batch: pa.RecordBatch, form: Form) -> pa.RecordBatch:
    """The rows of a batch of string columns as `select_rows` gives them, for what cannot be a subquery (EXPLAIN)."""
    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
    if form is Form.JSON:
        texts = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    else:
        texts = [",".join(csv_text(value) for value in row) for row in rows]
    return pa.record_batch([pa.array(texts, pa.string())], names=["r"])


def csv_text(value: str | None) -> str:
    """One CSV field, by the same rules as the SQL expressions' fields."""
    if value is None:
        return ""
    if not value or any(c in value for c in '",\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def text_expression(x: str, kind: str) -> str:
    """SQL text of one plain (not nested) value of the type with the id `kind`; NULL stays NULL."""
    text = f"CAST({x} AS VARCHAR)"
    if kind in ("float", "double"):
        if kind == "double":
            # DuckDB 2.0.0 casts some powers of two to another number's text (2^81), its JSON writer does not.
            text = f"CAST(to_json({x}) AS VARCHAR)"
        return (
            f"CASE WHEN isnan({x}) THEN 'NaN' WHEN isinf({x}) THEN "
            f"CASE WHEN {x} > 0 THEN 'Infinity' ELSE '-Infinity' END ELSE {text} END"
        )
    if kind in _TIMESTAMPS:
        return _iso(text)
    if kind == "timestamp with time zone":
        utc = _iso(f"CAST({x} AT TIME ZONE 'UTC' AS VARCHAR)")
        return f"CASE WHEN isfinite({x}) THEN {utc} || 'Z' ELSE {text} END"
    if kind == "blob":
        return f"to_base64({x})"
    return text


def json_expression(x: str, duck_type: Any, depth: int = 0) -> str:
    """SQL that gives the value `x` of `duck_type` as JSON by this module's rules."""
    kind = str(duck_type.id)
    if kind == "boolean" or kind in _ALWAYS_EXACT:
        return f"to_json({x})"
    if kind in _BIG:
        text = f"CAST({x} AS VARCHAR)"
        exact = f"TRY_CAST({x} AS HUGEINT) BETWEEN -{_MAX_EXACT} AND {_MAX_EXACT}"
        return f"CASE WHEN {exact} THEN to_json(CAST({x} AS BIGINT)) ELSE to_json({text}) END"
    if kind in ("float", "double"):
        number = "to_json(CAST(CAST({0} AS VARCHAR) AS DOUBLE))" if kind == "float" else "to_json({0})"
        return f"CASE WHEN isfinite({x}) THEN {number.format(x)} ELSE to_json({text_expression(x, kind)}) END"
    if kind in ("list", "array"):
        child = dict(duck_type.children)["child"]
        return f"to_json({_each(_as_list(x, duck_type, child), depth, json_expression(f'v{depth}', child, depth + 1))})"
    if kind in ("struct", "tuple"):
        return _json_struct(x, duck_type, depth)
    if kind == "map":
        return _json_map(x, duck_type, depth)
    if kind == "union":
        return _json_union(x, duck_type, depth)
    return f"to_json({text_expression(x, kind)})"


def arrow_expression(x: str, duck_type: Any, depth: int = 0) -> str | None:
    """SQL that gives the value `x` in a type that Arrow holds exactly; None when its own type is one."""
    kind = str(duck_type.id)
    if kind in _ARROW_TEXT:
        return f"CAST({x} AS VARCHAR)"
    if kind in _ARROW_DECIMAL:
        return f"CAST({x} AS DECIMAL(38, 0))"
    if kind in ("list", "array"):
        child = dict(duck_type.children)["child"]
        inner = arrow_expression(f"v{depth}", child, depth + 1)
        return None if inner is None else _each(_as_list(x, duck_type, child), depth, inner)
    if kind == "struct":
        fields = [(name, f"struct_extract({x}, {literal(name)})", child) for name, child in duck_type.children]
        return _arrow_struct(x, fields, depth)
    if kind == "tuple":
        numbered = enumerate(duck_type.children, 1)
        fields = [(f"element{i}", f"struct_extract_at({x}, {i})", child) for i, (_, child) in numbered]
        return _arrow_struct(x, fields, depth)
    if kind == "map":
        parts = dict(duck_type.children)
        key = arrow_expression(f"v{depth}.key", parts["key"], depth + 1)
        value = arrow_expression(f"v{depth}.value", parts["value"], depth + 1)
        if key is None and value is None:
            return None
        pair = f"struct_pack(key := {key or f'v{depth}.key'}, value := {value or f'v{depth}.value'})"
        return f"map_from_entries({_each(f'map_entries({x})', depth, pair)})"
    return None


def _arrow_struct(x: str, fields: list[tuple[str, str, Any]], depth: int) -> str | None:
    rendered = [arrow_expression(field, child, depth) for _, field, child in fields]
    if all(expression is None for expression in rendered):
        return None
    packed = ", ".join(
        f"{quote(name)} := {expression or field}" for (name, field, _), expression in zip(fields, rendered, strict=True)
    )
    return f"CASE WHEN {x} IS NULL THEN NULL ELSE struct_pack({packed}) END"


def _json_struct(x: str, duck_type: Any, depth: int) -> str:
    children = list(duck_type.children)
    if duck_type.id == "tuple":
        values = [json_expression(f"struct_extract_at({x}, {i})", c, depth) for i, (_, c) in enumerate(children, 1)]
        body = f"json_array({', '.join(values)})"
    elif not children:
        body = f"to_json({x})"
    else:
        pairs = [
            f"{quote(name)} := {json_expression(f'struct_extract({x}, {literal(name)})', child, depth)}"
            for name, child in children
        ]
        body = f"to_json(struct_pack({', '.join(pairs)}))"
    return f"CASE WHEN {x} IS NULL THEN NULL ELSE {body} END"


def _json_map(x: str, duck_type: Any, depth: int) -> str:
    parts = dict(duck_type.children)
    v = f"v{depth}"
    value = json_expression(f"{v}.value", parts["value"], depth + 1)
    if str(parts["key"].id) in _TEXT_KEYS:
        pairs = _each(f"map_entries({x})", depth, f"struct_pack(key := CAST({v}.key AS VARCHAR), value := {value})")
        return f"to_json(map_from_entries({pairs}))"
    key = json_expression(f"{v}.key", parts["key"], depth + 1)
    return f"to_json({_each(f'map_entries({x})', depth, f'struct_pack(key := {key}, value := {value})')})"


def _json_union(x: str, duck_type: Any, depth: int) -> str:
    members = list(duck_type.children)[1:]  # the first is the tag
    cases = " ".join(
        f"WHEN {literal(name)} THEN {json_expression(f'union_extract({x}, {literal(name)})', member, depth)}"
        for name, member in members
    )
    tag = f"CAST(union_tag({x}) AS VARCHAR)"
    pair = f"to_json(struct_pack(tag := {tag}, value := CASE {tag} {cases} END))"
    return f"CASE WHEN {x} IS NULL THEN NULL ELSE {pair} END"


def _csv_field(x: str, duck_type: Any) -> str:
    """A CSV field (RFC 4180): NULL is empty, an empty string is ``""``, quotes only where they are needed."""
    kind = str(duck_type.id)
    if kind in ("list", "array", "struct", "tuple", "map", "union"):
        text = f"CAST({json_expression(x, duck_type)} AS VARCHAR)"
    else:
        text = text_expression(x, kind)
    if kind == "boolean" or kind in _ALWAYS_EXACT or kind in _BIG or kind in ("decimal", "float", "double"):
        return text
    special = f"regexp_matches({text}, '[\",\\r\\n]')"
    quoted = f"'\"' || replace({text}, '\"', '\"\"') || '\"'"
    return f"CASE WHEN {x} IS NULL THEN '' WHEN {text} = '' OR {special} THEN {quoted} ELSE {text} END"


def _each(x: str, depth: int, expression: str) -> str:
    return f"list_transform({x}, lambda v{depth}: {expression})"


def _as_list(x: str, duck_type: Any, child: Any) -> str:
    return x if duck_type.id == "list" else f"CAST({x} AS {child}[])"


def _iso(text: str) -> str:
    """Put the T of ISO 8601 between date and time (the blank before a digit; years BC have another one)."""
    return f"regexp_replace({text}, ' (\\d)', 'T\\1')"
