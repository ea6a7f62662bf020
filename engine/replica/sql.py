"""SQL text: the one place where names are quoted."""

from __future__ import annotations

from collections.abc import Iterable

from engine.schema import TableId

CATALOG = "_replica"
"""The name under which the replica file is attached: fixed, so that a source schema called like the file (MySQL
database `shop` in `shop.duckdb`) is never ambiguous."""

INTERNAL = "_reflex"
"""The schema of the engine's own tables and of the physical tables behind the views."""


def quote(name: str) -> str:
    """Return `name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return `text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def view_name(table: TableId) -> str:
    """Return the fully qualified name under which readers see a table."""
    return f"{CATALOG}.{quote(table.schema)}.{quote(table.name)}"


def physical_name(number: int) -> str:
    """Return the qualified name of physical table `number`. Two parts: views keep it, whatever the file is attached as."""
    return f"{INTERNAL}.t{number}"


def listed(expressions: Iterable[str]) -> str:
    """Join SQL expressions with commas."""
    return ", ".join(expressions)
