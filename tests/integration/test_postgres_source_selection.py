"""Tables that cannot be replicated are left out by themselves, and said to be; the others go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from connectors.postgres.source import PostgresSource
from engine.errors import PreconditionError
from engine.schema import TableSchema
from engine.source import Source
from tests.contract.harness import postgres_options
from tests.support.replay import Replay
from tests.support.servers import APP, REFLEX, SUPERUSER, Database

SETUP = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int)"


@contextmanager
def source_of(database: Database) -> Iterator[PostgresSource]:
    source = PostgresSource(postgres_options(database))
    try:
        yield source
    finally:
        source.close()


@pytest.fixture
def replay(postgres: Database) -> Iterator[Replay]:
    postgres.execute(SETUP)
    made = Replay(PostgresSource(postgres_options(postgres)))
    made.start()
    yield made
    made.close()


def known(replay: Replay) -> list[TableSchema]:
    return [r.table for r in replay.tables.values()]


def told(source: Source, tables: Sequence[TableSchema]) -> set[tuple[str | None, str | None]]:
    """What inspection finds, as names before and after."""
    return {(_name(c.old), _name(c.new)) for c in source.inspect(tables)}


def _name(table: TableSchema | None) -> str | None:
    return None if table is None else str(table.id)


def problems(source: Source) -> list[tuple[str, str]]:
    assert all(not c.ok for c in source.status().problems)
    return [(c.detail, c.remedy) for c in source.status().problems]


def again(replay: Replay, database: Database) -> set[str]:
    """What the next start follows."""
    assert replay.position is not None
    replay.close()
    with source_of(database) as source:
        found = source.discover()
        assert source.prepare(found, replay.position, replay.identity).position == replay.position
        return {str(t.id) for t in found}


def test_a_new_table_of_another_owner_is_left_out(postgres: Database, replay: Replay) -> None:
    postgres.superuser("CREATE TABLE public.theirs (id int PRIMARY KEY)")
    assert told(replay.source, known(replay)) == set()
    name = f"reflex_{postgres.name}"
    add = f'ALTER PUBLICATION "{name}" ADD TABLE ONLY "public"."theirs";'
    postgres.superuser(f"GRANT SELECT ON public.theirs TO {REFLEX.name}")
    assert told(replay.source, known(replay)) == set()
    [(detail, remedy)] = problems(replay.source)
    assert "public.theirs is not replicated" in detail
    assert "does not own it" in detail
    assert add in remedy
    assert f'GRANT "{SUPERUSER.name}" TO "{REFLEX.name}";' in remedy
    assert again(replay, postgres) == {"public.t", "public.u"}
    postgres.superuser(add)
    with source_of(postgres) as source:
        assert told(source, known(replay)) == {(None, "public.theirs")}
        assert problems(source) == []


def test_a_new_table_that_may_not_be_read_is_left_out(postgres: Database, replay: Replay) -> None:
    postgres.superuser("CREATE TABLE public.hidden (id int PRIMARY KEY)")
    assert told(replay.source, known(replay)) == set()
    [(detail, remedy)] = problems(replay.source)
    assert detail == "public.hidden is not replicated: this role may not read it"
    assert f'GRANT SELECT ON "public"."hidden" TO "{REFLEX.name}";' in remedy
    assert again(replay, postgres) == {"public.t", "public.u"}


def test_a_table_that_a_dbas_publication_lacks_is_left_out(postgres: Database) -> None:
    postgres.execute(SETUP)
    postgres.superuser(f"REVOKE {APP.name} FROM {REFLEX.name}")
    name = f"reflex_{postgres.name}"
    try:
        postgres.execute(f"GRANT SELECT ON t, u TO {REFLEX.name}")
        postgres.superuser(f'CREATE PUBLICATION "{name}" FOR TABLE t')
        with source_of(postgres) as source:
            found = source.discover()
            assert [str(t.id) for t in found] == ["public.t"]
            assert [d for d, _ in problems(source)] == [
                f"public.u is not replicated: publication {name} belongs to another role and does not hold it"
            ]
            source.prepare(found, None, "what a replica has stored")
            assert told(source, found) == set()
            postgres.superuser(f'ALTER PUBLICATION "{name}" ADD TABLE u')
            assert told(source, found) == {(None, "public.u")}
    finally:
        postgres.superuser(f"GRANT {APP.name} TO {REFLEX.name}")


def test_publications_that_are_gone_leave_no_table_out(postgres: Database, replay: Replay) -> None:
    """The data stays, and the error says which statements bring it on again."""
    postgres.superuser(
        f'DROP PUBLICATION "reflex_{postgres.name}", "reflex_{postgres.name}_inserts"; REVOKE {APP.name} FROM {REFLEX.name}'
    )
    try:
        with pytest.raises(PreconditionError) as refused:
            replay.source.inspect(known(replay))
        assert "CREATE PUBLICATION" in refused.value.remedy
        assert {str(t.id) for t in replay.source.discover()} == {"public.t", "public.u"}
    finally:
        postgres.superuser(f"GRANT {APP.name} TO {REFLEX.name}")


def test_a_key_that_moves_to_an_excluded_column_stops_that_table(postgres: Database) -> None:
    postgres.execute(SETUP)
    options = {"exclude_columns": {"public.u": ("v",)}}
    replay = Replay(PostgresSource(postgres_options(postgres, **options)))
    replay.start()
    try:
        postgres.execute("ALTER TABLE u DROP CONSTRAINT u_pkey; INSERT INTO u VALUES (1, 1)")
        postgres.execute("ALTER TABLE u ADD PRIMARY KEY (v)")
        assert told(replay.source, known(replay)) == {("public.u", None)}
        [(detail, remedy)] = problems(replay.source)
        assert detail == "public.u is not replicated: v identifies its rows and cannot be excluded"
        assert "`tables.columns.public.u.exclude`" in remedy
    finally:
        replay.close()


NEWCOMERS = {
    "a new table": ('CREATE TABLE "T" (id int PRIMARY KEY)', "public.T", set()),
    "a new schema": ('CREATE SCHEMA "PUBLIC"; CREATE TABLE "PUBLIC".x (id int PRIMARY KEY)', "PUBLIC.x", set()),
    "another table renamed": ('ALTER TABLE u RENAME TO "T"', "public.T", {("public.u", None)}),
    "an older table renamed": ('ALTER TABLE t RENAME TO "U"', "public.U", {("public.t", None)}),
    "a column": ('ALTER TABLE u ADD COLUMN "V" int', "public.u", {("public.u", None)}),
}


@pytest.mark.parametrize("case", NEWCOMERS)
def test_a_newcomer_whose_name_differs_only_in_case_is_left_out(postgres: Database, replay: Replay, case: str) -> None:
    statement, name, findings = NEWCOMERS[case]
    postgres.execute(statement)
    assert told(replay.source, known(replay)) == findings
    [(detail, remedy)] = problems(replay.source)
    assert detail.startswith(f"{name} is not replicated")
    assert "only in case" in detail
    assert "Rename" in remedy
    kept = {"public.t", "public.u"} - {old for old, _ in findings}
    assert again(replay, postgres) == kept


@pytest.mark.parametrize("case", [c for c in NEWCOMERS if "new" not in c])
def test_the_stream_too_leaves_out_what_cannot_be_told_apart(postgres: Database, replay: Replay, case: str) -> None:
    statement, name, findings = NEWCOMERS[case]
    [(gone, _)] = findings
    postgres.execute(statement)
    schema, table = name.split(".")
    postgres.execute(f'INSERT INTO "{schema}"."{table}" (id) VALUES (1)')
    replay.wait(lambda: replay.changes, 10)
    [change] = replay.changes
    assert (_name(change.old), change.new) == (gone, None)


def test_names_that_were_told_apart_again_are_replicated(postgres: Database, replay: Replay) -> None:
    postgres.execute('CREATE TABLE "T" (id int PRIMARY KEY)')
    assert told(replay.source, known(replay)) == set()
    postgres.execute('ALTER TABLE "T" RENAME TO t2')
    assert told(replay.source, known(replay)) == {(None, "public.t2")}
    assert problems(replay.source) == []
