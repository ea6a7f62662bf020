"""The reconciler's loop: schedules, errors of one instance among others, replication, waking and ending."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from engine.control.decision import Health
from engine.control.launchers.launcher import Observation, Presence, Spec
from engine.control.reconciler import Reconciler
from engine.control.records import (
    Backend,
    Connection,
    Database,
    DesiredState,
    HealthStatus,
    PauseSchedule,
    Status,
    SyncMode,
)
from engine.control.state import Store
from engine.control.watch import Address
from engine.errors import EngineError, TransientError
from engine.source import Secret
from tests.support.waiting import wait_until

RUN, PAUSE, TERMINATE = DesiredState.RUNNING, DesiredState.PAUSED, DesiredState.TERMINATED
MONDAY = datetime(2024, 1, 1, 12, tzinfo=UTC)


class Platform:
    """A launcher that keeps what it is told, and instances that are well."""

    ends_instances = True

    def __init__(self) -> None:
        self.running: dict[str, str] = {}
        self.stopped: set[str] = set()
        self.broken: dict[str, Exception] = {}
        self.blind: EngineError | None = None
        self.paused: dict[str, bool] = {}
        self.ready = True
        self.closed = False

    def observe(self, ids: Sequence[str]) -> Mapping[str, Observation]:
        if self.blind is not None:
            raise self.blind
        return {id: self._observe(id) for id in ids}

    def _observe(self, id: str) -> Observation:
        if id in self.running:
            return Observation(Presence.RUNNING, self.running[id], f"http://{id}")
        return Observation(Presence.IDLE if id in self.stopped else Presence.ABSENT)

    def launch(self, spec: Spec) -> None:
        if spec.id in self.broken:
            raise self.broken[spec.id]
        self.running[spec.id] = spec.revision

    resize = launch

    def stop(self, id: str) -> None:
        self.running.pop(id, None)
        self.stopped.add(id)

    def clear(self, spec: Spec) -> None:
        self.stopped.discard(spec.id)

    def remove(self, id: str) -> None:
        self.stopped.discard(id)

    def token(self, id: str) -> Secret | None:
        return None

    def close(self) -> None:
        self.closed = True
        self.running.clear()

    # The instances, as the watcher asks them

    def health(self, addresses: Mapping[str, Address]) -> dict[str, Health | None]:
        return {id: Health(HealthStatus.OK, ready=self.ready, paused=self.paused.get(id, False)) for id in addresses}

    def set_replication(self, address: Address, *, paused: bool) -> bool:
        self.paused[address.endpoint.removeprefix("http://")] = paused
        return True


class Watcher:
    def __init__(self, platform: Platform) -> None:
        self.health, self.set_replication = platform.health, platform.set_replication

    def close(self) -> None:
        pass


class World:
    def __init__(self, folder: Path) -> None:
        self.store, self.platform, self.now = Store(folder / "state.sqlite"), Platform(), MONDAY
        self.account = self.store.ensure_account("default").id
        self.swept = 0
        self.restart()

    def restart(self, interval: float = 0.05) -> None:
        self.reconciler = Reconciler(
            self.store,
            self.platform,
            interval=interval,
            watch=Watcher(self.platform),
            sweep=self.sweep,
            clock=lambda: self.now,
        )

    def sweep(self) -> None:
        self.swept += 1

    def passes(self, count: int = 1, **forward: float) -> None:
        for _ in range(count):
            self.now += timedelta(**(forward or {"seconds": 5}))
            self.reconciler.run_once()

    def instance(self, **changes: Any) -> UUID:
        id = uuid4()
        connection = Connection(
            id=id,
            account_id=self.account,
            name=id.hex,
            backend=Backend.POSTGRES,
            host="db.example",
            port=5432,
            available_schemas=("shop",),
            user="reflex",
            secret_ref=f"connections/{id}/1",
            sync_mode=SyncMode.LOGICAL,
            min_sync_interval=30,
            created_at=self.now,
            updated_at=self.now,
        )
        database = Database(
            id=uuid4(),
            account_id=self.account,
            connection_id=id,
            name="live",
            mysql_db="shop",
            sync_mode=SyncMode.LOGICAL,
            sync_interval=30,
            instance_size="nano",
            log_level="info",
            region="local",
            created_at=self.now,
            updated_at=self.now,
            desired_state=RUN,
        )
        self.store.create_connection_with_instance(connection, replace(database, **changes))
        return database.id

    def read(self, id: UUID) -> Database:
        return self.store.instance(id).database


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.store.close()


def test_what_was_never_provisioned_is_left_alone(world: World) -> None:
    id = world.instance(desired_state=None)
    world.passes(3)
    assert world.read(id).status is Status.REGISTERED
    assert world.platform.running == {}


class TestSchedule:
    SCHEDULE = PauseSchedule("20:00", "06:00")

    def test_it_pauses_and_resumes(self, world: World) -> None:
        id = world.instance(pause_schedule=self.SCHEDULE)
        world.passes(2)
        assert world.read(id).status is Status.RUNNING
        world.now = MONDAY.replace(hour=19, minute=59, second=58)
        world.passes(2, seconds=1)
        assert world.read(id).desired_state is PAUSE
        world.passes(2)
        assert world.read(id).status is Status.PAUSED
        world.passes(hours=10)
        world.passes(2)
        assert (world.read(id).desired_state, world.read(id).status) == (RUN, Status.RUNNING)

    def test_what_a_user_wishes_holds_until_the_next_moment(self, world: World) -> None:
        id = world.instance(pause_schedule=self.SCHEDULE)
        world.passes(hours=9)
        assert world.read(id).desired_state is PAUSE
        world.store.wish(id, RUN)
        world.passes(20, minutes=20)
        assert world.read(id).desired_state is RUN
        world.passes(hours=22)
        assert world.read(id).desired_state is PAUSE

    def test_a_moment_that_passed_while_nothing_ran_counts(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.control.state.now", lambda: world.now)
        id = world.instance(pause_schedule=self.SCHEDULE)
        world.passes(2)
        world.restart()
        world.passes(hours=9)
        assert world.read(id).desired_state is PAUSE

    def test_what_is_terminated_is_never_resumed(self, world: World) -> None:
        id = world.instance(pause_schedule=self.SCHEDULE)
        world.passes(2)
        world.store.wish(id, TERMINATE)
        world.passes(4, hours=9)
        assert (world.read(id).desired_state, world.read(id).status) == (TERMINATE, Status.TERMINATED)


class TestErrors:
    @pytest.mark.parametrize("error", [TransientError("the platform is busy"), ValueError("a bug")])
    def test_an_instance_that_fails_delays_no_other(self, world: World, error: Exception) -> None:
        bad, good = world.instance(), world.instance()
        world.platform.broken[str(bad)] = error
        world.passes(2)
        assert world.read(good).status is Status.RUNNING
        assert world.read(bad).status is not Status.RUNNING
        assert "a bug" not in (world.read(bad).last_error or "")
        assert world.read(bad).last_error
        del world.platform.broken[str(bad)]
        world.passes(2)
        assert (world.read(bad).status, world.read(bad).last_error) == (Status.RUNNING, None)

    def test_what_keeps_failing_is_tried_ever_less_often_and_at_once_when_asked_for_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id = world.instance()
        tried: list[datetime] = []

        class Busy(TransientError):
            def __init__(self) -> None:
                tried.append(world.now)
                super().__init__("the platform is busy")

        monkeypatch.setattr(world.platform, "launch", lambda _: raised(Busy()))
        world.passes(400)
        assert 5 < len(tried) < 20
        failed = world.read(id)
        assert (failed.status, failed.last_error) == (Status.FAILED, "the platform is busy")
        before = len(tried)
        world.reconciler.wake(id)
        world.passes()
        assert len(tried) == before + 1

    def test_what_alone_cannot_be_seen_says_so_and_keeps_its_status(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id = world.instance()
        world.passes(3)
        before = world.read(id)
        monkeypatch.setattr(world.platform, "observe", lambda ids: {})
        world.passes()
        after = world.read(id)
        assert after.status is before.status
        assert "cannot be seen" in (after.last_error or "")

    def test_while_nothing_can_be_seen_nothing_is_written(self, world: World) -> None:
        id = world.instance()
        world.passes(2)
        before = world.read(id)
        world.platform.blind = TransientError("no network")
        with pytest.raises(TransientError):
            world.passes()
        assert world.read(id) == before

    def test_an_instance_deleted_in_the_middle_of_a_pass_is_no_error(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        id = world.instance(desired_state=TERMINATE)
        remove = world.platform.remove

        def remove_and_forget(instance: str) -> None:
            remove(instance)
            world.store.delete_database(world.account, id)

        monkeypatch.setattr(world.platform, "remove", remove_and_forget)
        world.passes()
        assert world.store.instances() == []


def raised(error: Exception) -> None:
    raise error


def test_replication_follows_the_wish_also_of_an_instance_that_started_anew(world: World) -> None:
    id = world.instance(replication_paused=True)
    world.passes(2)
    assert world.platform.paused[str(id)]
    world.platform.paused.clear()
    world.passes()
    assert world.platform.paused[str(id)]
    world.store.change_database(world.account, id, lambda old, _: replace(old, replication_paused=False))
    world.passes()
    assert not world.platform.paused[str(id)]


def test_replication_is_not_paused_before_there_is_something_to_serve(world: World) -> None:
    world.platform.ready = False
    id = world.instance(replication_paused=True)
    world.passes(3)
    assert str(id) not in world.platform.paused
    world.platform.ready = True
    world.passes()
    assert world.platform.paused[str(id)]


class TestLoop:
    def test_it_looks_when_woken_and_survives_a_platform_that_is_blind(self, world: World) -> None:
        world.restart(interval=30)
        world.platform.blind = TransientError("no network")
        world.reconciler.start()
        id = world.instance()
        world.platform.blind = None
        world.reconciler.wake()
        wait_until(lambda: world.read(id).status is Status.RUNNING, 10)
        world.reconciler.close()
        assert world.platform.closed
        assert world.swept > 0
        assert not [thread for thread in threading.enumerate() if thread.name == "reconciler"]

    def test_instances_that_end_with_it_are_stopped_and_started_again(self, world: World) -> None:
        id = world.instance()
        world.passes(2)
        world.reconciler.close()
        stopped = world.read(id)
        assert (stopped.status, stopped.endpoint_url, stopped.health_status) == (Status.STOPPED, None, None)
        assert stopped.desired_state is RUN
        world.restart()
        world.passes()
        assert world.read(id).status is Status.RESUMING
        world.passes()
        assert world.read(id).status is Status.RUNNING
