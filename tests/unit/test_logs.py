"""Logging: format by destination, levels, foreign loggers, and nothing secret or of a row in any line."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from engine import logs
from engine.errors import TransientError
from engine.source import Secret

PASSWORD = Secret("hunter2-secret")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, threading.excepthook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    threading.excepthook = hook
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(level: str = "info", *secrets: Secret) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, secrets, stream=stream)
    return stream


def test_json_lines_when_not_a_terminal() -> None:
    stream = configured()
    structlog.get_logger().info("snapshot_finished", table="public.orders", rows=3)
    (line,) = lines(stream)
    assert (line["event"], line["table"], line["rows"], line["level"]) == (
        "snapshot_finished",
        "public.orders",
        3,
        "info",
    )
    assert line["time"].endswith("Z")


def test_console_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    logs.configure("info", stream=stream)
    structlog.get_logger().info("started", rows=3)
    assert "started" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_level(level: str, shown: int) -> None:
    stream = configured(level)
    log = structlog.get_logger()
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert len(lines(stream)) == shown


def test_standard_loggers_are_routed_and_quieter() -> None:
    stream = configured()
    logging.getLogger("uvicorn.error").info("chatter")
    logging.getLogger("psycopg").warning("trouble with %s", "pipes")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("trouble with pipes", "psycopg", "warning")


def test_secrets_are_masked_wherever_they_are() -> None:
    stream = configured("info", PASSWORD, Secret("pg"))
    structlog.get_logger().info(
        f"with {PASSWORD.reveal()} inside",
        dsn=f"postgres://u:{PASSWORD.reveal()}@h",
        deep={"list": [PASSWORD.reveal(), {PASSWORD.reveal(): (PASSWORD.reveal(),)}]},
        secret=PASSWORD,
        obj=ValueError(PASSWORD.reveal()),
        short="pg",
        word="pgbench",
    )
    logging.getLogger("psycopg").warning("connecting with %s", PASSWORD.reveal())
    text = stream.getvalue()
    assert "hunter2" not in text
    first, _ = lines(stream)
    assert first["dsn"] == "postgres://u:***@h"
    assert (first["short"], first["word"]) == ("***", "pgbench")


def test_exceptions_keep_foreign_messages_out() -> None:
    stream = configured()
    try:
        try:
            raise ValueError("Key (email)=(alice@example.com) already exists")
        except ValueError as error:
            raise TransientError("connection lost") from error
    except TransientError:
        structlog.get_logger().exception("failed")
        logging.getLogger("asyncio").exception("foreign")
    assert "alice" not in stream.getvalue()
    for line in lines(stream):
        assert line["exception"]["error"] == "engine.errors.TransientError: connection lost"
        assert line["exception"]["causes"] == ["builtins.ValueError"]
        assert "test_exceptions_keep_foreign_messages_out" in line["exception"]["frames"][-1]


def test_an_error_that_ends_a_thread_is_logged() -> None:
    stream = configured()

    def fail() -> None:
        raise ValueError("row 17")

    thread = threading.Thread(target=fail, name="applier")
    thread.start()
    thread.join()
    (line,) = lines(stream)
    assert (line["event"], line["thread"], line["exception"]["error"]) == (
        "thread_failed",
        "applier",
        "builtins.ValueError",
    )
    assert "row 17" not in stream.getvalue()


def test_configuring_again_replaces_the_handler() -> None:
    first = configured()
    second = configured()
    structlog.get_logger().info("once")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1
    assert sys.stderr is not second


def test_standard_error_is_looked_up_anew_for_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure("info")
    redirected = io.StringIO()
    monkeypatch.setattr(sys, "stderr", redirected)
    structlog.get_logger().info("beside a progress bar")
    assert lines(redirected)[0]["event"] == "beside a progress bar"
