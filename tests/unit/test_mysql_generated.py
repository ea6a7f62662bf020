"""What a generated column is computed from, by its expression."""

from __future__ import annotations

import pytest

from connectors.mysql.generated import inputs
from connectors.mysql.types import Definition


def plain(name: str) -> Definition:
    return Definition(name, "int", "int")


def computed(name: str, expression: str) -> Definition:
    return Definition(name, "int", "int", extra="VIRTUAL GENERATED", expression=expression, mariadb=True)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("`a` * 2", "a"),
        ("`A` + `b`", "ab"),
        ("a+b", "ab"),
        ("concat('`', `a`, '`')", "a"),
        ("concat('b', `a`)", "ab"),
        ("`g` + 1", "b"),
        ("`h` + 1", "ab"),
        ("`c``d` || 1", "c`d"),
        ("1", "all"),
        ("", "all"),
        ("`a` + 'no end", "all"),
        ("`self` + `a`", "a"),
    ],
)
def test_inputs(expression: str, names: str) -> None:
    definitions = [
        *(plain("a"), plain("b"), plain("c`d"), computed("g", "`b`"), computed("h", "`g` + `a`")),
        computed("self", expression),
    ]
    found = {definitions[i].name for i in inputs(definitions, 5)}
    wanted = {"c`d"} if names == "c`d" else {"a", "b", "c`d"} if names == "all" else set(names)
    assert found == wanted
