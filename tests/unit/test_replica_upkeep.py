"""Upkeep of the replica file, and what becomes of DuckDB's errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from engine.changes import Op, TableChanges
from engine.destination import Copy
from engine.errors import CapExceeded, ReplicaError
from engine.replica.faults import translate
from engine.replica.merge import merge_staged
from engine.replica.store import DuckDBReplica
from engine.replica.upkeep import checkpoint
from engine.replica.volume import RESERVE, free_bytes
from tests.support.replica_items import (
    ITEMS,
    batch,
    begin,
    churned,
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


class TestUpkeep:
    def test_the_file_stays_bounded_under_churn(self, replica: DuckDBReplica) -> None:
        count, step = 100_000, 10_000
        ids = np.arange(count, dtype=np.int64)
        loader = replica.load(ITEMS)
        loader.append([churned(ids, 0)])
        loader.finish("0")
        replica.swap([ITEMS.id], "0", "source")
        rng = np.random.default_rng(7)
        largest = 0
        for n in range(1, 101):
            rows = churned(rng.choice(count, step, replace=False), n)
            replica.apply(batch(n, TableChanges(ITEMS, pa.array(np.full(step, 2, np.int8)), rows)))
            replica.maintain()
            largest = max(largest, replica.file_bytes() + replica.wal_bytes())
        assert read(replica, "SELECT count(*), count(DISTINCT id) FROM items") == [(count, count)]
        assert largest < 64 << 20

    def test_the_wal_stays_bounded_under_a_long_reader(
        self, replica: DuckDBReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engine.replica.store.CHECKPOINT_WAL", 1 << 20)
        ids = np.arange(20_000, dtype=np.int64)
        begin(replica, ITEMS)
        replica.apply(batch(1, TableChanges(ITEMS, pa.array(np.full(len(ids), 1, np.int8)), churned(ids, 0))))
        reader = replica.cursor()
        reader.execute("BEGIN TRANSACTION READ ONLY")
        assert reader.execute("SELECT count(*) FROM items").fetchall() == [(20_000,)]
        largest = 0
        for n in range(2, 42):
            replica.apply(batch(n, TableChanges(ITEMS, pa.array(np.full(len(ids), 2, np.int8)), churned(ids, n))))
            largest = max(largest, replica.wal_bytes())
            replica.maintain()
        assert largest < 4 << 20
        assert reader.execute("SELECT count(*) FILTER (name LIKE '%version 0') FROM items").fetchall() == [(20_000,)]
        reader.close()

    def test_a_table_of_deleted_rows_is_written_anew(
        self, replica: DuckDBReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engine.replica.upkeep.BLOAT_ROWS", 1000)
        begin(replica, ITEMS, *((i, "old") for i in range(600)))
        reader = replica.cursor()
        reader.execute("BEGIN TRANSACTION READ ONLY")
        assert reader.execute("SELECT count(*) FROM items").fetchall() == [(600,)]
        rewritten = 0
        before = max_number(replica)
        for n in range(1, 9):
            replica.apply(batch(n, entry(ITEMS, Op.UPDATE, *((i, f"version {n}") for i in range(600)))))
            replica.maintain()
            rewritten += max_number(replica) != before
            before = max_number(replica)
        assert rewritten == 2
        assert physical(replica) == 1
        assert read(replica, "SELECT count(*), min(name), max(name) FROM items") == [(600, "version 8", "version 8")]
        assert reader.execute("SELECT count(*), max(name) FROM items").fetchall() == [(600, "old")]
        reader.close()

    def test_a_full_volume_stops_the_writer_and_not_the_readers(
        self, replica: DuckDBReplica, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begin(replica, ITEMS, (1, "a"))
        loader = replica.load(ITEMS)
        free = RESERVE - 1
        monkeypatch.setattr("engine.replica.volume.free_bytes", lambda _: free)
        for write in (
            lambda: replica.apply(batch(1, entry(ITEMS, Op.UPDATE, (1, "b")))),
            lambda: replica.stage(batch(0, entry(ITEMS, Op.UPDATE, (1, "b")), complete=False), {ITEMS.id: Copy.LIVE}),
            lambda: replica.swap([], "1"),
            lambda: loader.append([images(ITEMS, (2, "b"))]),
        ):
            with pytest.raises(CapExceeded, match=r"volume .* is full \(63 MB are free\)"):
                write()
        replica.apply(batch(1))
        assert read(replica, "FROM items") == [(1, "a")]
        assert replica.position == "1"
        free = RESERVE + (1 << 20)
        replica.apply(batch(2, entry(ITEMS, Op.UPDATE, (1, "b"))))
        assert read(replica, "FROM items") == [(1, "b")]
        assert free_bytes(path) > 0

    def test_a_load_is_written_once(self, replica: DuckDBReplica) -> None:
        """In whole row groups, however the rows arrive: a checkpoint would write smaller ones again, merged."""
        rows = pa.RecordBatch.from_arrays(
            [pa.array(np.arange(50_000)), pa.array([f"name {i}" for i in range(50_000)])], names=["id", "name"]
        )
        loader = replica.load(ITEMS)
        assert loader.append([rows] * 10) == 500_000
        loader.finish("0")
        replica.swap([ITEMS.id], "0", "source")
        groups = (
            "SELECT row_group_id, sum(count) FROM pragma_storage_info('_reflex.t1') "
            "WHERE column_name = 'c0' AND segment_type = 'BIGINT' GROUP BY 1 ORDER BY 1"
        )
        before, size = read(replica, groups), replica.file_bytes()
        assert [int(count) for _, count in before] == [122_880] * 4 + [500_000 - 4 * 122_880]
        replica.maintain()
        assert checkpoint(replica._writer.con)
        assert read(replica, groups) == before
        assert replica.file_bytes() < size * 1.5

    def test_maintain_while_a_reader_and_a_load_run(
        self, replica: DuckDBReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engine.replica.store.CHECKPOINT_WAL", 0)
        begin(replica, ITEMS, (1, "a"))
        reader = replica.cursor()
        reader.execute("BEGIN TRANSACTION READ ONLY")
        assert reader.execute("FROM items").fetchall() == [(1, "a")]
        replica.apply(batch(1, entry(ITEMS, Op.UPDATE, (1, "b"))))

        def batches() -> Iterator[pa.RecordBatch]:
            yield images(ITEMS, *((i, "x") for i in range(130_000)))
            replica.maintain()
            replica.apply(batch(2, entry(ITEMS, Op.UPDATE, (1, "c"))))
            yield images(ITEMS, (200_000, "x"))

        assert replica.load(ITEMS).append(batches()) == 130_001
        replica.maintain()
        assert reader.execute("FROM items").fetchall() == [(1, "a")]
        reader.close()
        replica.maintain()
        assert replica.wal_bytes() == 0
        assert read(replica, "FROM items") == [(1, "c")]

    def test_gauges(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"))
        assert replica.memory_bytes() > 0
        assert replica.file_bytes() > 0
        assert replica.row_counts() == {ITEMS.id: 1}
        replica.apply(batch(1, entry(ITEMS, Op.INSERT, (2, "b"))))
        assert replica.row_counts() == {ITEMS.id: 2}


class TestFailures:
    def staged(self, replica: DuckDBReplica) -> None:
        begin(replica, ITEMS, (1, "a"))
        replica.stage(batch(0, entry(ITEMS, Op.UPDATE, (1, "b")), complete=False), {ITEMS.id: Copy.LIVE})

    def test_a_merge_short_of_memory_is_divided_more_finely(
        self, replica: DuckDBReplica, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        factors: list[int] = []

        def merge(writer: Any, target: Any, staged: Any, factor: int) -> None:
            factors.append(factor)
            merge_staged(writer, target, staged, factor)
            if factor < 16:
                raise duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block")

        self.staged(replica)
        monkeypatch.setattr("engine.replica.store.merge_staged", merge)
        replica.apply(batch(1))
        assert factors == [1, 4, 16]
        assert read(replica, "FROM items") == [(1, "b")]

    def test_a_merge_that_never_finds_the_memory(self, replica: DuckDBReplica, monkeypatch: pytest.MonkeyPatch) -> None:
        def merge(*_: Any) -> None:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block")

        self.staged(replica)
        monkeypatch.setattr("engine.replica.store.merge_staged", merge)
        with pytest.raises(CapExceeded, match="memory"):
            replica.apply(batch(1))
        monkeypatch.undo()
        replica.apply(batch(1))
        assert read(replica, "FROM items") == [(1, "b")]

    @pytest.mark.parametrize(
        ("said", "kind", "fatal"),
        [
            (duckdb.FatalException("FATAL Error: invalidated"), ReplicaError, True),
            (duckdb.InternalException("INTERNAL Error: oops"), ReplicaError, True),
            (duckdb.OutOfMemoryException("Out of Memory Error: x"), CapExceeded, False),
            (duckdb.IOException("IO Error: Could not write: No space left on device"), CapExceeded, False),
            (duckdb.IOException("IO Error: Could not read"), ReplicaError, False),
            (duckdb.ConversionException("Conversion Error: 'a secret'"), ReplicaError, False),
        ],
    )
    def test_errors_of_duckdb(self, said: duckdb.Error, kind: type[ReplicaError], fatal: bool) -> None:
        error = translate(said)
        assert type(error) is kind
        assert error.fatal is fatal
        assert "secret" not in str(error)

    def test_closed(self, replica: DuckDBReplica) -> None:
        replica.close()
        for use in (replica.cursor, replica.discard_staged, lambda: replica.apply(batch(1))):
            with pytest.raises(ReplicaError):
                use()
