"""The replica's type text (DuckDB SQL, as `types` writes it) taken apart, so that decoders follow a stored column."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type without parts; `arguments` are a DECIMAL's precision and scale."""

    name: str
    arguments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, one level."""

    element: TypeNode


@dataclass(frozen=True, slots=True)
class Struct:
    """Named fields in order."""

    fields: tuple[tuple[str, TypeNode], ...]


@dataclass(frozen=True, slots=True)
class Map:
    """Keys and values."""

    key: TypeNode
    value: TypeNode


TypeNode = Scalar | ListOf | Struct | Map

_TOKEN = re.compile(r'\s*("(?:[^"]|"")*"|\w+|\[\]|[(),])')


@lru_cache(maxsize=4096)
def parse_type(text: str) -> TypeNode:
    """Parse type text. ValueError if it is not of the forms that `types` writes."""
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text):
        raise ValueError(f"not a replica type: {text}")
    node, rest = _parse(tokens)
    if rest:
        raise ValueError(f"not a replica type: {text}")
    return node


def _parse(tokens: list[str]) -> tuple[TypeNode, list[str]]:
    if not tokens:
        raise ValueError("a replica type ends too early")
    name, rest = tokens[0], tokens[1:]
    node: TypeNode
    if name == "STRUCT":
        fields = []
        rest = _expect(rest, "(")
        while True:
            field, inner = rest[0], rest[1:]
            child, rest = _parse(inner)
            fields.append((field[1:-1].replace('""', '"'), child))
            if rest[:1] != [","]:
                break
            rest = rest[1:]
        rest = _expect(rest, ")")
        node = Struct(tuple(fields))
    elif name == "MAP":
        key, rest = _parse(_expect(rest, "("))
        value, rest = _parse(_expect(rest, ","))
        rest = _expect(rest, ")")
        node = Map(key, value)
    elif rest[:1] == ["("]:
        closing = rest.index(")")
        node = Scalar(name, tuple(int(t) for t in rest[1:closing] if t != ","))
        rest = rest[closing + 1 :]
    else:
        node = Scalar(name)
    while rest[:1] == ["[]"]:
        node, rest = ListOf(node), rest[1:]
    return node, rest


def _expect(tokens: list[str], token: str) -> list[str]:
    if tokens[:1] != [token]:
        raise ValueError(f"a replica type lacks {token!r}")
    return tokens[1:]
