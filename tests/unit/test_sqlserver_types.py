"""SQL Server's types: what they are in the replica, and how values become Arrow."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest

from connectors.sqlserver.types import FLOOR_RULE, INSTANT_RULE, MAX, Definition, quoted
from connectors.sqlserver.values import RowReader
from engine.errors import ResyncRequired, UnsupportedValue
from engine.schema import TableId

TABLE = TableId("dbo", "t")


def column(base: str, length: int = 0, precision: int = 0, scale: int = 0) -> Definition:
    return Definition("c", 1, base, length, precision, scale)


@pytest.mark.parametrize(
    ("definition", "declared", "replica"),
    [
        (column("tinyint"), "tinyint", "UTINYINT"),
        (column("smallint"), "smallint", "SMALLINT"),
        (column("int"), "int", "INTEGER"),
        (column("bigint"), "bigint", "BIGINT"),
        (column("bit"), "bit", "BOOLEAN"),
        (column("decimal", 17, 38, 10), "decimal(38,10)", "DECIMAL(38,10)"),
        (column("numeric", 9, 12, 0), "numeric(12,0)", "DECIMAL(12,0)"),
        (column("money", 8, 19, 4), "money", "DECIMAL(19,4)"),
        (column("smallmoney", 4, 10, 4), "smallmoney", "DECIMAL(10,4)"),
        (column("float", 8, 53), "float", "DOUBLE"),
        (column("real", 4, 24), "real", "FLOAT"),
        (column("datetime"), "datetime", "TIMESTAMP"),
        (column("smalldatetime"), "smalldatetime", "TIMESTAMP"),
        (column("datetime2", 7, 23, 3), "datetime2(3)", "TIMESTAMP"),
        (column("datetime2", 8, 27, 7), "datetime2(7)", "TIMESTAMP_NS"),
        (column("date"), "date", "DATE"),
        (column("time", 5, 12, 3), "time(3)", "TIME"),
        (column("time", 5, 16, 7), "time(7)", "TIME_NS"),
        (column("datetimeoffset", 10, 34, 7), "datetimeoffset(7)", "TIMESTAMPTZ"),
        (column("uniqueidentifier"), "uniqueidentifier", "UUID"),
        (column("timestamp", 8), "rowversion", "BLOB"),
        (column("binary", 5), "binary(5)", "BLOB"),
        (column("varbinary", MAX), "varbinary(max)", "BLOB"),
        (column("image"), "image", "BLOB"),
        (column("char", 5), "char(5)", "VARCHAR"),
        (column("nvarchar", 100), "nvarchar(50)", "VARCHAR"),
        (column("nvarchar", MAX), "nvarchar(max)", "VARCHAR"),
        (column("text"), "text", "VARCHAR"),
        (column("xml", MAX), "xml", "VARCHAR"),
        (column("sql_variant"), "sql_variant", "VARCHAR"),
        (column("hierarchyid", 892), "hierarchyid", "VARCHAR"),
        (column("geography", MAX), "geography", "BLOB"),
        (column("vector", 20), "vector", "VARCHAR"),
    ],
)
def test_every_type_has_its_replica_type(definition: Definition, declared: str, replica: str) -> None:
    assert (definition.declared, definition.type()) == (declared, replica)


def test_large_values_are_told_from_small_ones() -> None:
    for long in (
        column("nvarchar", MAX),
        column("varbinary", MAX),
        column("text"),
        column("xml", MAX),
        column("image"),
    ):
        assert long.long
    for short in (column("nvarchar", 8000), column("varbinary", 8000), column("int"), column("sql_variant", 8016)):
        assert not short.long


def test_characters_are_read_as_utf_16_that_holds_them_all() -> None:
    assert column("char", 10).expression("[c]") == "CONVERT(nvarchar(10), [c])"
    assert column("nchar", 10).expression("[c]") == "CONVERT(nvarchar(5), [c])"
    assert column("varchar", 8000).expression("[c]") == "CONVERT(nvarchar(max), [c])"
    assert column("varchar", MAX).expression("[c]") == "CONVERT(nvarchar(max), [c])"
    assert column("something new", 16).expression("[c]") == "CONVERT(nvarchar(max), [c])"


def test_identifiers_are_quoted() -> None:
    assert quoted("a]b") == "[a]]b]"


def read(definition: Definition, *values: object, as_text: bool = False) -> pa.Array:
    return RowReader(TABLE, [(definition, as_text)]).batch([values]).column(0)


def test_values_become_arrow_of_the_replica_s_type() -> None:
    assert read(column("tinyint"), 255, None).equals(pa.array([255, None], pa.uint8()))
    assert read(column("bit"), True, None).to_pylist() == [True, None]
    big = Decimal("99999999999999999999999999.999999999999")
    array = read(column("decimal", 17, 38, 12), str(big), "-0.100000000000", None)
    assert array.to_pylist() == [big, Decimal("-0.100000000000"), None]
    assert read(column("real"), 0.10000000149011612).to_pylist() == [0.10000000149011612]
    assert read(column("date"), "0001-01-01", "9999-12-31").to_pylist() == [dt.date.min, dt.date.max]
    when = read(column("datetime"), "1753-01-01 00:00:00.003", None)
    assert when.equals(pa.array([dt.datetime(1753, 1, 1, 0, 0, 0, 3000), None], pa.timestamp("us")))
    assert read(column("time", 5, 16, 6), "23:59:59.999999").to_pylist() == ["23:59:59.999999"]
    assert read(column("time", 5, 16, 7), "23:59:59.9999999").to_pylist() == ["23:59:59.9999999"]
    assert read(column("nvarchar", 20), "", "é😀", None).to_pylist() == ["", "é😀", None]
    assert read(column("varbinary", 9), b"\0\xff", b"").to_pylist() == [b"\0\xff", b""]


def test_an_instant_is_rounded_down_to_the_microsecond() -> None:
    array = read(column("datetimeoffset", 10, 34, 7), "9999-12-31 23:59:59.9999999")
    assert array.type == pa.timestamp("us", "UTC")
    assert array.cast(pa.int64()).to_pylist() == [253402300799999999]
    assert column("datetimeoffset", 10, 34, 7).rule() == INSTANT_RULE


def test_nanoseconds_are_exact_within_their_years() -> None:
    array = read(column("datetime2", 8, 27, 7), "1969-12-31 23:59:59.9999999", None)
    assert array.cast(pa.int64()).to_pylist() == [-100, None]
    assert read(column("datetime2", 8, 27, 7), None).to_pylist() == [None]


@pytest.mark.parametrize(
    "value", ["9999-12-31 23:59:59.9999999", "0001-01-01 00:00:00.0000000", "2262-04-11 23:47:16.9"]
)
def test_other_years_make_the_column_one_of_microseconds(value: str) -> None:
    definition = column("datetime2", 8, 27, 7)
    with pytest.raises(UnsupportedValue) as caught:
        read(definition, "2024-01-01 00:00:00.0000000", value)
    assert caught.value.columns == ("c",)
    assert value not in str(caught.value)
    assert definition.type(as_text=True) == "TIMESTAMP"
    assert definition.rule(as_text=True) == FLOOR_RULE
    (text,) = read(definition, value, as_text=True).cast(pa.string()).to_pylist()
    assert text.startswith(value[:26])


def test_a_column_may_be_kept_as_text() -> None:
    definition = column("money", 8)
    assert definition.type(as_text=True) == "VARCHAR"
    assert definition.expression("[c]", as_text=True) == "CONVERT(nvarchar(max), [c])"


@pytest.mark.parametrize(
    ("definition", "value"), [(column("smallint"), 70000), (column("date"), "soon"), (column("int"), "secret")]
)
def test_values_of_another_type_ask_for_a_reload(definition: Definition, value: object) -> None:
    with pytest.raises(ResyncRequired) as caught:
        read(definition, value)
    assert caught.value.tables == (TABLE,)
    assert str(value) not in str(caught.value)
