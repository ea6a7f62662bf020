"""``GET /tables``: what is replicated, column by column, and how each table is followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from engine.instance.health import iso
from engine.instance.problems import ApiError
from engine.schema import Column, Identity, TableId, TableSchema
from engine.status import TableState, TableStatus

_UNKNOWN = TableStatus(TableState.LIVE)


def described(
    table: TableId, layout: TableSchema | None, status: TableStatus | None, rows: int | None, *, polled: bool = False
) -> dict[str, Any]:
    """One table as JSON. `layout` None: no copy of it is readable yet; `rows` None: not counted yet; `polled`: sync mode."""
    at = status or _UNKNOWN
    return {
        "schema": table.schema,
        "name": table.name,
        "state": str(at.state),
        "rowCount": rows,
        "rowsLoaded": at.rows_loaded,
        "rowsExpected": at.rows_expected,
        "lastChange": iso(at.last_change),
        "skippedAt": iso(at.skipped_at),
        "identity": None if layout is None else followed_by(layout, polled=polled),
        "reason": at.reason,
        "columns": [] if layout is None else [_column(layout, column, at.nulled) for column in layout.columns],
    }


def followed_by(layout: TableSchema, *, polled: bool = False) -> str:
    """How the table's changes are applied, in words."""
    if polled:
        return "by polling: it is read anew every interval, unless it is known to be unchanged"
    match layout.identity:
        case Identity.KEY:
            return f"by its key ({', '.join(layout.key)})"
        case Identity.ROW:
            return "by whole rows: it has no usable key, so a change names the old row by all its values"
        case Identity.INSERTS:
            return "by its inserts: without a key or old rows, an update or delete makes the table load anew"
        case Identity.RELOAD:
            return "by loading it anew: the stream cannot give its content"


def _column(layout: TableSchema, column: Column, nulled: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "sourceType": column.source_type,
        "nullable": column.nullable,
        "key": column.name in layout.key,
        "rule": column.rule,
        "nulled": nulled.get(column.name, 0),
    }


def named(raw_path: bytes, name: str, known: Iterable[TableId]) -> TableId:
    """The table that the path ``/tables/<name>`` means; `raw_path` is the path before its %-escapes were decoded.

    A dot within a schema or name may be written ``%2E``; a path that does not works while only one known table reads so.
    Raises ApiError 404.
    """
    known = tuple(known)
    schema, dot, rest = raw_path.decode("latin-1").partition("?")[0].rpartition("/")[2].partition(".")
    if dot and "." not in rest:
        exact = TableId(unquote(schema), unquote(rest))
        if exact in known:
            return exact
    return by_text(name, known)


def by_text(text: str, known: Iterable[TableId]) -> TableId:
    """The known table that is written ``schema.name`` as `text`. Raises ApiError 404, also when two are."""
    found = [table for table in known if str(table) == text]
    if len(found) == 1:
        return found[0]
    if found:
        message = "More than one table is called so: write the dots within its schema and name as %2E in the path."
        raise ApiError(404, "ambiguous_table", message)
    raise unknown()


def unknown() -> ApiError:
    """The error for a table that is not replicated."""
    return ApiError(
        404, "unknown_table", "No such table is replicated: see GET /tables for the schema and name of each."
    )


def listed(
    layouts: Mapping[TableId, TableSchema],
    statuses: Mapping[TableId, TableStatus],
    row_counts: Mapping[TableId, int],
    *,
    polled: bool = False,
) -> list[dict[str, Any]]:
    """Every table that is readable or being loaded, by name."""
    ids = sorted({*layouts, *statuses})
    return [described(t, layouts.get(t), statuses.get(t), row_counts.get(t), polled=polled) for t in ids]
