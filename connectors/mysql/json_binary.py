"""MySQL's binary JSON as exactly the text that ``SELECT column`` prints.

Source of the format: MySQL source documentation, "JSON binary storage format" (`json_binary.h`, dev.mysql.com). A
document is a type byte and a value. Objects and arrays hold their size, offsets relative to their own beginning, and
small scalars in place of the offset; keys are sorted by length, then by bytes, which is also the order of the text.
"""

from __future__ import annotations

import struct
from functools import cache

import pyarrow as pa

from connectors.mysql import json_diff
from connectors.mysql.json_diff import Node
from connectors.mysql.json_scalars import double, opaque, quoted
from engine.errors import DecodeError

_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY, _LITERAL, _STRING, _OPAQUE = 0, 1, 2, 3, 4, 12, 15
_NUMBERS = {
    5: struct.Struct("<h"),
    6: struct.Struct("<H"),
    7: struct.Struct("<i"),
    8: struct.Struct("<I"),
    9: struct.Struct("<q"),
    10: struct.Struct("<Q"),
}
_DOUBLE_TYPE = 11
_DOUBLE = struct.Struct("<d")
_LITERALS = {0: "null", 1: "true", 2: "false"}
_DEEPEST = 100
"""Levels of nesting that the server allows."""
_MOST_KEYS = 10_000
"""Names whose text is remembered while a column is decoded."""
_COMMON = 64
"""Sizes of containers whose layout is remembered."""
_SMALL_HEAD, _LARGE_HEAD = struct.Struct("<2H"), struct.Struct("<2I")


@cache
def _layout(count: int, *, large: bool, is_object: bool) -> struct.Struct:
    """The entries of a container: offset and length of each key, then type and offset of each value."""
    code = "I" if large else "H"
    return struct.Struct("<" + f"{code}H" * (count if is_object else 0) + f"B{code}" * count)


class _Document:
    """One document being read. What is visited is bounded by its length, whatever its offsets say.

    `tree`: containers become nodes, to be changed; otherwise everything becomes text at once.
    """

    __slots__ = ("data", "elements", "keys", "payload", "tree")

    def __init__(self, data: bytes, keys: dict[bytes, str], *, tree: bool) -> None:
        self.data = data
        self.keys = keys
        self.tree = tree
        self.elements = len(data) // 3 + 1
        self.payload = len(data)

    def value(self, type: int, at: int, end: int, depth: int) -> Node:
        """The value of this type at `at`, within the bytes up to `end`: text, or a container of nodes."""
        if type <= _LARGE_ARRAY:
            return self._container(type, at, end, depth)
        data = self.data
        if type == _STRING:
            start, length = self._length(at, end)
            return quoted(data[start : start + length])
        if number := _NUMBERS.get(type):
            if at + number.size > end:
                raise DecodeError("a JSON value ends too early")
            return str(number.unpack_from(data, at)[0])
        if type == _DOUBLE_TYPE:
            if at + 8 > end:
                raise DecodeError("a JSON value ends too early")
            return double(_DOUBLE.unpack_from(data, at)[0])
        if type == _LITERAL:
            return _literal(data[at] if at < end else -1)
        if type == _OPAQUE:
            if at >= end:
                raise DecodeError("a JSON value ends too early")
            start, length = self._length(at + 1, end)
            return opaque(data[at], data[start : start + length])
        raise DecodeError(f"a JSON value is of unknown type {type}")

    def _length(self, at: int, end: int) -> tuple[int, int]:
        """A length of seven bits per byte: where the content begins, and how long it is."""
        length = shift = 0
        while True:
            if at >= end or shift > 28:
                raise DecodeError("a JSON value ends too early")
            byte = self.data[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        self.payload -= length
        if at + length > end or self.payload < 0:
            raise DecodeError("a JSON value ends too early")
        return at, length

    def _container(self, type: int, at: int, end: int, depth: int) -> Node:
        if depth >= _DEEPEST:
            raise DecodeError("a JSON value is nested too deeply")
        large = type in {_LARGE_OBJECT, _LARGE_ARRAY}
        is_object = type <= _LARGE_OBJECT
        head = _LARGE_HEAD if large else _SMALL_HEAD
        data = self.data
        if at + head.size > end:
            raise DecodeError("a JSON value ends too early")
        count, size = head.unpack_from(data, at)
        self.elements -= count
        entries = at + head.size
        if self.elements < 0 or at + size > end:
            raise DecodeError("a JSON value ends too early")
        layout = _layout if count <= _COMMON else _layout.__wrapped__
        fields = layout(count, large=large, is_object=is_object)
        content = entries + fields.size
        end = at + size
        if content > end:
            raise DecodeError("a JSON value ends too early")
        found = fields.unpack_from(data, entries)
        values = 2 * count if is_object else 0
        nodes: list[Node] = []
        for i in range(values, values + 2 * count, 2):
            kind, offset = found[i], found[i + 1]
            if kind == _LITERAL:
                nodes.append(_literal(offset))
            elif kind == 5 or kind == 6 or (large and (kind == 7 or kind == 8)):  # noqa: PLR1714
                nodes.append(str(_inlined(kind, offset)))
            elif at + offset < content:
                raise DecodeError("a JSON value points outside of itself")
            else:
                nodes.append(self.value(kind, at + offset, end, depth + 1))
        if not is_object:
            return nodes if self.tree else f"[{', '.join(nodes)}]"  # type: ignore[arg-type]
        names = []
        for i in range(0, values, 2):
            start, length = at + found[i], found[i + 1]
            self.payload -= length
            if start < content or start + length > end:
                raise DecodeError("a JSON value points outside of itself")
            names.append(data[start : start + length])
        members = dict(zip(names, nodes, strict=True))
        if len(members) != count or self.payload < 0:
            raise DecodeError("a JSON object has a key twice, or keys that share their bytes")
        if self.tree:
            return members
        key = self.key
        return f"{{{', '.join([key(name) + node for name, node in members.items()])}}}"  # type: ignore[operator]

    def key(self, raw: bytes) -> str:
        """A member's name as text with its colon, remembered: names come again and again."""
        text = self.keys.get(raw)
        if text is None:
            text = f"{quoted(raw)}: "
            if len(self.keys) < _MOST_KEYS:
                self.keys[raw] = text
        return text


def _literal(value: int) -> str:
    text = _LITERALS.get(value & 0xFFFF if value >= 0 else value)
    if text is None:
        raise DecodeError("a JSON value is an unknown literal")
    return text


def _inlined(kind: int, value: int) -> int:
    """A number that lies in place of its offset."""
    if kind in {6, 8}:
        return value & 0xFFFF if kind == 6 else value
    bits = 16 if kind == 5 else 32
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _read(data: bytes, keys: dict[bytes, str], *, tree: bool) -> Node:
    if not data:
        return "null"  # what INSERT IGNORE stores for NULL in a NOT NULL column
    return _Document(data, keys, tree=tree).value(data[0], 1, len(data), 0)


def parse(data: bytes) -> Node:
    """Read a document into nodes. Raises DecodeError."""
    return _read(data, {}, tree=True)


def text(data: bytes) -> str:
    """The text of one binary document. Raises DecodeError."""
    return str(_read(data, {}, tree=False))


def decode(values: pa.Array) -> pa.Array:
    """Binary documents (a binary array) as text; NULL stays NULL. Raises DecodeError, which shows no value."""
    keys: dict[bytes, str] = {}
    found = [None if value is None else _read(value, keys, tree=False) for value in values.to_pylist()]
    large = pa.types.is_large_binary(values.type)
    return pa.array(found, pa.large_string() if large else pa.string())


def apply_partial(before: bytes | None, changes: bytes | None) -> str | None:
    """The text of a document after the changes that PARTIAL_UPDATE_ROWS carries for it (without their length).

    None for a document or changes that are NULL. Raises DecodeError for changes that do not fit the document.
    """
    if before is None or changes is None:
        return None
    return _printed(json_diff.apply(parse(before), changes, parse))


def _printed(node: Node) -> str:
    """A node as text, members in the order that the server keeps them in."""
    if isinstance(node, str):
        return node
    if isinstance(node, list):
        return f"[{', '.join(map(_printed, node))}]"
    members = sorted(node.items(), key=lambda member: (len(member[0]), member[0]))
    return f"{{{', '.join(f'{quoted(name)}: {_printed(item)}' for name, item in members)}}}"
