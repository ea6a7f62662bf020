"""Which tests run in one process, one after the other: those that share what is dear to set up, and the short ones.

By their names alone, since the process that deals them out collects none. Groups go first, the large ones before the
small; the other tests fill up what time is left.
"""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

SHARING = frozenset(
    {
        "tests/faults/test_behind_our_back.py",
        "tests/integration/test_container.py",
        "tests/integration/test_engine_tables.py",
        "tests/integration/test_engine_types.py",
    }
)
"""Modules whose tests share an engine, or an installation."""

_STORY = re.compile(r"(tests/integration/test_engine_ddl\.py::test_definition_change)\[(\w+)-")
"""The stories of one mode are told side by side on one engine."""


def group_of(test: str) -> str:
    """The group of a test by its id; a test that is a group of its own has its id for it."""
    if story := _STORY.match(test):
        return f"{story[1]}[{story[2]}]"
    module = test.partition("::")[0]
    if module in SHARING or module.startswith(("tests/unit/", "tests/property/")):
        return module
    return test


class Groups(LoadScopeScheduling):
    """Deals out whole groups."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
