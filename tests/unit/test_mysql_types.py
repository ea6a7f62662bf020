"""Catalog columns of both servers and what they are in the replica."""

from __future__ import annotations

import pytest

from connectors.mysql.types import (
    COLUMN_FIELDS,
    ZERO_DATE_RULE,
    Definition,
    quoted,
    replica_column,
    replica_type,
    streamable,
)


def defined(data_type: str, column_type: str = "", **rest) -> Definition:
    return Definition("c", data_type, column_type or data_type, **rest)


@pytest.mark.parametrize(
    "definition, expected",
    [
        (defined("tinyint", "tinyint(1)"), "TINYINT"),
        (defined("tinyint", "tinyint unsigned"), "UTINYINT"),
        (defined("mediumint", "mediumint(8) unsigned zerofill"), "UINTEGER"),
        (defined("int", "int(9) zerofill"), "UINTEGER"),
        (defined("bigint", "bigint(20) UNSIGNED"), "UBIGINT"),
        (defined("bit", "bit(1)"), "BOOLEAN"),
        (defined("bit"), "BOOLEAN"),
        (defined("bit", "bit(2)"), "UBIGINT"),
        (defined("decimal", precision=38, scale=30), "DECIMAL(38,30)"),
        (defined("decimal", precision=39, scale=0), "VARCHAR"),
        (defined("decimal"), "DECIMAL(10,0)"),
        (defined("float", "float(7,2) unsigned"), "FLOAT"),
        (defined("double"), "DOUBLE"),
        (defined("date"), "DATE"),
        (defined("datetime", "datetime(6)"), "TIMESTAMP"),
        (defined("timestamp"), "TIMESTAMPTZ"),
        (defined("time", "time(3)"), "INTERVAL"),
        (defined("year", "year(4)"), "SMALLINT"),
        (defined("char", "char(3)"), "VARCHAR"),
        (defined("longtext"), "VARCHAR"),
        (defined("longtext", json=True), "JSON"),
        (defined("json"), "JSON"),
        (defined("binary", "binary(16)"), "BLOB"),
        (defined("mediumblob"), "BLOB"),
        (defined("enum", "enum('unsigned')"), "VARCHAR"),
        (defined("set", "set('a')"), "VARCHAR"),
        (defined("multipolygon"), "BLOB"),
        (defined("vector", "vector(3)"), "FLOAT[3]"),
        (defined("vector"), "FLOAT[2048]"),
        (defined("uuid"), "UUID"),
        (defined("inet6"), "VARCHAR"),
        (defined("something_new"), "VARCHAR"),
    ],
)
def test_replica_types(definition: Definition, expected: str) -> None:
    assert replica_type(definition).type == expected


def test_rules_are_stated_where_the_type_is_a_representation() -> None:
    assert replica_type(defined("date")).rule == ZERO_DATE_RULE
    assert replica_type(defined("int")).rule is None
    assert "4326" in str(replica_type(defined("point", srid=4326)).rule)
    assert "39,1" in str(replica_type(defined("decimal", precision=39, scale=1)).rule)


def test_only_json_and_vectors_ever_become_text() -> None:
    assert replica_type(defined("json"), as_text=True).type == "VARCHAR"
    assert replica_type(defined("longtext", json=True), as_text=True).type == "VARCHAR"
    assert replica_type(defined("vector", "vector(3)"), as_text=True).type == "VARCHAR"
    assert replica_type(defined("int"), as_text=True).type == "INTEGER"


def test_a_plugins_type_can_be_read_but_not_streamed() -> None:
    assert not streamable(defined("something_new"))
    assert streamable(defined("geomcollection"))
    assert streamable(defined("inet4"))


@pytest.mark.parametrize(
    "column_type, labels",
    [
        ("enum('a','b')", ("a", "b")),
        ("enum('it''s','a,b','')", ("it's", "a,b", "")),
        ("set('unsigned','(1)')", ("unsigned", "(1)")),
        ("enum('x\\\\y','z\\n')", ("x\\y", "z\n")),
    ],
)
def test_labels(column_type: str, labels: tuple[str, ...]) -> None:
    definition = defined(column_type[: column_type.index("(")], column_type)
    assert definition.labels == labels
    assert not definition.unsigned


def test_other_types_have_no_labels() -> None:
    assert defined("varchar", "varchar(10)").labels == ()


def test_a_catalog_row() -> None:
    row = dict.fromkeys(COLUMN_FIELDS)
    row |= {
        "COLUMN_NAME": "a",
        "DATA_TYPE": "TIME",
        "COLUMN_TYPE": "time(3)",
        "IS_NULLABLE": "NO",
        "DATETIME_PRECISION": 3,
    }
    found = Definition.from_row(row)
    assert (found.name, found.data_type, found.nullable, found.fsp, found.extra) == ("a", "time", False, 3, "")
    assert replica_column(found).source_type == "time(3)"
    assert not replica_column(found).nullable


@pytest.mark.parametrize(
    "extra, generated",
    [
        ("VIRTUAL GENERATED", True),
        ("STORED GENERATED INVISIBLE", True),
        ("DEFAULT_GENERATED on update CURRENT_TIMESTAMP", False),
        ("auto_increment", False),
    ],
)
def test_generated_columns(extra: str, generated: bool) -> None:
    assert defined("int", extra=extra).generated is generated


def test_identifiers_are_quoted() -> None:
    assert quoted("a`b") == "`a``b`"
