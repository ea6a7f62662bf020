"""Cutting a big table into ranges of its key that hold about as many rows each, by the server's own estimates.

Keys are seldom spread evenly (gaps, a few old rows far below the others), so ranges are halved until the optimizer
takes each for small enough. It looks at the index for that, not at the rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from connectors.mysql.connection import Connection

_MOST_ESTIMATES = 400


@dataclass(frozen=True, slots=True)
class Piece:
    """What one part reads: rows whose first key column is in ``[first, end)``; None: no bound."""

    first: int | None = None
    end: int | None = None

    def condition(self, column: str) -> str:
        """The WHERE clause for a column (quoted); nothing without bounds."""
        bounds = []
        if self.first is not None:
            bounds.append(f"{column} >= {self.first}")
        if self.end is not None:
            bounds.append(f"{column} < {self.end}")
        return f" WHERE {' AND '.join(bounds)}" if bounds else ""


def cut(connection: Connection, table: str, column: str, rows: int, count: int) -> list[Piece]:
    """About `count` pieces of a table of about `rows` (names are quoted) by an integer column that an index begins with.

    Together they are the table: the outer ones have no bound. Raises the driver's errors.
    """
    row = connection.query_one(f"SELECT min({column}), max({column}) FROM {table}")
    if row is None or row[0] is None or count < 2:
        return [Piece()]
    first, last = int(row[0]), int(row[1])
    wanted = max(1, rows // count)
    step = max(1, -((first - last - 1) // count))
    todo = [Piece(a, min(a + step, last + 1)) for a in range(first, last + 1, step)]
    estimates = 0
    done: list[tuple[Piece, int]] = []
    while todo:
        piece = todo.pop(0)
        assert piece.first is not None
        assert piece.end is not None
        expected = _estimate(connection, table, column, piece) if estimates < _MOST_ESTIMATES else wanted
        estimates += 1
        if 2 * expected > 3 * wanted and piece.end - piece.first > 1:
            middle = (piece.first + piece.end) // 2
            todo[:0] = [Piece(piece.first, middle), Piece(middle, piece.end)]
        else:
            done.append((piece, expected))
    return _joined(done, wanted)


def _joined(pieces: list[tuple[Piece, int]], wanted: int) -> list[Piece]:
    """Neighbours that are small together become one; the first and the last lose their outer bounds."""
    ends: list[int | None] = []
    gathered = 0
    for piece, rows in pieces:
        if gathered and gathered + rows > wanted * 3 // 2:
            ends.append(piece.first)
            gathered = 0
        gathered += rows
    bounds: list[int | None] = [None, *ends, None]
    return [Piece(a, b) for a, b in itertools.pairwise(bounds)]


def _estimate(connection: Connection, table: str, column: str, piece: Piece) -> int:
    """How many rows the optimizer expects in a piece."""
    traditional = "" if connection.server.mariadb else "FORMAT=TRADITIONAL "
    rows = connection.rows(f"EXPLAIN {traditional}SELECT {column} FROM {table}{piece.condition(column)}")
    return int(rows[0].get("rows") or 0)
