"""A database and the engine that replicates it, as one thing to write to and to compare."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.support.compare import assert_replica_equals
from tests.support.engine_process import EngineProcess
from tests.support.pgtypes import quote
from tests.support.servers import Database
from tests.support.waiting import wait_until

UNSETTLED = (AssertionError, httpx.TransportError)


class Live:
    """`database` and the engine on it. What the engine is told of the source is what a user could tell it."""

    def __init__(self, database: Database, engine: EngineProcess) -> None:
        self.database = database
        self.engine = engine

    @classmethod
    @contextlib.contextmanager
    def on(
        cls, database: Database, folder: Path, *, start: bool = True, **sections: Mapping[str, Any]
    ) -> Iterator[Live]:
        """An engine on this database, started once it is ready; ended with the block."""
        sections = {**sections, "instance": {"batch_window_ms": 20, **sections.get("instance", {})}}
        engine = EngineProcess.of(folder, database, **sections)
        live = cls(database, engine)
        try:
            if start:
                engine.start()
            yield live
            engine.terminate()
            engine.assert_no_secret()
        finally:
            engine.kill()
            engine.http.close()

    def run(self, *statements: str, schema: str = "public", role: Any = None) -> None:
        """Run each statement by itself as the owner; several in one string are one transaction."""
        with self.database.connect(role) as connection:
            connection.execute(f"SET search_path TO {quote(schema)}, public".encode())
            for statement in statements:
                connection.execute(statement.encode())

    def wait_caught_up(self, timeout: float = 60.0) -> None:
        """Wait until readers are at least where the source's log ends now."""
        self.engine.wait_position(self.database.wal_position(), timeout)

    def compare(
        self,
        tables: Sequence[str | tuple[str, str]] | None = None,
        *,
        exclude: Mapping[str, Collection[str]] | None = None,
        as_text: Collection[str] = (),
        source: psycopg.Connection[Any] | None = None,
    ) -> dict[str, int]:
        """Compare row by row now, by `source` (an idle connection of the superuser; None: a new one).

        AssertionError shows the difference.
        """
        asked = source or self.database.superuser_conninfo
        return assert_replica_equals(asked, self.engine.query, tables, exclude=exclude, as_text=as_text)

    def wait_equal(
        self,
        tables: Sequence[str | tuple[str, str]] | None = None,
        timeout: float = 60.0,
        *,
        exclude: Mapping[str, Collection[str]] | None = None,
        as_text: Collection[str] = (),
    ) -> dict[str, int]:
        """Compare again and again until source and replica agree; fails with the last difference and the log's end."""
        found: dict[str, int] = {}

        def equal() -> bool:
            found.clear()
            found.update(self.compare(tables, exclude=exclude, as_text=as_text))
            return True

        with contextlib.suppress(*UNSETTLED):
            # Comparing costs more than waiting. Not every wait ends: a reload, or an engine that is down.
            self.wait_caught_up(min(timeout, 5))
        wait_until(equal, timeout, interval=0.1, ignore=UNSETTLED, message=self.log_end)
        return found

    def compare_schema(
        self, schema: str, as_text: Collection[str] = (), *, source: psycopg.Connection[Any], held: Collection[str]
    ) -> None:
        """Compare every table of one schema; the replica, which holds the tables `held` there, has no others.

        `source`: as for `compare`, in autocommit.
        """
        names = source.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
            " AND relpersistence = 'p' AND relnamespace = to_regnamespace(%s) ORDER BY 1",
            (quote(schema),),
        ).fetchall()
        wanted = {name for (name,) in names}
        missing, more = wanted - set(held), set(held) - wanted
        assert wanted == set(held), f"{schema}: tables missing {sorted(missing)}, too many {sorted(more)}"
        if wanted:
            self.compare([(schema, name) for name in sorted(wanted)], as_text=as_text, source=source)

    def held(self) -> dict[str, set[str]]:
        """The tables that the replica shows now, by schema."""
        rows = self.engine.query(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_database()"
        )
        found: dict[str, set[str]] = {}
        for schema, name in rows:
            found.setdefault(schema, set()).add(name)
        return found

    def reloads(self) -> int:
        """How many table reloads the engine's log tells of."""
        return sum(1 for event in self.engine.log_events() if event.get("event") in ("table_reload", "reload_required"))

    def slot(self) -> str:
        """The name of the engine's replication slot."""
        rows = self.database.superuser(
            "SELECT slot_name FROM pg_replication_slots WHERE database = %s AND NOT temporary", (self.database.name,)
        )
        assert len(rows) == 1, f"one slot expected, found {rows}"
        return str(rows[0][0])

    def confirmed(self) -> str:
        """The slot's confirmed_flush_lsn, as text."""
        rows = self.database.superuser(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = %s AND NOT temporary",
            (self.database.name,),
        )
        return str(rows[0][0])

    def log_end(self, size: int = 3000) -> str:
        """The end of the engine's log, for a failure's message."""
        return f"the engine's log ends:\n{self.engine.log_text()[-size:]}"


def lsn(text: str) -> int:
    """An LSN's number."""
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def polls(seconds: float) -> Iterator[float]:
    """Yield for about `seconds`, for a loop that makes changes or looks; the time left."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield left
