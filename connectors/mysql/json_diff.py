"""Partial updates of JSON documents: what `binlog_row_value_options = PARTIAL_JSON` logs in place of a whole document.

Source: MySQL source documentation, "PARTIAL_UPDATE_ROWS_EVENT" and `Json_diff` (dev.mysql.com); MySQL Reference Manual,
"JSON Path Syntax". A change is an operation, a path as text, and (but for REMOVE) a binary document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TypeAlias

from connectors.mysql.wire import Cursor
from engine.errors import DecodeError

Node: TypeAlias = "str | list[Node] | dict[bytes, Node]"
"""A value: its text when it is a scalar, else its elements, or its members by name."""

_REPLACE, _INSERT, _REMOVE = 0, 1, 2
_CELL = re.compile(r"\[\s*(?:(?P<index>\d{1,10})|last\s*(?:-\s*(?P<back>\d{1,10}))?)\s*\]", re.ASCII)
_MEMBER = re.compile(r"\.\s*(?:(?P<quoted>\"(?:[^\"\\]|\\.)*\")|(?P<plain>[^\s.\[\"*]+))", re.DOTALL)
_SPACE = re.compile(r"\s*")

Leg = bytes | tuple[int, bool]
"""A member's name, or an element's number and whether it is counted from the end."""


def path(text: str) -> list[Leg]:
    """Read a path (``$.name[3]."other name"[last]``). DecodeError for one that names several places, or none."""
    at = 1
    legs: list[Leg] = []
    if not text.startswith("$"):
        raise DecodeError("a partial JSON update has a malformed path")
    while at < len(text):
        if cell := _CELL.match(text, at):
            legs.append((int(cell["index"]), False) if cell["index"] else (int(cell["back"] or 0), True))
            at = cell.end()
        elif member := _MEMBER.match(text, at):
            legs.append(_name(member["quoted"]) if member["quoted"] else member["plain"].encode())
            at = member.end()
        elif space := _SPACE.match(text, at):
            if space.end() == at:
                raise DecodeError("a partial JSON update has a malformed path")
            at = space.end()
    return legs


def _name(quoted: str) -> bytes:
    try:
        name = json.loads(quoted, strict=False)
        return str(name).encode()
    except ValueError:
        raise DecodeError("a partial JSON update has a malformed path") from None


def apply(node: Node, changes: bytes, parse: Callable[[bytes], Node]) -> Node:
    """Apply changes to a document in their order; `parse` reads a binary document. The node given is used up.

    A change whose place is not there means that the document is not the one that the server changed: DecodeError.
    """
    cursor = Cursor(changes, "a partial JSON update")
    while cursor.left:
        operation = cursor.number(1)
        legs = path(cursor.text(cursor.lenenc()))
        if operation > _REMOVE or not legs:
            raise cursor.malformed()
        value = None if operation == _REMOVE else parse(cursor.raw(cursor.lenenc()))
        parent = node
        for leg in legs[:-1]:
            parent = _child(parent, leg)
        _change(parent, legs[-1], operation, value)
    return node


def _child(node: Node, leg: Leg) -> Node:
    if isinstance(node, dict) and isinstance(leg, bytes) and leg in node:
        return node[leg]
    if isinstance(node, list) and isinstance(leg, tuple):
        index = _index(node, leg)
        if 0 <= index < len(node):
            return node[index]
    raise _missing()


def _index(node: list[Node], leg: tuple[int, bool]) -> int:
    number, back = leg
    return len(node) - 1 - number if back else number


def _missing() -> DecodeError:
    return DecodeError("a partial JSON update does not fit the document that it changes")


def _change(parent: Node, leg: Leg, operation: int, value: Node | None) -> None:
    if isinstance(parent, dict) and isinstance(leg, bytes):
        if (leg in parent) is (operation == _INSERT):
            raise _missing()
        if value is None:
            del parent[leg]
        else:
            parent[leg] = value
    elif isinstance(parent, list) and isinstance(leg, tuple):
        index = _index(parent, leg)
        if operation == _INSERT and value is not None:
            # Behind the end is at the end, as JSON_ARRAY_INSERT has it.
            parent.insert(max(index, 0), value)
        elif not 0 <= index < len(parent):
            raise _missing()
        elif value is None:
            del parent[index]
        else:
            parent[index] = value
    else:
        raise _missing()
