"""SQL Server's types: how they are named, stored in DuckDB, and described by the catalogue.

Stored as: integers, decimals, floats and text as DuckDB's own; every date and time as BIGINT ticks of 100 ns since
0001-01-01 (`time`: since midnight; a `datetime` is a rounded 1/300 s); `datetimeoffset` as a HUGEINT of UTC ticks × 4096 +
(offset in minutes + 2048), whose order is the instants'; `uniqueidentifier` as 16 bytes in the order in which SQL Server
sorts them; `sql_variant` as text ``type:value``; `hierarchyid` as its path, and shapes as WKB (their methods are in clr.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.sqlserver.errors import SqlError, Unknown

MAX = -1
INTEGERS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
_ALIASES = {
    "integer": "int",
    "dec": "decimal",
    "character": "char",
    "timestamp": "rowversion",
    "double": "float",
}
_STORAGE = {
    "bit": "UTINYINT",
    "tinyint": "UTINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "money": "DECIMAL(19,4)",
    "smallmoney": "DECIMAL(10,4)",
    "float": "DOUBLE",
    "real": "FLOAT",
    "datetimeoffset": "HUGEINT",
    "uniqueidentifier": "BLOB",
    "sql_variant": "VARCHAR",
    "hierarchyid": "VARCHAR",
    "geometry": "BLOB",
    "geography": "BLOB",
}
_FAMILY = {
    "bit": "int",
    "tinyint": "int",
    "smallint": "int",
    "int": "int",
    "bigint": "int",
    "decimal": "decimal",
    "numeric": "decimal",
    "money": "decimal",
    "smallmoney": "decimal",
    "float": "float",
    "real": "float",
    "char": "text",
    "varchar": "text",
    "nchar": "text",
    "nvarchar": "text",
    "text": "text",
    "ntext": "text",
    "xml": "text",
    "sysname": "text",
    "binary": "binary",
    "varbinary": "binary",
    "image": "binary",
    "rowversion": "binary",
    "date": "moment",
    "datetime": "moment",
    "smalldatetime": "moment",
    "datetime2": "moment",
    "time": "time",
    "datetimeoffset": "offset",
    "uniqueidentifier": "guid",
    "sql_variant": "variant",
    "hierarchyid": "hierarchy",
    "geometry": "shape",
    "geography": "shape",
    "null": "null",
}
# Data type precedence (the documentation's order, lowest first).
_PRECEDENCE = [
    "null",
    "binary",
    "varbinary",
    "image",
    "rowversion",
    "char",
    "varchar",
    "nchar",
    "nvarchar",
    "text",
    "ntext",
    "sysname",
    "uniqueidentifier",
    "bit",
    "tinyint",
    "smallint",
    "int",
    "bigint",
    "smallmoney",
    "money",
    "decimal",
    "numeric",
    "real",
    "float",
    "time",
    "date",
    "smalldatetime",
    "datetime",
    "datetime2",
    "datetimeoffset",
    "xml",
    "sql_variant",
    "hierarchyid",
    "geometry",
    "geography",
]
# system_type_id, user_type_id of sys.types.
IDS = {
    "image": 34,
    "text": 35,
    "uniqueidentifier": 36,
    "date": 40,
    "time": 41,
    "datetime2": 42,
    "datetimeoffset": 43,
    "tinyint": 48,
    "smallint": 52,
    "int": 56,
    "smalldatetime": 58,
    "real": 59,
    "money": 60,
    "datetime": 61,
    "float": 62,
    "sql_variant": 98,
    "ntext": 99,
    "bit": 104,
    "decimal": 106,
    "numeric": 108,
    "smallmoney": 122,
    "bigint": 127,
    "varbinary": 165,
    "varchar": 167,
    "binary": 173,
    "char": 175,
    "rowversion": 189,
    "nvarchar": 231,
    "nchar": 239,
    "xml": 241,
    "sysname": 256,
    "hierarchyid": 128,
    "geometry": 129,
    "geography": 130,
}
_SIZES = {
    "bit": 1,
    "tinyint": 1,
    "smallint": 2,
    "int": 4,
    "bigint": 8,
    "money": 8,
    "smallmoney": 4,
    "float": 8,
    "real": 4,
    "date": 3,
    "datetime": 8,
    "smalldatetime": 4,
    "uniqueidentifier": 16,
    "sql_variant": 8016,
    "rowversion": 8,
    "xml": -1,
    "text": 16,
    "ntext": 16,
    "image": 16,
    "sysname": 256,
    "hierarchyid": 892,
    "geometry": -1,
    "geography": -1,
}
_DIGITS = {
    **{name: (digits, 0) for name, digits in INTEGERS.items()},
    "bit": (1, 0),
    "money": (19, 4),
    "smallmoney": (10, 4),
    "float": (53, 0),
    "real": (24, 0),
    "datetime": (23, 3),
    "smalldatetime": (16, 0),
    "date": (10, 0),
}


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type: `length` in characters or bytes (`MAX`), or `precision` and `scale`."""

    name: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    binary_collation: bool = False

    @property
    def family(self) -> str:
        return _FAMILY[self.name]

    @property
    def storage(self) -> str:
        """DuckDB's type."""
        if self.name in ("decimal", "numeric"):
            return f"DECIMAL({self.precision},{self.scale})"
        stored = _STORAGE.get(self.name)
        return stored or {"text": "VARCHAR", "binary": "BLOB", "null": "INTEGER"}.get(self.family, "BIGINT")

    @property
    def unicode(self) -> bool:
        return self.name in ("nchar", "nvarchar", "ntext", "xml", "sysname")

    @property
    def lob(self) -> bool:
        """Whether CDC leaves its before-image out: (max), text, ntext, image, xml."""
        return self.length == MAX or self.name in ("text", "ntext", "image", "xml", "geometry", "geography")

    @property
    def max_length(self) -> int:
        """sys.columns.max_length, in bytes."""
        if self.name in _SIZES:
            return _SIZES[self.name]
        if self.name in ("decimal", "numeric"):
            return 5 if self.precision < 10 else 9 if self.precision < 20 else 13 if self.precision < 29 else 17
        if self.name in ("time", "datetime2", "datetimeoffset"):
            size = 3 if self.scale < 3 else 4 if self.scale < 5 else 5
            return size + {"time": 0, "datetime2": 3, "datetimeoffset": 5}[self.name]
        return self.length if self.length == MAX else self.length * (2 if self.unicode else 1)

    @property
    def digits(self) -> tuple[int, int]:
        """sys.columns' precision and scale."""
        if self.name in ("decimal", "numeric"):
            return self.precision, self.scale
        if self.name in ("time", "datetime2", "datetimeoffset"):
            whole = {"time": 8, "datetime2": 19, "datetimeoffset": 26}[self.name]
            return whole + (self.scale + 1 if self.scale else 0), self.scale
        return _DIGITS.get(self.name, (0, 0))

    @property
    def text(self) -> str:
        """As T-SQL writes it."""
        if self.name in ("decimal", "numeric"):
            return f"{self.name}({self.precision},{self.scale})"
        if self.name in ("time", "datetime2", "datetimeoffset"):
            return f"{self.name}({self.scale})"
        if self.length:
            return f"{self.name}({'max' if self.length == MAX else self.length})"
        return self.name


def make(name: str, arguments: list[int], *, cast: bool = False) -> SqlType:
    """The type that T-SQL names. Raises error 2715 for one that there is not (or the emulator does not have)."""
    name = _ALIASES.get(name.lower(), name.lower())
    if name in ("json", "vector", "cursor", "table"):
        raise Unknown(f"the type {name}")
    if name not in IDS:
        raise SqlError(2715, f"Column, parameter, or variable #1: Cannot find data type {name}.")
    if name in ("decimal", "numeric"):
        precision = arguments[0] if arguments else 18
        scale = arguments[1] if len(arguments) > 1 else 0
        if not 1 <= precision <= 38 or not 0 <= scale <= precision:
            raise SqlError(1005, "Line 1: Invalid precision or scale.", 15)
        return SqlType(name, precision=precision, scale=scale)
    if name == "float":
        return SqlType("real" if arguments and arguments[0] <= 24 else "float")
    if name in ("time", "datetime2", "datetimeoffset"):
        scale = arguments[0] if arguments else 7
        if not 0 <= scale <= 7:
            raise SqlError(1002, f"Line 1: Specified scale {scale} is invalid.", 15)
        return SqlType(name, scale=scale)
    if name in ("char", "varchar", "nchar", "nvarchar", "binary", "varbinary"):
        length = arguments[0] if arguments else 30 if cast else 1
        if length == MAX and not name.startswith(("var", "nvar")):
            raise SqlError(1001, "Line 1: Length or precision specification 0 is invalid.", 15)
        longest = 4000 if name.startswith("n") else 8000
        if length > longest:
            raise SqlError(131, f"The size ({length}) given exceeds the maximum allowed ({longest}).", 15)
        return SqlType(name, length=length)
    if name == "sysname":
        return SqlType(name, length=128)
    return SqlType(name)


INT = SqlType("int")
BIGINT = SqlType("bigint")
BIT = SqlType("bit")
TINYINT = SqlType("tinyint")
SMALLINT = SqlType("smallint")
FLOAT = SqlType("float")
DATETIME = SqlType("datetime")
NULL = SqlType("null")
SYSNAME = SqlType("sysname", length=128)
NTEXT = SqlType("nvarchar", length=MAX)
LSN = SqlType("binary", length=10)


def common(left: SqlType, right: SqlType) -> SqlType:
    """The type of two in a CASE, a UNION or a comparison: by precedence, widened."""
    if left == right:
        return left
    low, high = sorted((left, right), key=lambda kind: _PRECEDENCE.index(kind.name))
    if high.family == "decimal":
        lower = exact(low)
        upper = exact(high)
        if lower and upper:
            scale = max(lower.scale, upper.scale)
            whole = max(lower.precision - lower.scale, upper.precision - upper.scale)
            if high.name not in ("money", "smallmoney"):
                return SqlType("decimal", precision=min(38, whole + scale), scale=scale)
    if high.family == low.family and high.family in ("text", "binary"):
        longest = MAX if MAX in (low.length, high.length) else max(low.length, high.length)
        name = high.name if high.name not in ("char", "nchar", "binary") or low.name == high.name else f"var{high.name}"
        name = {"varnchar": "nvarchar", "sysname": "nvarchar"}.get(name, name)
        if name == "varchar" and low.unicode:
            name = "nvarchar"
        return SqlType(name, length=longest, binary_collation=left.binary_collation or right.binary_collation)
    if high.name == low.name:
        return SqlType(high.name, scale=max(high.scale, low.scale))
    return high


def exact(kind: SqlType) -> SqlType | None:
    """A number type as decimal, for arithmetic; None for what is not exact."""
    if kind.name in INTEGERS:
        return SqlType("decimal", precision=INTEGERS[kind.name], scale=0)
    if kind.name == "bit":
        return SqlType("decimal", precision=1, scale=0)
    if kind.name == "money":
        return SqlType("decimal", precision=19, scale=4)
    if kind.name == "smallmoney":
        return SqlType("decimal", precision=10, scale=4)
    return kind if kind.family == "decimal" else None
