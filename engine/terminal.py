"""Text for a terminal: rows as an aligned table, values that cannot steer the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def text_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as aligned text; numbers to the right, NULL spelled out, control characters escaped."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [all(_is_number(r[i]) or r[i] is None for r in rows) for i in range(len(columns))]
    heads = [_cell(c) for c in columns]
    widths = [max([len(heads[i]), *(len(row[i]) for row in cells)]) for i in range(len(columns))]

    def lay(row: Sequence[str]) -> str:
        placed = (cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        return " | ".join(placed).rstrip()

    return "\n".join([lay(heads), "-+-".join("-" * w for w in widths), *(lay(row) for row in cells)])


def _is_number(value: Any) -> bool:
    """Whether the value is a number, or the text of one (as exact decimals come)."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A value must not be able to steer the reader's terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
