"""Keeping the file and its WAL bounded.

A checkpoint moves the WAL into the file; it goes on beside readers and loads. But the place of deleted rows is only won
back by a checkpoint that finds no transaction older than the last commit, which readers without a pause between them
could prevent for ever. So a table of which the deleted rows have come to outnumber the rows is written anew.
"""

from __future__ import annotations

import duckdb

from engine.replica import ddl
from engine.replica.catalog import Catalog, Stored, fresh
from engine.replica.sql import CATALOG, listed, physical_name
from engine.replica.writer import Writer

BLOAT_ROWS = 1_000_000
"""Deleted rows that a table may hold on to, besides as many as it has rows."""


def checkpoint(con: duckdb.DuckDBPyConnection) -> bool:
    """Move the WAL into the file; False when another transaction's state keeps DuckDB from it just now."""
    try:
        con.execute(f"CHECKPOINT {CATALOG}")
    except duckdb.TransactionException:
        return False
    return True


def bloated(writer: Writer, catalog: Catalog) -> list[Stored]:
    """The live copies that are to be written anew."""
    due = {number for number, deleted in writer.deleted.items() if deleted >= BLOAT_ROWS}
    found = []
    for entry in catalog.entries.values():
        stored = entry.live
        if stored is None or stored.number not in due:
            continue
        table = physical_name(stored.number)
        rows = writer.scalar(f"SELECT count(*) FROM {table}")
        # Row ids are places: the highest one tells how many rows, deleted ones included, the table is made of.
        places = writer.scalar(f"SELECT max(rowid) + 1 FROM {table}")
        if places - rows >= rows + BLOAT_ROWS:
            found.append(stored)
    for number in due:
        del writer.deleted[number]
    return found


def rewrite(con: duckdb.DuckDBPyConnection, catalog: Catalog, stored: Stored) -> None:
    """Write a copy anew into another physical table, in the caller's transaction."""
    new = fresh(stored.layout, catalog.number())
    ddl.create_table(con, new, {})
    con.execute(
        f"INSERT INTO {physical_name(new.number)} SELECT {listed(stored.columns)} FROM {physical_name(stored.number)}"
    )
    put_in_place(con, catalog, stored, new)


def put_in_place(con: duckdb.DuckDBPyConnection, catalog: Catalog, stored: Stored, new: Stored) -> Stored:
    """Let another physical table take the place of a copy, in the caller's transaction; returns it."""
    entry = catalog.get(stored.layout.id)
    catalog.exchange(entry, stored, new)
    if entry.live == stored:
        ddl.create_view(con, new, [e.id for e in catalog.entries.values() if e.live is not None])
    ddl.drop_table(con, stored.number)
    return new
