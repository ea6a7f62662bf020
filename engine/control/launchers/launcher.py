"""The seam to where instances run. The reconciler decides, a launcher acts and tells what is there.

Contract, for every launcher:

- What it tells comes from the outside world (processes, services), never from memory alone: a control API that was killed
  and started again is told the same.
- Every call may be repeated, and may be the repetition of one that was cut short. None waits for an instance to start or
  to end: that is seen by the next `observe`.
- At most one process of an instance runs at a time, whatever happens: two engines would share a replication slot.
- Raises EngineError (TransientError when trying again may help). No message holds a secret.

Calls come from one thread.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.sizes import Size
from engine.source import Secret

_NO_YAML = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON may hold as it is and YAML may not, or not in the middle of a text. (YAML knows no surrogate pairs either, so
that everything else is left as it is.)"""


class Presence(enum.StrEnum):
    """What there is of an instance where it runs."""

    ABSENT = "absent"
    """Nothing: never launched, or removed."""
    IDLE = "idle"
    """It has a place (replica, service), and no process runs or is about to."""
    RUNNING = "running"
    """A process runs, or the platform is starting one."""
    STOPPING = "stopping"
    """It was told to end, and has not yet."""
    CLEARING = "clearing"
    """What the instance made at the source is being dropped."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended. `code` is its exit code, None when nobody saw it; `message` is the engine's own last word."""

    code: int | None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a launcher sees of one instance at one moment."""

    presence: Presence
    revision: str | None = None
    """The `Spec.revision` that was launched last."""
    endpoint: str | None = None
    """Base URL, while it runs and its address is known."""
    ended: Ending | None = None
    """How the last process ended, when nobody had asked it to. None while one runs."""
    cleared: Ending | None = None
    """How the last attempt to clear the source ended, since the last launch."""
    self_healing: bool = False
    """The platform itself replaces a process that hangs."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What is to run. `revision` changes whenever a running process has to be replaced to follow the rest.

    `config` is a ``reflex.yaml`` without ``replica`` and ``http``, which the launcher adds. Secrets are in it as
    ``${VARIABLE}``; `secrets` says which entry of the secret store each variable is.
    """

    id: str
    config: Mapping[str, Any]
    secrets: Mapping[str, str]
    size: Size
    revision: str

    def text(self, replica: str, http: Mapping[str, object]) -> str:
        """The whole configuration as ``REFLEX_CONFIG`` takes it; `replica` is a path, taken as it is."""
        sections = {**self.config, "replica": {"path": replica.replace("${", "$${")}, "http": dict(http)}
        written = json.dumps(sections, ensure_ascii=False, sort_keys=True)
        return _NO_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", written)


def digest(value: object) -> str:
    """Twelve hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


class Launcher(Protocol):
    """Where instances run; see the module for what every method promises."""

    ends_instances: bool
    """Whether `close` ends the instances. Elsewhere they go on without a control API."""

    def observe(self, ids: Sequence[str]) -> Mapping[str, Observation]:
        """What there is of each of these instances; those that cannot be looked at now are left out."""
        ...

    def launch(self, spec: Spec) -> None:
        """Start what is idle or absent. Nothing happens to an instance that runs."""
        ...

    def resize(self, spec: Spec) -> None:
        """Bring a running instance to another revision; a launcher may end the process and leave the start to `launch`."""
        ...

    def stop(self, id: str) -> None:
        """Ask the process to end. Its replica stays where the platform can keep it."""
        ...

    def clear(self, spec: Spec) -> None:
        """Start dropping what an idle instance made at the source."""
        ...

    def remove(self, id: str) -> None:
        """Leave nothing of an instance that does not run: no replica, no log, no service."""
        ...

    def token(self, id: str) -> Secret | None:
        """The bearer token that the instance's HTTP API asks for, None for none."""
        ...

    def close(self) -> None:
        """End what must not outlive the control API."""
        ...
