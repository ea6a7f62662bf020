"""Opening the replica's DuckDB file, with the settings that bound its memory and shut it off from the outside."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import duckdb

from engine.errors import ReplicaError
from engine.replica.faults import first_line, translate, translated
from engine.replica.sql import CATALOG, literal, quote

STORAGE_VERSION = "v1.5.0"
"""The DuckDB storage version written: every DuckDB from 1.5 on reads the file."""

OLDEST_DUCKDB = (2, 0, 1)
"""DuckDB 1.5 and 2.0.0 show readers rows that a transaction is still appending (tests/unit/test_replica_isolation.py)."""

WAL_LIMIT = 64 << 20
"""Bytes of WAL at which a commit itself starts a checkpoint, when `maintain` has not done so before."""


def open_database(
    path: Path, *, memory_limit_bytes: int, threads: int, temp_directory: Path
) -> duckdb.DuckDBPyConnection:
    """Attach the file at `path` (made if absent) and return a connection to it.

    After this nothing can be read or written but the file, its WAL and the temporary directory, and no setting of the
    instance can be changed any more. Raises ReplicaError when the file is no DuckDB file, is of a newer DuckDB, or is in
    use by another process.
    """
    if _version() < OLDEST_DUCKDB:
        oldest = ".".join(map(str, OLDEST_DUCKDB))
        raise ReplicaError(
            f"DuckDB {duckdb.__version__} shows readers rows that are not committed: install duckdb>={oldest}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temp_directory, ignore_errors=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_limit_bytes}B",
        "threads": threads,
        "temp_directory": str(temp_directory),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
        "allow_community_extensions": False,
        "allow_persistent_secrets": False,
    }
    with translated():
        con = duckdb.connect(":memory:", config=config)
    try:
        con.execute(f"ATTACH {literal(str(path))} AS {CATALOG} (STORAGE_VERSION {literal(STORAGE_VERSION)})")
        _settle(con)
    except duckdb.Error as error:
        con.close()
        raise explain(path, error) from error
    return con


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", duckdb.__version__)[:3])


def _settle(con: duckdb.DuckDBPyConnection) -> None:
    """Leave the replica as the only database, fix what all cursors share, and lock the settings."""
    con.execute(f"USE {CATALOG}")
    con.execute("DETACH memory")
    con.execute("SET GLOBAL TimeZone = 'UTC'")
    con.execute(f"SET GLOBAL wal_autocheckpoint = '{WAL_LIMIT}B'")
    con.execute("SET GLOBAL enable_external_access = false")
    con.execute("SET GLOBAL lock_configuration = true")


def explain(path: Path, error: duckdb.Error) -> ReplicaError:
    """Say what to do about a file that DuckDB does not open."""
    text = first_line(error)
    if "lock on file" in text or "Unique file handle conflict" in text:
        return ReplicaError(
            f"the replica file {path} is in use by another process: stop it, or choose another replica.path"
        )
    if "storage version" in text or "version number" in text:
        return ReplicaError(
            f"the file {path} has a storage version newer than this engine's ({STORAGE_VERSION}, with DuckDB "
            f"{duckdb.__version__}): upgrade the engine, choose another replica.path, or delete the file"
        )
    if "Corrupt database file" in text:
        return ReplicaError(f"the replica file {path} is damaged: delete it to rebuild the replica ({text})")
    if "not a valid DuckDB database file" in text:
        return ReplicaError(f"{path} is not a DuckDB file: choose another replica.path, or delete the file")
    return translate(error)


def new_cursor(con: duckdb.DuckDBPyConnection, search_schema: str | None) -> duckdb.DuckDBPyConnection:
    """Return a connection of its own to the same instance, with `search_schema` (where it exists) searched first."""
    cursor = con.cursor()
    if search_schema is not None:
        path = f"{CATALOG}.{quote(search_schema)},{CATALOG}.main"
        with contextlib.suppress(duckdb.CatalogException):
            cursor.execute(f"SET search_path = {literal(path)}")
            return cursor
    cursor.execute(f"USE {CATALOG}.main")
    return cursor
