"""What can be asked of an instance, when, and what it makes of its record.

An action writes a wish; the reconciler acts on it. Asking for what is already wished changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from engine.control.failures import Conflict
from engine.control.records import Database, DesiredState, Status

_ENDED: Final = frozenset({Status.TERMINATING, Status.TERMINATED})


def ends(database: Database) -> bool:
    """Whether the instance is terminated, or is on its way."""
    return database.desired_state is DesiredState.TERMINATED or database.status in _ENDED


def provision(database: Database) -> Database:
    """Have a registered (or failed, or stopped) instance run."""
    _refuse_ended(database)
    if database.desired_state is DesiredState.PAUSED:
        raise Conflict("instance_paused", "the instance is paused: resume it")
    return replace(database, desired_state=DesiredState.RUNNING)


def pause(database: Database) -> Database:
    """End the process; the replica stays where the platform can keep it."""
    _refuse_idle(database)
    return replace(database, desired_state=DesiredState.PAUSED)


def resume(database: Database) -> Database:
    """Have a paused instance run again."""
    _refuse_idle(database)
    return replace(database, desired_state=DesiredState.RUNNING)


def terminate(database: Database) -> Database:
    """End the instance for good."""
    return replace(database, desired_state=DesiredState.TERMINATED)


def pause_replication(database: Database) -> Database:
    """Serve what there is, and follow the source no further; also an instance that is paused or starts."""
    _refuse_idle(database)
    return replace(database, replication_paused=True)


def resume_replication(database: Database) -> Database:
    """Follow the source again."""
    _refuse_idle(database)
    return replace(database, replication_paused=False)


def reload(database: Database) -> Database:
    """Load everything, or one table, anew: only while it runs, for nothing remembers the wish."""
    _refuse_idle(database)
    if database.status is not Status.RUNNING or database.endpoint_url is None:
        raise Conflict("instance_not_running", f"the instance is {database.status}: it reloads only while it runs")
    return database


ACTIONS: Final[dict[str, Callable[[Database], Database]]] = {
    "provision": provision,
    "pause": pause,
    "resume": resume,
    "pause-replication": pause_replication,
    "resume-replication": resume_replication,
    "reload": reload,
    "terminate": terminate,
}


def available(database: Database) -> list[str]:
    """The actions that would do something now, and ``delete`` where that is possible."""
    names = []
    for name, action in ACTIONS.items():
        try:
            changed = action(database) != database
        except Conflict:
            continue
        # A failed instance is tried again at once when it is provisioned, though that is what is wanted already.
        if changed or name == "reload" or (name == "provision" and database.status is Status.FAILED):
            names.append(name)
    if database.status is Status.TERMINATED or (
        database.status is Status.REGISTERED and database.desired_state in (None, DesiredState.TERMINATED)
    ):
        names.append("delete")
    return names


def _refuse_ended(database: Database) -> None:
    if ends(database):
        raise Conflict("instance_terminated", "the instance is terminated, or is about to be: create another one")


def _refuse_idle(database: Database) -> None:
    _refuse_ended(database)
    if database.desired_state is None:
        raise Conflict("instance_not_provisioned", "the instance was never provisioned: do that first")
