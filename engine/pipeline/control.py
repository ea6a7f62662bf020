"""How a session hears from the pipeline around it, and how it ends without an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.schema import TableId


class Stopped(Exception):
    """The instance is stopping. What is complete stays; the next start continues from there."""


class Replan(Exception):
    """This session is over, without an error: its plan no longer fits."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a session asks of the pipeline, from its own threads."""

    stopping: Callable[[], bool]
    wait_while_paused: Callable[[], None]
    """Returns when replication is not paused (any more), or the instance is stopping."""
    reload_requests: Callable[[], Sequence[TableId | None]]
    """Takes the reloads asked for since the last call; None stands for every table."""
    advanced: Callable[[], None]
    """Told after each durable step forward: the source works, so back-off starts anew."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a session looks around, in seconds, and how many load workers it uses."""

    status_every: float = 1.0
    inspect_every: float = 10.0
    maintain_every: float = 1.0
    workers: int = 2
