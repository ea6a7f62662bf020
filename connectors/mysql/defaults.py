"""What a column holds in an inserted row that does not carry it (`binlog_row_image=MINIMAL`): its default.

Both servers leave out columns that the statement did not name and whose default is constant; what is computed is in
the image. A default that cannot be told exactly from the catalog asks for a reload.
"""

from __future__ import annotations

import re

import pyarrow as pa

from connectors.mysql.types import Definition
from engine.errors import ResyncRequired
from engine.schema import Column, TableId

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_QUOTED = re.compile(r"'((?:[^'\\]|'')*)'")
_AS_TEXT = frozenset({"char", "varchar", "enum", "set", "date", "datetime"})


def default_value(table: TableId, definition: Definition, column: Column, kind: pa.DataType) -> pa.Scalar:
    """The column's constant default, of the Arrow type `kind`. Raises ResyncRequired if there is none to be told."""
    unknown = ResyncRequired(f"the source left column {column.name} out of an inserted row", [table])
    if definition.generated or "DEFAULT_GENERATED" in definition.extra.upper():
        raise unknown
    text = _constant(definition)
    if text is None:
        if definition.default is None or (definition.mariadb and definition.default.upper() == "NULL"):
            if definition.nullable:
                return pa.scalar(None, kind)
        raise unknown
    try:
        return pa.scalar(text, pa.string()).cast(kind)
    except (ValueError, pa.ArrowException):
        raise unknown from None


def _constant(definition: Definition) -> str | None:
    """The text of a constant default, None if it has none whose text is the value's."""
    default, kind = definition.default, definition.data_type
    if default is None:
        return None
    numeric = kind in {"tinyint", "smallint", "mediumint", "int", "bigint", "decimal", "float", "double", "year"}
    if numeric and _NUMBER.fullmatch(default):
        return default
    if kind not in _AS_TEXT:
        return None
    if not definition.mariadb:
        return default
    quoted = _QUOTED.fullmatch(default)
    return None if quoted is None else quoted[1].replace("''", "'")
