"""Tables that appear while the engine runs and cannot be replicated: said, left out, and no hindrance to the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.live import Live
from tests.support.servers import REFLEX, Database
from tests.support.waiting import wait_until

SETUP = (
    "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT g, g FROM generate_series(1, 100) g;"
    "CREATE TABLE u (id int PRIMARY KEY, v int); INSERT INTO u SELECT g, g FROM generate_series(1, 100) g"
)


@pytest.fixture
def live(postgres: Database, tmp_path: Path) -> Iterator[Live]:
    postgres.execute(SETUP)
    with Live.on(postgres, tmp_path) as made:
        made.wait_equal()
        yield made


def setup_check(live: Live) -> dict[str, Any]:
    """The check that names what is left out; it is there once something was."""
    checks: list[dict[str, Any]] = live.engine.health()["checks"]
    return next((c for c in checks if c["name"] == "setup"), {"status": "ok", "detail": None})


def wait_named(live: Live, *words: str) -> None:
    def named() -> bool:
        check = setup_check(live)
        return check["status"] == "degraded" and all(word in check["detail"] for word in words)

    wait_until(named, 30, message=live.log_end)
    assert live.engine.health()["status"] == "degraded"


def wait_mended(live: Live) -> None:
    wait_until(lambda: setup_check(live)["status"] == "ok", 30, message=live.log_end)
    live.engine.wait_health(status="ok")


def names(live: Live) -> set[str]:
    return set(live.engine.health()["rowCounts"])


def settle(live: Live, *tables: str) -> None:
    live.run(*(f"UPDATE {table} SET v = v + 1" for table in tables))
    live.wait_equal([f"public.{table}" for table in tables])


def test_a_table_of_another_owner(live: Live) -> None:
    live.database.superuser(
        f"CREATE TABLE public.theirs (id int PRIMARY KEY, v int); GRANT SELECT ON public.theirs TO {REFLEX.name}"
    )
    wait_named(live, "public.theirs", 'ADD TABLE ONLY "public"."theirs"')
    settle(live, "t", "u")
    live.engine.restart()
    wait_named(live, "public.theirs")
    settle(live, "t", "u")
    assert names(live) == {"public.t", "public.u"}
    # Even when everything has to be loaded anew.
    live.engine.terminate()
    live.database.superuser("SELECT pg_drop_replication_slot(%s)", [live.slot()])
    live.engine.start()
    settle(live, "t", "u")
    wait_named(live, "public.theirs")
    live.database.superuser("ALTER TABLE public.theirs OWNER TO app; INSERT INTO public.theirs VALUES (1, 1)")
    wait_until(lambda: "public.theirs" in names(live), 30, message=live.log_end)
    wait_mended(live)
    settle(live, "t", "u", "theirs")


def test_a_name_that_differs_only_in_case(live: Live) -> None:
    live.run('CREATE TABLE "T" (id int PRIMARY KEY, v int); INSERT INTO "T" VALUES (1, 1)')
    wait_named(live, "public.T", "only in case")
    settle(live, "t", "u")
    live.run('ALTER TABLE u RENAME TO "T2"', 'ALTER TABLE "T" RENAME TO t2')
    wait_named(live, "public.t2", "only in case")
    settle(live, "t")
    live.engine.restart()
    wait_named(live, "public.t2")
    live.run('DROP TABLE "T2"')
    wait_mended(live)
    settle(live, "t", "t2")


def test_a_rename_into_another_tables_name(live: Live) -> None:
    live.run('ALTER TABLE u RENAME TO "T"', 'INSERT INTO "T" VALUES (1000, 1)')
    wait_named(live, "public.T")
    settle(live, "t")
    assert names(live) == {"public.t"}
    live.run('ALTER TABLE "T" RENAME TO u')
    wait_mended(live)
    settle(live, "t", "u")


def test_a_column_that_differs_only_in_case(live: Live) -> None:
    live.run('ALTER TABLE u ADD COLUMN "V" int', "INSERT INTO u VALUES (1000, 1, 2)")
    wait_named(live, "public.u", "only in case")
    settle(live, "t")
    assert names(live) == {"public.t"}
    live.run('ALTER TABLE u DROP COLUMN "V"')
    wait_mended(live)
    settle(live, "t", "u")


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    "statements",
    [
        'DROP TABLE u; CREATE TABLE "U" (id int PRIMARY KEY, v int); INSERT INTO "U" VALUES (1, 1), (2, 2)',
        'ALTER TABLE u RENAME TO "U"; INSERT INTO "U" VALUES (1000, 1)',
    ],
    ids=["another", "the same"],
)
def test_a_table_whose_name_changes_only_in_case(live: Live, statements: str, down: bool) -> None:
    if down:
        live.engine.terminate()
    live.run(statements)
    if down:
        live.engine.start()
    wait_until(lambda: names(live) == {"public.t", "public.U"}, 30, message=live.log_end)
    live.run('UPDATE "U" SET v = 3')
    live.wait_equal(["public.t", "public.U"])
    live.engine.restart()
    live.wait_equal(["public.t", "public.U"])
