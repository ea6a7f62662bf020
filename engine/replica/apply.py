"""A batch's changes on their way into the live copies: straight from Arrow where that is enough, else staged first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.changes import TableChanges
from engine.destination import Copy
from engine.errors import ResyncRequired
from engine.replica.catalog import Stored
from engine.replica.entries import Entry, key_indexes, same_layout
from engine.replica.merge import Input, merge
from engine.replica.reduction import Reduced, reduce
from engine.replica.sql import listed, physical_name
from engine.replica.staging import Staging
from engine.replica.writer import Writer
from engine.schema import Identity, TableId

_STRAIGHT_ROWS = 400_000
"""Changes of one table that are merged without staging them."""


def apply_changes(
    writer: Writer, staging: Staging, changes: Sequence[TableChanges], live: Callable[[TableId], Stored]
) -> None:
    """Bring a batch's changes into the live copies, or into staging where they join what is staged already.

    Runs in the caller's transaction; the caller merges what is staged afterwards. Raises ResyncRequired for a table
    without a live copy or with another layout.
    """
    per_table: dict[TableId, list[TableChanges]] = {}
    for change in changes:
        per_table.setdefault(change.table.id, []).append(change)
    for table, entries in per_table.items():
        target = live(table)
        if any(not same_layout(entry.table, target.layout) for entry in entries):
            raise ResyncRequired(f"changes of {table} have another layout than its live copy", [table])
        if (table, Copy.LIVE) not in staging.tables and _straight(writer, entries):
            _apply(writer, target, [entry for entry in entries if len(entry.ops)])
        else:
            for entry in entries:
                staging.add(entry, Copy.LIVE)


def _straight(writer: Writer, entries: Sequence[TableChanges]) -> bool:
    """Whether these are complete images in one Arrow layout, and few enough to be joined in memory."""
    return (
        all(not entry.truncate and not entry.unchanged for entry in entries)
        and len({entry.rows.schema for entry in entries}) == 1
        and sum(len(entry.ops) for entry in entries) <= _STRAIGHT_ROWS
        and sum(entry.rows.nbytes for entry in entries) <= writer.memory_limit // 8
    )


def _apply(writer: Writer, target: Stored, changes: Sequence[TableChanges]) -> None:
    if not changes:
        return
    entry = Entry.of(writer.binder, changes, 0)
    inserts_only = all(change.inserts_only for change in changes)
    with entry.diagnosed(writer):
        if target.layout.identity is Identity.KEY and not inserts_only:
            reduced = reduce(entry)
            if reduced is not None:
                _replace(writer, target, entry, reduced)
                return
        typed = listed(("seq", "op", *(f"{b.expression} AS {b.source}" for b in entry.bound)))
        merge(writer, target, Input(f"(SELECT {typed} FROM {writer.input(entry.rows)})", inserts_only))


def _replace(writer: Writer, target: Stored, entry: Entry, reduced: Reduced) -> None:
    """Delete and insert what is already reduced to one image per key."""
    name, table = writer.input(reduced.rows), physical_name(target.number)
    keys = key_indexes(target.layout)
    if reduced.deletes is not None:
        same_key = " AND ".join(f"t.{target.columns[i]} = k.{target.columns[i]}" for i in keys)
        selected = listed(f"{entry.bound[i].expression} AS {target.columns[i]}" for i in keys)
        keys_of = f"(SELECT {selected} FROM {name} WHERE {reduced.deletes})"
        writer.delete(target.number, f"USING {keys_of} k WHERE {same_key}")
    if reduced.inserts is not None:
        columns, values = listed(target.columns), listed(b.expression for b in entry.bound)
        writer.con.execute(f"INSERT INTO {table} ({columns}) SELECT {values} FROM {name} WHERE {reduced.inserts}")
