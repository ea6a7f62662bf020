"""Bringing changes into a copy of a table, by what the table's identity says of them.

The input is a relation with ``seq``, ``op`` and the typed columns ``c0``, ``c1``, ...: Arrow rows of one batch, or a
staging table. A staging table may be larger than memory, so it is worked through in parts of its keys (by hash): a part
is what a join or an aggregate has to hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.changes import Op
from engine.errors import ReplicaError, ResyncRequired
from engine.replica.binding import Binder
from engine.replica.catalog import Stored
from engine.replica.entries import key_indexes
from engine.replica.sql import listed, physical_name
from engine.replica.staging import LOST_BASE, Staged
from engine.replica.writer import Writer
from engine.schema import Identity

_INSERT, _DELETE = f"{Op.INSERT:d}", f"{Op.DELETE:d}"


@dataclass(frozen=True, slots=True)
class Input:
    """A relation of changes: all of them inserts? and in how many parts to work through it."""

    relation: str
    inserts_only: bool
    parts: int = 1


def merge(writer: Writer, target: Stored, source: Input) -> None:
    """Bring complete row images into `target`, in the caller's transaction. Raises ResyncRequired on divergence."""
    table = target.layout
    if source.inserts_only:
        _insert(writer, target, source.relation)
    elif table.identity is Identity.KEY:
        _merge_by_key(writer, target, source)
    elif table.identity is Identity.ROW:
        _merge_by_row(writer, target, source)
    else:
        raise ResyncRequired(f"{table.id} has neither key nor old rows, and rows of it were changed", [table.id])


def merge_staged(writer: Writer, target: Stored, staged: Staged, factor: int = 1) -> None:
    """Bring what is staged into `target` (emptied already where a TRUNCATE was staged). Consumes the staging table."""
    parts = factor * _parts(writer, staged)
    relation = staged.relation
    if staged.layout.identity is Identity.KEY and not staged.inserts_only:
        _reduce(writer, staged, parts)
        if staged.kept:
            relation = _complete(writer, target, staged, parts)
    merge(writer, target, Input(relation, staged.inserts_only, parts))
    if relation != staged.relation:
        writer.con.execute(f"DROP TABLE {relation}")


def as_upserts(writer: Writer, staged: Staged) -> Staged:
    """Make staged inserts updates: the copy may hold their rows already, having been read after they were inserted."""
    if staged.layout.identity is not Identity.KEY:
        return staged
    writer.con.execute(f"UPDATE {staged.relation} SET op = {Op.UPDATE:d} WHERE op = {_INSERT}")
    return replace(staged, inserts_only=False)


def _insert(writer: Writer, target: Stored, relation: str, where: str = "TRUE") -> None:
    columns = listed(target.columns)
    values = listed(f"c{i}" for i in range(len(target.columns)))
    writer.con.execute(
        f"INSERT INTO {physical_name(target.number)} ({columns}) SELECT {values} FROM {relation} WHERE {where}"
    )


# By key


def _merge_by_key(writer: Writer, target: Stored, source: Input) -> None:
    """Last image per key: delete the keys that may exist, insert the rows that remain."""
    keys = [f"c{i}" for i in key_indexes(target.layout)]
    physical = [target.columns[i] for i in key_indexes(target.layout)]
    same_key = " AND ".join(f"t.{p} = k.{k}" for p, k in zip(physical, keys, strict=True))
    for part in range(source.parts):
        within = _part(keys, source.parts, part)
        known = f"(SELECT DISTINCT {listed(keys)} FROM {source.relation} WHERE op <> {_INSERT} AND {within})"
        writer.delete(target.number, f"USING {known} k WHERE {same_key}")
    last = "TRUE"
    if source.parts == 1:
        last = f"seq IN (SELECT max(seq) FROM {source.relation} GROUP BY {listed(keys)})"
    _insert(writer, target, source.relation, f"op <> {_DELETE} AND {last}")


def _reduce(writer: Writer, staged: Staged, parts: int) -> None:
    """Leave only the last image of each key in a staging table.

    A key's DELETE or UPDATE may go with it only if what is left still says that the key may exist in the target: a
    last image that is an INSERT becomes an UPDATE.
    """
    keys = [f"c{i}" for i in key_indexes(staged.layout)]
    same_key = " AND ".join(f"s.{k} = d.{k}" for k in keys)
    for part in range(parts):
        last = (
            f"SELECT {listed(keys)}, max(seq) AS last FROM {staged.relation} WHERE {_part(keys, parts, part)} "
            f"GROUP BY {listed(keys)} HAVING count(*) > 1"
        )
        found = writer.temporary()
        writer.con.execute(f"CREATE TEMP TABLE {found} AS {last}")
        if writer.scalar(f"SELECT count(*) FROM {found}"):
            writer.con.execute(f"DELETE FROM {staged.relation} s USING {found} d WHERE {same_key} AND s.seq < d.last")
            writer.con.execute(
                f"UPDATE {staged.relation} SET op = {Op.UPDATE:d} "
                f"WHERE op = {_INSERT} AND seq IN (SELECT last FROM {found})"
            )
        writer.con.execute(f"DROP TABLE {found}")


def _complete(writer: Writer, target: Stored, staged: Staged, parts: int) -> str:
    """Take the values that the staged images lack from the target's rows. Returns the relation of complete images."""
    layout = staged.layout
    missing = " OR ".join(f"coalesce(u{i}, FALSE)" for i in staged.kept)
    keys = key_indexes(layout)
    base = " AND ".join(f"o.{target.columns[i]} = s.b{j}" for j, i in enumerate(keys))
    bases = [f"b{j}" for j in range(len(keys))]
    values = [
        f"CASE WHEN coalesce(s.u{i}, FALSE) THEN o.{target.columns[i]} ELSE s.c{i} END AS c{i}"
        if i in staged.kept
        else f"s.c{i}"
        for i in range(len(layout.columns))
    ]
    complete = writer.temporary()
    writer.con.execute(
        f"CREATE TEMP TABLE {complete} AS SELECT s.seq, s.op, {listed(f's.c{i}' for i in range(len(values)))} "
        f"FROM {staged.relation} s WHERE op = {_DELETE} OR NOT ({missing})"
    )
    expected = writer.scalar(f"SELECT count(*) FROM {staged.relation} WHERE op <> {_DELETE} AND ({missing})")
    found = 0
    for part in range(parts):
        found += writer.changed(
            f"INSERT INTO {complete} SELECT s.seq, s.op, {listed(values)} FROM "
            f"(SELECT * FROM {staged.relation} WHERE op <> {_DELETE} AND ({missing}) AND {_part(bases, parts, part)}) s "
            f"JOIN {physical_name(target.number)} o ON {base}"
        )
    if found != expected:
        raise ResyncRequired(LOST_BASE, [layout.id])
    return complete


# By whole row


def _merge_by_row(writer: Writer, target: Stored, source: Input) -> None:
    """Multiset arithmetic: for each distinct row, as many copies more or fewer as the changes say in sum.

    Rows are told apart by representation: where DuckDB holds different values for equal (-0.0 and 0.0, 1 month and
    30 days), by their text.
    """
    layout, table = target.layout, physical_name(target.number)
    if writer.scalar(f"SELECT count(*) FROM {source.relation} WHERE op = {Op.UPDATE:d}"):
        raise ReplicaError(f"{layout.id} has no key: its updates must come as a delete and an insert")
    width = range(len(layout.columns))
    exact = [_exact(writer.binder, column.type) for column in layout.columns]
    same_row = " AND ".join(
        f"{exact[i].format(f't.{target.columns[i]}')} IS NOT DISTINCT FROM {exact[i].format(f'n.c{i}')}" for i in width
    )
    for part in range(source.parts):
        net = writer.temporary()
        groups = [exact[i].format(f"c{i}") for i in width]
        values = listed(f"c{i}" if exact[i] == "{}" else f"any_value(c{i}) AS c{i}" for i in width)
        writer.con.execute(
            f"CREATE TEMP TABLE {net} AS SELECT {values}, sum(CASE op WHEN {_DELETE} THEN -1 ELSE 1 END)::BIGINT AS copies, "
            f"row_number() OVER () AS id FROM {source.relation} "
            f"WHERE {_part([f'c{i}' for i in width], source.parts, part)} GROUP BY {listed(groups)} HAVING sum(CASE op WHEN {_DELETE} THEN -1 ELSE 1 END) <> 0"
        )
        expected = writer.scalar(f"SELECT sum(-copies)::BIGINT FROM {net} WHERE copies < 0")
        if expected:
            removed = writer.delete(
                target.number,
                f"WHERE rowid IN (SELECT place FROM (SELECT t.rowid AS place, n.copies AS copies, "
                f"row_number() OVER (PARTITION BY n.id) AS nth FROM {table} t JOIN {net} n ON {same_row} "
                f"WHERE n.copies < 0) WHERE nth <= -copies)",
            )
            if removed != expected:
                raise ResyncRequired(f"{layout.id}: rows to delete are not in the replica", [layout.id])
        more = f"(SELECT *, unnest(range(copies)) FROM {net} WHERE copies > 0)"
        _insert(writer, target, more)
        writer.con.execute(f"DROP TABLE {net}")


def _exact(binder: Binder, declared: str) -> str:
    """A format for an expression by which values of a type are grouped."""
    return "CAST({} AS VARCHAR)" if binder.inexact_equality(declared) else "{}"


# Parts


def _part(columns: Sequence[str], parts: int, part: int) -> str:
    """The condition that a row is in one of `parts`."""
    return "TRUE" if parts == 1 else f"hash({listed(columns)}) % {parts} = {part}"


def _parts(writer: Writer, staged: Staged) -> int:
    """How many parts keep a join or aggregate over the staged keys within a fraction of the memory limit."""
    if staged.inserts_only:
        return 1
    width = staged.bytes // max(1, staged.rows)
    if staged.layout.identity is Identity.KEY:
        width = min(width, 32 * len(staged.layout.key))
    return 1 + staged.rows * (48 + width) // (writer.memory_limit // 4)
