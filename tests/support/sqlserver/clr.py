"""Methods of the CLR's types, as far as a replica calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.sqlserver.convert import Value
from tests.support.sqlserver.errors import Unknown
from tests.support.sqlserver.types import MAX, SqlType


def _to_string(value: Value) -> Value:
    if value.kind.family != "hierarchy":
        raise Unknown(f"ToString of {value.kind.name}")
    return Value(value.sql, SqlType("nvarchar", length=4000))


def _binary(value: Value, sql: str) -> Value:
    if value.kind.family != "shape":
        raise Unknown(f"WKB of {value.kind.name}")
    return Value(sql, SqlType("varbinary", length=MAX))


def _shape(kind: str) -> Callable[[Any, list[Value]], Value]:
    return lambda _, args: Value(f"tsql_shape({args[0].sql})", SqlType(kind))


METHODS: dict[str, Callable[[Value], Value]] = {
    ".tostring": _to_string,
    ".asbinaryzm": lambda value: _binary(value, value.sql),
    ".stasbinary": lambda value: _binary(value, f"tsql_flat({value.sql})"),
}
STATICS: dict[str, Callable[[Any, list[Value]], Value]] = {
    "hierarchyid::parse": lambda compiler, args: compiler.convert(args[0], SqlType("hierarchyid")),
    "geometry::stgeomfromtext": _shape("geometry"),
    "geography::stgeomfromtext": _shape("geography"),
}
