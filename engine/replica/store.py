"""`DuckDBReplica`: the replica of one instance in one DuckDB file. Fills the protocol `engine.destination.Replica`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Self

import duckdb

from engine.changes import ChangeBatch
from engine.destination import Copy, StoredState
from engine.errors import CapExceeded, ReplicaError, ResyncRequired
from engine.replica import ddl
from engine.replica.apply import apply_changes
from engine.replica.catalog import Catalog, Entry, Stored, fresh, without_load
from engine.replica.database import new_cursor, open_database
from engine.replica.entries import same_layout
from engine.replica.faults import translated
from engine.replica.loads import TableLoader
from engine.replica.merge import as_upserts, merge_staged
from engine.replica.sql import view_name
from engine.replica.staging import Key, Staging
from engine.replica.upkeep import bloated, checkpoint, put_in_place, rewrite
from engine.replica.volume import file_bytes, require_room
from engine.replica.writer import Writer
from engine.schema import ColumnChange, TableId, TableSchema

CHECKPOINT_WAL = 16 << 20
"""Bytes of WAL from which `maintain` checkpoints."""

_FACTORS = (1, 4, 16)
"""How much finer a merge is divided when memory does not suffice, before the cap counts as exceeded."""


class DuckDBReplica:
    """A replica file, opened. Writing methods may be called from any thread and run one at a time; `append` of a
    loader, `cursor` and what only reports run beside them."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, path: Path, memory_limit: int, search_schema: str | None
    ) -> None:
        """Use `open`."""
        self._path = path
        self._search_schema = search_schema
        self._writer = Writer(con, memory_limit)
        self._catalog = Catalog(con)
        self._staging = Staging(self._writer, self._catalog)
        self._loaders: dict[TableId, TableLoader] = {}
        self._root = con.cursor()
        self._root_lock = threading.Lock()
        self._versions: dict[TableId, int] = {}
        self._counts: dict[TableId, tuple[int, int]] = {}
        self._state = StoredState(None, None, None)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        instance: str,
        memory_limit_bytes: int,
        threads: int,
        search_schema: str | None = None,
        temp_directory: Path | None = None,
    ) -> Self:
        """Open the replica file of `instance` at `path`, or make it.

        `search_schema` is searched first for unqualified names by readers. `temp_directory` (default: beside the file)
        is emptied. Raises ReplicaError when the file is another instance's, of a newer engine or DuckDB, not a replica,
        or in use.
        """
        path = path.absolute()
        temporary = temp_directory or path.with_name(path.name + ".tmp")
        con = open_database(path, memory_limit_bytes=memory_limit_bytes, threads=threads, temp_directory=temporary)
        try:
            with translated():
                replica = cls(con, path, memory_limit_bytes, search_schema)
                replica._catalog.prepare(instance, version("reflex-engine"), str(path))
                for number in replica._catalog.orphans():
                    ddl.drop_table(con, number)
                replica._publish()
        except BaseException:
            con.close()
            raise
        return replica

    def close(self) -> None:
        """Close the file. Cursors handed out before cannot be used any more."""
        with self._writer.lock, translated():
            for loader in self._loaders.values():
                loader.invalidate()
            self._root.close()
            self._writer.con.close()

    # State

    def state(self) -> StoredState:
        """What is committed, positions and tables."""
        return self._state

    @property
    def position(self) -> str | None:
        """The position readers see, as of the last commit."""
        return self._state.position

    def tables(self) -> Mapping[TableId, TableSchema]:
        """Layouts of the live copies."""
        return {t.id: t.live for t in self._state.tables.values() if t.live is not None}

    def start_over(self, stream_position: str, identity: str) -> None:
        """A new stream begins: drop load copies and staged changes, mark every table for a blocking reload."""
        with self._change():
            for table in list(self._catalog.entries):
                self._drop_load(table)
                self._catalog.change(table, lambda e: replace(e, reload_reason="a new stream begins", blocking=True))
            for table in list(self._loaders):
                self._drop_load(table)
            self._staging.discard(list(self._staging.tables))
            self._catalog.checkpoint(self._catalog.position, stream_position, identity)

    def mark_reload(self, tables: Sequence[TableId] | None, reason: str, *, blocking: bool) -> None:
        """Remember that these tables (None: all) must be loaded again; their load copies are dropped."""
        with self._change():
            for table in list(self._catalog.entries) if tables is None else tables:
                self._drop_load(table)
                self._staging.discard([(table, Copy.LOAD)])
                # A blocking mark stays one: the live copy cannot be followed, whatever else asks for a reload.
                self._catalog.change(table, lambda e: replace(e, reload_reason=reason, blocking=blocking or e.blocking))

    def keep_as_text(self, table: TableId, columns: Sequence[str]) -> None:
        """Remember that these columns are kept as text from their next load on."""
        with self._change():
            self._catalog.keep_as_text(self._catalog.as_text | {(table, column) for column in columns})

    # Loading

    def load(self, table: TableSchema) -> TableLoader:
        """Begin an empty load copy; a previous one is dropped. Changes staged for the load copy are kept: they may be of
        the stream that runs beside this load."""
        with self._writer.lock:
            with self._change():
                self._drop_load(table.id)
                stored = fresh(table, self._catalog.number())
            loader = TableLoader(
                self._writer, self._path, stored, self._create_load, self._finish_load, self._abandon_load
            )
            self._loaders[table.id] = loader
        return loader

    def _create_load(self, loader: TableLoader, compression: Mapping[int, str]) -> None:
        with self._change():
            self._must_be_loading(loader)
            ddl.create_table(self._writer.con, loader.stored, compression)

    def _must_be_loading(self, loader: TableLoader) -> None:
        table = loader.stored.layout.id
        if self._loaders.get(table) is not loader:
            raise ReplicaError(f"the load of {table} was given up")

    def _finish_load(self, loader: TableLoader, position: str, settled: str) -> None:
        table = loader.stored.layout.id
        with self._change():
            self._must_be_loading(loader)
            del self._loaders[table]
            self._catalog.change(
                table, lambda e: replace(e, load=loader.stored, loaded_at=position, settled_at=settled)
            )

    def _abandon_load(self, loader: TableLoader) -> None:
        table = loader.stored.layout.id
        with self._change():
            stored = self._catalog.get(table).load
            if self._loaders.get(table) is loader or (stored is not None and stored.number == loader.stored.number):
                self._drop_load(table)

    def _drop_load(self, table: TableId) -> None:
        """Drop the load copy of a table, complete or not."""
        loader = self._loaders.pop(table, None)
        if loader is not None:
            loader.invalidate()
            ddl.drop_table(self._writer.con, loader.stored.number)
        entry = self._catalog.get(table)
        if entry.load is not None:
            ddl.drop_table(self._writer.con, entry.load.number)
            self._catalog.put(without_load(entry))

    # Changes

    def stage(self, batch: ChangeBatch, targets: Mapping[TableId, Copy]) -> None:
        """Keep the batch's changes for the named copies where no reader sees them, until `apply` or `swap`."""
        require_room(self._path, batch.row_bytes)
        with self._change():
            for change in batch.changes:
                copy = targets.get(change.table.id)
                if copy is not None:
                    self._staging.add(change, copy)

    def discard_staged(self) -> None:
        """Forget every staged change."""
        with self._change():
            self._staging.discard(list(self._staging.tables))

    def apply(self, batch: ChangeBatch) -> None:
        """One transaction: staged changes of live copies, this batch's changes, and its position as checkpoint."""
        if not batch.complete:
            raise ReplicaError("a fragment of a transaction cannot be applied before its commit: stage it")
        if batch.changes:
            require_room(self._path, batch.row_bytes + self._staging.bytes)

        def work(factor: int) -> None:
            apply_changes(self._writer, self._staging, batch.changes, self._live)
            self._merge_staged(self._staging.of(Copy.LIVE), self._live, factor)
            position = str(batch.position)
            self._catalog.checkpoint(position, position, batch.identity)

        self._sparing(work, {c.table.id for c in batch.changes})

    def swap(
        self, tables: Sequence[TableId], position: str, identity: str | None = None, gone: Sequence[TableId] = ()
    ) -> None:
        """One transaction: what is gone, all staged changes, the load copies made live, their marks cleared, the checkpoint."""
        require_room(self._path, self._staging.bytes)

        def work(factor: int) -> None:
            for table in gone:
                self._remove(table)
            self._staging.discard([key for key in self._staging.of(Copy.LIVE) if key[0] in set(tables)])
            self._merge_staged(self._staging.of(Copy.LIVE), self._live, factor)
            self._merge_staged(
                [key for key in self._staging.of(Copy.LOAD) if key[0] in set(tables)], self._load, factor
            )
            for table in tables:
                self._make_live(table)
            self._catalog.checkpoint(position, position, identity)

        self._sparing(work, {*tables, *gone})

    def _sparing(self, work: Callable[[int], None], touched: set[TableId]) -> None:
        """Run `work` in a transaction; where memory does not suffice, again with its merges divided more finely."""
        touched = touched | {table for table, _ in self._staging.tables}
        for factor in _FACTORS:
            try:
                with self._change(touched):
                    work(factor)
            except CapExceeded as error:
                if factor == _FACTORS[-1] or not isinstance(error.__cause__, duckdb.OutOfMemoryException):
                    raise
            else:
                return

    def _live(self, table: TableId) -> Stored:
        """The live copy of a table."""
        stored = self._catalog.get(table).live
        if stored is None:
            raise ResyncRequired(f"changes of {table}, which has no live copy", [table])
        return stored

    def _load(self, table: TableId) -> Stored:
        """The complete load copy of a table."""
        stored = self._catalog.get(table).load
        if stored is None:
            raise ReplicaError(f"{table} has no complete load copy")
        return stored

    def _merge_staged(self, keys: Sequence[Key], copy_of: Callable[[TableId], Stored], factor: int) -> None:
        for key in keys:
            staged, target = self._staging.tables[key], copy_of(key[0])
            if not same_layout(staged.layout, target.layout):
                raise ResyncRequired(f"staged changes of {key[0]} have another layout than its copy", [key[0]])
            entry = self._catalog.get(key[0])
            replaced = self._staging.replaced(key)
            if replaced is not None:
                target = put_in_place(self._writer.con, self._catalog, target, replaced)
            elif key[1] is Copy.LOAD and entry.loaded_at != entry.settled_at:
                staged = as_upserts(self._writer, staged)
            merge_staged(self._writer, target, staged, factor)
        self._staging.discard(keys)

    def _make_live(self, table: TableId) -> None:
        """Show the load copy to readers, in place of the live one."""
        con, entry = self._writer.con, self._catalog.get(table)
        stored = self._load(table)
        ddl.create_view(con, stored, self._shown())
        if entry.live is not None:
            ddl.drop_table(con, entry.live.number)
        self._catalog.put(Entry(table, live=stored))

    def _shown(self) -> list[TableId]:
        return [e.id for e in self._catalog.entries.values() if e.live is not None]

    # Definitions

    def alter(self, old: TableSchema, new: TableSchema, changes: Sequence[ColumnChange]) -> None:
        """Change a live copy's layout (and name) in place, in one transaction."""
        with self._change({old.id, new.id}):
            entry = self._catalog.get(old.id)
            if (old.id, Copy.LIVE) in self._staging.tables:
                raise ReplicaError(f"{old.id} cannot change its layout while changes of it are staged")
            if new.id != old.id and self._catalog.get(new.id).live is not None:
                raise ReplicaError(f"{old.id} cannot take the name of {new.id}, which is still there")
            stored = self._live(old.id)
            if not same_layout(stored.layout, old):
                raise ResyncRequired(f"{old.id} has another layout in the replica than the change is from", [old.id])
            altered = ddl.change_layout(self._writer.con, stored, new, changes)
            if new.id != old.id:
                ddl.drop_view(self._writer.con, old.id)
                self._catalog.remove(old.id)
                renamed = {(new.id if t == old.id else t, column) for t, column in self._catalog.as_text}
                self._catalog.keep_as_text(frozenset(renamed))
            ddl.create_view(self._writer.con, altered, self._shown())
            self._catalog.put(replace(entry, id=new.id, live=altered))

    def drop(self, table: TableId) -> None:
        """Remove a table and all that is remembered of it."""
        with self._change({table}):
            self._remove(table)

    def _remove(self, table: TableId) -> None:
        self._drop_load(table)
        self._staging.discard([(table, Copy.LIVE), (table, Copy.LOAD)])
        entry = self._catalog.get(table)
        if entry.live is not None:
            ddl.drop_view(self._writer.con, table)
            ddl.drop_table(self._writer.con, entry.live.number)
        self._catalog.remove(table)
        self._catalog.keep_as_text(frozenset((t, column) for t, column in self._catalog.as_text if t != table))

    # Upkeep

    def maintain(self) -> None:
        """Checkpoint when the WAL has grown, and rewrite tables that are mostly deleted rows; see `upkeep`."""
        with self._writer.lock, translated():
            if self.wal_bytes() >= CHECKPOINT_WAL:
                checkpoint(self._writer.con)
            for stored in bloated(self._writer, self._catalog):
                with self._change():
                    rewrite(self._writer.con, self._catalog, stored)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A new connection for one reader, with the search path set. The caller closes it."""
        with self._root_lock, translated():
            return new_cursor(self._root, self._search_schema)

    def row_counts(self) -> dict[TableId, int]:
        """Rows of each live table; counted again only where the table has changed since it was counted."""
        with self._root_lock:
            wanted = {table: version for table, version in self._versions.items() if table in self.tables()}
            stale = [table for table, version in wanted.items() if self._counts.get(table, (-1, 0))[0] != version]
            if stale:
                with contextlib.closing(new_cursor(self._root, None)) as con, translated():
                    for table in stale:
                        row = con.execute(f"SELECT count(*) FROM {view_name(table)}").fetchone()
                        self._counts[table] = (wanted[table], int(row[0]) if row is not None else 0)
            return {table: self._counts[table][1] for table in wanted}

    def memory_bytes(self) -> int:
        """Memory that DuckDB's buffer manager holds."""
        with contextlib.closing(self.cursor()) as con, translated():
            row = con.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchone()
        return int(row[0] or 0) if row is not None else 0

    def file_bytes(self) -> int:
        """Size of the replica file."""
        return file_bytes(self._path)

    def wal_bytes(self) -> int:
        """Size of its write-ahead log."""
        return file_bytes(self._path.with_name(self._path.name + ".wal"))

    # Transactions

    @contextlib.contextmanager
    def _change(self, touched: Iterable[TableId] = ()) -> Iterator[None]:
        """One transaction of the writer, with what is remembered in memory kept in step with it."""
        with self._writer.lock:
            staged, loaders = dict(self._staging.tables), dict(self._loaders)
            try:
                with self._writer.transaction():
                    yield
            except BaseException:
                self._staging.tables, self._loaders = staged, loaders
                with translated():
                    self._catalog.reload()
                raise
            self._publish(touched)

    def _publish(self, touched: Iterable[TableId] = ()) -> None:
        """Show the committed state to those who only ask."""
        self._state = self._catalog.state()
        for table in {*touched, *(t for t in self._state.tables if t not in self._versions)}:
            self._versions[table] = self._versions.get(table, 0) + 1
