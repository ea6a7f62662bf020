"""Which tables of a SQL Server can be replicated beside each other."""

from __future__ import annotations

from dataclasses import replace

from connectors.sqlserver.catalog import CatalogTable
from connectors.sqlserver.instances import Instance
from connectors.sqlserver.selection import select
from connectors.sqlserver.types import Definition
from engine.schema import TableId

ID, V, BIG_V = Definition("id", 1, "int"), Definition("v", 2, "int"), Definition("V", 3, "int")


def table(
    name: str, object_id: int, *columns: Definition, created: str = "2024-01-01", schema: str = "dbo"
) -> CatalogTable:
    ordinals = {d.id: n for n, d in enumerate(columns, 1)}
    held = Instance(object_id + 1, object_id, f"i{object_id}", 5, ordinals, {d.id: d.name for d in columns})
    return CatalogTable(TableId(schema, name), object_id, columns, {}, ((1,),), (held,), created=created)


def names(tables: list[CatalogTable]) -> list[str]:
    return [str(t.id) for t in tables]


def test_what_is_known_keeps_its_name_and_then_what_is_older() -> None:
    older, newer = table("t", 30, ID), table("T", 10, ID, created="2024-01-02")
    for given in ([older, newer], [newer, older]):
        found = select(given, "reflex")
        assert (names(found.tables), [str(e.table) for e in found.left_out]) == (["dbo.t"], ["dbo.T"])
        known = select(given, "reflex", [newer.newest.schema])
        assert names(known.tables) == ["dbo.T"]
        # One that had another name before is a newcomer to this one.
        assert names(select(given, "reflex", [replace(newer.newest.schema, id=TableId("dbo", "x"))]).tables) == [
            "dbo.t"
        ]


def test_of_schemas_that_differ_only_in_case_one_stays_with_all_its_tables() -> None:
    found = select([table("a", 10, ID), table("b", 20, ID), table("c", 5, ID, schema="DBO", created="2025")], "reflex")
    assert names(found.tables) == ["dbo.a", "dbo.b"]
    assert "schema's name" in found.left_out[0].reason


def test_columns_that_differ_only_in_case_leave_the_table_out_unless_one_is_excluded() -> None:
    both = table("t", 10, ID, V, BIG_V)
    found = select([both], "reflex")
    assert found.tables == []
    assert "its columns 'v' and 'V' differ only in case" in found.left_out[0].check().detail
    assert select([replace(both, excluded=frozenset({"V"}))], "reflex").left_out == []


def test_a_table_that_cannot_be_replicated_takes_no_name_from_another() -> None:
    uncaptured = replace(table("t", 10, ID), instances=())
    lost = replace(table("T", 20, ID), excluded=frozenset({"id"}))
    good = table("t", 30, ID, created="2025")
    found = select([uncaptured, lost, good], "reflex")
    assert found.tables == [good]
    assert found.uncaptured == [uncaptured]
    assert [e.field for e in found.left_out] == ["tables.columns.dbo.T.exclude"]


def test_what_is_followed_need_not_be_read() -> None:
    denied = replace(table("t", 10, ID), readable=False)
    assert "GRANT SELECT ON [dbo].[t] TO [reflex];" in select([denied], "reflex").left_out[0].remedy
    assert select([denied], "reflex", [denied.newest.schema]).tables == [denied]
