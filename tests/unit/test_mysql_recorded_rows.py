"""The row decoder on events that real servers sent, against what those servers printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from connectors.mysql.types import Definition
from engine.changes import Op, TableChanges, nulled
from engine.errors import ResyncRequired
from tests.support.mysql_rowlog import RowEvent, decode_events
from tests.support.mysql_samples import SAMPLES
from tests.support.mysql_values import differences, expected, replicated

RECORDED: dict[str, Any] = json.loads((Path(__file__).resolve().parents[1] / "fixtures/mysql/rows.json").read_text())
BY_NAME = {s.name: s for s in SAMPLES}
HISTORIES = [(server, image) for server, found in RECORDED.items() for image in found["histories"]]


def decoded(server: str, one: dict[str, Any], which: slice = slice(None)) -> TableChanges:
    events = [RowEvent(bytes.fromhex(one["map"]), kind, bytes.fromhex(body)) for kind, body in one["events"]]
    definitions = [Definition(**d) for d in one["columns"]]
    return decode_events(events[which], definitions, mariadb=server.startswith("mariadb"))


@pytest.mark.parametrize("server", RECORDED)
def test_every_type(server: str) -> None:
    problems = []
    for name, one in RECORDED[server]["samples"].items():
        changes = decoded(server, one)
        column = changes.table.columns[1]
        wanted = expected(BY_NAME[name], column, one["texts"])
        problems += differences(BY_NAME[name], "stream", replicated(column, changes.rows.column(1)), wanted)
    assert problems == []
    assert len(RECORDED[server]["samples"]) > 80


def test_zero_and_invalid_dates_are_counted() -> None:
    from connectors.mysql.rows import decode_rows
    from connectors.mysql.tablemap import parse_table_map
    from tests.support.mysql_rowlog import layout_of, run_of

    one = RECORDED["mysql-9.7"]["samples"]["date_zero"]
    events = [RowEvent(bytes.fromhex(one["map"]), kind, bytes.fromhex(body)) for kind, body in one["events"]]
    layout = layout_of(parse_table_map(events[0].table_map), [Definition(**d) for d in one["columns"]])
    # four of the values are such dates, the fifth is NULL at the source
    assert [nulled(change.rows) for change in decode_rows(layout, run_of(events, 2))] == [{"v": 4}]


def applied(changes: TableChanges) -> list[list[Any]]:
    """The rows that are left, by the rules of `engine.changes`."""
    table: dict[Any, list[Any]] = {}
    names = list(changes.table.column_names)
    known = changes.base.column(0).to_pylist() if changes.base is not None else None
    gone: dict[Any, list[Any]] = {}
    for i, (op, values) in enumerate(zip(changes.ops.to_pylist(), changes.rows.to_pylist(), strict=True)):
        row = list(values.values())
        if op == Op.DELETE:
            gone[row[0]] = table.pop(row[0])
            continue
        had = known[i] if known is not None else row[0]
        for name, mask in changes.unchanged.items():
            if mask[i].as_py():
                at = names.index(name)
                row[at] = (table.get(had) or gone[had])[at]
        table[row[0]] = row
    return [table[key] for key in sorted(table)]


@pytest.mark.parametrize("server, image", HISTORIES)
def test_every_row_image(server: str, image: str) -> None:
    one = RECORDED[server]["histories"][image]
    changes = decoded(server, one)
    assert applied(changes) == one["rows"]
    assert [Op(op).name for op in changes.ops.to_pylist()] == [
        *["INSERT"] * 3,
        *["UPDATE", "DELETE", "UPDATE"],
        # the last statement leaves a row alone whose values stay as they were
        *["UPDATE"] * 2,
        "DELETE",
    ]
    leaves_out = image in {"MINIMAL", "NOBLOB"}
    assert bool(changes.unchanged) == leaves_out
    assert (changes.base is not None) == leaves_out


def test_partial_json() -> None:
    one = RECORDED["mysql-9.7"]["partial"]
    assert [kind for kind, _ in one["events"]] == [30, 39]
    assert applied(decoded("mysql-9.7", one)) == one["rows"]


def test_an_update_alone_of_a_minimal_image_tells_what_it_left() -> None:
    one = RECORDED["mysql-9.7"]["histories"]["MINIMAL"]
    changes = decoded("mysql-9.7", one, slice(2, 3))
    assert {n: m.to_pylist() for n, m in changes.unchanged.items()} == {"a": [True], "t": [True]}
    assert changes.rows.to_pylist() == [{"id": 1, "a": None, "b": "uno", "t": None}]


def test_a_column_that_cannot_be_told_asks_for_a_reload() -> None:
    one = RECORDED["mysql-9.7"]["histories"]["MINIMAL"]
    columns = [dict(d) for d in one["columns"]]
    columns[1] |= {"default": "uuid()", "extra": "DEFAULT_GENERATED"}
    with pytest.raises(ResyncRequired, match="left column a out"):
        decoded("mysql-9.7", {**one, "columns": columns}, slice(1, 2))
