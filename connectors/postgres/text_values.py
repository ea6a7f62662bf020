"""Values in PostgreSQL's text format, decoded a column at a time to Arrow by the column's replica type.

The session prints them as `SESSION_SETTINGS` says. The results are Arrow types that DuckDB reads as the replica type,
or (JSON, BIT, and intervals beyond Arrow's range) strings that it casts exactly.
"""

from __future__ import annotations

import pyarrow as pa

from connectors.postgres.nested_text import arrays, composites, hstores
from connectors.postgres.scalar_text import SCALARS, Reshaped, Unfit
from connectors.postgres.type_text import ListOf, Map, Scalar, Struct, TypeNode, parse_type
from engine.errors import DecodeError, ResyncRequired, UnsupportedValue
from engine.schema import Column, TableId

SESSION_SETTINGS = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
}
"""What the sessions of snapshot and stream must be set to for the text to be decoded exactly."""


def decode_text(table: TableId, column: Column, values: pa.Array) -> pa.Array:
    """Decode a binary array of the server's text for one column.

    Raises DecodeError for text that is none of the type's, UnsupportedValue for a value that the replica type cannot
    hold, ResyncRequired when a composite value has other attributes than the column's type.
    """
    try:
        text = values.cast(pa.large_string() if pa.types.is_large_binary(values.type) else pa.string())
        return _decode(parse_type(column.type), text)
    except Unfit as unfit:
        raise UnsupportedValue(table, [column.name], str(unfit)) from None
    except Reshaped:
        reason = f"the composite type of column {column.name} has changed"
        raise ResyncRequired(reason, [table]) from None
    except (pa.ArrowException, ValueError, IndexError, OverflowError):
        # the original error is dropped on purpose: it quotes the value
        raise DecodeError(f"a value of {table}, column {column.name}, is no valid text of its type") from None


def _decode(node: TypeNode, text: pa.Array) -> pa.Array:
    match node:
        case Scalar():
            decode = SCALARS.get(node.name)
            return text if decode is None else decode(text, node.arguments)
        case ListOf():
            return arrays(text, node, _decode)
        case Struct():
            return composites(text, node, _decode)
        case Map():
            return hstores(text)
