"""SQL Server's errors as the emulator raises them: the numbers and severities are Microsoft's, the texts are short."""

from __future__ import annotations


class SqlError(Exception):
    """An error for the client: `number`, `severity` (11-19 ends the statement, 20 and more the connection), `state`."""

    def __init__(self, number: int, message: str, severity: int = 16, state: int = 1) -> None:
        super().__init__(message)
        self.number = number
        self.message = message
        self.severity = severity
        self.state = state


class Unknown(SqlError):
    """What the emulator does not know. It is recorded, so that a test that met it fails whatever its client made of it."""

    def __init__(self, what: str) -> None:
        super().__init__(40517, f"The emulator was asked for what it does not know: {what}")


class Cancelled(Exception):
    """The client sent an ATTENTION: the batch ends, the session goes on."""


class Disconnected(Exception):
    """The connection is gone, or was killed."""


def syntax(near: str) -> SqlError:
    """Error 102."""
    return SqlError(102, f"Incorrect syntax near '{near}'.", 15)


def invalid_object(name: str) -> SqlError:
    """Error 208."""
    return SqlError(208, f"Invalid object name '{name}'.")


def invalid_column(name: str) -> SqlError:
    """Error 207."""
    return SqlError(207, f"Invalid column name '{name}'.")
