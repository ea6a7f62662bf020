"""Trying a source: is it there, does it let the user in, what does it offer, and is it ready for a sync mode.

Each stage has a reason of its own when it fails: the name (`dns`), the port (`refused`, `timeout`, `unreachable`), then
the server itself (`tls`, `auth`, `database`, `rights`, `not_ready`). Nothing is changed at the source.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from connectors import registry
from engine.config.model import TlsSection
from engine.control.contract import Issue, Readiness, TestConnectionAnswer
from engine.control.records import Backend, SyncMode
from engine.errors import (
    ConfigError,
    DatabaseUnknown,
    EngineError,
    LoginRefused,
    TlsFailed,
    TlsRefused,
    TransientError,
)
from engine.source import Check, Secret, SourceOptions, Tls

CONNECT_WITHIN: Final = 5.0
ANSWER_WITHIN: Final = 20.0
"""Seconds for all that is asked of the server itself."""

_RIGHTS: Final = frozenset(
    ("SELECT right", "replication right", "replication connection", "row-level security", "publication")
)
"""The connectors' checks that are about rights, besides those named ``grant ...``."""
_GB: Final = 1_000_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Probed:
    """A source to try. `schemas`: what is to be replicated (none: nothing in particular)."""

    backend: Backend
    host: str
    port: int
    user: str
    password: Secret
    schemas: tuple[str, ...]
    sync_mode: SyncMode


class ProbeFailed(Exception):
    """A stage that failed: the machine-readable reason, and what to say."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = message
        super().__init__(message)


def probe(probed: Probed, tls: TlsSection | None = None) -> TestConnectionAnswer:
    """Try a source, within about half a minute. Never raises for what the source does."""
    latency: float | None = None
    try:
        addresses = _resolve(probed)
        latency = _reach(addresses)
        return _within(ANSWER_WITHIN, lambda: _ask(probed, tls or TlsSection(), latency))
    except ProbeFailed as failed:
        return _answer(failed, latency)


def _answer(failed: ProbeFailed, latency: float | None, databases: Sequence[str] = ()) -> TestConnectionAnswer:
    return TestConnectionAnswer.model_validate(
        {
            "ok": False,
            "error": failed.reason,
            "message": failed.message,
            "latencyMs": latency,
            "estimatedSizeGb": None,
            "availableSchemas": list(databases),
            "readiness": None,
        }
    )


def _resolve(probed: Probed) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    def look_up() -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
        found = socket.getaddrinfo(probed.host.strip("[]"), probed.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    try:
        return _within(CONNECT_WITHIN, look_up)
    except (OSError, UnicodeError):
        raise ProbeFailed("dns", "The host name cannot be resolved: correct mysqlHost.") from None


def _reach(addresses: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]]) -> float:
    """Open a TCP connection to the first address that takes one; returns how long that took, in milliseconds."""
    deadline = time.monotonic() + CONNECT_WITHIN
    failure: OSError = TimeoutError()
    for family, address in addresses:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        begun = time.monotonic()
        try:
            with socket.socket(family, socket.SOCK_STREAM) as tcp:
                tcp.settimeout(left)
                tcp.connect(address)
                return round((time.monotonic() - begun) * 1000, 2)
        except OSError as error:
            failure = error
    match failure:
        case ConnectionRefusedError():
            raise ProbeFailed("refused", "Nothing listens at this host and port: correct mysqlPort, or start it.")
        case TimeoutError():
            raise ProbeFailed("timeout", "The host does not answer: a firewall or security group may be in the way.")
        case _:
            raise ProbeFailed("unreachable", f"The host cannot be reached ({failure.strerror or 'no route'}).")


def _ask(probed: Probed, tls: TlsSection, latency: float | None) -> TestConnectionAnswer:
    """Log in, see what there is, and check the preconditions of the sync mode for each schema."""
    databases = [_database_of(probed.backend, schema) for schema in probed.schemas]
    first = databases[0] if databases else {"postgres": "postgres"}.get(probed.backend, "")
    try:
        survey = registry.survey(probed.backend, _options(probed, tls, first, None))
    except DatabaseUnknown as error:
        failed = ProbeFailed("database", str(error))
        return _answer(failed, latency, _names_elsewhere(probed, tls))
    except EngineError as error:
        raise _failed(error) from error
    missing = [name for name in databases if name not in survey.databases]
    if missing:
        failed = ProbeFailed("database", "availableSchemas: the server has no such database, or not for this user.")
        return _answer(failed, latency, list(survey.databases))
    size = sum(survey.databases[name] for name in dict.fromkeys(databases or survey.databases))
    checks = [check for schema in dict.fromkeys(probed.schemas) for check in _checks(probed, tls, schema)]
    failing = [check for check in checks if not check.ok and not check.warning]
    answer: dict[str, object] = {
        "ok": not failing,
        "latencyMs": latency,
        "estimatedSizeGb": round(size / _GB, 4),
        "availableSchemas": list(survey.databases),
        "readiness": Readiness.model_validate(
            {
                "syncMode": probed.sync_mode.value,
                "ready": bool(checks) and not failing,
                "issues": _issues(checks),
            }
        ),
    }
    if failing:
        rights = any(check.name in _RIGHTS or check.name.startswith("grant ") for check in failing)
        answer["error"] = "rights" if rights else "not_ready"
        answer["message"] = "The source is not ready for this mode: see readiness.issues for what mends it."
    return TestConnectionAnswer.model_validate(answer)


def _names_elsewhere(probed: Probed, tls: TlsSection) -> list[str]:
    """The databases that there are, asked in one that nearly every server has; none where that fails."""
    try:
        return list(registry.survey(probed.backend, _options(probed, tls, "postgres", None)).databases)
    except EngineError:
        return []


def _checks(probed: Probed, tls: TlsSection, schema: str) -> list[Check]:
    database, _, inner = schema.partition(".") if probed.backend is not Backend.MYSQL else (schema, "", "")
    options = _options(probed, tls, database, inner or None)
    opened = registry.open_poll_source if probed.sync_mode is SyncMode.POLL else registry.open_source
    try:
        source = opened(probed.backend, options)
        try:
            return list(source.check())
        finally:
            source.close()
    except EngineError as error:
        raise _failed(error) from error


def _issues(checks: Sequence[Check]) -> list[Issue]:
    """What does not hold, each told once although several schemas may have it."""
    found = {(c.name, c.detail): c for c in checks if not c.ok}
    return [
        Issue.model_validate(
            {
                "name": check.name,
                "severity": "warning" if check.warning else "error",
                "message": check.detail,
                "remedy": check.remedy or None,
            }
        )
        for check in found.values()
    ]


def _failed(error: EngineError) -> ProbeFailed:
    match error:
        case LoginRefused():
            reason = "auth"
        case TlsRefused() | TlsFailed():
            reason = "tls"
        case ConfigError():
            return ProbeFailed("unsupported", "; ".join(problem.message for problem in error.problems))
        case TransientError():
            reason = "unreachable"
        case _:
            reason = "rights"
    return ProbeFailed(reason, str(error))


def _database_of(backend: Backend, schema: str) -> str:
    return schema if backend is Backend.MYSQL else schema.partition(".")[0]


def _options(probed: Probed, tls: TlsSection, database: str, schema: str | None) -> SourceOptions:
    return SourceOptions(
        host=probed.host,
        port=probed.port,
        user=probed.user,
        password=probed.password,
        database=database,
        schema=schema,
        tls=Tls(mode=tls.mode, ca=tls.ca, cert=tls.cert, key=tls.key),
        instance="test-connection",
        connect_timeout=CONNECT_WITHIN,
    )


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Run `call` in a thread of its own, for drivers and resolvers that cannot be told to hurry.

    Raises ProbeFailed when it takes longer: the thread then ends whenever it does, and its outcome is dropped.
    """
    outcome: list[T] = []
    failure: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001 - raised again by the caller
            failure.append(error)

    thread = threading.Thread(target=run, name="probe", daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise ProbeFailed("timeout", f"No answer within {seconds:g} s.")
    return outcome[0]
