"""Arrow columns bound to the replica's types: which need a CAST, and that no CAST changes a value.

DuckDB's casts from text round silently (``'1.5'`` to an integer, ``'1.239'`` to DECIMAL(9,2), a seventh fractional digit
of a TIMESTAMP), so text is looked at before it is cast. The look is a scan of the Arrow buffer for a byte that could be
trouble, which for clean data costs about a nanosecond per value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import ReplicaError, UnsupportedValue
from engine.schema import Column, TableId

_INTEGERS = frozenset(
    f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")
) | frozenset({"INTEGER", "UINTEGER"})
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_MICROSECONDS = frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIME", "TIME WITH TIME ZONE", "INTERVAL"})
_WRITTEN = re.compile(r"\b(JSON|BIT)\b(?!\")")
"""Types that Arrow carries as text, also within lists and structs: a CAST from it keeps every value or fails."""
_DOT, _COLON, _EXPONENTS = ord("."), ord(":"), (ord("e"), ord("E"))
_INEXACT_EQUALITY = re.compile(r"\b(FLOAT|DOUBLE|INTERVAL|TIME WITH TIME ZONE)\b")


def is_integer(declared: str) -> bool:
    """Whether a canonical DuckDB type is an integer."""
    return declared in _INTEGERS


@dataclass(frozen=True, slots=True)
class Bound:
    """One column of an Arrow input: the expression that gives its replica value, and whether it is cast."""

    column: Column
    source: str
    type: str
    cast: bool
    text: bool

    @property
    def expression(self) -> str:
        return self.over()

    def over(self, relation: str | None = None) -> str:
        """The expression, with the source column qualified by `relation`."""
        source = self.source if relation is None else f"{relation}.{self.source}"
        return f"CAST({source} AS {self.column.type})" if self.cast else source


class Binder:
    """Binds Arrow schemas to columns; remembers DuckDB's answers about types. Used by one thread at a time."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self._declared: dict[str, str] = {}
        self._arrow: dict[pa.DataType, str] = {}

    def canonical(self, declared: str) -> str:
        """DuckDB's own spelling of a type (``INT`` is ``INTEGER``)."""
        if declared not in self._declared:
            self._declared[declared] = self._describe(f"SELECT CAST(NULL AS {declared})")
        return self._declared[declared]

    def inexact_equality(self, declared: str) -> bool:
        """Whether values of the type may be equal in DuckDB and yet different (-0.0 and 0.0, 1 month and 30 days)."""
        return _INEXACT_EQUALITY.search(self.canonical(declared)) is not None

    def bind(
        self, table: TableId, columns: Sequence[Column], types: Sequence[pa.DataType], prefix: str = "c"
    ) -> tuple[Bound, ...]:
        """Bind Arrow columns c0, c1, ... of `types` to `columns`. Raises ReplicaError where that could change a value."""
        if len(columns) != len(types):
            raise ReplicaError(f"{table}: rows of {len(types)} columns for a table of {len(columns)}")
        return tuple(
            self._bind(table, column, arrow, f"{prefix}{i}")
            for i, (column, arrow) in enumerate(zip(columns, types, strict=True))
        )

    def _bind(self, table: TableId, column: Column, arrow: pa.DataType, source: str) -> Bound:
        declared = self.canonical(column.type)
        given = self._given(arrow)
        if given == declared:
            return Bound(column, source, declared, cast=False, text=False)
        text = given == "VARCHAR" and not declared.startswith("BLOB")
        if text or given == _WRITTEN.sub("VARCHAR", declared) or given == '"NULL"' or _widens(given, declared):
            return Bound(column, source, declared, cast=True, text=text)
        raise ReplicaError(f"{table}: column {column.name!r} of type {declared} arrived as Arrow {arrow}")

    def _given(self, arrow: pa.DataType) -> str:
        if arrow not in self._arrow:
            empty = pa.table({"c": pa.nulls(0, arrow)})
            self._con.register("reflex_type", empty)
            try:
                self._arrow[arrow] = self._describe("SELECT c FROM reflex_type")
            finally:
                self._con.unregister("reflex_type")
        return self._arrow[arrow]

    def _describe(self, query: str) -> str:
        result = self._con.execute(f"{query} LIMIT 0")
        name = str(result.description[0][1])
        result.fetchall()
        return name


def _widens(given: str, declared: str) -> bool:
    """Whether a cast between these types keeps every value or fails."""
    if given in _INTEGERS and (declared in _INTEGERS or _DECIMAL.fullmatch(declared)):
        return True
    if (given, declared) == ("FLOAT", "DOUBLE"):
        return True
    narrow, wide = _DECIMAL.fullmatch(given), _DECIMAL.fullmatch(declared)
    return narrow is not None and wide is not None and int(narrow[2]) <= int(wide[2])


def verify(table: TableId, bound: Iterable[Bound], rows: pa.RecordBatch | pa.Table) -> None:
    """Raise UnsupportedValue when a text value has more digits than its column's type keeps.

    Text that the type cannot hold at all is left to the CAST, which fails on it.
    """
    for i, column in enumerate(bound):
        if not column.text:
            continue
        digits = _kept_digits(column.type)
        if digits is None:
            continue
        chunks = rows.column(i).chunks if isinstance(rows, pa.Table) else [rows.column(i)]
        for chunk in chunks:
            if _loses(_plain(chunk), column.type, digits):
                raise UnsupportedValue(table, [column.column.name], f"a value has more digits than {column.type} keeps")


def _kept_digits(declared: str) -> int | None:
    """How many digits after the point a type (or a list's element) keeps; None where the question has no sense."""
    element = declared.partition("[")[0]
    if element in _INTEGERS or element == "DATE":
        return 0
    decimal = _DECIMAL.fullmatch(element)
    if decimal is not None:
        return int(decimal[2])
    if element in _MICROSECONDS:
        return 6
    return 9 if element == "TIMESTAMP_NS" else None


def _plain(array: pa.Array) -> pa.Array:
    """The array as string or large_string, whatever its encoding."""
    if pa.types.is_dictionary(array.type) or not (
        pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    ):
        return array.cast(pa.large_string())
    return array


def _loses(array: pa.Array, declared: str, digits: int) -> bool:
    """Whether casting `array` to `declared` would drop digits from a value."""
    if len(array) == array.null_count:
        return False
    wide = pa.types.is_large_string(array.type)
    validity_offsets_data = array.buffers()
    offsets = np.frombuffer(validity_offsets_data[1], np.int64 if wide else np.int32)[array.offset :][: len(array) + 1]
    buffer = validity_offsets_data[2]
    if buffer is None:
        return False
    data = np.frombuffer(buffer, np.uint8)[offsets[0] : offsets[-1]]
    suspects = _suspects(data, offsets[1:] - offsets[0], declared, digits)
    if not suspects.size:
        return False
    rows = np.unique(np.searchsorted(offsets[1:] - offsets[0], suspects, side="right"))
    values = array.take(pa.array(rows)).to_pylist()
    return any(_value_loses(value, declared, digits) for value in values if value is not None)


def _suspects(
    data: npt.NDArray[np.uint8], ends: npt.NDArray[np.integer[Any]], declared: str, digits: int
) -> npt.NDArray[np.intp]:
    """Offsets of bytes that make it look as if their value had too many digits. `ends`: where each value ends."""
    if declared.startswith("DATE"):
        return np.flatnonzero(data == _COLON)
    dots = np.flatnonzero(data == _DOT)
    if digits and dots.size:
        after = dots + digits + 1
        within = after < data.size
        dots, after = dots[within], after[within]
        byte = data[after]
        digit = (byte >= ord("0")) & (byte <= ord("9"))
        dots, after = dots[digit], after[digit]
        own = after < ends[np.searchsorted(ends, dots, side="right")]
        dots = dots[own]
    if _counts_seconds(declared):
        return dots
    exponents = np.flatnonzero((data == _EXPONENTS[0]) | (data == _EXPONENTS[1]))
    return np.concatenate([dots, exponents]) if exponents.size else dots


def _counts_seconds(declared: str) -> bool:
    element = declared.partition("[")[0]
    return element in _MICROSECONDS or element == "TIMESTAMP_NS"


def _value_loses(value: str, declared: str, digits: int) -> bool:
    """The exact answer for one suspicious value."""
    if declared.startswith("DATE"):
        return True
    if _counts_seconds(declared):
        return re.search(rf"\.\d{{{digits}}}\d*[1-9]", value) is not None
    if "[" in declared:
        return re.search(rf"\.\d{{{digits}}}\d*[1-9]|\d[eE]", value) is not None
    try:
        number = Decimal(value).as_tuple()
    except InvalidOperation:
        return False
    if not isinstance(number.exponent, int) or -number.exponent <= digits:
        return False
    return any(number.digits[max(len(number.digits) + number.exponent + digits, 0) :])


def unfit_columns(
    con: duckdb.DuckDBPyConnection, relation: str, bound: Iterable[Bound], where: str = "TRUE"
) -> list[str]:
    """The columns of which a value in `relation` cannot be cast to the replica's type."""
    casts = [b for b in bound if b.cast]
    if not casts:
        return []
    tests = ", ".join(
        f"count(*) FILTER ({b.source} IS NOT NULL AND TRY_CAST({b.source} AS {b.column.type}) IS NULL)" for b in casts
    )
    rows = con.execute(f"SELECT {tests} FROM {relation} WHERE {where}").fetchall()
    return [b.column.name for b, count in zip(casts, rows[0], strict=True) if count]
