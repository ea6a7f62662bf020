"""Typed expressions of the embedded engine, literals, and every conversion between SQL Server's types."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.support.sqlserver import values
from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.types import MAX, SqlType, exact

# Bound as parameters rather than written into the statement.
LONG = 500


class _Nothing:
    """The mark of an expression that is no constant."""


NOTHING = _Nothing()


@dataclass(frozen=True, slots=True)
class Value:
    """An expression in DuckDB's SQL with SQL Server's type; `constant` is its stored value where it is known."""

    sql: str
    kind: SqlType
    constant: Any = NOTHING

    @property
    def known(self) -> bool:
        return not isinstance(self.constant, _Nothing)


class Parameters:
    """Long literals of one statement, by name."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def add(self, value: Any) -> str:
        name = f"long_{len(self.values) + 1}_"
        self.values[name] = value
        return f"${name}"

    def used(self, sql: str) -> dict[str, Any]:
        return {name: value for name, value in self.values.items() if f"${name}" in sql}


def constant(value: Any, kind: SqlType, parameters: Parameters) -> Value:
    """A stored value as an expression."""
    if value is None:
        return Value(f"CAST(NULL AS {kind.storage})", kind, None)
    if isinstance(value, str):
        if len(value) > LONG or "\0" in value:
            return Value(f"CAST({parameters.add(value)} AS VARCHAR)", kind, value)
        return Value("'" + value.replace("'", "''") + "'::VARCHAR", kind, value)
    if isinstance(value, bytes):
        if len(value) > LONG:
            return Value(f"CAST({parameters.add(value)} AS BLOB)", kind, value)
        return Value(f"unhex('{value.hex()}')", kind, value)
    text = (
        f"'{value!r}'" if isinstance(value, float) else f"'{value:f}'" if isinstance(value, Decimal) else f"'{value}'"
    )
    return Value(f"CAST({text} AS {kind.storage})", kind, value)


def convert(value: Value, kind: SqlType, parameters: Parameters, style: int = -1, *, assign: bool = False) -> Value:
    """CAST or CONVERT; with `assign` as a column takes a value: text that is too long is an error, not cut."""
    source = value.kind
    if (value.known and value.constant is None) or source.family == "null":
        return constant(None, kind, parameters)
    if source.unicode and kind.family == "text" and not kind.unicode:
        narrowed = values.code_page(value.constant) if isinstance(value.constant, str) else None
        text = SqlType("varchar", length=source.length)
        value = (
            Value(f"tsql_code_page({value.sql})", text) if narrowed is None else constant(narrowed, text, parameters)
        )
    sql = _convert(value, kind, style, assign)
    if value.known and isinstance(value.constant, str) and kind.family in ("moment", "time", "offset"):
        return constant(values.read_moment(value.constant, kind.name, kind.scale), kind, parameters)
    if value.known and isinstance(value.constant, str) and kind.family == "guid" and source.family == "text":
        return constant(values.read_guid(value.constant), kind, parameters)
    same = source.family == kind.family and source.family in ("text", "binary")
    if value.known and same and kind.length in (0, MAX) and kind.name not in ("rowversion",):
        return Value(sql, kind, value.constant)
    if (
        value.known
        and same
        and len(value.constant) <= kind.length
        and kind.name in ("varchar", "nvarchar", "varbinary")
    ):
        return Value(sql, kind, value.constant)
    if value.known and source.family == "int" and kind.family == "int" and kind.name != "bit":
        return Value(sql, kind, value.constant)
    return Value(sql, kind)


def _convert(value: Value, kind: SqlType, style: int, assign: bool) -> str:
    source, sql = value.kind, value.sql
    pair = (source.family, kind.family)
    if kind.family == "variant":
        return sql if source.family == "variant" else _to_variant(value)
    if source.family == kind.family and source.family in ("hierarchy", "shape"):
        return sql
    if pair == ("text", "hierarchy"):
        return f"tsql_path({sql})"
    if source.family == "variant":
        text = Value(f"substr({sql}, instr({sql}, ':') + 1)", SqlType("nvarchar", length=MAX))
        return _convert(text, kind, style, assign)
    if pair == ("text", "text"):
        return _sized_text(sql, kind, assign)
    if pair == ("binary", "binary"):
        return _sized_binary(sql, kind, assign)
    if kind.family == "text":
        return _sized_text(_to_text(value, style), kind, assign=False)
    if kind.family == "binary":
        return _to_binary(value, kind, style)
    if kind.family in ("moment", "time", "offset"):
        return _to_moment(value, kind)
    if kind.family == "guid":
        if source.family == "text":
            return f"tsql_read_guid({sql})"
        if source.family == "guid":
            return sql
        if source.family == "binary":
            return f"tsql_sort_guid({sql})"
    if kind.family in ("int", "decimal", "float"):
        return _to_number(value, kind)
    raise SqlError(529, f"Explicit conversion from data type {source.name} to {kind.name} is not allowed.")


def _sized_text(sql: str, kind: SqlType, assign: bool) -> str:
    if kind.length in (0, MAX):
        return sql
    if assign:
        sql = f"tsql_fits({sql}, {kind.length})"
    else:
        sql = f"left({sql}, {kind.length})"
    return f"rpad({sql}, {kind.length}, ' ')" if kind.name in ("char", "nchar") else sql


def _sized_binary(sql: str, kind: SqlType, assign: bool) -> str:
    length = 8 if kind.name == "rowversion" else kind.length
    if length in (0, MAX):
        return sql
    return f"tsql_binary({sql}, {length}, {kind.name != 'varbinary'}, {assign})"


def _to_text(value: Value, style: int) -> str:
    source, sql = value.kind, value.sql
    if source.family == "int":
        return f"CAST({sql} AS VARCHAR)"
    if source.name in ("money", "smallmoney"):
        places = 4 if style in (2, 126) else 2
        return f"CAST(CAST({sql} AS DECIMAL(19,{places})) AS VARCHAR)"
    if source.family == "decimal":
        return f"CAST({sql} AS VARCHAR)"
    if source.family == "float":
        return f"tsql_float({sql}, {max(style, 0)}, {source.name == 'real'})"
    if source.family in ("moment", "time", "offset"):
        return f"tsql_moment(CAST({sql} AS HUGEINT), '{source.name}', {source.scale}, {style})"
    if source.family == "guid":
        return f"tsql_guid({sql})"
    if source.family == "hierarchy":
        return sql
    if source.family == "binary":
        if style in (1, 2):
            return f"'0x' || hex({sql})" if style == 1 else f"hex({sql})"
        return f"tsql_decode({sql}, true)" if style == -3 else f"tsql_decode({sql}, false)"
    raise Unknown(f"{source.name} as text")


def _to_binary(value: Value, kind: SqlType, style: int) -> str:
    source, sql = value.kind, value.sql
    fixed = kind.name != "varbinary"
    length = 8 if kind.name == "rowversion" else kind.length
    if source.family == "text":
        if style in (1, 2):
            return _sized_binary(f"tsql_hex({sql}, {style})", kind, assign=False)
        return _sized_binary(f"tsql_encode({sql}, {source.unicode})", kind, assign=False)
    if source.family == "int":
        size = source.max_length
        # Integers are right-aligned, other values are not.
        return f"tsql_integer(CAST({sql} AS BIGINT), {size}, {length}, {fixed})"
    if source.family == "guid":
        return _sized_binary(f"tsql_wire_guid({sql})", kind, assign=False)
    raise Unknown(f"{source.name} as {kind.name}")


def _to_moment(value: Value, kind: SqlType) -> str:
    source, sql = value.kind, value.sql
    if source.family == "text":
        return f"CAST(tsql_read_moment({sql}, '{kind.name}', {kind.scale}) AS {kind.storage})"
    if source == kind:
        return sql
    if source.family in ("moment", "time", "offset"):
        if source.family == "moment" and kind.name == "datetime2" and source.name in ("date", "smalldatetime"):
            return sql
        if source.name == "datetime2" and kind.name == "datetime2" and source.scale <= kind.scale:
            return sql
        names = f"'{source.name}', '{kind.name}', {kind.scale}"
        return f"CAST(tsql_moment_as(CAST({sql} AS HUGEINT), {names}) AS {kind.storage})"
    if source.family in ("int", "decimal", "float") and kind.name in ("datetime", "smalldatetime"):
        return f"CAST(round({sql} * 25920000) * 100000 / 3 AS BIGINT) + {values.EPOCH_1900 * values.DAY}"
    raise SqlError(529, f"Explicit conversion from data type {source.name} to {kind.name} is not allowed.")


def _to_number(value: Value, kind: SqlType) -> str:
    source, sql = value.kind, value.sql
    if source.family == "text":
        sql = f"trim({sql})"
        if kind.family != "decimal" or kind.name in ("money", "smallmoney"):
            sql = f"CASE WHEN {sql} = '' THEN '0' ELSE {sql} END"
    elif source.family == "binary":
        return f"CAST(tsql_from_binary({sql}, {kind.max_length}) AS {kind.storage})"
    elif source.family not in ("int", "decimal", "float"):
        if source.name in ("datetime", "smalldatetime") and kind.family in ("float", "int"):
            sql = f"({sql} - {values.EPOCH_1900 * values.DAY}) / {float(values.DAY)}"
        else:
            raise SqlError(529, f"Explicit conversion from data type {source.name} to {kind.name} is not allowed.")
    if kind.name == "bit":
        if source.family == "text":
            lowered = f"lower({sql})"
            sql = f"CASE {lowered} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {sql} END"
            return f"CAST(CAST({sql} AS INTEGER) <> 0 AS UTINYINT)"
        return f"CAST({sql} <> 0 AS UTINYINT)"
    if kind.family == "int" and source.family in ("decimal", "float"):
        if source.name not in ("money", "smallmoney"):
            sql = f"trunc({sql})"
        return f"CAST({sql} AS {kind.storage})"
    if kind.family == "float" and source.family == "text":
        return f"CAST({sql} AS {kind.storage})"
    return f"CAST({sql} AS {kind.storage})"


def _to_variant(value: Value) -> str:
    source = value.kind
    if source.lob or source.name in ("rowversion",):
        raise SqlError(206, f"Operand type clash: {source.name} is incompatible with sql_variant")
    if source.family == "binary":
        text = f"hex({value.sql})"
    elif source.family == "text":
        text = value.sql
    elif source.name in ("money", "smallmoney"):
        text = _to_text(value, 2)
    elif source.name in ("datetime", "smalldatetime"):
        text = _to_text(value, 121)
    elif source.family == "float":
        text = f"CAST({value.sql} AS VARCHAR)"
    else:
        text = _to_text(value, -1)
    return f"'{source.text}:' || {text}"


def key(value: Value) -> str:
    """What compares as SQL Server's default collation does: text without case and trailing spaces."""
    if value.kind.family == "text":
        return f"rtrim({value.sql}, ' ')" if value.kind.binary_collation else f"lower(rtrim({value.sql}, ' '))"
    if value.kind.family == "offset":
        return f"({value.sql} // 4096)"
    if value.kind.family == "binary" and value.kind.name != "varbinary":
        return value.sql
    return value.sql


def number(value: Decimal | int) -> SqlType:
    """The type of a numeric literal."""
    _, digits, exponent = Decimal(value).as_tuple()
    scale = max(0, -int(exponent))
    return SqlType("numeric", precision=max(len(digits), scale, 1), scale=scale)


def arithmetic(op: str, left: SqlType, right: SqlType) -> SqlType | None:
    """The type of decimal arithmetic (the documentation's table); None where DuckDB's own is right."""
    one, two = exact(left), exact(right)
    if one is None or two is None:
        return None
    p1, s1, p2, s2 = one.precision, one.scale, two.precision, two.scale
    if op in ("+", "-"):
        scale, precision = max(s1, s2), max(s1, s2) + max(p1 - s1, p2 - s2) + 1
    elif op == "*":
        scale, precision = s1 + s2, p1 + p2 + 1
    elif op == "/":
        scale = max(6, s1 + p2 + 1)
        precision = p1 - s1 + s2 + scale
    else:
        scale, precision = max(s1, s2), min(p1 - s1, p2 - s2) + max(s1, s2)
    if precision > 38:
        scale = max(min(scale, 6), scale - (precision - 38))
        precision = 38
    return SqlType("decimal", precision=precision, scale=scale)
