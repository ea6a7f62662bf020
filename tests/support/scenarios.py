"""Many small stories on one engine, told in lockstep: each in a schema of its own, all compared after every step.

A reload or a schema change costs a wait; side by side, a hundred of them cost one. What a story does to the others (its
reload ends the session that they stream in) is part of the test.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from tests.support.live import Live

PROMISE = 150.0
"""Seconds within which a schema change is in the replica even when no row changes after it."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`setup` makes the tables; each of `steps` is a run of statements (one string: one transaction).

    Statements run with the scenario's schema first on the search path. `as_text`: ``table.column`` names that may be
    kept as text. `least`: the first server version that can run it.
    """

    name: str
    setup: tuple[str, ...]
    steps: tuple[tuple[str, ...], ...]
    as_text: tuple[str, ...] = ()
    least: int = 12
    schemas: tuple[str, ...] = ()
    """Further schemas that the story touches, compared too."""

    def __str__(self) -> str:
        return self.name


class Mode(enum.StrEnum):
    """How the engine meets the steps."""

    QUIET = "quiet"
    """Each step must arrive before the next one is taken; nothing else happens meanwhile."""
    BUSY = "busy"
    """All steps follow each other at once while the engine streams."""
    DOWN = "down"
    """All steps happen while the engine is not running."""


@dataclass(slots=True)
class Lockstep:
    """Runs scenarios on one engine. `failures` tells, by name, what went wrong first."""

    live: Live
    scenarios: Sequence[Scenario]
    mode: Mode
    failures: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Tell all stories from beginning to end."""
        for scenario in self.scenarios:
            for schema in (scenario.name, *scenario.schemas):
                self.live.run(f'CREATE SCHEMA "{schema}"')
            self._tell(scenario, scenario.setup, "setup")
        self.live.engine.start()
        self._settle("after the snapshot")
        steps = max(len(s.steps) for s in self.scenarios)
        if self.mode is Mode.DOWN:
            self.live.engine.terminate()
        for step in range(steps):
            for scenario in self.scenarios:
                if step < len(scenario.steps) and scenario.name not in self.failures:
                    self._tell(scenario, scenario.steps[step], f"step {step + 1}")
            if self.mode is Mode.QUIET:
                self._settle(f"after step {step + 1}")
        if self.mode is Mode.DOWN:
            self.live.engine.start()
        if self.mode is not Mode.QUIET:
            self._settle("after all steps")
        self._last_look()

    def _tell(self, scenario: Scenario, statements: Sequence[str], when: str) -> None:
        try:
            self.live.run(*statements, schema=scenario.name)
        except psycopg.Error as error:
            self.failures[scenario.name] = f"{when}: the source refuses the test's own statement: {error}"

    def _settle(self, when: str) -> None:
        deadline = time.monotonic() + PROMISE
        waiting = {s.name: s for s in self.scenarios if s.name not in self.failures}
        found: dict[str, str] = {}
        with psycopg.connect(self.live.database.superuser_conninfo, autocommit=True) as source:
            while waiting and time.monotonic() < deadline:
                held = self.live.held()
                for name, scenario in list(waiting.items()):
                    found[name] = self._difference(scenario, source, held)
                    if not found[name]:
                        del waiting[name]
                time.sleep(0.1)
        for name in waiting:
            self.failures[name] = f"{when}, for {PROMISE:.0f} s: {found[name]}\n{self.live.log_end(6000)}"

    def _last_look(self) -> None:
        """Equality must also last, once everything has been read and reloaded."""
        try:
            self.live.wait_caught_up()
        except (AssertionError, httpx.TransportError) as error:
            for scenario in self.scenarios:
                self.failures.setdefault(scenario.name, f"the engine does not catch up at the end: {error}")
        self._settle("at the end")

    def _difference(
        self, scenario: Scenario, source: psycopg.Connection[Any], held: Mapping[str, Collection[str]]
    ) -> str:
        as_text = {f"{scenario.name}.{column}" for column in scenario.as_text}
        try:
            for schema in (scenario.name, *scenario.schemas):
                self.live.compare_schema(schema, as_text, source=source, held=held.get(schema, ()))
        except (AssertionError, httpx.TransportError) as error:
            return str(error) or type(error).__name__
        return ""
