"""The errors of the engine, and what each one asks for.

    EngineError
    ├── ConfigError           the configuration is wrong: names the dotted fields (exit 2)
    ├── PreconditionError     the source is not set up for this: says which statement mends it (exit 3)
    │   ├── LoginRefused      user, password, host or way to log in
    │   ├── DatabaseUnknown   there is no such database
    │   └── TlsRefused        TLS, or the certificate, is not what the configuration asks for
    ├── TransientError        the source or the network failed in a way that passes: retried with back-off
    │   └── TlsFailed         the TLS handshake broke
    ├── ResyncRequired        the stream cannot continue exactly: the named tables (or all) are reloaded
    ├── UnsupportedValue      a value does not fit its column's replica type: the column becomes text, by a reload
    ├── DecodeError           bytes that are no valid message of the protocol: never passed over
    └── ReplicaError          the replica file or its engine failed

A connector translates its driver's errors into these once, by SQLSTATE or error number. No message ever holds a row
value or a secret.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from engine.schema import TableId


class EngineError(Exception):
    """Base of every error that the engine raises on purpose. `word` is the machine-readable name of its kind."""

    word = "internal"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: the dotted field (``connection.port``) and what is allowed there."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ConfigError(EngineError):
    """The configuration cannot be used. `problems` lists every field that is wrong, not only the first."""

    word = "config"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class PreconditionError(EngineError):
    """The source refuses what the engine needs, until an operator changes it. `remedy` says how (a statement)."""

    word = "precondition"

    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(f"{message} {remedy}".strip())


class LoginRefused(PreconditionError):
    """The server is there, and does not let this user in: unknown, wrong password, not from this host, locked."""


class DatabaseUnknown(PreconditionError):
    """The server is there, and has no database of this name."""


class TlsRefused(PreconditionError):
    """The server offers no TLS, or its certificate is not trusted, and the configuration insists."""


class TransientError(EngineError):
    """Something that passes by itself: connection lost, server starting, lock timeout, too many connections."""

    word = "source_unreachable"


class TlsFailed(TransientError):
    """The TLS handshake broke: versions or ciphers that do not meet, or the server went away."""


class ResyncRequired(EngineError):
    """The stream cannot give the exact state of `tables` any more (None: of every table): reload them."""

    word = "resync"

    def __init__(self, reason: str, tables: Sequence[TableId] | None = None) -> None:
        self.reason = reason
        self.tables = None if tables is None else tuple(tables)
        super().__init__(reason)


class UnsupportedValue(EngineError):
    """`columns` of `table` hold a value that their replica type cannot: they are kept as the source's text instead."""

    word = "unsupported_value"

    def __init__(self, table: TableId, columns: Sequence[str], reason: str) -> None:
        self.table = table
        self.columns = tuple(columns)
        super().__init__(f"{table} ({', '.join(columns)}): {reason}")


class DecodeError(EngineError):
    """Bytes from the source are not a valid message. `offset` is where in the message, when known."""

    word = "decode"


class ReplicaError(EngineError):
    """The replica cannot be opened, read or written. `fatal`: this process must start again from the file."""

    word = "replica"

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        self.fatal = fatal
        super().__init__(message)


class CapExceeded(ReplicaError):
    """The memory or storage cap of the instance is reached: sync stops, what is there stays served."""

    word = "cap_exceeded"


class Action(enum.StrEnum):
    """What the pipeline does about an error."""

    RETRY = "retry"
    RESYNC = "resync"
    STOP = "stop"
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Directive:
    """The answer to an error: what to do, and one sentence for the operator."""

    action: Action
    remedy: str


def directive(error: BaseException) -> Directive:
    """Map any error to what the pipeline does about it. The one place where this is decided."""
    match error:
        case ResyncRequired() | UnsupportedValue():
            return Directive(Action.RESYNC, "Nothing to do: the affected tables are being reloaded.")
        case TransientError():
            return Directive(Action.RETRY, "Nothing to do if it passes: the engine keeps trying with growing pauses.")
        case PreconditionError():
            return Directive(Action.RETRY, error.remedy or "Run `reflex-engine check` and apply what it prints.")
        case ConfigError():
            return Directive(Action.STOP, "Correct the named fields and start again.")
        case CapExceeded():
            return Directive(Action.STOP, "Choose a larger `instance.instance_size` or give the volume more room.")
        case ReplicaError(fatal=True):
            return Directive(Action.RESTART, "The process restarts itself from the replica file.")
        case ReplicaError():
            return Directive(Action.STOP, "See the message; a replica can always be rebuilt by deleting its file.")
        case DecodeError():
            return Directive(Action.RETRY, "Report this message: the source sent something that is not understood.")
        case _:
            return Directive(Action.RETRY, "Unexpected: report it with the log.")
