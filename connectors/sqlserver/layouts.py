"""How a table is replicated by one of its capture instances: its columns, how each is read, and what is left out.

Change data capture holds no computed columns. Where the server says that one is deterministic, it is computed anew
over the change table, whose columns have the same names and types: the server's own expression over the same values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from connectors.sqlserver.instances import Instance
from connectors.sqlserver.types import Definition, quoted
from engine.schema import Identity, TableSchema

if TYPE_CHECKING:
    from connectors.sqlserver.catalog import CatalogTable

_BRACKETED = re.compile(r"\[((?:[^\]]|\]\])+)\]")
_LITERAL = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True, slots=True)
class Computed:
    """A computed column's expression as the server prints it (every name in brackets); empty when it is hidden."""

    text: str
    deterministic: bool

    def names(self) -> frozenset[str]:
        """Every name in the expression: columns, and the parts of functions' names."""
        return frozenset(n.replace("]]", "]") for n in _BRACKETED.findall(_LITERAL.sub("''", self.text)))


@dataclass(frozen=True, slots=True)
class Field:
    """One replicated column: how the table and the change table give its value.

    `ordinals` are the places in the update mask that decide over the value. `unchangeable`: the change table may hold
    NULL for it because an update left it as it was.
    """

    definition: Definition
    as_text: bool
    change_sql: str
    ordinals: tuple[int, ...]

    @property
    def table_sql(self) -> str:
        return self.definition.expression(quoted(self.definition.name), as_text=self.as_text)

    @property
    def unchangeable(self) -> bool:
        return self.definition.long and not self.definition.computed


@dataclass(frozen=True, slots=True)
class Layout:
    """A table by one capture instance. `missing` are columns that cannot be replicated, with the reason."""

    schema: TableSchema
    fields: tuple[Field, ...]
    instance: Instance | None
    missing: tuple[tuple[str, str], ...] = ()
    unstreamed: str = ""
    """Why any change to the table asks for a reload."""
    settled: bool = False
    """Whether the table is clustered by the key, and changes are in the log's order: no two rows ever have one key there.

    By the catalog as it was read, which does not say for how long.
    """

    @property
    def key_ordinals(self) -> tuple[int, ...]:
        """The places in the update mask of the columns that decide over the key."""
        key = set(self.schema.key)
        return tuple(sorted({o for f in self.fields if f.definition.name in key for o in f.ordinals}))


def lay_out(table: CatalogTable, instance: Instance | None) -> Layout:
    """Lay the table out by this capture instance; None: as it is read without change data capture."""
    fields, missing, unstreamed = [], [], ""
    by_name = {d.name: d for d in table.definitions}
    for definition in table.definitions:
        if definition.name in table.excluded:
            continue
        as_text = definition.name in table.as_text
        if instance is None:
            fields.append(Field(definition, as_text, "", ()))
        elif definition.id in table.computed:
            field, reason = _computed(table, definition, instance, by_name, as_text=as_text)
            if field is None:
                missing.append((definition.name, reason))
            else:
                fields.append(field)
                unstreamed = unstreamed or reason
        elif definition.id not in instance.ordinals:
            missing.append((definition.name, f"the capture instance {instance.name} does not hold it"))
        else:
            inner = quoted(instance.names[definition.id])
            sql = definition.expression(inner, as_text=as_text)
            fields.append(Field(definition, as_text, sql, (instance.ordinals[definition.id],)))
    key = _key(table, fields)
    if not key and instance is not None and any(f.unchangeable for f in fields):
        unstreamed = unstreamed or "it has no key, and large values that change rows do not carry"
    identity = Identity.KEY if key else Identity.ROW
    schema = TableSchema(
        id=table.id,
        columns=tuple(f.definition.column(as_text=f.as_text) for f in fields),
        key=key,
        identity=Identity.RELOAD if unstreamed else identity,
        source_id=str(table.object_id),
        estimated_rows=table.rows,
        estimated_bytes=table.bytes,
    )
    clustered = {d.name for d in table.definitions if d.id in table.clustered}
    settled = instance is not None and instance.ordered and bool(clustered) and clustered <= set(key)
    return Layout(schema, tuple(fields), instance, tuple(missing), unstreamed, settled)


def _computed(
    table: CatalogTable, definition: Definition, instance: Instance, by_name: dict[str, Definition], *, as_text: bool
) -> tuple[Field | None, str]:
    """A computed column over the change table, or why it cannot be; or why it asks for reloads."""
    computed = table.computed[definition.id]
    if not computed.text:
        return None, "the user may not see its expression (GRANT VIEW DEFINITION)"
    if not computed.deterministic:
        return None, "its expression is not deterministic: its value changes without the row"
    used = [by_name[name] for name in computed.names() if name in by_name]
    lost = [d.name for d in used if d.id not in instance.ordinals]
    if lost:
        return None, f"the capture instance {instance.name} does not hold {lost[0]}"
    ordinals = tuple(sorted(instance.ordinals[d.id] for d in used))
    field = Field(definition, as_text, definition.expression(computed.text, as_text=as_text), ordinals)
    long = next((d.name for d in used if d.long), None)
    return field, "" if long is None else f"{definition.name} is computed from {long}, which change rows may not carry"


def _key(table: CatalogTable, fields: list[Field]) -> tuple[str, ...]:
    """The first of the table's keys whose columns are all replicated."""
    names = {f.definition.id: f.definition.name for f in fields}
    for key in table.keys:
        if all(column in names for column in key):
            return tuple(names[column] for column in key)
    return ()
