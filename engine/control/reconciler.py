"""The reconciler: again and again, it compares what is wanted with what is there, and does one step about each instance.

All that it knows is in the state file and in the outside world, so it may be killed at any moment. One thread; an
instance that fails delays no other one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, assert_never
from uuid import UUID

import structlog

from engine.config.model import TlsSection
from engine.control.decision import Act, Health, Notes, Step, failed_step, next_step
from engine.control.failures import NotFound, SecretMissing
from engine.control.instance_config import instance_spec
from engine.control.launchers.launcher import Launcher, Observation, Presence, Spec
from engine.control.records import DesiredState, Instance, Status
from engine.control.schedules import last_edge
from engine.control.state import Store
from engine.control.watch import Address, Watch
from engine.errors import Action, EngineError, PreconditionError, directive

log = structlog.get_logger(__name__)

SLOWEST = 60.0
"""Seconds between passes, at most, while the platform cannot be asked."""
_LIVING = (Status.RUNNING, Status.DEPLOYING, Status.RESUMING, Status.PAUSING, Status.FAILED)


class Watcher(Protocol):
    """What the reconciler needs of `engine.control.watch.Watch`."""

    def health(self, addresses: Mapping[str, Address]) -> Mapping[str, Health | None]: ...
    def set_replication(self, address: Address, *, paused: bool) -> bool: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Seen:
    instance: Instance
    spec: Spec
    observation: Observation
    address: Address | None
    health: Health | None


class Reconciler:
    """Drives every instance towards its `desired_state`. `start` and `close` are called once; `wake` by anyone.

    `sweep` is called once in a pass, for what has to be tidied up now and then (secrets that nothing uses any more).
    """

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        *,
        interval: float = 5.0,
        tls: TlsSection | None = None,
        watch: Watcher | None = None,
        sweep: Callable[[], object] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store, self._launcher = store, launcher
        self._interval, self._tls, self._clock = interval, tls, clock
        self._sweep = sweep
        self._watch: Watcher = Watch() if watch is None else watch
        self._scheduled: dict[UUID, datetime] = {}
        """Until when each pause schedule has been looked at."""
        self._nudged: set[UUID] = set()
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Reconcile in a thread, every `interval` seconds and when woken."""
        self._thread = threading.Thread(target=self._loop, name="reconciler", daemon=True)
        self._thread.start()

    def wake(self, id: UUID | None = None) -> None:
        """Look at once. `id`: an instance that was asked for anew, and is tried again without waiting."""
        with self._lock:
            if id is not None:
                self._nudged.add(id)
        self._work.set()

    def close(self) -> None:
        """End the loop, and the instances that cannot outlive it; they are started again by the next `start`."""
        self._stopping.set()
        self._work.set()
        if self._thread is not None:
            self._thread.join()
        self._launcher.close()
        if self._launcher.ends_instances:
            for instance in self._store.instances_to_reconcile():
                if instance.database.status in _LIVING:
                    stopped = {"status": Status.STOPPED, "endpoint_url": None, "health_status": None}
                    self._store.record_status(instance.database.id, **stopped)
        self._watch.close()

    def run_once(self) -> None:
        """One pass over every instance that something is wanted of. Raises EngineError when nothing can be seen."""
        with self._lock:
            nudged, self._nudged = self._nudged, set()
        self._apply_schedules()
        instances = self._store.instances_to_reconcile()
        for seen in self._look(instances):
            database = seen.instance.database
            with structlog.contextvars.bound_contextvars(database=str(database.id)):
                try:
                    self._reconcile(seen, afresh=database.id in nudged)
                except NotFound:
                    continue  # deleted meanwhile
                except Exception as error:
                    log.error("reconcile_failed", exc_info=error)
        try:
            self._sweep()
        except EngineError as error:
            log.warning("sweep_failed", message=str(error))

    def _loop(self) -> None:
        pause = self._interval
        while not self._stopping.is_set():
            self._work.clear()
            try:
                self.run_once()
                pause = self._interval
            except Exception as error:
                # The state or the platform: nothing is known of any instance, so nothing is written of them either.
                pause = min(pause * 2, max(SLOWEST, self._interval))
                log.error("reconciler_pass_failed", exc_info=error, again_in=pause)
            self._work.wait(pause)

    def _look(self, instances: list[Instance]) -> list[_Seen]:
        observed = self._launcher.observe([str(instance.database.id) for instance in instances])
        addresses: dict[str, Address] = {}
        for id, observation in observed.items():
            if observation.endpoint is not None:
                address = self._address(id, observation.endpoint)
                if address is not None:
                    addresses[id] = address
        health = self._watch.health(addresses)
        for instance in instances:
            if str(instance.database.id) not in observed:
                self._say_unseen(instance.database.id)
        return [
            _Seen(
                instance,
                instance_spec(instance, self._tls),
                observed[id],
                addresses.get(id),
                health.get(id),
            )
            for instance in instances
            if (id := str(instance.database.id)) in observed
        ]

    def _say_unseen(self, id: UUID) -> None:
        try:
            self._store.record_status(
                id, last_error="what there is of it cannot be seen: the control API's log says why"
            )
        except NotFound:
            return  # deleted meanwhile

    def _address(self, id: str, endpoint: str) -> Address | None:
        try:
            return Address(endpoint, self._launcher.token(id))
        except EngineError as error:
            log.warning("instance_token_unavailable", database=id, message=str(error))
            return None

    def _reconcile(self, seen: _Seen, *, afresh: bool) -> None:
        database, now = seen.instance.database, self._clock().timestamp()
        if afresh:
            database = self._store.record_status(database.id, runtime={}).database
        step = next_step(database, seen.observation, seen.health, seen.spec.revision, now)
        try:
            self._act(step.act, seen.spec)
        except EngineError as error:
            log.warning("step_failed", act=str(step.act), error=error.word, message=str(error))
            lasting = isinstance(error, (PreconditionError, SecretMissing)) or directive(error).action is Action.STOP
            step = failed_step(database, str(error), Notes.read(database.runtime), now, for_operator=lasting)
        except Exception as error:
            # A message that is not the engine's own may hold anything: only the log says what it was.
            log.error("step_failed", act=str(step.act), exc_info=error)
            said = f"{step.act} failed unexpectedly: the control API's log says how"
            step = failed_step(database, said, Notes.read(database.runtime), now, for_operator=False)
        self._record(database.id, step)
        self._follow_replication(seen)

    def _act(self, act: Act, spec: Spec) -> None:
        if act is not Act.NOTHING:
            log.info("step", act=str(act))
        match act:
            case Act.NOTHING:
                return
            case Act.LAUNCH:
                self._launcher.launch(spec)
            case Act.RESIZE:
                self._launcher.resize(spec)
            case Act.STOP:
                self._launcher.stop(spec.id)
            case Act.CLEAR:
                self._launcher.clear(spec)
            case Act.REMOVE:
                self._launcher.remove(spec.id)
            case _:
                assert_never(act)
        # What was begun is seen by looking again; most of it within a second.
        self._soon()

    def _record(self, id: UUID, step: Step) -> None:
        self._store.record_status(
            id,
            status=step.status,
            last_error=step.last_error,
            endpoint_url=step.endpoint,
            health_status=step.health,
            runtime=step.notes.to_json(),
        )

    def _follow_replication(self, seen: _Seen) -> None:
        """Bring the instance's own pause in line with what is wanted; a cap pauses it too, and is left alone."""
        database, health = seen.instance.database, seen.health
        if seen.address is None or health is None or seen.observation.presence is not Presence.RUNNING:
            return
        wanted = database.replication_paused
        # Paused before its first snapshot is in, it would have nothing to serve.
        may = health.ready if wanted else health.status != "cap_exceeded"
        if wanted != health.paused and may:
            self._watch.set_replication(seen.address, paused=wanted)

    def _apply_schedules(self) -> None:
        """Make the wishes of the pause schedules whose time has come, those of a time without control API too."""
        until = self._clock()
        for instance in self._store.instances_to_reconcile():
            database = instance.database
            if database.pause_schedule is None or database.desired_state is DesiredState.TERMINATED:
                self._scheduled.pop(database.id, None)
                continue
            after = self._scheduled.get(database.id, database.updated_at)
            edge = last_edge(database.pause_schedule, after, until)
            if edge is not None:
                log.info("pause_schedule", database=str(database.id), desired=str(edge.desired))
                self._store.wish(database.id, edge.desired, unless=DesiredState.TERMINATED)
            self._scheduled[database.id] = until

    def _soon(self) -> None:
        """Have the next pass within a second rather than an interval."""
        if self._thread is None:
            return
        timer = threading.Timer(min(1.0, self._interval), self._work.set)
        timer.daemon = True
        timer.start()
