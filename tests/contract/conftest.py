"""The sources that the contract is proven on. A backend joins by a harness and a line here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.harness import FakeHarness, Harness, PostgresHarness
from tests.contract.mysql import MySqlHarness
from tests.contract.poll import poll_mysql, poll_postgres, poll_sqlserver
from tests.contract.sqlserver import SqlServerHarness
from tests.support.replay import Replay

STREAMED = ("fake", "postgres", "mysql", "mariadb", "sqlserver")
POLLED = ("postgres", "mysql", "mariadb", "sqlserver")


@pytest.fixture(params=[*STREAMED, *(f"poll-{name}" for name in POLLED)])
def harness(request: pytest.FixtureRequest) -> Harness:
    """Each source in turn."""
    if request.param == "fake":
        return FakeHarness()
    kind, _, polled = request.param.partition("-")
    if kind == "poll":
        make = {"postgres": poll_postgres, "sqlserver": poll_sqlserver}.get(polled, poll_mysql)
        return make(request.getfixturevalue(polled))
    if request.param == "sqlserver":
        return SqlServerHarness(request.getfixturevalue("sqlserver"))
    if request.param in {"mysql", "mariadb"}:
        return MySqlHarness(request.getfixturevalue(request.param))
    return PostgresHarness(request.getfixturevalue("postgres"))


@pytest.fixture
def replay(harness: Harness) -> Iterator[Replay]:
    """A consumer of the source, closed at the end."""
    made = Replay(harness.source())
    yield made
    made.close()
