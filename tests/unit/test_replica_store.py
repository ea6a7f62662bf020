"""Opening, loading, swapping and altering the replica."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from engine.changes import Op
from engine.destination import Copy
from engine.errors import ReplicaError, ResyncRequired
from engine.replica.database import explain
from engine.replica.store import DuckDBReplica
from engine.schema import (
    AddColumn,
    Column,
    ColumnChange,
    DropColumn,
    Fill,
    Identity,
    RenameColumn,
    TableId,
    TableSchema,
)
from tests.support.replica_items import (
    ITEMS,
    batch,
    begin,
    entry,
    images,
    max_number,
    open_replica,
    physical,
    read,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.duckdb"


@pytest.fixture
def replica(path: Path) -> Iterator[DuckDBReplica]:
    replica = open_replica(path)
    yield replica
    replica.close()


class TestOpening:
    def test_a_batch_may_tell_more_of_the_source(self, path: Path) -> None:
        """Stored with its position, in one transaction; a batch that tells nothing leaves what is known."""
        replica = open_replica(path)
        begin(replica, ITEMS, (1, "a"))
        replica.apply(replace(batch(5, entry(ITEMS, Op.INSERT, (2, "b"))), identity="source, and how its log went on"))
        replica.apply(batch(6))
        replica.close()
        replica = open_replica(path)
        state = replica.state()
        assert (state.position, state.identity) == ("6", "source, and how its log went on")
        replica.close()

    def test_the_state_survives(self, path: Path) -> None:
        replica = open_replica(path)
        begin(replica, ITEMS, (1, "a"))
        replica.apply(batch(5, entry(ITEMS, Op.INSERT, (2, "b"))))
        replica.keep_as_text(ITEMS.id, ["name"])
        other = replace(ITEMS, id=TableId("shop", "other"))
        replica.load(other).finish("7")
        replica.mark_reload([ITEMS.id], "why", blocking=True)
        before = replica.state()
        replica.close()
        replica = open_replica(path)
        assert replica.state() == before
        assert before.position == before.stream_position == "5"
        assert before.identity == "source"
        assert before.as_text == {(ITEMS.id, "name")}
        assert before.tables[ITEMS.id].live == ITEMS
        assert (before.tables[ITEMS.id].reload_reason, before.tables[ITEMS.id].blocking) == ("why", True)
        assert (before.tables[other.id].load, before.tables[other.id].loaded_at) == (other, "7")
        assert read(replica, "FROM items ORDER BY id") == [(1, "a"), (2, "b")]
        replica.close()

    def test_another_instance(self, replica: DuckDBReplica, path: Path) -> None:
        replica.close()
        with pytest.raises(ReplicaError, match="instance 't', not of 'u'"):
            open_replica(path, "u")

    def test_duckdb_that_shows_uncommitted_rows(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.replica.database.duckdb.__version__", "2.0.0")
        with pytest.raises(ReplicaError, match=r"DuckDB 2\.0\.0 .* install duckdb>=2\.0\.1"):
            open_replica(path)
        assert not path.exists()

    @pytest.mark.parametrize(("storage", "reason"), [("v1.5.0", "no reflex-engine made"), ("latest", "newer")])
    def test_a_foreign_duckdb_file(self, path: Path, storage: str, reason: str) -> None:
        with duckdb.connect() as con:
            con.execute(f"ATTACH '{path}' AS f (STORAGE_VERSION '{storage}'); CREATE TABLE f.precious (i INTEGER)")
        if storage == "latest" and duckdb.__version__ < "2":
            reason = "no reflex-engine made"
        with pytest.raises(ReplicaError, match=reason):
            open_replica(path)
        with duckdb.connect(str(path)) as con:
            assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (1,)

    def test_no_duckdb_file(self, path: Path) -> None:
        path.write_bytes(b"no database " * 1000)
        with pytest.raises(ReplicaError, match="not a DuckDB file"):
            open_replica(path)

    def test_a_newer_engine(self, replica: DuckDBReplica, path: Path) -> None:
        replica.close()
        with duckdb.connect(str(path)) as con:
            con.execute("UPDATE _reflex.meta SET value = '2' WHERE key = 'format'")
        with pytest.raises(ReplicaError, match="newer reflex-engine"):
            open_replica(path)

    def test_a_newer_duckdb(self, path: Path) -> None:
        said = duckdb.IOException(
            "IO Error: Trying to read a database file with version number 69, but we can only read versions between 64 "
            "and 68.\nThe database file was created with a newer version of DuckDB."
        )
        assert "newer than" in str(explain(path, said))

    def test_a_damaged_file(self, replica: DuckDBReplica, path: Path) -> None:
        replica.close()
        content = bytearray(path.read_bytes())
        content[12] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(ReplicaError, match="damaged"):
            open_replica(path)

    def test_in_use_by_this_process(self, replica: DuckDBReplica, path: Path) -> None:
        with pytest.raises(ReplicaError, match="in use"):
            open_replica(path)

    def test_in_use_by_another_process(self, replica: DuckDBReplica, path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from engine.replica.store import DuckDBReplica\n"
            "try: DuckDBReplica.open(Path(sys.argv[1]), instance='t', memory_limit_bytes=1 << 27, threads=1)\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert done.stdout.startswith("ReplicaError")
        assert "in use by another process" in done.stdout

    def test_the_storage_version_and_settings(self, replica: DuckDBReplica) -> None:
        tags = read(replica, "SELECT tags['storage_version'] FROM duckdb_databases() WHERE NOT internal")
        assert tags == [("v1.5.0+",)]
        names = ("TimeZone", "lock_configuration", "enable_external_access", "python_enable_replacements", "threads")
        settings = dict(read(replica, f"SELECT name, value FROM duckdb_settings() WHERE name IN {names}"))
        assert settings == {
            "TimeZone": "UTC",
            "lock_configuration": "true",
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "threads": "2",
        }
        for statement in ("SET threads = 1", "ATTACH '/tmp/x.duckdb'", "FROM read_csv('/etc/passwd')"):
            with pytest.raises(duckdb.Error):
                read(replica, statement)
        assert read(replica, "SELECT CAST(TIMESTAMPTZ '2024-07-01 12:00:00+02' AS VARCHAR)") == [
            ("2024-07-01 10:00:00+00",)
        ]

    def test_the_file_can_be_read_without_the_engine(self, replica: DuckDBReplica, path: Path) -> None:
        begin(replica, ITEMS, (1, "a"))
        replica.close()
        with duckdb.connect(str(path), read_only=True) as con:
            assert con.execute("FROM shop.shop.items").fetchall() == [(1, "a")]


class TestLoading:
    def test_an_unfinished_load_is_gone_after_a_restart(self, path: Path) -> None:
        replica = open_replica(path)
        replica.load(ITEMS).append([images(ITEMS, (1, "a"))])
        assert physical(replica) == 1
        replica.close()
        replica = open_replica(path)
        assert physical(replica) == 0
        assert replica.state().tables == {}
        replica.close()

    def test_several_threads_fill_one_copy(self, replica: DuckDBReplica) -> None:
        loader = replica.load(ITEMS)
        counts: list[int] = []

        def fill(first: int) -> None:
            parts = (
                images(ITEMS, *((i, f"n{i}") for i in range(a, a + 1000))) for a in range(first, first + 5000, 1000)
            )
            counts.append(loader.append(parts))

        threads = [threading.Thread(target=fill, args=(n * 5000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loader.finish("1")
        replica.swap([ITEMS.id], "1", "source")
        assert counts == [5000] * 4
        assert read(replica, "SELECT count(*), count(DISTINCT id) FROM items") == [(20000, 20000)]
        assert replica.row_counts() == {ITEMS.id: 20000}

    @pytest.mark.parametrize(("roomy", "random"), [(True, "Uncompressed"), (False, "ZSTD")])
    def test_text_is_compressed_as_its_first_rows_tell(
        self, replica: DuckDBReplica, monkeypatch: pytest.MonkeyPatch, roomy: bool, random: str
    ) -> None:
        """Values that repeat, those that do not but are alike, and those that are random, where there is room for them."""
        monkeypatch.setattr("engine.replica.store.CHECKPOINT_WAL", 0)
        monkeypatch.setattr("engine.replica.compression.ROOMY", 0 if roomy else 1 << 40)
        more = [Column(name, "VARCHAR", "text", id=3 + n) for n, name in enumerate(("state", "token"))]
        table = replace(ITEMS, columns=(*ITEMS.columns, *more))
        loader = replica.load(table)
        loader.append(
            images(table, *((i, f"name {i}", f"state {i % 7}", uuid.uuid4().hex) for i in range(n, n + 10_000)))
            for n in (0, 10_000)
        )
        loader.finish("1")
        replica.swap([table.id], "1")
        replica.maintain()
        stored = f"pragma_storage_info('_reflex.t{max_number(replica)}')"
        kinds = f"SELECT DISTINCT column_name, compression FROM {stored} WHERE segment_type = 'VARCHAR' ORDER BY ALL"
        assert read(replica, kinds) == [("c1", "ZSTD"), ("c2", "DICT_FSST"), ("c3", random)]
        counts = "SELECT count(DISTINCT name), count(DISTINCT state), count(DISTINCT token) FROM items"
        assert read(replica, counts) == [(20_000, 7, 20_000)]

    def test_what_the_snapshot_raises_comes_through(self, replica: DuckDBReplica) -> None:
        class Gone(Exception):
            pass

        def batches() -> Iterator[pa.RecordBatch]:
            yield images(ITEMS, (1, "a"))
            raise Gone

        loader = replica.load(ITEMS)
        with pytest.raises(Gone):
            loader.append(batches())
        loader.append([images(ITEMS, (2, "b"))])
        loader.finish("1")
        replica.swap([ITEMS.id], "1")
        assert read(replica, "FROM items") == [(2, "b")]

    @pytest.mark.parametrize(
        "end",
        [
            lambda replica, loader: loader.abandon(),
            lambda replica, loader: replica.load(ITEMS),
            lambda replica, loader: replica.mark_reload([ITEMS.id], "x", blocking=False),
            lambda replica, loader: replica.mark_reload(None, "x", blocking=False),
            lambda replica, loader: replica.start_over("1", "x"),
            lambda replica, loader: replica.drop(ITEMS.id),
        ],
        ids=["abandon", "again", "mark", "mark all", "start over", "drop"],
    )
    def test_a_load_given_up(self, replica: DuckDBReplica, end: Callable[[DuckDBReplica, Any], Any]) -> None:
        begin(replica, ITEMS, (1, "a"))
        loader = replica.load(ITEMS)
        loader.append([images(ITEMS, (2, "b"))])
        end(replica, loader)
        for refused in (lambda: loader.append([images(ITEMS, (2, "b"))]), lambda: loader.finish("2")):
            with pytest.raises(ReplicaError, match="given up"):
                refused()
        with pytest.raises(ReplicaError, match="no complete load copy"):
            replica.swap([ITEMS.id], "2")

    def test_a_complete_copy_waits_for_its_swap(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"))
        loader = replica.load(ITEMS)
        loader.append([images(ITEMS, (1, "b"), (2, "b"))])
        loader.finish("9")
        assert read(replica, "FROM items") == [(1, "a")]
        replica.apply(batch(3, entry(ITEMS, Op.UPDATE, (1, "c"))))
        assert read(replica, "FROM items") == [(1, "c")]
        replica.mark_reload([TableId("shop", "other")], "y", blocking=False)
        replica.swap([ITEMS.id], "9")
        assert read(replica, "FROM items ORDER BY id") == [(1, "b"), (2, "b")]
        assert replica.state().tables[ITEMS.id].load is None
        assert physical(replica) == 1

    def test_changes_staged_for_the_load_copy_join_its_swap(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "old"))
        change = entry(ITEMS, Op.UPDATE, (2, "staged"))
        replica.stage(batch(1, change), {ITEMS.id: Copy.LOAD})
        loader = replica.load(ITEMS)
        loader.append([images(ITEMS, (1, "new"), (2, "new"))])
        loader.finish("0")
        replica.apply(batch(1, change))
        assert read(replica, "FROM items ORDER BY id") == [(1, "old"), (2, "staged")]
        replica.swap([ITEMS.id], "1")
        assert read(replica, "FROM items ORDER BY id") == [(1, "new"), (2, "staged")]

    def test_a_truncate_staged_for_the_load_copy(self, replica: DuckDBReplica) -> None:
        loader = replica.load(ITEMS)
        loader.append([images(ITEMS, (1, "a"))])
        loader.finish("0")
        replica.stage(batch(1, entry(ITEMS, Op.INSERT, (3, "c"), truncate=True)), {ITEMS.id: Copy.LOAD})
        replica.swap([ITEMS.id], "1", "source")
        assert read(replica, "FROM items") == [(3, "c")]
        assert physical(replica) == 1


class TestMarks:
    def test_start_over(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"), position="5")
        replica.stage(batch(6, entry(ITEMS, Op.INSERT, (2, "b"))), {ITEMS.id: Copy.LIVE})
        other = replace(ITEMS, id=TableId("shop", "other"))
        replica.load(other).finish("5")
        replica.start_over("77", "new source")
        state = replica.state()
        assert (state.position, state.stream_position, state.identity) == ("5", "77", "new source")
        assert all(t.blocking and t.reload_reason and t.load is None for t in state.tables.values())
        assert read(replica, "FROM items") == [(1, "a")]
        assert physical(replica) == 1
        begin(replica, ITEMS, (9, "z"), position="80")
        state = replica.state()
        assert (state.position, state.stream_position) == ("80", "80")
        assert read(replica, "FROM items") == [(9, "z")]
        assert state.tables[ITEMS.id].reload_reason is None
        assert not state.tables[ITEMS.id].blocking

    def test_a_blocking_mark_is_not_softened(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS)
        replica.mark_reload([ITEMS.id], "diverged", blocking=True)
        replica.mark_reload([ITEMS.id], "requested", blocking=False)
        assert replica.state().tables[ITEMS.id].blocking

    def test_drop_forgets_everything(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"))
        replica.keep_as_text(ITEMS.id, ["name"])
        replica.load(ITEMS).finish("1")
        replica.drop(ITEMS.id)
        replica.drop(ITEMS.id)
        state = replica.state()
        assert (state.tables, state.as_text) == ({}, frozenset())
        assert physical(replica) == 0
        assert replica.row_counts() == {}
        assert read(replica, "SELECT 1 FROM duckdb_schemas() WHERE schema_name = 'shop'") == []


class TestDefinitions:
    def test_columns_and_name_change_in_place(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"))
        replica.keep_as_text(ITEMS.id, ["name"])
        added = Column("from", "DECIMAL(9,2)", "numeric", id=3, fill=Fill.NULL)
        new = TableSchema(
            TableId("a.b", 'x"y'), (Column("Key", "BIGINT", "bigint", id=1), added), ("Key",), Identity.KEY, "1"
        )
        changes: list[ColumnChange] = [DropColumn("name"), RenameColumn("id", "Key"), AddColumn(added)]
        replica.alter(ITEMS, new, changes)
        assert read(replica, 'SELECT "Key", "from" FROM "a.b"."x""y"') == [(1, None)]
        assert replica.tables() == {new.id: new}
        assert replica.state().as_text == {(new.id, "name")}
        replica.apply(batch(2, entry(new, Op.UPDATE, (1, "1.50"), (2, None))))
        assert read(replica, 'SELECT CAST("from" AS VARCHAR) FROM "a.b"."x""y" ORDER BY "Key"') == [("1.50",), (None,)]
        with pytest.raises(duckdb.CatalogException):
            read(replica, "FROM shop.items")

    def test_every_column_replaced(self, replica: DuckDBReplica) -> None:
        table = replace(ITEMS, key=(), identity=Identity.ROW)
        begin(replica, table, (1, "a"))
        column = Column("only", "VARCHAR", "text", id=9, fill=Fill.NULL)
        replica.alter(
            table, replace(table, columns=(column,)), [DropColumn("id"), DropColumn("name"), AddColumn(column)]
        )
        assert read(replica, "FROM items") == [(None,)]

    def test_a_layout_that_is_not_the_stored_one(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS)
        other = replace(ITEMS, columns=ITEMS.columns[:1])
        with pytest.raises(ResyncRequired):
            replica.alter(other, ITEMS, [])
        with pytest.raises(ReplicaError, match="do not lead"):
            replica.alter(ITEMS, other, [])
        assert replica.tables() == {ITEMS.id: ITEMS}

    def test_names_that_differ_in_case_only(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"))
        shouting = replace(ITEMS, id=TableId("shop", "ITEMS"))
        replica.load(shouting).finish("1")
        with pytest.raises(ReplicaError, match="letter case"):
            replica.swap([shouting.id], "1")
        assert read(replica, "FROM items") == [(1, "a")]

    @pytest.mark.parametrize("name", ["shop", "main", "temp", "system", "memory", "select", "ü .\"'"])
    def test_schemas_with_difficult_names(self, replica: DuckDBReplica, name: str) -> None:
        table = replace(
            ITEMS, id=TableId(name, name), columns=(ITEMS.columns[0], Column("rowid", "VARCHAR", "text", id=2))
        )
        begin(replica, table, (1, "a"), (2, "b"))
        replica.apply(batch(1, entry(table, Op.DELETE, (1, None)), entry(table, Op.INSERT, (3, "c"))))
        assert replica.row_counts() == {table.id: 2}
        replica.drop(table.id)

    @pytest.mark.parametrize("name", ["_REFLEX", "_replica"])
    def test_the_engines_own_names_are_refused(self, replica: DuckDBReplica, name: str) -> None:
        table = replace(ITEMS, id=TableId(name, "meta"))
        replica.load(table).finish("0")
        with pytest.raises(ReplicaError, match="uses itself"):
            replica.swap([table.id], "0", "source")
