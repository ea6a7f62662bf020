"""What is settled before the first row is read: the sync mode, and the preconditions of the source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.config import Config
from engine.config.model import CDC_MODES
from engine.errors import ConfigError, PreconditionError, Problem
from engine.schema import TableId
from engine.source import Check, Source

IMPLEMENTED = {"mysql": ("binlog", "poll"), "postgres": ("logical", "poll"), "mssql": ("cdc", "poll")}
"""The sync modes that this version can run, by backend."""

Connect = Callable[[frozenset[tuple[TableId, str]]], Source]


class ChecksFailed(PreconditionError):
    """Preconditions that do not hold, each with the statement that mends it."""

    def __init__(self, failed: Sequence[Check]) -> None:
        self.checks = tuple(failed)
        first = self.checks[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        super().__init__(f"{first.name}: {first.detail}{more}", first.remedy)


def effective_mode(config: Config) -> str:
    """The sync mode to run; `auto` where the source itself decides. Raises ConfigError for one not available."""
    backend, mode = config.connection.backend, config.instance.sync_mode
    available = IMPLEMENTED.get(backend, ())
    if mode == "auto" and {CDC_MODES[backend], "poll"} <= set(available):
        return mode
    chosen = CDC_MODES[backend] if mode == "auto" else mode
    if chosen in available:
        return chosen
    wanted = f"{mode} for backend {backend}" if mode == chosen else f"{mode} ({chosen} for backend {backend})"
    instead = f"use {' or '.join(available)}"
    raise ConfigError([Problem("instance.sync_mode", f"{wanted} is not available in this version; {instead}")])


def failed_checks(source: Source) -> list[Check]:
    """The preconditions that do not hold (warnings are not among them)."""
    return [c for c in source.check() if not c.ok and not c.warning]


class FirstConnect:
    """Opens the source for the pipeline, and verifies its preconditions until they have held once.

    Used when there is no data to serve yet: what is missing at the source is then best said at once, with its remedy.
    """

    def __init__(self, connect: Connect, *, verify: bool) -> None:
        self._connect = connect
        self._verify = verify

    def __call__(self, as_text: frozenset[tuple[TableId, str]]) -> Source:
        source = self._connect(as_text)
        if not self._verify:
            return source
        try:
            # A source that is only out of reach for now is waited for, so that has to be told from a failed check.
            source.status()
            failed = failed_checks(source)
            if failed:
                raise ChecksFailed(failed)
        except BaseException:
            source.close()
            raise
        self._verify = False
        return source
