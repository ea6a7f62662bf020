"""Polling over a fake backend: when rounds come, what they read, and that a reader only ever sees whole ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.poll import PollSource, Round, reading
from connectors.poll import source as poll_source
from engine.changes import ChangeBatch, SchemaChange
from engine.errors import ResyncRequired, TransientError
from engine.schema import TableId
from engine.source import Check, Follow, Secret, SourceOptions
from tests.support.fake_reader import Behaviour, FakeReader
from tests.support.fake_source import FakeDatabase
from tests.support.polling import Polled
from tests.support.waiting import wait_until

TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'shop'"
INTERVAL = 0.1
OPTIONS = SourceOptions("h", 1, "u", Secret("p"), "d", poll_interval=INTERVAL)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_source, "REST", 0.02)


class Backend:
    """A fake database with two tables of equal values, and sources that poll it."""

    def __init__(self, rows: int = 10) -> None:
        self.database = FakeDatabase()
        self.behaviour = Behaviour()
        self.sources: list[PollSource] = []
        self.tables = [self.database.create(name) for name in ("left_side", "right_side")]
        self.rows = rows
        self.write(0)

    def write(self, value: int) -> None:
        """One transaction: every row of every table has this value."""
        self.database.commit(*((table, key, value) for table in self.tables for key in range(self.rows)))

    def open(self, _: object = None) -> PollSource:
        self.sources.append(PollSource(FakeReader(self.database, self.behaviour), OPTIONS))
        return self.sources[-1]


@pytest.fixture
def backend() -> Backend:
    return Backend()


class Reader:
    """Reads all tables in one transaction, all the time: the values that it finds must be one."""

    def __init__(self, polled: Polled) -> None:
        self.seen: list[frozenset[int]] = []
        self._polled = polled
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(20)
        wrong = [values for values in self.seen if len(values) > 1]
        assert not wrong, wrong[:5]
        assert self.seen

    def _run(self) -> None:
        cursor = self._polled.replica.cursor()
        while not self._end.wait(0.002):
            cursor.execute("BEGIN")
            names = [name for (name,) in cursor.execute(TABLES).fetchall()]
            values: set[int] = set()
            for name in names:
                values.update(v for (v,) in cursor.execute(f'SELECT DISTINCT v FROM shop."{name}"').fetchall())
            cursor.execute("COMMIT")
            self.seen.append(frozenset(values))
        cursor.close()


def equal(backend: Backend, polled: Polled) -> bool:
    """Whether a reader sees what the source has now."""
    names = polled.query(TABLES)
    if {name for (name,) in names} != {t.name for t in backend.database.schemas}:
        return False
    for table in backend.database.schemas:
        rows = sorted(backend.database.rows[table].values())
        if polled.query(f'SELECT * FROM shop."{table.name}" ORDER BY id') != rows:
            return False
    return True


def wait_equal(backend: Backend, polled: Polled) -> None:
    polled.wait(lambda _: equal(backend, polled), 30)


def test_positions() -> None:
    here = Round.of(17, 1706702400.123456)
    assert str(here) == "poll/17@2024-01-31T12:00:00.123456Z"
    assert Round.parse(str(here)) == here
    assert Round.of(18, 0).covers(here)
    assert not here.covers(Round.of(18, 0))
    assert here.covers(Round.of(17, 5e9))
    for junk in (
        "",
        "poll/1",
        "poll/01@2024-01-31T12:00:00.123456Z",
        "poll/1@2024-13-31T12:00:00.123456Z",
        f"{here}\n",
    ):
        with pytest.raises(ValueError, match=r".+"):
            Round.parse(junk)


def test_intervals_are_jittered(backend: Backend) -> None:
    source = backend.open()
    drawn = [source._interval() for _ in range(500)]
    assert all(0.9 * INTERVAL <= each <= 1.1 * INTERVAL for each in drawn)
    assert max(drawn) - min(drawn) > 0.15 * INTERVAL
    old, new = Round.of(1, time.time() - 1000), Round.of(1, time.time())
    assert all(source._first_pause(old) <= 0.1 * INTERVAL for _ in range(100))
    assert all(0.8 * INTERVAL < source._first_pause(new) <= 1.1 * INTERVAL for _ in range(100))
    # A source whose clock is far ahead of ours is not waited for longer.
    assert source._first_pause(Round.of(1, time.time() + 1e6)) <= 1.1 * INTERVAL


def stream_of(backend: Backend, source: PollSource, after: Round | None = None) -> Iterator[ChangeBatch | SchemaChange]:
    follow = [Follow(t) for t in source.discover() if t.id in backend.tables]
    return source.stream(after or Round.of(1, 0), follow)


def test_a_round_that_takes_long_is_not_followed_at_once(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_source, "REST", 0.2)
    backend.behaviour.on_read = lambda _table, _batch: time.sleep(0.02)
    source = backend.open()
    stream = stream_of(backend, source)
    ended: list[float] = []
    while len(ended) < 3:
        item = next(stream)
        if isinstance(item, ChangeBatch) and item.complete:
            ended.append(time.monotonic())
            backend.write(len(ended))
    source.close()
    began = backend.behaviour.began
    assert len(began) == 3
    assert all(start - end >= 0.19 for end, start in zip(ended, began[1:], strict=False))


def test_every_table_is_emptied_once_and_in_one_transaction(backend: Backend) -> None:
    backend.database.truncate(backend.tables[0])
    backend.behaviour.batch_rows = 1
    source = backend.open()
    batches: list[ChangeBatch] = []
    for item in stream_of(backend, source):
        assert isinstance(item, ChangeBatch)
        batches.append(item)
        if item.complete:
            break
    source.close()
    changes = [c for b in batches for c in b.changes]
    assert {b.position.number for b in batches[:-1]} <= {1}  # type: ignore[attr-defined]
    assert batches[-1].position.number == 2  # type: ignore[attr-defined]
    for table, rows in zip(backend.tables, (0, backend.rows), strict=True):
        mine = [c for c in changes if c.table.id == table]
        assert [c.truncate for c in mine] == [True] + [False] * (len(mine) - 1)
        assert sum(len(c.ops) for c in mine) == rows
    assert batches[-1].commit_time == pytest.approx(time.time(), abs=5)


def test_what_is_unchanged_is_not_read(backend: Backend, tmp_path: Path) -> None:
    left, right = backend.tables
    with Polled.on(tmp_path, backend.open) as polled:
        polled.wait_rounds(2)
        reads = list(backend.behaviour.reads)
        assert sorted(reads) == sorted([left, left, right, right]), "read once, by the snapshot"
        backend.database.commit((left, 1, 77))
        wait_equal(backend, polled)
        polled.wait_rounds(1)
        assert backend.behaviour.reads[len(reads) :] == [left, left]
        tables = polled.board.current.tables
        assert tables[left].last_change is not None
        assert tables[right].last_change is None
        assert tables[right].skipped_at is not None
        assert not polled.board.current.lag_bytes


def test_a_failure_in_the_middle_leaves_the_old_data(backend: Backend, tmp_path: Path) -> None:
    backend.behaviour.batch_rows = 1
    with Polled.on(tmp_path, backend.open) as polled, Reader(polled):
        failing = threading.Event()

        def fail(_: TableId, batch: int) -> None:
            if batch == 3 and failing.is_set():
                raise TransientError("the network is gone")

        backend.behaviour.on_read = fail
        failing.set()
        backend.write(5)
        polled.wait(lambda status: status.last_error)
        error = polled.board.current.last_error
        assert error is not None
        assert error.message == "the network is gone"
        time.sleep(0.2)
        assert polled.query("SELECT DISTINCT v FROM shop.left_side") == [(0,)]
        failing.clear()
        wait_equal(backend, polled)
        polled.wait(lambda status: status.last_error is None)
    assert backend.behaviour.open_views == 0


def test_a_table_altered_under_a_round_is_read_again_without_ado(backend: Backend, tmp_path: Path) -> None:
    with Polled.on(tmp_path, backend.open) as polled:
        struck: list[int] = []

        def strike(table: TableId, _: int) -> None:
            if len(struck) < 2:
                struck.append(1)
                raise ResyncRequired("rewritten", [table])

        backend.behaviour.on_read = strike
        backend.write(3)
        wait_equal(backend, polled)
        assert len(struck) == 2
        assert len(backend.sources) == 1
        assert polled.board.current.counters.reloads == 0


def test_definitions_follow_and_all_tables_stay_at_one_moment(backend: Backend, tmp_path: Path) -> None:
    with Polled.on(tmp_path, backend.open) as polled, Reader(polled) as reader:
        ending = threading.Event()

        def write() -> None:
            value = 0
            while not ending.wait(0.005):
                value += 1
                backend.write(value)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                new = backend.database.create(f"new_{number}")
                with backend.database.changed:
                    backend.tables = [*backend.tables, new]
                polled.wait(lambda status, new=new: new in status.tables and reader.seen)  # type: ignore[misc]
                polled.wait_rounds(1)
                backend.database.add_column(backend.tables[0], f"extra_{number}", default=number)
                polled.wait_rounds(2)
                polled.pipeline.reload(backend.tables[1])
                polled.wait_rounds(2)
        finally:
            ending.set()
            writer.join()
        wait_equal(backend, polled)
        gone = backend.tables.pop()
        backend.database.drop(gone)
        wait_equal(backend, polled)
        backend.database.rename(backend.tables.pop(), "renamed")
        wait_equal(backend, polled)
    assert backend.behaviour.open_views == 0
    assert polled.board.current.counters.resyncs == 0


def test_a_start_with_old_data_goes_on_with_it(backend: Backend, tmp_path: Path) -> None:
    with Polled.on(tmp_path, backend.open) as polled:
        polled.wait_rounds(1)
        last = polled.round
    backend.write(9)
    with Polled.on(tmp_path, backend.open) as polled:
        wait_equal(backend, polled)
        assert polled.round > last
        assert polled.board.current.counters.resyncs == 0


def test_what_another_mode_stored_is_loaded_anew(backend: Backend, tmp_path: Path) -> None:
    from tests.support.fake_source import FakeSource

    with Polled.on(tmp_path, lambda _: FakeSource(backend.database)) as polled:
        polled.wait(lambda status: str(status.position).startswith("tick/"))
    backend.write(4)
    with Polled.on(tmp_path, backend.open) as polled, Reader(polled):
        wait_equal(backend, polled)
        assert polled.board.current.counters.resyncs == 1
        assert polled.round > 1_000_000_000
    with Polled.on(tmp_path, lambda _: FakeSource(backend.database)) as polled:
        backend.write(5)
        wait_equal(backend, polled)


def test_rows_that_nobody_takes_give_the_view_up(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STALLED", 0.2)
    backend.rows = 400
    backend.write(1)
    backend.behaviour.batch_rows = 1
    monkeypatch.setattr(poll_source, "AHEAD", 0)
    source = backend.open()
    stream = stream_of(backend, source)
    next(stream)
    wait_until(lambda: backend.behaviour.open_views == 0, 10)
    with pytest.raises(TransientError, match="paused"):
        list(stream)
    source.close()


def test_a_followed_table_that_may_not_be_read_any_more_stops_the_round(backend: Backend, tmp_path: Path) -> None:
    left, right = backend.tables
    with Polled.on(tmp_path, backend.open) as polled, Reader(polled):
        backend.behaviour.left_out[left] = Check("tables", ok=False, detail="may not", remedy="GRANT it;")
        backend.database.commit(*((right, key, 8) for key in range(backend.rows)))
        polled.wait(lambda status: status.last_error)
        error = polled.board.current.last_error
        assert error is not None
        assert (error.error, error.remedy) == ("precondition", "GRANT it;")
        assert polled.query("SELECT DISTINCT v FROM shop.right_side") == [(0,)]
        backend.behaviour.left_out.clear()
        backend.write(8)
        wait_equal(backend, polled)


@contextmanager
def closed_soon(source: PollSource) -> Iterator[None]:
    timer = threading.Timer(0.1, source.close)
    timer.start()
    yield
    timer.join()


def test_close_ends_a_wait_and_a_round(backend: Backend) -> None:
    source = backend.open()
    with closed_soon(source):
        assert list(stream_of(backend, source, Round.of(1, time.time() + 100)))[:0] == []
    slow = backend.open()

    def wait(_table: TableId, _batch: int) -> None:
        slow._closing.wait(10)

    backend.behaviour.on_read = wait
    with closed_soon(slow):
        list(stream_of(backend, slow))
    assert backend.behaviour.open_views == 0
