"""DuckDB's errors become the engine's, once, by their class. DuckDB quotes row values in the messages of data errors, so
only the messages of errors about files, memory and the engine itself are passed on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from engine.errors import CapExceeded, ReplicaError

_NO_SPACE = "No space left on device"
"""strerror(ENOSPC): DuckDB reports a full disk as an IOException with the system's text and no number."""

_DATA_ERRORS = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)
"""Errors of which the message may quote values."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message: DuckDB appends hints and the statement after it."""
    return str(error).partition("\n")[0]


def translate(error: duckdb.Error) -> ReplicaError:
    """Map an error of DuckDB to the engine's. Memory and disk limits are `CapExceeded`, a broken instance is fatal."""
    if isinstance(error, duckdb.FatalException | duckdb.InternalException):
        return ReplicaError(f"DuckDB reports that its state is broken: {first_line(error)}", fatal=True)
    if isinstance(error, duckdb.OutOfMemoryException):
        return CapExceeded(f"the replica's memory or temporary space is used up: {first_line(error)}")
    if isinstance(error, duckdb.IOException) and _NO_SPACE in str(error):
        return CapExceeded("the volume of the replica file is full: give it more room, then restart the instance")
    if isinstance(error, _DATA_ERRORS):
        return ReplicaError(f"DuckDB refused a statement of the engine: {type(error).__name__}")
    return ReplicaError(f"DuckDB: {type(error).__name__}: {first_line(error)}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise the engine's errors for DuckDB's."""
    try:
        yield
    except duckdb.Error as error:
        raise translate(error) from error
