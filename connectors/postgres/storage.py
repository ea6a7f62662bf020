"""What `TableSchema.storage` holds for PostgreSQL: traces of what changes a table without a row in the stream.

Parts of it change for harmless reasons (VACUUM FULL gives a new file), so two storages are compared by `difference`,
which says whether rows may have changed unseen. The text is compact JSON and only this module reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition that holds rows: its file, and the ids of the transactions that attached it and its ancestors.

    `empty`: it has no page now, so that nothing that it held before can be missing in the replica (not stored).
    """

    file: int
    attached: str
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of an enum type: how many, the largest oid among them, and a digest of (oid, label)."""

    count: int
    last: int
    digest: str

    @classmethod
    def of(cls, labels: Iterable[tuple[int, str]]) -> Self:
        """Summarise (oid, label) pairs."""
        ordered = sorted(labels)
        text = "\0".join(f"{oid}\0{label}" for oid, label in ordered)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(len(ordered), ordered[-1][0] if ordered else 0, digest)


@dataclass(frozen=True, slots=True)
class Storage:
    """The traces of one table.

    `attributes` maps attnum to the xmin of its pg_attribute row, which every ALTER COLUMN changes. `primary` is
    the oid of the primary key's constraint (which REINDEX keeps), 0 for none. `composites`
    maps the oid of each composite type that is used to the attnums of its attributes. `published` holds
    oid and xmin of the publication and of the table's place in it. `touched` counts updates and deletes, with the
    server's start time, for a table whose updates and deletes are not in the stream.
    """

    file: int = 0
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    attributes: Mapping[int, str] = field(default_factory=dict)
    labels: Mapping[str, Labels] = field(default_factory=dict)
    primary: int = 0
    composites: Mapping[str, str] = field(default_factory=dict)
    published: str | None = None
    touched: str | None = None

    def to_text(self) -> str:
        """The text that `TableSchema.storage` holds; `parse` reads it back."""
        leaves = {oid: asdict(leaf) for oid, leaf in self.leaves.items()}
        for leaf in leaves.values():
            del leaf["empty"]
        raw = {
            "file": self.file,
            "leaves": leaves,
            "attributes": _grouped(self.attributes),
            "labels": {oid: asdict(labels) for oid, labels in self.labels.items()},
            "primary": self.primary,
            "composites": dict(self.composites),
            "published": self.published,
            "touched": self.touched,
        }
        told = {name: value for name, value in raw.items() if value not in (None, {}, 0)}
        return json.dumps(told, separators=(",", ":"), sort_keys=True)

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read `to_text` back; None for no text and for one that this version does not know."""
        if text is None:
            return None
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(
                file=raw.get("file", 0),
                leaves={oid: Leaf(**leaf) for oid, leaf in raw.get("leaves", {}).items()},
                attributes=_ungrouped(raw.get("attributes", {})),
                labels={oid: Labels(**labels) for oid, labels in raw.get("labels", {}).items()},
                primary=raw.get("primary", 0),
                composites=raw.get("composites", {}),
                published=raw.get("published"),
                touched=raw.get("touched"),
            )
        except (AttributeError, TypeError, ValueError):
            return None

    def with_touched(self, touched: str | None) -> Self:
        """The same traces with another count of updates and deletes."""
        return replace(self, touched=touched)


def _grouped(attributes: Mapping[int, str]) -> dict[str, str]:
    """``{xmin: "1-4,7"}``: most columns share the transaction of CREATE TABLE."""
    runs: dict[str, list[list[int]]] = {}
    for number, xmin in sorted(attributes.items()):
        spans = runs.setdefault(xmin, [])
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return {xmin: ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in spans) for xmin, spans in runs.items()}


def _ungrouped(groups: Mapping[str, str]) -> dict[int, str]:
    attributes: dict[int, str] = {}
    for xmin, spans in groups.items():
        for span in spans.split(","):
            first, _, last = span.partition("-")
            attributes.update(dict.fromkeys(range(int(first), int(last or first) + 1), xmin))
    return attributes


def difference(
    old: Storage,
    new: Storage,
    columns: Iterable[int],
    labels: Mapping[str, Iterable[tuple[int, str]]],
    *,
    added: bool = False,
) -> str:
    """Why rows may have changed between two looks at a table without the stream saying so, or nothing.

    `columns` are the attnums that both looks have in common; `labels` the labels of now of the enum types involved;
    `added` says that there are new columns.
    """
    if old.published is not None and old.published != new.published:
        return "it was out of the publication for a time, or what is published changed"
    if old.touched is not None and new.touched is not None and old.touched != new.touched:
        return "rows were updated or deleted, which its replica identity keeps out of the stream"
    for oid, was in old.labels.items():
        if oid in labels and Labels.of(pair for pair in labels[oid] if pair[0] <= was.last) != was:
            return "a label of an enum type was renamed"
    # While it was not there, or was another, rows may have come that share the key of now.
    if old.primary and new.primary and old.primary != new.primary:
        return "its primary key was replaced"
    if any(new.composites.get(oid, was) != was for oid, was in old.composites.items()):
        return "attributes of a composite type were added or dropped"
    if bool(old.leaves) != bool(new.leaves) and (old.file == 0) != (new.file == 0):
        return "it became a partitioned table, or ceased to be one"
    reason = _partitions(old, new)
    if reason:
        return reason
    # TRUNCATE is in the stream and VACUUM FULL or CLUSTER change no value; a rewriting ALTER COLUMN leaves its trace.
    # A column added with a default, which was dropped since, looks like one that is NULL everywhere once rewritten.
    if old.file != new.file and added:
        return "a column was added and its rows were rewritten"
    if old.file != new.file and any(old.attributes.get(n) != new.attributes.get(n) for n in columns):
        return "its rows were rewritten by ALTER TABLE"
    return ""


def _partitions(old: Storage, new: Storage) -> str:
    for oid, leaf in old.leaves.items():
        now = new.leaves.get(oid)
        if now is None:
            return "a partition was detached or dropped"
        if now.attached != leaf.attached:
            return "a partition was detached and attached again"
        if now.file != leaf.file:
            return "a partition was truncated or rewritten"
    if any(not leaf.empty for oid, leaf in new.leaves.items() if oid not in old.leaves):
        return "a partition that holds rows was attached"
    return ""
