"""Connectors by backend name, imported only when one is asked for.

The project's own backends are listed here; others join through the entry point group ``reflex_engine.connectors``
(name: the backend; object: a class or function that takes `SourceOptions` and gives a `Source`). The project's own
names win, so a package cannot take the place of one of them by being installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from engine.errors import ConfigError, Problem
from engine.source import Source, SourceOptions, Survey

if TYPE_CHECKING:
    from connectors.poll import Reader

ENTRY_POINT_GROUP = "reflex_engine.connectors"

SourceFactory = Callable[[SourceOptions], Source]

_READERS = {
    "mssql": "connectors.sqlserver.poll:SqlServerReader",
    "mysql": "connectors.mysql.poll:MysqlReader",
    "postgres": "connectors.postgres.poll:PostgresReader",
}
"""What can be polled."""
_SURVEYS = {
    "mssql": "connectors.sqlserver.survey:survey",
    "mysql": "connectors.mysql.survey:survey",
    "postgres": "connectors.postgres.survey:survey",
}
"""What can be looked at before a database is chosen."""
_BUILT_IN = {
    "mssql": "connectors.sqlserver.source:SqlServerSource",
    "mysql": "connectors.mysql.source:MysqlSource",
    "postgres": "connectors.postgres.source:PostgresSource",
}


def backends() -> tuple[str, ...]:
    """Every backend name that can be asked for, sorted. Nothing is imported."""
    return tuple(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))}))


def open_source(backend: str, options: SourceOptions) -> Source:
    """Make the source of a backend. It connects when it is first used.

    Raises ConfigError for an unknown backend, and for one whose driver cannot be imported: then the others still work.
    """
    return _factory(backend)(options)


def open_poll_source(backend: str, options: SourceOptions) -> Source:
    """Make a source that polls a backend every `SourceOptions.poll_interval`. It connects when it is first used.

    Raises ConfigError for a backend that cannot be polled, or whose driver cannot be imported.
    """
    from connectors.poll import PollSource

    if backend not in _READERS:
        raise ConfigError([Problem("instance.sync_mode", f"backend {backend!r} cannot be polled")])
    try:
        reader = cast("Callable[[SourceOptions], Reader]", _load(_READERS[backend]))
    except ImportError as error:
        raise _unusable(backend, error) from error
    return PollSource(reader(options), options)


def survey(backend: str, options: SourceOptions) -> Survey:
    """Ask a server what databases there are for this user. Blocks, for a few seconds on a server with very many tables.

    Raises ConfigError for a backend that is not usable here, LoginRefused, DatabaseUnknown, TlsRefused, TlsFailed and
    their bases as connecting does.
    """
    if backend not in _SURVEYS:
        raise ConfigError([Problem("connection.backend", f"backend {backend!r} is not usable in this version")])
    try:
        look = cast("Callable[[SourceOptions], Survey]", _load(_SURVEYS[backend]))
    except ImportError as error:
        raise _unusable(backend, error) from error
    return look(options)


def _load(place: str) -> object:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _unusable(backend: str, error: ImportError) -> ConfigError:
    missing = f": module {error.name!r} cannot be imported" if error.name else ""
    return ConfigError([Problem("connection.backend", f"the connector for {backend!r} is not usable here{missing}")])


def _factory(backend: str) -> SourceFactory:
    try:
        if backend in _BUILT_IN:
            return cast("SourceFactory", _load(_BUILT_IN[backend]))
        for entry in entry_points(group=ENTRY_POINT_GROUP, name=backend):
            return cast("SourceFactory", entry.load())
    except ImportError as error:
        raise _unusable(backend, error) from error
    raise ConfigError([Problem("connection.backend", f"{backend!r} is not one of {', '.join(backends())}")])
