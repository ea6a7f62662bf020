"""What a generated column is computed from, for rows whose image leaves it out (MariaDB).

MariaDB 11.8 writes no generated column into the new image of an update, other versions none that was not written. Its
value is that of the old image where nothing changed that it is computed from. Only the server can compute another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors.mysql.sqltext import Unreadable, tokens
from connectors.mysql.types import Definition


def inputs(definitions: Sequence[Definition], place: int) -> frozenset[int]:
    """The columns (places among `definitions`), none of them generated, from which the one at `place` is computed.

    In doubt more than it is: whatever its expression may name, or all of them where it cannot be read.
    """
    plain = frozenset(i for i, d in enumerate(definitions) if not d.generated)
    by_name = {d.name.casefold(): i for i, d in enumerate(definitions)}
    found: set[int] = set()
    left = [place]
    seen: set[int] = set()
    while left:
        at = left.pop()
        seen.add(at)
        try:
            words = tokens(definitions[at].expression)
        except Unreadable:
            return plain
        named = {by_name[w.text.casefold()] for w in words if w.text.casefold() in by_name}
        if not named:
            return plain
        found |= named & plain
        left += named - plain - seen
    return frozenset(found)
