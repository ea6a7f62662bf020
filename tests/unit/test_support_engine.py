"""The engine as a process: it is started, asked, killed and restarted, and its replica judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.compare import assert_replica_equals, wait_until_equal
from tests.support.engine_process import EngineProcess
from tests.support.pgbench import Pgbench, initialize
from tests.support.servers import REFLEX, Database


def test_it_follows_a_load_through_kill_and_restart(postgres: Database, tmp_path: Path) -> None:
    initialize(postgres)
    with EngineProcess.of(tmp_path, postgres) as engine:
        assert engine.query("SELECT count(*) AS n FROM pgbench_accounts") == [(100_000,)]
        with Pgbench(postgres, clients=2, seconds=None, transactions=500) as load:
            engine.kill()
            assert not engine.running
            engine.start()
            assert load.wait() == 1000
        position = postgres.wal_position()
        engine.wait_position(position)
        counts = assert_replica_equals(postgres.superuser_conninfo, engine.query)
        assert counts["public.pgbench_history"] == 1000
        engine.restart()
        wait_until_equal(postgres.superuser_conninfo, engine.query)
        assert engine.health()["backend"] == "postgres"
        assert engine.log_events()


def test_a_secret_in_the_log_is_found(postgres: Database, tmp_path: Path) -> None:
    engine = EngineProcess.of(tmp_path, postgres, http={"token": "a-token-of-the-test"})
    engine.assert_no_secret()
    for secret in (REFLEX.password, "a-token-of-the-test"):
        engine.log.write_text(f'{{"event": "connected with {secret}"}}\n')
        with pytest.raises(AssertionError, match="secrets in the engine's log"):
            engine.assert_no_secret()
    engine.http.close()
