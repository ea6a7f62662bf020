"""How an error ends a command: what is printed (or logged), and the exit code."""

from __future__ import annotations

import sys

import structlog

from engine.client import ClientError
from engine.errors import ConfigError, EngineError, PreconditionError

UNEXPECTED, BAD_CONFIG, PRECONDITION = 1, 2, 3


def report(error: Exception, *, as_log: bool) -> int:
    """Tell the operator what is wrong and what to do; returns the exit code.

    `as_log`: as a log line (a process whose standard error is collected) rather than as text for a person.
    """
    code = exit_code(error)
    log = structlog.get_logger("engine.cli")
    if not isinstance(error, (EngineError, ClientError)):
        _ensure_logging()
        log.error("unexpected_error", exc_info=error, exit_code=code)
    elif as_log:
        log.error("stopped_by_error", error=error.word, message=lines(error), exit_code=code)
    else:
        for line in lines(error):
            print(line, file=sys.stderr)
    return code


def exit_code(error: Exception) -> int:
    """The exit code that the interface states for this error."""
    match error:
        case ConfigError():
            return BAD_CONFIG
        case PreconditionError():
            return PRECONDITION
        case ClientError() if error.is_callers:
            return BAD_CONFIG
        case _:
            return UNEXPECTED


def lines(error: EngineError | ClientError) -> list[str]:
    """The message, one line for each thing that is wrong, and the remedy where there is one."""
    checks = getattr(error, "checks", None)
    match error:
        case ConfigError():
            return [str(problem) for problem in error.problems]
        case PreconditionError() if checks:
            from engine.cli.source import line

            return [line(check) for check in checks]
        case PreconditionError():
            return [f"✗ {error}"]
        case _:
            return [f"error: {error}"]


def _ensure_logging() -> None:
    """Commands that read no configuration have not configured logging; an unexpected error is logged all the same."""
    import logging

    if not logging.getLogger().handlers:
        from engine import logs

        logs.configure()
