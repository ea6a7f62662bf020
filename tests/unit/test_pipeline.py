"""The pipeline over the fake source and the real replica: whatever happens, readers see one committed position."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import pytest

from engine.errors import PreconditionError, ResyncRequired, TransientError
from engine.pipeline import Pipeline, PipelineSettings, streaming
from engine.pipeline.control import Pace
from engine.replica.store import DuckDBReplica
from engine.schema import Identity, TableId
from engine.status import StatusBoard, TableState
from tests.support.fake_source import FakeDatabase, FakeSource, Faults, Tick

FAST = PipelineSettings(
    pace=Pace(status_every=0.05, inspect_every=0.1, maintain_every=0.2), backoff_first=0.01, backoff_most=0.05
)


@dataclass
class Running:
    """A pipeline in a thread, over a database, and what its readers see."""

    database: FakeDatabase
    replica: DuckDBReplica
    board: StatusBoard
    faults: Faults
    pipeline: Pipeline
    sources: list[FakeSource] = field(default_factory=list)
    error: list[BaseException] = field(default_factory=list)

    def wait_equal(self, timeout: float = 20.0) -> None:
        """Wait until the replica is at the database's position with all its tables, and equal to it."""
        deadline = threading.Event()
        timer = threading.Timer(timeout, deadline.set)
        timer.start()
        try:
            while True:
                seen_at, seen = self.look()
                want = self.database.history[-1]
                if seen_at == self.database.position and seen == want:
                    return
                assert not self.error, self.error
                if deadline.is_set():
                    assert seen_at == self.database.position, self.board.current
                    assert seen == want, self.board.current
                self.board.wait(lambda _: False, 0.02)
        finally:
            timer.cancel()

    def look(self) -> tuple[Tick | None, dict[TableId, tuple[tuple[str, ...], dict[int, tuple[object, ...]]]]]:
        """Everything in the replica, in one read transaction, with its position."""
        cursor = self.replica.cursor()
        try:
            cursor.execute("BEGIN TRANSACTION READ ONLY")
            position = cursor.execute("SELECT position FROM _reflex.checkpoint").fetchone()
            names = cursor.execute(
                "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal AND schema_name <> '_reflex'"
            ).fetchall()
            seen = {}
            for schema, name in names:
                relation = cursor.execute(f'SELECT * FROM "{schema}"."{name}"')
                columns = tuple(d[0] for d in relation.description)
                rows = relation.fetchall()
                assert len({r[0] for r in rows}) == len(rows), "a key twice"
                seen[TableId(schema, name)] = (columns, {r[0]: tuple(r) for r in rows})
            cursor.execute("ROLLBACK")
        finally:
            cursor.close()
        at = None if position is None or position[0] is None else Tick(int(position[0].split("/")[1]))
        return at, seen

    def check_seen(self) -> None:
        """What a reader sees is a state that the source was in, at the position that the reader sees.

        A definition change is in the replica a little later than its position (with the next row or inspection), so
        tables are compared over the columns that both sides have.
        """
        at, seen = self.look()
        if at is None:
            assert seen == {}
            return
        truth = self.database.history[at.n]
        for table in seen.keys() & truth.keys():
            columns, rows = seen[table]
            true_columns, true_rows = truth[table]
            both = [c for c in columns if c in true_columns]
            mine = {k: tuple(r[columns.index(c)] for c in both) for k, r in rows.items()}
            theirs = {k: tuple(r[true_columns.index(c)] for c in both) for k, r in true_rows.items()}
            assert mine == theirs, f"{table} at {at}"


@contextmanager
def running(
    path: Path, database: FakeDatabase, faults: Faults | None = None, settings: PipelineSettings = FAST
) -> Iterator[Running]:
    replica = DuckDBReplica.open(path / "replica.duckdb", instance="test", memory_limit_bytes=200 << 20, threads=2)
    board = StatusBoard()
    faults = faults or Faults()
    sources: list[FakeSource] = []

    def connect(_: frozenset[tuple[TableId, str]]) -> FakeSource:
        sources.append(FakeSource(database, faults))
        return sources[-1]

    it = Running(database, replica, board, faults, Pipeline(connect, replica, board, settings), sources)

    def run() -> None:
        try:
            it.pipeline.run()
        except BaseException as error:
            it.error.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield it
    finally:
        it.pipeline.stop()
        thread.join(timeout=20)
        assert not thread.is_alive(), "the pipeline did not stop"
        replica.close()


def shop() -> tuple[FakeDatabase, TableId, TableId]:
    database = FakeDatabase()
    a, b = database.create("a"), database.create("b")
    for key in range(20):
        database.commit((a, key, key), (b, key, -key))
    return database, a, b


def test_snapshot_then_stream(tmp_path: Path) -> None:
    database, a, b = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
        for key in range(15, 40):
            database.commit((a, key, 1), (b, key, None), (b, key + 1000, 2))
        database.truncate(b)
        database.commit((b, 1, 1))
        it.wait_equal()
        assert it.board.current.ready
        assert it.board.current.tables[a].state is TableState.LIVE
        it.board.wait(lambda s: it.sources[-1].confirmed == database.position, 5)
        assert it.sources[-1].confirmed == database.position


def test_an_instance_without_tables_says_so_until_there_are_some(tmp_path: Path) -> None:
    database = FakeDatabase()
    with running(tmp_path, database) as it:
        assert it.board.wait(lambda s: s.ready, 10)
        assert it.board.current.checks["tables"].status == "degraded"
        database.commit((database.create("a"), 1, 1))
        it.wait_equal()
        assert it.board.wait(lambda s: s.checks["tables"].status == "ok", 10)


def test_restart_continues_without_a_snapshot(tmp_path: Path) -> None:
    database, a, _ = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
    database.commit((a, 1, 111))
    with running(tmp_path, database, Faults(snapshot=[AssertionError("no snapshot is needed")])) as it:
        it.wait_equal()
        assert it.board.current.counters.swaps == 0


def test_log_gone_means_resync_with_old_data_served(tmp_path: Path) -> None:
    database, a, _ = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
    before = database.history[-1]
    database.commit((a, 1, 111))
    database.retained_from = database.position.n
    gate = Faults(apart=0.2)
    with running(tmp_path, database, gate) as it:
        assert it.board.wait(lambda s: s.counters.resyncs == 1, 10)
        assert it.look()[1] == before
        it.wait_equal()


def test_transient_errors_are_retried_and_counted(tmp_path: Path) -> None:
    database, a, _ = shop()
    faults = Faults(
        stream=[TransientError("cut")] * 3, snapshot=[TransientError("later")] * 2, read=[TransientError("mid")]
    )
    with running(tmp_path, database, faults) as it:
        it.wait_equal()
        database.commit((a, 5, 55))
        it.wait_equal()
        assert it.board.current.counters.retries >= 4
        assert not faults.stream
        assert not faults.read


def test_precondition_before_the_first_snapshot_ends_the_run(tmp_path: Path) -> None:
    database, _, _ = shop()
    with running(tmp_path, database, Faults(snapshot=[PreconditionError("no rights", "GRANT …")])) as it:
        assert it.board.wait(lambda s: s.phase == "stopped", 10)
        assert isinstance(it.error.pop(), PreconditionError)


def test_a_table_that_fails_alone_leaves_the_others_complete(tmp_path: Path) -> None:
    database, a, _ = shop()
    faults = Faults(read=[ResyncRequired("rewritten", [a])])
    with running(tmp_path, database, faults) as it:
        it.wait_equal()


def test_new_table_is_loaded_beside_the_stream(tmp_path: Path) -> None:
    database, a, _ = shop()
    with running(tmp_path, database, Faults()) as it:
        it.wait_equal()
        it.faults.apart = 0.3
        c = database.create("c")
        for key in range(30):
            database.commit((c, key, key), (a, key, key + 7))
        assert it.board.wait(lambda s: c in s.tables, 10)
        for key in range(30):
            database.commit((c, key, None if key % 3 else 5), (a, key, key + 8))
        it.wait_equal()
        assert it.board.current.counters.resyncs == 0


def test_rows_read_later_than_the_snapshot_are_shown_once_the_stream_is_there(tmp_path: Path) -> None:
    """First load and reload from a source without an exact view, under writes all the while."""
    database, a, b = shop()
    done = threading.Event()

    def write() -> None:
        for n in itertools.cycle(range(40)):
            database.commit((a, n, n + len(database.log)), (b, n, None if n % 3 else n), (b, 100 + n, n))
            if done.wait(0.02):
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with running(tmp_path, database, Faults(apart=0.1, inexact=True)) as it:
            assert it.board.wait(lambda s: s.counters.swaps >= 1, 20)
            it.check_seen()
            it.pipeline.reload(None)
            while it.board.current.counters.swaps < 2:
                it.check_seen()
            it.check_seen()
            done.set()
            it.wait_equal()
            assert it.board.current.counters.resyncs == 0
    finally:
        done.set()
        writer.join()


def test_requested_reload_keeps_streaming(tmp_path: Path) -> None:
    database, a, b = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
        it.faults.apart = 0.3
        swaps = it.board.current.counters.swaps
        it.pipeline.reload(a)
        assert it.board.wait(lambda s: s.tables[a].state is TableState.LOADING, 10)
        for key in range(30):
            database.commit((a, key, key + 9), (b, key, 3))
        it.wait_equal()
        assert it.board.wait(lambda s: s.counters.swaps > swaps, 10)
        it.wait_equal()
        assert not it.sources[-1].open_snapshots, "the stream may go on for years"
        with pytest.raises(KeyError):
            it.pipeline.reload(TableId("shop", "nobody"))


@pytest.mark.parametrize("mark", ["blocking", "on request", "resync"])
@pytest.mark.parametrize("leaves", ["dropped", "renamed", "another has its name"])
def test_readers_keep_a_table_until_they_are_where_it_is_gone(tmp_path: Path, mark: str, leaves: str) -> None:
    """A load that begins anew finds a table gone that readers, who are not that far yet, still have."""
    database, a, b = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
        if mark == "resync":
            database.commit((a, 1, 1))
            database.retained_from = database.position.n
        else:
            it.pipeline.stop()
            it.board.wait(lambda s: s.phase == "stopped", 10)
            it.replica.mark_reload([a, b], mark, blocking=mark == "blocking")
    if leaves == "renamed":
        database.commit((database.rename(b, "c"), 1, 2))
    else:
        database.commit((b, 1, 2))
        database.drop(b)
    if leaves == "another has its name":
        database.commit((database.create("B"), 1, 3))
    database.commit((a, 1, 4))
    gate = Faults(apart=0.2)
    with running(tmp_path, database, gate) as it:
        ends = threading.Event()
        wrong: list[str] = []

        def read() -> None:
            while not ends.wait(0.01):
                at, seen = it.look()
                truth = set() if at is None else set(database.history[at.n])
                if b in truth and b not in seen:
                    wrong.append(f"{b} is missing at {at}")

        reader = threading.Thread(target=read)
        reader.start()
        try:
            it.wait_equal()
        finally:
            ends.set()
            reader.join()
        assert not wrong, wrong[:3]


def test_pause_holds_and_resume_continues(tmp_path: Path) -> None:
    database, a, _ = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
        it.pipeline.pause()
        assert it.board.wait(lambda s: s.phase == "paused", 5)
        held = it.look()
        database.commit((a, 1, 4711))
        it.board.wait(lambda s: False, 0.3)
        assert it.look() == held
        it.pipeline.resume()
        it.wait_equal()


def test_a_pause_holds_a_load_too(tmp_path: Path) -> None:
    database, a, _ = shop()
    with running(tmp_path, database, Faults(apart=0.2)) as it:
        assert it.board.wait(lambda s: a in s.tables and s.tables[a].state is TableState.LOADING, 10)
        it.pipeline.pause()
        assert it.board.wait(lambda s: s.phase == "paused", 10)
        assert not it.board.wait(lambda s: s.ready, 0.6), "nothing is swapped in"
        it.pipeline.resume()
        it.wait_equal()


def test_no_lag_is_told_when_nobody_can_say_where_the_log_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "OUTDATED", 0.1)
    database, a, _ = shop()

    def fails() -> NoReturn:
        raise TransientError("too many connections")

    with running(tmp_path, database) as it:
        it.wait_equal()
        assert it.board.wait(lambda s: s.lag_bytes == 0, 10)
        monkeypatch.setattr(it.sources[-1], "status", fails)
        for key in itertools.count():
            database.commit((a, key % 20, key))
            if it.board.wait(lambda s: s.lag_bytes is None, 0.05):
                break
            assert key < 200
        said = it.board.current
        assert said.caught_up_at is not None
        assert said.source_position_at is not None
        assert said.caught_up_at <= said.source_position_at
        it.wait_equal()


def test_a_source_that_gives_rows_is_in_reach(tmp_path: Path) -> None:
    database, a, _ = shop()
    with running(tmp_path, database, Faults(apart=0.5)) as it:
        assert it.board.wait(lambda s: a in s.tables and s.tables[a].state is TableState.LOADING, 10)
        before = it.board.current.source_seen_at
        assert before is not None
        assert it.board.wait(lambda s: not s.ready and (s.source_seen_at or 0) > before, 10)
        it.wait_equal()


@pytest.mark.parametrize("default", [None, 7])
def test_added_column(tmp_path: Path, default: int | None) -> None:
    database, a, b = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
        database.add_column(a, "extra", default=default)
        database.commit((a, 3, 33), (b, 3, 33))
        it.wait_equal()
        assert it.board.current.counters.reloads == (0 if default is None else 1)
        database.add_column(b, "quiet", default=default)
        it.wait_equal()
        database.drop_column(b)
        it.wait_equal()


def test_renamed_and_dropped_tables(tmp_path: Path) -> None:
    database, a, b = shop()
    with running(tmp_path, database) as it:
        it.wait_equal()
        c = database.rename(a, "c")
        database.commit((c, 3, 33))
        it.wait_equal()
        database.drop(b)
        it.wait_equal()
        b2 = database.create("b")
        database.commit((b2, 1, 1))
        it.wait_equal()
        assert it.board.current.counters.resyncs == 0


@pytest.mark.parametrize("first", ["a", "A"])
def test_tables_that_exchange_their_names(tmp_path: Path, first: str) -> None:
    """Also where one had its name in another case, which readers cannot tell from what the other one has now."""
    database, a, b = shop()
    if first != a.name:
        a = database.rename(a, first)
    with running(tmp_path, database) as it:
        it.wait_equal()
        spare = database.rename(a, "spare")
        b = database.rename(b, "a")
        spare = database.rename(spare, "b")
        database.commit((spare, 5, 50), (b, 6, 60))
        it.wait_equal()


def test_rows_of_a_table_that_inspection_has_renamed_first(tmp_path: Path) -> None:
    """They still come under the old name, and count."""
    database, a, b = shop()
    with running(tmp_path, database, Faults(old_names=True)) as it:
        it.wait_equal()
        c = database.rename(a, "c")
        for value in range(50):
            database.commit((c, value, value), (b, 3, value))
            it.board.wait(lambda _: False, 0.01)
        it.wait_equal()
        assert it.board.current.counters.resyncs == it.board.current.counters.reloads == 0


def test_table_that_cannot_be_followed_is_reloaded_on_change(tmp_path: Path) -> None:
    database, a, _ = shop()
    d = database.create("d")
    database.schemas[d] = replace(database.schemas[d], identity=Identity.RELOAD)
    database.commit((d, 1, 1))
    with running(tmp_path, database) as it:
        it.wait_equal()
        for value in range(5):
            database.commit((d, 1, value), (a, 1, value))
            it.wait_equal()


def test_unexpected_errors_do_not_end_the_pipeline(tmp_path: Path) -> None:
    database, _, _ = shop()
    with running(tmp_path, database, Faults(stream=[KeyError("surprise")])) as it:
        it.wait_equal()
        database.commit((database.create("e"), 1, 1))
        it.wait_equal()


@pytest.mark.parametrize("inexact", [False, True], ids=["exact views", "inexact views"])
@pytest.mark.parametrize("seed", range(4))
def test_readers_see_one_committed_position_whatever_happens(tmp_path: Path, seed: int, inexact: bool) -> None:
    """Random transactions, definition changes, faults, reload requests and restarts, with readers watching."""
    dice = random.Random(seed)
    database, _, _ = shop()
    faults = Faults(inexact=inexact)
    for _ in range(3):
        with running(tmp_path, database, faults) as it:
            watching = threading.Event()
            wrong: list[BaseException] = []

            def watch(it: Running = it, watching: threading.Event = watching, wrong: list = wrong) -> None:
                while not watching.is_set():
                    try:
                        it.check_seen()
                    except BaseException as error:
                        wrong.append(error)
                        return

            reader = threading.Thread(target=watch)
            reader.start()
            for step in range(60):
                mischief(dice, it, step)
                it.board.wait(lambda s: False, dice.choice([0, 0, 0.01, 0.05]))
            faults.stream.clear()
            faults.snapshot.clear()
            faults.read.clear()
            faults.apart = 0.0
            it.wait_equal()
            watching.set()
            reader.join()
            assert not wrong, wrong


def mischief(dice: random.Random, it: Running, step: int) -> None:
    """One random thing that happens at the source or to the engine."""
    database = it.database
    tables = sorted(database.schemas)
    table = dice.choice(tables)
    kind = dice.random()
    if kind < 0.70:
        wanted = [
            (dice.choice(tables), dice.randrange(30), dice.choice([None, dice.randrange(1000)]))
            for _ in range(dice.choice([1, 2, 3, 15]))
        ]
        database.commit(*wanted)
    elif kind < 0.74:
        database.truncate(table)
    elif kind < 0.79:
        database.add_column(table, f"c{database.next_oid}", default=dice.choice([None, 5]))
    elif kind < 0.82:
        database.drop_column(table)
    elif kind < 0.85 and len(tables) < 5:
        database.create(f"t{len(database.log)}")
    elif kind < 0.87 and len(tables) > 2:
        database.drop(table)
    elif kind < 0.89:
        database.rename(table, f"r{len(database.log)}")
    elif kind < 0.93:
        it.pipeline.reload(None)
        it.faults.apart = dice.choice([0.0, 0.02])
    elif kind < 0.96:
        it.faults.stream.append(dice.choice([TransientError("cut"), ResyncRequired("lost"), RuntimeError("odd")]))
    elif kind < 0.98:
        it.faults.snapshot.append(TransientError("no snapshot now"))
    else:
        it.faults.read.append(dice.choice([TransientError("cut"), ResyncRequired("rewritten", [table])]))
