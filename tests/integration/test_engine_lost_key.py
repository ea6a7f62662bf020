"""A table loses its primary key while an application writes to it: the server refuses updates for a moment only."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg

from tests.support.live import Live
from tests.support.servers import Database

GRACE = 5.0
"""Seconds: the engine looks once a second, and machines are slow."""


class Application:
    """Updates one row after another, and notes for how long that is refused."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.refused: list[float] = []
        self.done = 0
        self.error: Exception | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._database.connect() as connection:
                while not self._stop.wait(0.02):
                    try:
                        connection.execute("UPDATE t SET v = v + 1 WHERE id = 7")
                        self.done += 1
                    except psycopg.errors.ObjectNotInPrerequisiteState:
                        self.refused.append(time.monotonic())
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)
        assert self.error is None, self.error


def test_updates_are_refused_for_a_moment_only(postgres: Database, tmp_path: Path) -> None:
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 100) g"
    )
    with Live.on(postgres, tmp_path) as live:
        live.wait_equal()
        application = Application(postgres)
        try:
            for _ in range(3):
                live.run("ALTER TABLE t DROP CONSTRAINT t_pkey")
                live.wait_caught_up()
                end, done = time.monotonic() + GRACE, application.done
                while time.monotonic() < end or application.done == done:
                    time.sleep(0.1)
                live.run("ALTER TABLE t ADD PRIMARY KEY (id)")
                live.wait_equal()
        finally:
            application.stop()
        seconds = [b - a for a, b in zip([0.0, *application.refused], [*application.refused, 0.0], strict=True)]
        # Where more than a second lies between two refusals, updates worked in between.
        spells: list[list[float]] = []
        for at, gap in zip(application.refused, seconds[:-1], strict=True):
            if gap > 1 or not spells:
                spells.append([])
            spells[-1].append(at)
        assert len(spells) <= 3
        assert all(spell[-1] - spell[0] < GRACE for spell in spells), [s[-1] - s[0] for s in spells]
        print("refused for", [round(s[-1] - s[0], 2) for s in spells], "s")
        live.wait_equal()
