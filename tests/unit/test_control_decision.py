"""The reconciler's decision: from every situation, however it came about, the wish is reached."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.control import decision
from engine.control.decision import Act, Health, Notes, Step, delay, failed_step, next_step
from engine.control.launchers.launcher import Ending, Observation, Presence
from engine.control.records import Database, DesiredState, HealthStatus, Status, SyncMode

NOW = 1_700_000_000.0
WANTED, OTHER = "wanted", "other"
OK = Health(HealthStatus.OK, ready=True)
LOADING = Health(HealthStatus.DEGRADED, ready=False)
RUN, PAUSE, TERMINATE = DesiredState.RUNNING, DesiredState.PAUSED, DesiredState.TERMINATED


def a_database(desired: DesiredState | None, status: Status = Status.REGISTERED, **fields: Any) -> Database:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    return Database(
        id=uuid4(),
        account_id=uuid4(),
        connection_id=uuid4(),
        name="live",
        mysql_db="shop",
        sync_mode=SyncMode.LOGICAL,
        sync_interval=30,
        instance_size="nano",
        log_level="info",
        region="local",
        created_at=moment,
        updated_at=moment,
        desired_state=desired,
        status=status,
        **fields,
    )


def step(database: Database, seen: Observation, health: Health | None = None, now: float = NOW) -> Step:
    return next_step(database, seen, health, WANTED, now)


def written(database: Database, done: Step) -> Database:
    return replace(
        database,
        status=done.status,
        last_error=done.last_error,
        endpoint_url=done.endpoint,
        health_status=done.health,
        runtime=done.notes.to_json(),
    )


def running(revision: str = WANTED) -> Observation:
    return Observation(Presence.RUNNING, revision, "http://127.0.0.1:1")


def idle(code: int | None = None, message: str = "", *, asked: bool = False) -> Observation:
    return Observation(Presence.IDLE, WANTED, ended=None if asked else Ending(code, message))


ABSENT = Observation(Presence.ABSENT)


class TestRunning:
    def test_what_was_never_wanted_is_left_alone(self) -> None:
        done = step(a_database(None), ABSENT)
        assert (done.act, done.status) == (Act.NOTHING, Status.REGISTERED)

    def test_a_provisioned_instance_is_launched_and_running_once_it_serves_queries(self) -> None:
        database = a_database(RUN)
        done = step(database, ABSENT)
        assert (done.act, done.status) == (Act.LAUNCH, Status.DEPLOYING)
        database = written(database, done)
        done = step(database, running())
        assert (done.act, done.status, done.health) == (Act.NOTHING, Status.DEPLOYING, None)
        database = written(database, done)
        done = step(database, running(), LOADING)
        assert (done.status, done.health) == (Status.DEPLOYING, HealthStatus.DEGRADED)
        done = step(written(database, done), running(), OK)
        assert (done.act, done.status, done.health) == (Act.NOTHING, Status.RUNNING, HealthStatus.OK)
        assert done.endpoint == "http://127.0.0.1:1"

    def test_a_changed_revision_replaces_a_running_process(self) -> None:
        done = step(a_database(RUN, Status.RUNNING), running(OTHER), OK)
        assert (done.act, done.status, done.endpoint) == (Act.RESIZE, Status.DEPLOYING, None)

    def test_an_ended_process_is_started_again_at_once_and_then_ever_later(self) -> None:
        database, now, pauses = a_database(RUN, Status.RUNNING), NOW, []
        for _ in range(12):
            done = step(database, idle(-9), now=now)
            assert done.act is Act.LAUNCH
            database = written(database, done)
            assert step(database, idle(-9), now=done.notes.retry_at - 0.01).act is Act.NOTHING
            pauses.append(done.notes.retry_at - now)
            now = done.notes.retry_at
        assert pauses == sorted(pauses)
        assert pauses[0] <= 2
        assert pauses[-1] == decision.LONGEST_PAUSE
        assert database.status is Status.FAILED
        assert database.last_error == "the process was killed by signal 9"

    def test_a_start_that_came_to_something_counts_no_more(self) -> None:
        database = a_database(RUN, Status.RUNNING, runtime=Notes(attempts=4, retry_at=NOW + 99).to_json())
        database = written(database, step(database, running(), OK))
        assert Notes.read(database.runtime).attempts == 4
        done = step(database, running(), OK, NOW + decision.SETTLED_AFTER)
        assert done.notes.attempts == 0
        assert step(written(database, done), idle(1), now=NOW + 31).act is Act.LAUNCH

    @pytest.mark.parametrize("code", [2, 3])
    def test_what_an_operator_has_to_mend_is_failed_at_once_says_so_and_is_tried_again(self, code: int) -> None:
        database = written(a_database(RUN), step(a_database(RUN), ABSENT))
        done = step(database, idle(code, "wal_level must be logical"))
        assert (done.act, done.status) == (Act.NOTHING, Status.FAILED)
        assert done.last_error == f"wal_level must be logical (ended with exit code {code})"
        later = step(written(database, done), idle(code, "x"), now=NOW + 3600)
        assert (later.act, later.status) == (Act.LAUNCH, Status.FAILED)
        mended = step(written(database, later), running(), OK, NOW + 3601)
        assert (mended.status, mended.last_error) == (Status.RUNNING, None)

    def test_asking_again_tries_again_at_once(self) -> None:
        failed = a_database(RUN, Status.FAILED, runtime={})
        done = step(failed, idle(3, "x"))
        assert (done.act, done.status) == (Act.LAUNCH, Status.DEPLOYING)

    def test_a_clock_that_is_set_back_delays_nothing_by_more_than_the_longest_pause(self) -> None:
        ahead = NOW + 86_400
        database = a_database(RUN, Status.RUNNING, runtime=Notes(attempts=3, retry_at=ahead).to_json())
        done = step(database, idle(1))
        assert done.act is Act.NOTHING
        assert step(written(database, done), idle(1), now=NOW + decision.LONGEST_PAUSE).act is Act.LAUNCH
        silent = a_database(RUN, Status.RUNNING, runtime=Notes(silent_since=ahead).to_json())
        done = step(silent, running())
        assert step(written(silent, done), running(), now=NOW + decision.HUNG_AFTER + 1).act is Act.STOP

    def test_silence_is_unreachable_and_in_the_end_a_reason_to_start_again(self) -> None:
        database = a_database(RUN, Status.RUNNING)
        done = step(database, running())
        assert (done.act, done.status, done.health) == (Act.NOTHING, Status.RUNNING, HealthStatus.UNREACHABLE)
        database = written(database, done)
        assert step(database, running(), now=NOW + decision.HUNG_AFTER - 1).act is Act.NOTHING
        done = step(database, running(), now=NOW + decision.HUNG_AFTER + 1)
        assert (done.act, done.status) == (Act.STOP, Status.DEPLOYING)
        healing = replace(running(), self_healing=True)
        assert step(database, healing, now=NOW + decision.HUNG_AFTER + 1).act is Act.NOTHING

    def test_what_an_instance_says_is_wrong_is_its_last_error_while_it_is_not_well(self) -> None:
        database = a_database(RUN, Status.RUNNING)
        ill = Health(HealthStatus.UNREACHABLE, ready=True, error="the source refuses connections")
        done = step(database, running(), ill)
        assert (done.status, done.health, done.last_error) == (
            Status.RUNNING,
            HealthStatus.UNREACHABLE,
            "the source refuses connections",
        )
        assert step(written(database, done), running(), replace(ill, status=HealthStatus.OK)).last_error is None


class TestPaused:
    def test_pausing_ends_the_process_and_keeps_its_place(self) -> None:
        database = a_database(PAUSE, Status.RUNNING)
        done = step(database, running(), OK)
        assert (done.act, done.status, done.endpoint) == (Act.STOP, Status.PAUSING, None)
        done = step(written(database, done), Observation(Presence.STOPPING, WANTED))
        assert (done.act, done.status) == (Act.NOTHING, Status.PAUSING)
        done = step(written(database, done), idle(asked=True))
        assert (done.act, done.status, done.health) == (Act.NOTHING, Status.PAUSED, None)

    def test_resuming_says_so(self) -> None:
        database = a_database(RUN, Status.PAUSED)
        done = step(database, idle(asked=True))
        assert (done.act, done.status) == (Act.LAUNCH, Status.RESUMING)
        done = step(written(database, done), running(), LOADING)
        assert done.status is Status.RESUMING
        assert step(written(database, done), running(), OK).status is Status.RUNNING

    def test_a_crashed_instance_is_not_mended_by_the_platform_while_paused(self) -> None:
        done = step(a_database(PAUSE, Status.FAILED), idle(1))
        assert (done.act, done.status) == (Act.STOP, Status.PAUSED)


class TestTerminated:
    def test_an_instance_that_never_ran_is_simply_gone(self) -> None:
        done = step(a_database(TERMINATE), ABSENT)
        assert (done.act, done.status) == (Act.REMOVE, Status.TERMINATED)

    def test_the_source_is_cleared_before_anything_is_removed(self) -> None:
        database = a_database(TERMINATE, Status.RUNNING)
        acts = []
        for seen in (
            running(),
            Observation(Presence.STOPPING, WANTED),
            idle(asked=True),
            Observation(Presence.CLEARING, WANTED),
            Observation(Presence.IDLE, WANTED, cleared=Ending(0)),
            ABSENT,
        ):
            done = step(database, seen)
            database = written(database, done)
            acts.append(done.act)
        assert acts == [Act.STOP, Act.NOTHING, Act.CLEAR, Act.NOTHING, Act.REMOVE, Act.REMOVE]
        assert (database.status, database.last_error) == (Status.TERMINATED, None)

    def test_a_source_that_cannot_be_cleared_is_given_up_in_the_end_and_said_so(self) -> None:
        database, now = a_database(TERMINATE, Status.PAUSED), NOW
        seen, cleared = idle(asked=True), 0
        for _ in range(50):
            done = step(database, seen, now=now)
            database, now = written(database, done), now + 400
            if done.act is Act.CLEAR:
                cleared += 1
                seen = Observation(Presence.IDLE, WANTED, cleared=Ending(1, "the server does not answer"))
            elif done.act is Act.REMOVE:
                break
        assert cleared == decision.CLEARS
        database = written(database, step(database, ABSENT, now=now))
        assert database.status is Status.TERMINATED
        assert "dropped by hand" in (database.last_error or "")
        assert "the server does not answer" in (database.last_error or "")

    def test_a_teardown_that_hangs_is_ended(self) -> None:
        database = a_database(TERMINATE, Status.TERMINATING, runtime=Notes(clears=1, retry_at=NOW).to_json())
        clearing = Observation(Presence.CLEARING, WANTED)
        assert step(database, clearing, now=NOW + 10).act is Act.NOTHING
        assert step(database, clearing, now=NOW + decision.CLEAR_WITHIN + 1).act is Act.STOP


class World:
    """A platform in a few lines: what acts do to what is seen, at once or one pass later."""

    def __init__(self, presence: Presence, revision: str, ended: Ending | None) -> None:
        self.presence, self.revision = presence, revision
        self.ended = ended
        self.cleared: Ending | None = None
        self.alive = 0

    def seen(self) -> Observation:
        self.settle()
        end = self.ended if self.presence is Presence.IDLE else None
        endpoint = "http://127.0.0.1:1" if self.presence is Presence.RUNNING else None
        return Observation(self.presence, self.revision, endpoint, end, self.cleared)

    def settle(self) -> None:
        if self.presence is Presence.STOPPING:
            self.presence = Presence.IDLE
        elif self.presence is Presence.CLEARING:
            self.presence, self.cleared = Presence.IDLE, Ending(0)

    def act(self, act: Act) -> None:
        match act:
            case Act.LAUNCH:
                assert self.presence in (Presence.IDLE, Presence.ABSENT)
                self.presence, self.revision, self.ended, self.cleared = Presence.RUNNING, WANTED, None, None
            case Act.STOP:
                self.presence = Presence.STOPPING if self.presence is Presence.RUNNING else self.presence
                self.ended = None
            case Act.RESIZE:
                assert self.presence is Presence.RUNNING
                self.presence, self.ended = Presence.STOPPING, None
            case Act.CLEAR:
                assert self.presence is Presence.IDLE
                self.presence = Presence.CLEARING
            case Act.REMOVE:
                assert self.presence in (Presence.IDLE, Presence.ABSENT)
                self.presence = Presence.ABSENT


GOALS = {RUN: Status.RUNNING, PAUSE: Status.PAUSED, TERMINATE: Status.TERMINATED}


class TestConvergence:
    @pytest.mark.parametrize("desired", list(GOALS))
    def test_from_every_status_and_every_presence(self, desired: DesiredState) -> None:
        ends: tuple[Ending | None, ...] = (None, Ending(0), Ending(1, "x"), Ending(2), Ending(3), Ending(-9))
        for status, presence, ended, revision in itertools.product(Status, Presence, ends, (WANTED, OTHER)):
            if presence is Presence.CLEARING and desired is not TERMINATE:
                continue
            database, world = a_database(desired, status), World(presence, revision, ended)
            self.converge(database, world)

    @settings(max_examples=150)
    @given(
        st.sampled_from(list(GOALS)),
        st.lists(
            st.tuples(st.sampled_from(list(GOALS)), st.booleans(), st.booleans(), st.integers(0, 600)), max_size=12
        ),
    )
    def test_through_kills_crashes_and_changes_of_mind(
        self, goal: DesiredState, course: list[tuple[DesiredState, bool, bool, int]]
    ) -> None:
        """A kill between an act and its record loses the record; a crash ends the process unasked."""
        database, world, now = a_database(RUN), World(Presence.ABSENT, "", None), NOW
        for desired, killed, crashed, pause in course:
            if database.desired_state is not TERMINATE:
                database = replace(database, desired_state=desired)
            done = next_step(database, world.seen(), OK, WANTED, now)
            world.act(done.act)
            if not killed:
                database = written(database, done)
            if crashed and world.presence is Presence.RUNNING:
                world.presence, world.ended = Presence.IDLE, Ending(1)
            now += pause
        final = TERMINATE if database.desired_state is TERMINATE else goal
        self.converge(replace(database, desired_state=final), world, now)

    @staticmethod
    def converge(database: Database, world: World, now: float = NOW) -> None:
        assert database.desired_state is not None
        for _ in range(30):
            seen = world.seen()
            done = next_step(database, seen, OK if seen.presence is Presence.RUNNING else None, WANTED, now)
            world.act(done.act)
            database, now = written(database, done), now + 60
        assert database.desired_state is not None
        assert database.status is GOALS[database.desired_state], (database.desired_state, seen)
        last = next_step(database, world.seen(), OK, WANTED, now)
        assert last.act in (Act.NOTHING, Act.REMOVE), "it comes to rest"


class TestFailures:
    def test_what_passes_is_tried_again_and_what_does_not_is_failed(self) -> None:
        deploying = a_database(RUN, Status.DEPLOYING)
        assert failed_step(deploying, "x", Notes(), NOW, for_operator=False).status is Status.DEPLOYING
        done = failed_step(deploying, "no such cluster", Notes(), NOW, for_operator=True)
        assert (done.status, done.last_error) == (Status.FAILED, "no such cluster")
        assert done.notes.retry_at > NOW
        terminating = a_database(TERMINATE, Status.TERMINATING)
        assert failed_step(terminating, "x", Notes(), NOW, for_operator=True).status is Status.TERMINATING

    def test_pauses_grow_and_are_bounded(self) -> None:
        pauses = [delay(n) for n in range(100)]
        assert pauses == sorted(pauses)
        assert max(pauses) == decision.LONGEST_PAUSE

    def test_notes_survive_their_json(self) -> None:
        notes = Notes(attempts=3, clears=1, retry_at=5.5, answering_since=1.0)
        assert Notes.read(notes.to_json()) == notes
        assert Notes.read({"attempts": 2, "of_another_version": 1}) == Notes(attempts=2)
        assert Notes().to_json() == {}
