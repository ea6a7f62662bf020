"""What the reconciler does next about one instance. Pure: what is wanted, what is seen, and the time give one step.

Nothing depends on what an earlier pass did, beyond the notes that are kept in the record: a pass that was cut short is
made good by the next one. A status is what is seen, not what was done: ``running`` once queries are served.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from engine.control.launchers.launcher import Ending, Observation, Presence
from engine.control.records import Database, DesiredState, HealthStatus, Status

GAVE_UP_AFTER = 5
"""Starts in a row that came to nothing, after which an instance is called failed. It is still tried again."""
CLEARS = 5
"""Attempts to drop what the instance made at the source, before it is left there, and said so."""
LONGEST_PAUSE = 300.0
SETTLED_AFTER = 30.0
"""Seconds that a process has answered, after which its start counts as one that came to something."""
HUNG_AFTER = 120.0
"""Seconds without an answer, after which a process is ended and started again."""
CLEAR_WITHIN = 180.0
_OPERATORS = (2, 3)
"""Exit codes that ask for an operator: configuration, precondition of the source."""
_BEFORE_RESUMING = (Status.PAUSED, Status.PAUSING, Status.RESUMING, Status.STOPPED)


class Act(enum.StrEnum):
    """The calls of a launcher; NOTHING is to wait and see."""

    NOTHING = "nothing"
    LAUNCH = "launch"
    RESIZE = "resize"
    STOP = "stop"
    CLEAR = "clear"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Health:
    """What a running instance says of itself. `error` is its last error, `paused` whether replication is."""

    status: HealthStatus
    ready: bool
    paused: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Notes:
    """What the reconciler remembers of an instance (`Database.runtime`). Times are epoch seconds."""

    attempts: int = 0
    """Starts in a row that came to nothing yet."""
    clears: int = 0
    retry_at: float = 0.0
    """Nothing is started before."""
    answering_since: float | None = None
    silent_since: float | None = None

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Notes:
        """The notes of a record. What is not known (of another version) is left out."""
        return cls(**{field.name: raw[field.name] for field in fields(cls) if field.name in raw})

    def at(self, now: float) -> Notes:
        """The notes as they can be at this time: of a clock that was set back, nothing waits for its old hours."""
        return replace(
            self,
            retry_at=min(self.retry_at, now + LONGEST_PAUSE),
            answering_since=None if self.answering_since is None else min(self.answering_since, now),
            silent_since=None if self.silent_since is None else min(self.silent_since, now),
        )

    def to_json(self) -> dict[str, Any]:
        """As they are kept: without what has its default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Notes(), name)}


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, and what to write about the instance once it is done."""

    act: Act
    status: Status
    notes: Notes
    last_error: str | None = None
    endpoint: str | None = None
    health: HealthStatus | None = None


def next_step(database: Database, seen: Observation, health: Health | None, revision: str, now: float) -> Step:
    """The next step. `health` is None when the instance did not answer; `revision` is the one that is wanted.

    An instance of which nothing was ever wanted is left alone.
    """
    step = _STEPS[database.desired_state]
    return step(_Case(database, seen, health, revision, now, Notes.read(database.runtime).at(now)))


def delay(attempts: int, *, least: float = 1.0) -> float:
    """Seconds until the next start, after so many that came to nothing: doubling, bounded."""
    return min(max(least, 2.0 ** min(attempts, 16)), LONGEST_PAUSE)


def failed_step(database: Database, error: str, notes: Notes, now: float, *, for_operator: bool) -> Step:
    """What to write when a step could not be done. `for_operator`: it does not pass by itself."""
    attempts = notes.attempts + 1
    gave_up = for_operator or attempts >= GAVE_UP_AFTER
    status = database.status
    if gave_up and database.desired_state is DesiredState.RUNNING and status is not Status.RUNNING:
        status = Status.FAILED
    notes = replace(notes, attempts=attempts, retry_at=now + delay(attempts))
    return Step(Act.NOTHING, status, notes, error, database.endpoint_url, database.health_status)


@dataclass(frozen=True, slots=True)
class _Case:
    database: Database
    seen: Observation
    health: Health | None
    revision: str
    now: float
    notes: Notes

    def step(self, act: Act, status: Status, notes: Notes | None = None, error: str | None = None) -> Step:
        return Step(act, status, self.notes if notes is None else notes, error)


def _leave(case: _Case) -> Step:
    database = case.database
    return case.step(Act.NOTHING, database.status, error=database.last_error)


def _run(case: _Case) -> Step:
    match case.seen.presence:
        case Presence.RUNNING if case.seen.revision != case.revision:
            return case.step(Act.RESIZE, Status.DEPLOYING, Notes())
        case Presence.RUNNING:
            return _watch(case)
        case Presence.STOPPING | Presence.CLEARING:
            return case.step(Act.NOTHING, _starting(case.database.status), error=case.database.last_error)
        case Presence.ABSENT | Presence.IDLE:
            return _start(case)


def _start(case: _Case) -> Step:
    """Start it, or wait until it is time to try again."""
    notes, ended = case.notes, case.seen.ended
    error = case.database.last_error if ended is None else _said(ended)
    hopeless = ended is not None and ended.code in _OPERATORS and notes.attempts > 0
    failed = hopeless or notes.attempts >= GAVE_UP_AFTER
    status = Status.FAILED if failed else _starting(case.database.status, afresh=notes.attempts == 0)
    if case.now < notes.retry_at:
        return case.step(Act.NOTHING, status, error=error)
    attempts = notes.attempts + 1
    retry_at = case.now + delay(attempts, least=10.0 if hopeless else 1.0)
    return case.step(Act.LAUNCH, status, Notes(attempts=attempts, retry_at=retry_at), error)


def _watch(case: _Case) -> Step:
    """It runs, and as it should: say how it is."""
    database, notes, now = case.database, case.notes, case.now
    if case.health is None:
        since = notes.silent_since or now
        notes = replace(notes, silent_since=since, answering_since=None)
        if now - since > HUNG_AFTER and not case.seen.self_healing:
            error = f"the instance did not answer for {HUNG_AFTER:.0f} s and is started again"
            return case.step(Act.STOP, Status.DEPLOYING, replace(notes, silent_since=None), error)
        health = HealthStatus.UNREACHABLE if database.status is Status.RUNNING else None
        # A platform that heals by itself tells a start that came to nothing by `ended`: here it is under way.
        failed = database.status is Status.FAILED and not case.seen.self_healing
        status = Status.FAILED if failed else _starting(database.status, running=True)
        kept = None if database.status is Status.FAILED and not failed else database.last_error
        return Step(Act.NOTHING, status, notes, kept, case.seen.endpoint, health)
    word = case.health.status
    said = None if word is HealthStatus.OK else case.health.error
    since = notes.answering_since or now
    settled = now - since >= SETTLED_AFTER
    notes = Notes(answering_since=since) if settled else replace(notes, answering_since=since, silent_since=None)
    if case.health.ready:
        return Step(Act.NOTHING, Status.RUNNING, notes, said, case.seen.endpoint, word)
    status = database.status
    if status is not Status.FAILED or settled:
        status = _starting(status, running=True)
    kept = database.last_error if status is Status.FAILED else said
    return Step(Act.NOTHING, status, notes, kept, case.seen.endpoint, word)


def _pause(case: _Case) -> Step:
    match case.seen.presence:
        case Presence.RUNNING:
            return case.step(Act.STOP, Status.PAUSING, Notes())
        case Presence.STOPPING | Presence.CLEARING:
            return case.step(Act.NOTHING, Status.PAUSING, Notes())
        case Presence.ABSENT | Presence.IDLE:
            # An end that nobody asked for is now what is wanted: on some platforms it would be mended otherwise.
            return case.step(Act.NOTHING if case.seen.ended is None else Act.STOP, Status.PAUSED, Notes())


def _terminate(case: _Case) -> Step:
    seen, notes, now = case.seen, case.notes, case.now
    if case.database.status is not Status.TERMINATING:
        notes = Notes()  # waiting times of starts do not matter any more
    kept = case.database.last_error if case.database.status is Status.TERMINATING else None
    match seen.presence:
        case Presence.RUNNING:
            return case.step(Act.STOP, Status.TERMINATING, notes, kept)
        case Presence.STOPPING:
            return case.step(Act.NOTHING, Status.TERMINATING, notes, kept)
        case Presence.CLEARING:
            late = now > notes.retry_at + CLEAR_WITHIN and notes.clears > 0 and not seen.self_healing
            return case.step(Act.STOP if late else Act.NOTHING, Status.TERMINATING, notes, kept)
        case Presence.ABSENT:
            # Once more, for what was made and not yet told of when something was cut short.
            return case.step(Act.REMOVE, Status.TERMINATED, Notes(), kept)
        case Presence.IDLE if seen.ended is not None:
            return case.step(Act.STOP, Status.TERMINATING, notes, kept)
    if seen.cleared is not None and seen.cleared.code == 0:
        return case.step(Act.REMOVE, Status.TERMINATING, notes, None)
    error = kept if seen.cleared is None else f"the source could not be cleared: {_said(seen.cleared)}"
    if seen.cleared is not None and notes.clears >= CLEARS:
        left = f"{error}; what the instance made there (replication slot, publications) has to be dropped by hand"
        return case.step(Act.REMOVE, Status.TERMINATING, notes, left)
    if now < notes.retry_at:
        return case.step(Act.NOTHING, Status.TERMINATING, notes, error)
    clears = notes.clears + 1
    return case.step(Act.CLEAR, Status.TERMINATING, Notes(clears=clears, retry_at=now + delay(clears)), error)


_STEPS: dict[DesiredState | None, Callable[[_Case], Step]] = {
    None: _leave,
    DesiredState.RUNNING: _run,
    DesiredState.PAUSED: _pause,
    DesiredState.TERMINATED: _terminate,
}


def _starting(status: Status, *, afresh: bool = False, running: bool = False) -> Status:
    """What an instance that is to run and serves nothing (yet) is called. `running`: its process is there."""
    if running and status is Status.RUNNING:
        return status
    if status in _BEFORE_RESUMING:
        return Status.RESUMING
    return Status.FAILED if status is Status.FAILED and not afresh and not running else Status.DEPLOYING


def _said(ending: Ending) -> str:
    """An ending in one sentence."""
    code = ending.code
    how = "ended" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"{ending.message or 'the process'} ({how})" if ending.message else f"the process {how}"
