"""Connectors are found by name, and a missing driver breaks only its own."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from connectors import registry
from connectors.poll import PollSource
from connectors.postgres.source import PostgresSource
from engine.errors import ConfigError
from engine.source import Secret, SourceOptions

OPTIONS = SourceOptions("127.0.0.1", 1, "u", Secret("p"), "d")


def test_a_backend_is_opened_without_connecting() -> None:
    source = registry.open_source("postgres", OPTIONS)
    assert isinstance(source, PostgresSource)
    source.close()


def test_an_unknown_backend_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"connection\.backend: 'oracle' is not one of .*postgres"):
        registry.open_source("oracle", OPTIONS)


def test_a_missing_driver_breaks_only_its_own_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "connectors.postgres.source", None)
    with pytest.raises(ConfigError, match="'postgres' is not usable here"):
        registry.open_source("postgres", OPTIONS)
    assert "postgres" in registry.backends()
    assert "mysql" in registry.backends()


def test_others_join_by_entry_point_and_cannot_take_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = [
        EntryPoint("fake", "tests.unit.test_registry:make", registry.ENTRY_POINT_GROUP),
        EntryPoint("postgres", "tests.unit.test_registry:make", registry.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda **wanted: EntryPoints(e for e in theirs if wanted.get("name") in (None, e.name)),
    )
    assert "fake" in registry.backends()
    made: object = registry.open_source("fake", OPTIONS)
    assert made == "made"
    assert isinstance(registry.open_source("postgres", OPTIONS), PostgresSource)


def make(options: SourceOptions) -> str:
    assert options is OPTIONS
    return "made"


def test_what_is_polled_is_opened_without_connecting() -> None:
    for backend in ("postgres", "mysql", "mssql"):
        source = registry.open_poll_source(backend, OPTIONS)
        assert isinstance(source, PollSource)
        source.close()
    with pytest.raises(ConfigError, match=r"instance\.sync_mode: backend 'oracle' cannot be polled"):
        registry.open_poll_source("oracle", OPTIONS)
