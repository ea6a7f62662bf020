"""SQL Server's functions on values. What asks the session or the catalogue is in metadata.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.sqlserver.convert import Value, key
from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.types import BIGINT, FLOAT, INT, MAX, NTEXT, SqlType, common, make

Handler = Callable[[Any, list[Value]], Value]
TABLE: dict[str, Handler] = {}
_TICKS = {
    "day": 864_000_000_000,
    "hour": 36_000_000_000,
    "minute": 600_000_000,
    "second": 10_000_000,
    "millisecond": 10_000,
    "microsecond": 10,
    "nanosecond": 0,
}
PARTS = {"dd": "day", "d": "day", "hh": "hour", "mi": "minute", "n": "minute", "ss": "second", "s": "second"}
PARTS |= {"ms": "millisecond", "mcs": "microsecond", "ns": "nanosecond", "yy": "year", "yyyy": "year", "mm": "month"}
PARTS |= {"m": "month", "dw": "weekday", "dy": "dayofyear", "ww": "week", "wk": "week", "qq": "quarter"}


def function(*names: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        for name in names:
            TABLE[name] = handler
        return handler

    return add


def text_of(compiler: Any, value: Value) -> Value:
    """A value as text, for the functions that take any."""
    if value.kind.family == "text":
        return value
    return compiler.convert(value, SqlType("varchar", length=8000))


def _text(value: Value, sql: str, length: int | None = None) -> Value:
    kind = value.kind
    name = "nvarchar" if kind.unicode else "varchar"
    size = MAX if kind.lob else length if length is not None else kind.length or 8000
    return Value(sql, SqlType(name, length=size, binary_collation=kind.binary_collation))


@function("len")
def _len(compiler: Any, args: list[Value]) -> Value:
    value = text_of(compiler, args[0])
    return Value(f"CAST(length(rtrim({value.sql}, ' ')) AS BIGINT)", BIGINT if value.kind.lob else INT)


@function("datalength")
def _datalength(compiler: Any, args: list[Value]) -> Value:
    value = args[0]
    kind = BIGINT if value.kind.lob else INT
    if value.kind.family == "text":
        encoded = f"octet_length(tsql_encode({value.sql}, {value.kind.unicode}))"
        return Value(encoded, kind)
    if value.kind.family == "binary":
        return Value(f"octet_length({value.sql})", kind)
    return Value(f"CASE WHEN {value.sql} IS NULL THEN NULL ELSE {value.kind.max_length} END", INT)


@function("isnull")
def _isnull(compiler: Any, args: list[Value]) -> Value:
    first, second = args
    if first.kind.family == "null":
        return second
    return Value(f"coalesce({first.sql}, {compiler.convert(second, first.kind).sql})", first.kind)


@function("coalesce")
def _coalesce(compiler: Any, args: list[Value]) -> Value:
    kind = compiler.common([value.kind for value in args])
    return Value(f"coalesce({', '.join(compiler.convert(value, kind).sql for value in args)})", kind)


@function("nullif")
def _nullif(compiler: Any, args: list[Value]) -> Value:
    first, second = args
    test = compiler._compare("=", first, second)
    return Value(f"CASE WHEN {test} THEN NULL ELSE {first.sql} END", first.kind)


def _simple(name: str, duck: str) -> None:
    TABLE[name] = lambda compiler, args: _text(args[0], f"{duck}({text_of(compiler, args[0]).sql})")


for _name, _duck in (("upper", "upper"), ("lower", "lower"), ("ltrim", "ltrim"), ("rtrim", "rtrim"), ("trim", "trim")):
    _simple(_name, _duck)
_simple("reverse", "reverse")


@function("substring")
def _substring(compiler: Any, args: list[Value]) -> Value:
    value, start, length = args
    if value.kind.family == "binary":
        kind = SqlType("varbinary", length=value.kind.length or MAX)
        # DuckDB slices no BLOB by bytes: through its hexadecimal form.
        sql = f"unhex(substr(hex({value.sql}), 2 * ({start.sql}) - 1, 2 * ({length.sql})))"
        return Value(sql, kind)
    return _text(value, f"substr({text_of(compiler, value).sql}, {start.sql}, {length.sql})")


@function("left", "right")
def _left(compiler: Any, args: list[Value]) -> Value:
    return _text(args[0], f"left({text_of(compiler, args[0]).sql}, {args[1].sql})")


TABLE["right"] = lambda compiler, args: _text(args[0], f"right({text_of(compiler, args[0]).sql}, {args[1].sql})")


@function("replace")
def _replace(compiler: Any, args: list[Value]) -> Value:
    first, second, third = (text_of(compiler, value).sql for value in args)
    return _text(args[0], f"replace({first}, {second}, {third})", 4000 if args[0].kind.unicode else 8000)


@function("replicate")
def _replicate(compiler: Any, args: list[Value]) -> Value:
    value = text_of(compiler, args[0])
    longest = 4000 if value.kind.unicode else 8000
    repeated = f"repeat({value.sql}, {args[1].sql})"
    return _text(value, repeated if value.kind.lob else f"left({repeated}, {longest})", longest)


@function("charindex")
def _charindex(compiler: Any, args: list[Value]) -> Value:
    needle, hay = (f"lower({text_of(compiler, value).sql})" for value in args[:2])
    return Value(f"CAST(instr({hay}, {needle}) AS INTEGER)", INT)


@function("concat")
def _concat(compiler: Any, args: list[Value]) -> Value:
    parts = [f"coalesce({text_of(compiler, value).sql}, '')" for value in args]
    unicode = any(value.kind.unicode for value in args)
    lob = any(value.kind.lob for value in args)
    name, longest = ("nvarchar", 4000) if unicode else ("varchar", 8000)
    return Value(f"({' || '.join(parts)})", SqlType(name, length=MAX if lob else longest))


@function("quotename")
def _quotename(compiler: Any, args: list[Value]) -> Value:
    return Value(
        f"('[' || replace({text_of(compiler, args[0]).sql}, ']', ']]') || ']')", SqlType("nvarchar", length=258)
    )


@function("nchar", "char")
def _char(compiler: Any, args: list[Value]) -> Value:
    return Value(f"chr(CAST({args[0].sql} AS INTEGER))", SqlType("nvarchar", length=1))


@function("abs")
def _abs(compiler: Any, args: list[Value]) -> Value:
    return Value(f"abs({args[0].sql})", args[0].kind)


@function("sign", "floor", "ceiling")
def _floor(compiler: Any, args: list[Value]) -> Value:
    raise Unknown("this rounding function")


@function("round")
def _round(compiler: Any, args: list[Value]) -> Value:
    return Value(f"CAST(round({args[0].sql}, {args[1].sql}) AS {args[0].kind.storage})", args[0].kind)


TABLE["floor"] = lambda compiler, args: Value(f"CAST(floor({args[0].sql}) AS {args[0].kind.storage})", args[0].kind)
TABLE["ceiling"] = lambda compiler, args: Value(f"CAST(ceil({args[0].sql}) AS {args[0].kind.storage})", args[0].kind)
TABLE["sign"] = lambda compiler, args: Value(f"CAST(sign({args[0].sql}) AS {args[0].kind.storage})", args[0].kind)


@function("power", "sqrt", "exp", "log")
def _power(compiler: Any, args: list[Value]) -> Value:
    if len(args) == 2:
        return Value(f"CAST(power({args[0].sql}, {args[1].sql}) AS {args[0].kind.storage})", args[0].kind)
    return Value(f"sqrt({args[0].sql})", FLOAT)


del TABLE["exp"], TABLE["log"]


@function("newid", "newsequentialid")
def _newid(compiler: Any, args: list[Value]) -> Value:
    return Value("tsql_sort_guid(unhex(replace(CAST(uuid() AS VARCHAR), '-', '')))", SqlType("uniqueidentifier"))


@function("hashbytes")
def _hashbytes(compiler: Any, args: list[Value]) -> Value:
    data = compiler.convert(args[1], SqlType("varbinary", length=MAX))
    return Value(f"tsql_hash({args[0].sql}, {data.sql})", SqlType("varbinary", length=8000))


@function("switchoffset")
def _switchoffset(compiler: Any, args: list[Value]) -> Value:
    value = args[0]
    if value.kind.family != "offset":
        raise SqlError(8116, "Argument data type is invalid for argument 1 of switchoffset function.")
    offset = args[1].constant
    if isinstance(offset, str):
        sign = -1 if offset[0] == "-" else 1
        hours, minutes = offset.lstrip("+-").split(":")
        offset = sign * (int(hours) * 60 + int(minutes))
    if not isinstance(offset, int):
        raise Unknown("SWITCHOFFSET to what is no constant")
    return Value(f"(({value.sql}) // 4096 * 4096 + {offset + 2048})", value.kind)


def _ticks(compiler: Any, value: Value) -> str:
    """Any date or time as ticks."""
    kind = value.kind
    if kind.family == "text" or kind.family in ("offset", "time"):
        value = compiler.convert(value, SqlType("datetime2", scale=7))
    return value.sql


def _calendar(ticks: str) -> str:
    """Ticks as DuckDB's TIMESTAMP (µs)."""
    return f"make_timestamp(CAST(({ticks}) // 10 - 62135596800000000 AS BIGINT))"


def datediff(compiler: Any, part: str, args: list[Value], *, big: bool) -> Value:
    """DATEDIFF counts the borders between two moments."""
    one, two = (_ticks(compiler, value) for value in args)
    if part in ("year", "month", "quarter"):
        sql = f"date_diff('{part}', {_calendar(one)}, {_calendar(two)})"
    elif part == "nanosecond":
        sql = f"((({two}) - ({one})) * 100)"
    elif part in _TICKS:
        sql = f"(({two}) // {_TICKS[part]} - ({one}) // {_TICKS[part]})"
    else:
        raise Unknown(f"DATEDIFF of {part}")
    return Value(f"CAST({sql} AS {'BIGINT' if big else 'INTEGER'})", BIGINT if big else INT)


def dateadd(compiler: Any, part: str, args: list[Value]) -> Value:
    """DATEADD keeps the type of what it adds to."""
    count, moment = args
    if moment.kind.family == "text":
        moment = compiler.convert(moment, SqlType("datetime"))
    if moment.kind.family not in ("moment", "time"):
        raise Unknown(f"DATEADD to {moment.kind.name}")
    if part in ("year", "month"):
        shifted = f"{_calendar(moment.sql)} + to_{part}s(CAST({count.sql} AS INTEGER))"
        sql = f"((epoch_us({shifted}) + 62135596800000000) * 10 + ({moment.sql}) % 10)"
    elif part == "nanosecond":
        sql = f"({moment.sql} + ({count.sql}) // 100)"
    elif part in _TICKS:
        sql = f"({moment.sql} + CAST({count.sql} AS BIGINT) * {_TICKS[part]})"
    else:
        raise Unknown(f"DATEADD of {part}")
    if moment.kind.family == "moment" and moment.kind.name in ("datetime", "smalldatetime"):
        names = f"'{moment.kind.name}', '{moment.kind.name}', 3"
        sql = f"CAST(tsql_moment_as(CAST({sql} AS HUGEINT), {names}) AS BIGINT)"
    return Value(sql, moment.kind)


def datepart(compiler: Any, part: str, args: list[Value]) -> Value:
    ticks = _ticks(compiler, args[0])
    if part == "nanosecond":
        return Value(f"CAST((({ticks}) % 10000000) * 100 AS INTEGER)", INT)
    if part in ("millisecond", "microsecond"):
        return Value(f"CAST((({ticks}) % 10000000) // {_TICKS[part]} AS INTEGER)", INT)
    names = {"dayofyear": "doy", "weekday": "dow"}
    if part not in ("year", "month", "day", "hour", "minute", "second", "quarter", *names):
        raise Unknown(f"DATEPART of {part}")
    shift = " + 1" if part == "weekday" else ""
    return Value(f"CAST(date_part('{names.get(part, part)}', {_calendar(ticks)}){shift} AS INTEGER)", INT)


for _part in ("year", "month", "day"):
    TABLE[_part] = lambda compiler, args, part=_part: datepart(compiler, part, args)  # type: ignore[misc]


@function("sql_variant_property")
def _variant_property(compiler: Any, args: list[Value]) -> Value:
    if str(args[1].constant).lower() != "basetype":
        raise Unknown("a property of sql_variant other than BaseType")
    return Value(f"regexp_extract({args[0].sql}, '^[a-z0-9]+')", make("sysname", []))


@function("sys.fn_cdc_increment_lsn", "sys.fn_cdc_decrement_lsn")
def _increment(compiler: Any, args: list[Value]) -> Value:
    return Value(f"tsql_increment({args[0].sql}, 1)", SqlType("binary", length=10))


TABLE["sys.fn_cdc_decrement_lsn"] = lambda compiler, args: Value(
    f"tsql_increment({args[0].sql}, -1)", SqlType("binary", length=10)
)


@function("sys.fn_cdc_is_bit_set")
def _is_bit_set(compiler: Any, args: list[Value]) -> Value:
    return Value(f"tsql_has_bit({args[0].sql}, {args[1].sql})", SqlType("bit"))


def aggregate(compiler: Any, name: str, args: list[Value], *, distinct: bool, star: bool) -> Value:
    """COUNT, SUM, MIN, MAX, AVG, STRING_AGG."""
    if name in ("count", "count_big"):
        kind = INT if name == "count" else BIGINT
        inner = "*" if star else f"{'DISTINCT ' if distinct else ''}{key(args[0])}"
        return Value(f"CAST(count({inner}) AS {kind.storage})", kind)
    value = args[0]
    mark = "DISTINCT " if distinct else ""
    if name in ("min", "max"):
        return Value(f"{name}({value.sql})", value.kind)
    if name == "string_agg":
        return Value(f"string_agg({text_of(compiler, value).sql}, {args[1].sql})", NTEXT)
    family = value.kind.family
    if family not in ("int", "decimal", "float"):
        raise SqlError(8117, f"Operand data type {value.kind.name} is invalid for {name} operator.")
    if family == "float":
        return Value(f"{name}({mark}CAST({value.sql} AS DOUBLE))", FLOAT)
    if family == "int":
        kind = BIGINT if value.kind.name == "bigint" else INT
        inner = f"sum({mark}{value.sql})"
        sql = inner if name == "sum" else f"trunc({inner} / count({mark}{value.sql}))"
        return Value(f"CAST({sql} AS {kind.storage})", kind)
    kind = value.kind
    if kind.name not in ("money", "smallmoney"):
        scale = kind.scale if name == "sum" else max(kind.scale, 6)
        kind = SqlType("decimal", precision=38, scale=scale)
    else:
        kind = common(kind, SqlType("money"))
    return Value(f"CAST({name}({mark}{value.sql}) AS {kind.storage})", kind)


AGGREGATES = frozenset(("count", "count_big", "sum", "min", "max", "avg", "string_agg"))
WINDOWS = frozenset(("row_number", "rank", "dense_rank"))
