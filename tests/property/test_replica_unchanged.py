"""Tracing of values that the source left out, against a plain simulation of the rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.changes import Op
from engine.replica.unchanged import trace

COLUMNS = 2
Value = tuple[str, int]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Op, int, int, tuple[bool, ...]]]:
    """Possible events of a table with keys 0 to 3, all of which may be in the replica at first."""
    there = {key: draw(st.booleans()) for key in range(4)}
    events: list[tuple[Op, int, int, tuple[bool, ...]]] = []
    for _ in range(draw(st.integers(1, 25))):
        flags = tuple(draw(st.booleans()) for _ in range(COLUMNS))
        live = [k for k, present in there.items() if present]
        free = [k for k, present in there.items() if not present]
        kind = draw(st.sampled_from(["insert", "update", "delete", "move"]))
        if kind == "insert" and free:
            key = draw(st.sampled_from(free))
            there[key] = True
            events.append((Op.INSERT, key, key, (False,) * COLUMNS))
        elif kind == "update" and live:
            key = draw(st.sampled_from(live))
            events.append((Op.UPDATE, key, key, flags))
        elif kind == "delete" and live:
            key = draw(st.sampled_from(live))
            there[key] = False
            events.append((Op.DELETE, key, key, (False,) * COLUMNS))
        elif kind == "move" and live:
            # A key may also "change" to itself: equal as the replica's type, another text at the source.
            old = draw(st.sampled_from(live))
            new = draw(st.sampled_from([*free, old]))
            there[old], there[new] = False, True
            events += [(Op.DELETE, old, old, (False,) * COLUMNS), (Op.UPDATE, new, old, flags)]
    return events


@settings(max_examples=400, deadline=None)
@given(histories())
def test_trace_finds_what_a_simulation_finds(events: list[tuple[Op, int, int, tuple[bool, ...]]]) -> None:
    if not events:
        return
    ops = np.array([e[0] for e in events], np.int8)
    keys = np.array([e[1] for e in events], np.int64)
    bases = np.array([e[2] for e in events], np.int64)
    unchanged = {c: np.array([e[3][c] for e in events]) for c in range(COLUMNS)}
    traced = trace(ops, keys, bases, unchanged)

    rows: dict[int, list[Value]] = {key: [("replica", key)] * COLUMNS for key in range(4)}
    gone: list[Value] = []
    for n, (op, key, base, flags) in enumerate(events):
        if op is Op.DELETE:
            gone = rows.pop(key)
            continue
        before = rows.get(base, gone) if op is Op.UPDATE else []
        rows[key] = [before[c] if flags[c] else ("event", n) for c in range(COLUMNS)]
        for c in range(COLUMNS):
            kind, place = rows[key][c]
            if kind == "replica":
                assert traced.missing[c][n]
                assert bases[traced.roots[n]] == place
            else:
                assert not traced.missing[c][n]
                assert traced.sources[c][n] == place
