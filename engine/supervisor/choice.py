"""`sync_mode: auto`: change data capture when the source allows it, else polling, and why."""

from __future__ import annotations

import structlog

from engine.errors import PreconditionError, TransientError
from engine.schema import TableId
from engine.source import Check, Source
from engine.status import StatusBoard
from engine.supervisor.preflight import Connect, failed_checks

log = structlog.get_logger(__name__)

POLL = "poll"
_NAMED_AT_MOST = 3


class AutoConnect:
    """Opens the source by the mode that is chosen at the first connection, and stays with it while the process runs.

    What is stored by change data capture goes on with it, whatever the checks say: they name what is to be mended, and
    a replica is not given up for a passing fault. What is stored by polling goes over once the checks pass.
    """

    def __init__(self, capture: Connect, poll: Connect, board: StatusBoard, *, mode: str, stored: str | None) -> None:
        self._connect = {mode: capture, POLL: poll}
        self._board = board
        self._capture_mode = mode
        self._stored = stored
        self._chosen: str | None = None

    def __call__(self, as_text: frozenset[tuple[TableId, str]]) -> Source:
        """Raises TransientError while the source is out of reach: then nothing is chosen."""
        if self._chosen is not None:
            return self._connect[self._chosen](as_text)
        source = self._connect[self._capture_mode](as_text)
        try:
            failed = [] if self._goes_on(source) else _failed(source)
        except BaseException:
            source.close()
            raise
        if not failed:
            self._choose(self._capture_mode, None)
            return source
        source.close()
        self._choose(POLL, f"polling, since {self._capture_mode} is not possible: {_named(failed)}")
        return self._connect[POLL](as_text)

    def _goes_on(self, source: Source) -> bool:
        if self._stored is None:
            return False
        try:
            source.parse_position(self._stored)
        except ValueError:
            return False
        return True

    def _choose(self, mode: str, why: str | None) -> None:
        self._chosen = mode
        show_mode(self._board, mode, why)
        log.info("sync_mode_chosen", sync_mode=mode, reason=why)


def show_mode(board: StatusBoard, mode: str, why: str | None = None) -> None:
    """Publish the mode that runs; the reason, where there is one, as the check ``sync_mode``."""
    board.publish(sync_mode=mode)
    if why is not None:
        board.set_check("sync_mode", "ok", why)


def _failed(source: Source) -> list[Check]:
    """The preconditions that do not hold. Raises TransientError when the source is only out of reach for now."""
    try:
        source.status()
    except PreconditionError:
        # What is missing to ask for the end of the log is among the checks.
        return failed_checks(source)
    failed = failed_checks(source)
    unreached = [c for c in failed if c.name == "connection"]
    if unreached:
        raise TransientError(unreached[0].detail)
    return failed


def _named(failed: list[Check]) -> str:
    said = [f"{c.name}: {c.detail}{f' ({c.remedy})' if c.remedy else ''}" for c in failed[:_NAMED_AT_MOST]]
    more = [f"and {len(failed) - _NAMED_AT_MOST} more"] if len(failed) > _NAMED_AT_MOST else []
    return "; ".join([*said, *more])
