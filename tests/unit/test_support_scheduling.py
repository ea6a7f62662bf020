"""Tests that share something are dealt out together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scheduling import SHARING, group_of

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("tests/unit/test_kept.py::test_a", "tests/unit/test_kept.py::test_b[1]", True),
        ("tests/unit/test_kept.py::test_a", "tests/unit/test_config.py::test_a", False),
        ("tests/integration/test_engine_types.py::test_a[x]", "tests/integration/test_engine_types.py::test_b", True),
        ("tests/integration/test_mysql_ddl.py::test_a[x]", "tests/integration/test_mysql_ddl.py::test_a[y]", False),
    ],
)
def test_groups(one: str, other: str, together: bool) -> None:
    assert (group_of(one) == group_of(other)) is together


def test_the_stories_of_a_mode_are_a_group() -> None:
    story = "tests/integration/test_engine_ddl.py::test_definition_change[{}-add_{}]"
    groups = {mode: {group_of(story.format(mode, name)) for name in ("plain", "two")} for mode in ("quiet", "down")}
    assert all(len(group) == 1 for group in groups.values())
    assert groups["quiet"] != groups["down"]


def test_the_modules_that_share_exist() -> None:
    assert [name for name in SHARING if not (TESTS.parent / name).is_file()] == []
