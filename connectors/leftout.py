"""A table that is chosen and cannot be replicated: it is left out by itself, and the others go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.errors import ConfigError, PreconditionError, Problem
from engine.schema import TableId
from engine.source import Check


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Why, and how that is mended. `field`: the setting that is wrong, where that is why; `name`: what was looked at."""

    table: TableId
    reason: str
    remedy: str
    field: str = ""
    name: str = "tables"

    def check(self) -> Check:
        """As a check that fails."""
        return Check(self.name, ok=False, detail=f"{self.table} is not replicated: {self.reason}", remedy=self.remedy)


def refuse(left_out: Sequence[LeftOut]) -> None:
    """Raise PreconditionError, or ConfigError, when tables are left out: a first start replicates all that is chosen, or
    says why not."""
    problems = [Problem(each.field, f"{each.table}: {each.reason}") for each in left_out if each.field]
    if problems:
        raise ConfigError(problems)
    if left_out:
        reasons = "; ".join(f"{each.table}: {each.reason}" for each in left_out)
        remedy = " ".join(dict.fromkeys(each.remedy for each in left_out))
        raise PreconditionError(f"not every chosen table can be replicated: {reasons}.", remedy)


def by_table(left_out: Iterable[LeftOut]) -> dict[TableId, Check]:
    """The checks that fail for it, by table."""
    return {each.table: each.check() for each in left_out}
