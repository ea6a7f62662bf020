"""The commands that speak to the source itself: ``check`` and ``teardown``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.config import Config
from engine.errors import PreconditionError, TransientError
from engine.source import Check, Source

_POLL = "poll"


def check_source(config: Config) -> int:
    """Print one line per precondition; returns 0, or 3 when one fails. Raises ConfigError.

    With `sync_mode: auto` what change data capture lacks is no failure, as long as the source can be polled.
    """
    from engine.supervisor.preflight import effective_mode

    mode = effective_mode(config)
    checks = [] if mode == _POLL else _checks(_open(config))
    if mode == _POLL or (mode == "auto" and _fails(checks)):
        polled = _checks(_open_poll(config))
        if mode == "auto":
            checks = [c if c.ok else replace(c, warning=True) for c in checks]
            detail = f"{_POLL}: change data capture is not possible as it is"
            checks.append(Check("sync_mode", ok=not _fails(polled), detail=detail))
        checks += polled
    for check in checks:
        print(line(check))
    return 3 if _fails(checks) else 0


def _fails(checks: Sequence[Check]) -> bool:
    return any(not c.ok and not c.warning for c in checks)


def _checks(source: Source) -> list[Check]:
    try:
        return list(source.check())
    except (TransientError, PreconditionError) as error:
        remedy = error.remedy if isinstance(error, PreconditionError) else ""
        return [Check("connection", False, str(error).removesuffix(remedy).strip(), remedy)]
    finally:
        source.close()


def teardown_source(config: Config) -> int:
    """Drop what the engine made at the source, and print a line for each thing dropped."""
    source = _open(config)
    try:
        dropped = source.teardown()
    finally:
        source.close()
    for thing in dropped:
        print(f"dropped {thing}")
    if not dropped:
        print("nothing to drop")
    return 0


def line(check: Check) -> str:
    """One precondition in one line: ✓ holds, ✗ does not, ! works without it; with the statement that mends it."""
    mark = "✓" if check.ok else "!" if check.warning else "✗"
    remedy = f"  →  {check.remedy}" if check.remedy and mark != "✓" else ""
    return " ".join(f"{mark} {check.name}: {check.detail}{remedy}".split("\n"))


def _open(config: Config) -> Source:
    from connectors.registry import open_source

    return open_source(config.connection.backend, config.source_options())


def _open_poll(config: Config) -> Source:
    from connectors.registry import open_poll_source

    return open_poll_source(config.connection.backend, config.source_options())
