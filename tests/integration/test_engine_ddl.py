"""Whatever is done to the definition of a table, the replica follows: with rows after it, without, or while it is down.

Each story runs three times: with the engine following step by step, streaming while the steps rush past, and down.
Selected stories (``-k``) run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.ddl_scenarios import ALL
from tests.support.live import Live
from tests.support.scenarios import Lockstep, Mode, Scenario
from tests.support.servers import Database, PostgresServer
from tests.support.witness import Witness
from tests.support.writer import PairWriter


@pytest.fixture(scope="module")
def outcomes(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[Mode, str], str | None]]:
    """What became of each selected story, by mode; the stories of a mode are run when the first one is asked for."""
    done: dict[Mode, dict[str, str]] = {}
    databases: list[Database] = []

    def outcome(mode: Mode, name: str) -> str | None:
        if mode not in done:
            selected = [
                str(item.callspec.params["name"])
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and item.nodeid.startswith(request.node.nodeid)
                and item.originalname == "test_definition_change"
                and item.callspec.params["mode"] is mode
            ]
            database = postgres_server.create_database()
            databases.append(database)
            folder = tmp_path_factory.mktemp(mode)
            try:
                done[mode] = run_all(
                    database, folder, [ALL[n] for n in selected if ALL[n].least <= database.version], mode
                )
            except (AssertionError, RuntimeError) as error:
                done[mode] = dict.fromkeys(selected, f"all of them: {error}")
        return done[mode].get(name)

    yield outcome
    for database in databases:
        database.drop()


def run_all(database: Database, folder: Path, scenarios: list[Scenario], mode: Mode) -> dict[str, str]:
    """One engine, these stories; a pair of tables that must always agree is written and read beside them."""
    with Live.on(database, folder, start=False) as live, PairWriter(database, pause=0.2) as pair:
        stories = Lockstep(live, scenarios, mode)
        with Witness(live.engine.url, pair.question, pause=0.25):
            stories.run()
        pair.stop()
        live.wait_caught_up()
        live.compare(pair.tables)
    return stories.failures


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(ALL))
@pytest.mark.parametrize("mode", list(Mode))
def test_definition_change(outcomes: Callable[[Mode, str], str | None], mode: Mode, name: str) -> None:
    failure = outcomes(mode, name)
    assert failure is None, failure
