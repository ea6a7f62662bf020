"""Structured logging: JSON lines when standard error is not a terminal, a readable console when it is.

Everything that logs with structlog or with the standard library ends in one handler on standard error. As a last line
of defence, known secrets are masked wherever they appear, and an exception is logged without the messages of foreign
errors: a driver's message may quote a row.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from engine.errors import EngineError
from engine.source import Secret

MASK = "***"

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}

_SHORTEST_PART = 4
"""A secret shorter than this is masked only where it is the whole value: as a part it would match everywhere."""

Event = MutableMapping[str, Any]


class SecretMask:
    """A structlog processor that replaces known secrets in every string of an event, however deep."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        values = {s.reveal() for s in secrets} - {""}
        # The longest first: a secret that contains another one must not be left half shown.
        self._values = sorted(values, key=len, reverse=True)

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        return {key: self._masked(value) for key, value in event.items()}

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.mask(value)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Mapping):
            return {self._masked(k): self._masked(v) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._masked(v) for v in value]
        return self.mask(str(value))

    def mask(self, text: str) -> str:
        """Return `text` with every secret in it replaced."""
        for secret in self._values:
            if text == secret:
                return MASK
            if len(secret) >= _SHORTEST_PART:
                text = text.replace(secret, MASK)
        return text


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Type, place and causes of an error; the message only of the engine's own errors, which hold no row value."""
    chain: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        message = f": {current}" if isinstance(current, EngineError) else ""
        chain.append(f"{type(current).__module__}.{type(current).__qualname__}{message}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return {"error": chain[0], "causes": chain[1:], "frames": _frames(error.__traceback__)}


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace, limit=-12)]


def _exception(_logger: object, _method: str, event: Event) -> Event:
    """Replace `exc_info` by `describe_exception`'s account."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    if isinstance(info, BaseException):
        event["exception"] = describe_exception(info)
    elif isinstance(info, tuple) and isinstance(info[1], BaseException):
        event["exception"] = describe_exception(info[1])
    return event


def configure(
    level: str = "info", secrets: Iterable[Secret] = (), *, stream: TextIO | None = None, json: bool | None = None
) -> None:
    """Route all logging of the process to `stream` (default: standard error) from `level` on.

    `json` None: JSON lines unless the stream is a terminal. May be called again; the last call counts.
    """
    out = sys.stderr if stream is None else stream
    as_json = json if json is not None else not out.isatty()
    mask = SecretMask(secrets)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(timestamp_key="time", exception_formatter=structlog.dev.plain_traceback)
    )
    handler = logging.StreamHandler(stream) if stream is not None else _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=()), _logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _exception,
                mask,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    _quieten_libraries(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    threading.excepthook = _log_thread_exception


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever standard error is at the moment: a progress bar puts itself before it for a while."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        return


def _logger_name(_logger: Any, _method: str, event: Event) -> Event:
    """Say which library a foreign line comes from."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
    return event


def _quieten_libraries(level: str) -> None:
    """Libraries speak from warning on (info of theirs is this project's debug), and only through the root handler."""
    threshold = logging.INFO if level == "debug" else max(logging.WARNING, _LEVELS[level])
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "psycopg", "asyncio", "httpx", "httpcore", "fastapi"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(threshold)


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    """An error that ends a thread is logged like any other, never printed with its message."""
    if args.exc_value is None or isinstance(args.exc_value, SystemExit):
        return
    name = args.thread.name if args.thread is not None else "?"
    structlog.get_logger().error("thread_failed", thread=name, exc_info=args.exc_value)
