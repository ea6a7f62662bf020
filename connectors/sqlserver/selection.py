"""Which of the chosen tables can be replicated beside each other, and what keeps the others, or some of their columns,
from it.

A table that cannot be is left out by itself: the others go on. What is left out is not in the replica, and is shown
as a failing check until someone mends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from connectors.leftout import LeftOut
from connectors.sqlserver.catalog import CatalogTable
from connectors.sqlserver.layouts import Layout
from connectors.sqlserver.types import quoted
from engine.schema import Identity, TableId, TableSchema
from engine.source import Check, SourceOptions

_NAMES = "names"
_RENAME = "Rename one of them, or leave one out (`tables.exclude`, `tables.columns`)."


class Selection(NamedTuple):
    """The tables to replicate, by name; those that are left out; and those that change data capture does not hold yet."""

    tables: list[CatalogTable]
    left_out: list[LeftOut]
    uncaptured: list[CatalogTable]


def select(
    candidates: Iterable[CatalogTable], user: str, known: Iterable[TableSchema] = (), *, captured: bool = True
) -> Selection:
    """Choose among the tables that the options name.

    `known`: what is replicated already, which keeps its name against newcomers; after that, what is older keeps it.
    Without `captured` nobody follows the tables: they are read, whatever change data capture holds.
    """
    in_place = {(t.source_id, t.id) for t in known}
    left_out: list[LeftOut] = []
    uncaptured: list[CatalogTable] = []
    fit: list[CatalogTable] = []
    for table in candidates:
        # A change table is read by a right of its own: a table that is followed goes on without being read itself.
        why = None if (str(table.object_id), table.id) in in_place else _unreadable(table, user)
        why = why or _alone(table)
        if why is not None:
            left_out.append(why)
        elif captured and not table.instances:
            uncaptured.append(table)
        elif table.layout(table.instances[0] if captured else None).fields:
            fit.append(table)
    schemas: dict[str, str] = {}
    taken: dict[str, TableId] = {}
    tables = []
    for table in sorted(fit, key=lambda t: ((str(t.object_id), t.id) not in in_place, t.created, t.object_id)):
        why = _beside(table, schemas, taken)
        if why is None:
            tables.append(table)
        else:
            left_out.append(why)
    return Selection(sorted(tables, key=lambda t: t.id), left_out, uncaptured)


def _unreadable(table: CatalogTable, user: str) -> LeftOut | None:
    grant = f"GRANT SELECT ON {quoted(table.id.schema)}.{quoted(table.id.name)} TO {quoted(user)};"
    return None if table.readable else LeftOut(table.id, f"{user} may not read it", grant)


def _alone(table: CatalogTable) -> LeftOut | None:
    """Why the table cannot be replicated, whatever others there are."""
    if table.lost_key:
        field = f"tables.columns.{table.id}.exclude"
        lost = ", ".join(table.lost_key)
        return LeftOut(table.id, f"{lost} identifies its rows and is excluded", f"Take {lost} out of `{field}`.", field)
    seen: dict[str, str] = {}
    for name in (d.name for d in table.definitions if d.name not in table.excluded):
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            return LeftOut(table.id, f"its columns {other!r} and {name!r} differ only in case", _RENAME, name=_NAMES)
    return None


def _beside(table: CatalogTable, schemas: dict[str, str], taken: dict[str, TableId]) -> LeftOut | None:
    """Why the replica cannot tell the table from those before it, by names in one case; else it is noted as one of them."""
    schema = schemas.setdefault(table.id.schema.casefold(), table.id.schema)
    if schema != table.id.schema:
        return LeftOut(table.id, f"its schema's name differs from {schema!r} only in case", _RENAME, name=_NAMES)
    other = taken.setdefault(str(table.id).casefold(), table.id)
    if other != table.id:
        return LeftOut(table.id, f"its name differs from {str(other)!r} only in case", _RENAME, name=_NAMES)
    return None


def no_table(options: SourceOptions, user: str) -> Check:
    """The check that fails when the user sees no table that is chosen: those that it may not read are not shown to it."""
    schema = quoted(options.schema or "dbo")
    remedy = f"Correct `instance.schema` and `tables`, or: GRANT SELECT ON SCHEMA::{schema} TO {quoted(user)};"
    return Check("tables", ok=False, detail=f"{user} sees no table that is to be replicated", remedy=remedy)


def hindrances(selection: Selection) -> Iterator[Check]:
    """Tables that are not captured, and columns that are left out, each with what mends it."""
    for table in selection.uncaptured:
        detail = f"{table.id} is not replicated: change data capture is off for it, or was switched on just now"
        yield Check("tables", ok=False, detail=detail, remedy=enable(table))
    for table in selection.tables:
        yield from _columns(table, table.newest)


def _columns(table: CatalogTable, layout: Layout) -> Iterator[Check]:
    instance = table.instances[0]
    uncaptured = [d.name for d in table.definitions if d.id not in instance.ordinals and not d.computed]
    uncaptured = [name for name in uncaptured if name not in table.excluded]
    if uncaptured:
        remedy = enable(table)
        if len(table.instances) > 1:
            remedy = f"{disable(table)} {remedy}"
        detail = f"{table.id} is replicated without {', '.join(uncaptured)}: no capture instance holds them"
        yield Check("columns", ok=False, detail=detail, remedy=remedy)
    for name, reason in layout.missing:
        if name not in uncaptured:
            detail = f"{table.id} is replicated without {name}: {reason}"
            remedy = f"Exclude the column (`tables.columns.{table.id}.exclude`), or mend it."
            yield Check("columns", ok=False, detail=detail, remedy=remedy, warning=True)


def enable(table: CatalogTable) -> str:
    """The statement that makes a capture instance of all columns as they are now."""
    schema, name = _text(table.id.schema), _text(table.id.name)
    other = ""
    if table.instances:
        taken = {i.name for i in table.instances}
        base = f"{table.id.schema}_{table.id.name}"
        fresh = next(n for n in (base, f"{base}_2", f"{base}_3") if n not in taken)
        other = f", @capture_instance = {_text(fresh)}"
    return (
        f"EXEC sys.sp_cdc_enable_table @source_schema = {schema}, @source_name = {name}, @role_name = NULL"
        f"{other}, @supports_net_changes = 0;"
    )


def disable(table: CatalogTable) -> str:
    """The statement that drops the oldest capture instance: there are two at most."""
    oldest = table.instances[-1].name
    return (
        f"EXEC sys.sp_cdc_disable_table @source_schema = {_text(table.id.schema)}, "
        f"@source_name = {_text(table.id.name)}, @capture_instance = {_text(oldest)};"
    )


def _text(value: str) -> str:
    quotes = value.replace("'", "''")
    return f"N'{quotes}'"


def notes(tables: Sequence[CatalogTable], *, versioned: bool, database: str) -> Iterator[Check]:
    """What is worth knowing of tables that can be followed."""
    allow = f"ALTER DATABASE {quoted(database)} SET ALLOW_SNAPSHOT_ISOLATION ON;"
    followed = [t.newest for t in tables]
    keyless = [layout for layout in followed if layout.schema.identity is Identity.ROW]
    if versioned:
        yield Check("snapshot isolation", ok=True, detail="tables are loaded without locks")
    else:
        detail = "snapshot isolation is off: loading reads under short row locks (READ COMMITTED)"
        if keyless:
            detail += f", and {_some(keyless)} cannot be loaded: there is no key"
        yield Check("snapshot isolation", ok=False, detail=detail, remedy=allow, warning=not keyless)
    for layout in followed:
        if layout.unstreamed:
            detail = f"{layout.schema.id} is loaded again whenever it changes: {layout.unstreamed}"
            yield Check("keys", ok=False, detail=detail, remedy="Give it a primary key.", warning=True)


def _some(layouts: Sequence[Layout], most: int = 10) -> str:
    named = [str(layout.schema.id) for layout in layouts]
    return ", ".join(named[:most]) + (" ..." if len(named) > most else "")
