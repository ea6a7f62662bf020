"""Text of arrays, composite values and hstore, a column at a time (formats: PostgreSQL documentation, "Array Input and
Output Syntax", "Composite Type Input and Output Syntax", hstore "External Representation").

The text of all rows is tokenized at once: a quote's state is the parity of the quotes before it, braces and commas
outside of quotes are the structure, and the vectors of their places become Arrow's offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors import columnar
from connectors.columnar import Mask, Offsets, Raw
from connectors.postgres.pgoutput import Kinds
from connectors.postgres.scalar_text import spans
from connectors.postgres.type_text import ListOf, Struct, TypeNode
from connectors.postgres.unfit import Reshaped, Unfit

Decode = Callable[[TypeNode, pa.Array], pa.Array]

_QUOTE, _BACKSLASH, _COMMA = ord('"'), ord("\\"), ord(",")
_OPEN, _CLOSE = ord("{"), ord("}")
_BOUNDS = r"^(?:\[[+-]?\d+:[+-]?\d+\])+="


def _require(holds: Mask) -> None:
    if not bool(holds.all()):
        raise ValueError("the text is not well formed")


@dataclass(slots=True)
class _Text:
    """Rows of text as one run of bytes: `start` and `end` of each, and which quotes and bytes mean something."""

    raw: Raw
    start: Offsets
    end: Offsets
    quotes: Offsets
    """Places of the quotes that are not escaped by a backslash."""
    outside: Mask
    """Per byte: not between quotes (the opening quote itself is not outside)."""
    escapes: bool


def _scan(text: pa.Array) -> _Text:
    raw, start, end = spans(text)
    u8 = raw.u8
    quote = u8 == _QUOTE
    backslashes = np.flatnonzero(u8 == _BACKSLASH)
    if len(backslashes):
        fresh = np.concatenate(([True], np.diff(backslashes) > 1))
        run = backslashes[fresh][np.cumsum(fresh) - 1]
        escaped = backslashes[(backslashes - run) % 2 == 0] + 1
        if int(escaped[-1]) >= raw.size:
            raise ValueError("the text ends in an escape")
        quote[escaped] = False
    inside = np.cumsum(quote) & 1
    if bool((end > start).any()):
        _require(inside[end[end > start] - 1] == 0)
    return _Text(raw, start, end, np.flatnonzero(quote), inside == 0, bool(len(backslashes)))


def _values(scanned: _Text, start: Offsets, end: Offsets, valid: Mask, like: pa.DataType) -> pa.Array:
    values = scanned.raw.binary(start, np.where(valid, end - start, 0), valid)
    return values.cast(like) if len(start) else pa.array([], like)


def _unquoted(scanned: _Text, start: Offsets, end: Offsets) -> tuple[Offsets, Offsets, Mask]:
    """The spans without their quotes, and which had some. A value is quoted as a whole or not at all."""
    quoted = np.zeros(len(start), bool)
    filled = np.flatnonzero(end > start)
    quoted[filled] = scanned.raw.u8[start[filled]] == _QUOTE
    _require(~quoted | (end - start >= 2))
    _require(scanned.raw.u8[np.maximum(end[quoted] - 1, 0)] == _QUOTE)
    return start + quoted, end - quoted, quoted


def arrays(text: pa.Array, node: ListOf, decode: Decode) -> pa.Array:
    """PostgreSQL arrays (bounds dropped) of exactly as many dimensions as the type has levels, and pgvector values.

    An array of another number of dimensions does not fit: `Unfit`.
    """
    depth, leaf = 1, node.element
    while isinstance(leaf, ListOf):
        depth, leaf = depth + 1, leaf.element
    braced = _braced(text)
    scanned = _scan(braced)
    _no_empty(text)
    levels, start, end = _levels(scanned, depth)
    start, end, quoted = _unquoted(scanned, start, end)
    _require(quoted | (end > start))
    words = np.flatnonzero(~quoted & (end - start == 4))
    null = np.zeros(len(start), bool)
    if len(words):
        null[words] = scanned.raw.at("S4", start[words]) == b"NULL"
    values = _values(scanned, start, end, ~null, text.type)
    if scanned.escapes:
        values = pc.replace_substring_regex(values, r"(?s)\\(.)", r"\1")
    child = decode(leaf, values)
    for offsets in reversed(levels[1:]):
        child = _list(offsets, None, child)
    return _list(levels[0], columnar.valid_mask(text), child)


def _no_empty(text: pa.Array) -> None:
    """Even an empty array or composite value is written with its brackets."""
    if pc.any(pc.equal(pc.binary_length(text), 0)).as_py():
        raise ValueError("no text")


def _list(offsets: Offsets, valid: Mask | None, child: pa.Array) -> pa.Array:
    null = None if valid is None else columnar.bitmap(valid)
    if len(child) >= 1 << 31:
        raise ValueError("too many elements for one batch")
    data = pa.py_buffer(offsets.astype(np.int32))
    return pa.Array.from_buffers(pa.list_(child.type), len(offsets) - 1, [null, data], children=[child])


def _braced(text: pa.Array) -> pa.Array:
    """The text without array bounds (``[0:2]={1,2,3}``), and vectors (``[1,2,3]``) in an array's braces."""
    if not pc.any(pc.starts_with(text, "[")).as_py():
        return text
    text = pc.replace_substring_regex(text, _BOUNDS, "")
    return pc.replace_substring_regex(text, r"^\[(.*)\]$", r"{\1}")


def _levels(scanned: _Text, depth: int) -> tuple[list[Offsets], Offsets, Offsets]:
    """Offsets of the lists of each level, outermost first, and the spans of the innermost elements.

    A row without text (NULL) and an empty array have no inner lists at all.
    """
    u8, outside = scanned.raw.u8, scanned.outside
    start, end = scanned.start, scanned.end
    rows = np.flatnonzero(end > start)
    _require(end[rows] - start[rows] >= 2)
    _require((u8[start[rows]] == _OPEN) & (u8[end[rows] - 1] == _CLOSE))
    rows = rows[end[rows] - start[rows] > 2]
    token = outside & ((u8 == _OPEN) | (u8 == _CLOSE) | (u8 == _COMMA))
    empty = np.flatnonzero(end - start == 2)
    token[start[empty]] = token[start[empty] + 1] = False
    at = np.flatnonzero(token)
    kind = u8[at]
    deep = np.cumsum((kind == _OPEN).astype(np.int64) - (kind == _CLOSE))
    _require(token[start[rows]] & token[end[rows] - 1])
    _require(deep[np.searchsorted(at, end[rows] - 1)] == 0)
    _require((deep > 0) | np.isin(at, end[rows] - 1))
    _check_depth(rows, start, at, kind, deep, depth)
    counts = np.zeros(len(start), np.int64)
    owners = rows
    levels = []
    for level in range(1, depth + 1):
        opens = np.flatnonzero((kind == _OPEN) & (deep == level))
        closes = np.flatnonzero((kind == _CLOSE) & (deep == level - 1))
        commas = np.cumsum((kind == _COMMA) & (deep == level))
        sizes = commas[closes] - commas[opens] + 1
        counts[owners] = sizes
        levels.append(np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))))
        counts, owners = np.zeros(int(sizes.sum()), np.int64), np.arange(int(sizes.sum()))
    first = np.flatnonzero((kind != _CLOSE) & (deep == depth))
    return levels, at[first] + 1, at[first + 1]


def _check_depth(rows: Offsets, start: Offsets, at: Offsets, kind: Kinds, deep: Offsets, depth: int) -> None:
    """Every array has exactly `depth` dimensions, and above the innermost level stand nothing but braces and commas."""
    if not len(rows):
        return
    deepest = np.maximum.reduceat(deep, np.searchsorted(at, start[rows]))
    if bool((deepest != depth).any()):
        raise Unfit("an array has another number of dimensions than its column declares")
    opening = (kind == _OPEN) & (deep < depth) | (kind == _COMMA) & (deep < depth)
    before = np.flatnonzero(opening)
    _require((at[before + 1] == at[before] + 1) & (kind[before + 1] == _OPEN))
    closing = np.flatnonzero((kind == _CLOSE) & (deep > 0))
    _require((at[closing + 1] == at[closing] + 1) & (kind[closing + 1] != _OPEN))


def composites(text: pa.Array, node: Struct, decode: Decode) -> pa.Array:
    """Composite values as structs. `Reshaped` when a value has another number of attributes."""
    _no_empty(text)
    scanned = _scan(text)
    u8, start, end = scanned.raw.u8, scanned.start, scanned.end
    rows = np.flatnonzero(end > start)
    _require(end[rows] - start[rows] >= 2)
    _require((u8[start[rows]] == ord("(")) & (u8[end[rows] - 1] == ord(")")))
    commas = np.flatnonzero(scanned.outside & (u8 == _COMMA))
    count = len(node.fields)
    per_row = np.searchsorted(commas, end[rows]) - np.searchsorted(commas, start[rows])
    if bool((per_row != count - 1).any()):
        raise Reshaped
    bounds = np.empty((len(rows), count + 1), np.int64)
    bounds[:, 0], bounds[:, count] = start[rows], end[rows] - 1
    bounds[:, 1:count] = commas.reshape(len(rows), count - 1)
    children = []
    for i, (_, child) in enumerate(node.fields):
        lo, hi = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
        lo[rows], hi[rows] = bounds[:, i] + 1, bounds[:, i + 1]
        lo, hi = np.maximum.accumulate(lo), np.maximum.accumulate(np.maximum(lo, hi))
        valid = np.zeros(len(start), bool)
        valid[rows] = bounds[:, i + 1] > bounds[:, i] + 1
        inner_lo, inner_hi, _ = _unquoted(scanned, lo, np.where(valid, hi, lo))
        values = _values(scanned, inner_lo, inner_hi, valid, text.type)
        children.append(decode(child, pc.replace_substring_regex(values, r'(?s)(")"|\\(.)', r"\1\2")))
    fields = [pa.field(name, c.type) for (name, _), c in zip(node.fields, children, strict=True)]
    valid_rows = columnar.valid_mask(text)
    null = None if valid_rows is None else columnar.bitmap(valid_rows)
    return pa.Array.from_buffers(pa.struct(fields), len(text), [null], children=children)


def hstores(text: pa.Array) -> pa.Array:
    """Hstore values (``"a"=>"1", "b"=>NULL``) as maps of text to text."""
    scanned = _scan(text)
    u8, start, end = scanned.raw.u8, scanned.start, scanned.end
    opening, closing = scanned.quotes[0::2], scanned.quotes[1::2]
    padded = np.concatenate((u8, np.zeros(8, np.uint8)))
    is_key = (padded[closing + 1] == ord("=")) & (padded[closing + 2] == ord(">"))
    keys = np.flatnonzero(is_key)
    value_at = closing[keys] + 3
    quoted = padded[value_at] == _QUOTE
    _require(opening[keys[quoted] + 1] == value_at[quoted])
    word = np.lib.stride_tricks.sliding_window_view(padded, 4)[value_at[~quoted]]
    _require((word == np.frombuffer(b"NULL", np.uint8)).all(axis=1))
    value_end = value_at + 4
    value_end[quoted] = closing[keys[quoted] + 1] + 1
    _require(is_key.sum() + quoted.sum() == np.array([len(opening)]))
    row = np.searchsorted(end, opening[keys], side="right")
    entries = np.bincount(row, minlength=len(start))
    used = np.bincount(row, weights=value_end - opening[keys], minlength=len(start)).astype(np.int64)
    _require(used + 2 * np.maximum(entries - 1, 0) == end - start)
    escape = (r"(?s)\\(.)", r"\1")
    everything = np.ones(len(keys), bool)
    key = _values(scanned, opening[keys] + 1, closing[keys], everything, text.type)
    inner = value_at + quoted, np.where(quoted, value_end - 1, value_at)
    value = _values(scanned, *inner, quoted, text.type)
    if scanned.escapes:
        key, value = (pc.replace_substring_regex(v, *escape) for v in (key, value))
    pairs = pa.StructArray.from_arrays(
        [key, value], fields=[pa.field("key", key.type, nullable=False), pa.field("value", value.type)]
    )
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(entries))).astype(np.int32)
    valid = columnar.valid_mask(text)
    null = None if valid is None else columnar.bitmap(valid)
    kind = pa.map_(key.type, value.type)
    return pa.Array.from_buffers(kind, len(text), [null, pa.py_buffer(offsets)], children=[pairs])
