"""Sets of global transaction identifiers: MySQL's executed sets (with tags), and MariaDB's position per domain.

Source: MySQL Reference Manual, "GTID Format and Storage" and "GTID Sets" (dev.mysql.com); MySQL source documentation,
`Gtid_set::encode` (COM_BINLOG_DUMP_GTID and PREVIOUS_GTIDS carry that form); MariaDB Knowledge Base, "Global
Transaction ID" (mariadb.com/kb).
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from connectors.mysql.wire import Cursor
from engine.errors import DecodeError

Interval = tuple[int, int]
"""First and last transaction number, both included."""
Source = tuple[str, str]
"""Where numbers are counted: the server's UUID (lower case, with dashes) and the tag (``""``: none)."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}", re.ASCII)
_INTERVAL = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?", re.ASCII)
_MARIADB = re.compile(r"(\d{1,10})-(\d{1,10})-(\d{1,20})", re.ASCII)
_END = (1 << 63) - 1


def _merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same numbers as few intervals in ascending order."""
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def _minus(left: Sequence[Interval], right: Sequence[Interval]) -> list[Interval]:
    """The numbers of `left` that are not in `right` (both merged)."""
    rest: list[Interval] = []
    at = 0
    for begin, last in left:
        first = begin
        while at < len(right) and right[at][1] < first:
            at += 1
        look = at
        while look < len(right) and right[look][0] <= last:
            if right[look][0] > first:
                rest.append((first, right[look][0] - 1))
            first = right[look][1] + 1
            look += 1
        if first <= last:
            rest.append((first, last))
    return rest


@dataclass(frozen=True, slots=True)
class GtidSet:
    """A MySQL GTID set. `sources` is sorted, each with merged intervals; make one with `of`, `parse` or `decode`."""

    sources: tuple[tuple[Source, tuple[Interval, ...]], ...] = ()

    @classmethod
    def of(cls, sources: Mapping[Source, Iterable[Interval]]) -> Self:
        """Build a set. ValueError for a source or number that no server could have."""
        result = []
        for (server, tag), intervals in sorted(sources.items()):
            merged = _merged(intervals)
            if _UUID.fullmatch(server) is None or (tag and _TAG.fullmatch(tag) is None):
                raise ValueError("not a GTID source: expected a UUID and a tag")
            if any(not 0 < first <= last < _END for first, last in merged):
                raise ValueError("a GTID set holds a number or interval that is out of range")
            if merged:
                result.append(((server, tag), merged))
        return cls(tuple(result))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the server's text (``UUID:1-5:8:tag:1-3,UUID:…``; white space and case do not matter)."""
        sources: dict[Source, list[Interval]] = {}
        for part in re.sub(r"\s", "", text.lower()).split(","):
            if not part:
                continue
            server, *rest = part.split(":")
            if _UUID.fullmatch(server) is None or not rest:
                raise ValueError("not a GTID set: expected UUID:first-last")
            tag = ""
            for item in rest:
                interval = _INTERVAL.fullmatch(item)
                if interval is None:
                    if _TAG.fullmatch(item) is None:
                        raise ValueError("not a GTID set: neither an interval nor a tag follows the UUID")
                    tag = item
                    continue
                first = int(interval[1])
                last = int(interval[2] or first)
                if last >= first:  # the server drops intervals that end before they begin
                    sources.setdefault((server, tag), []).append((first, last))
        return cls.of(sources)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the binary form (PREVIOUS_GTIDS). Raises DecodeError."""
        cursor = Cursor(data, "an encoded GTID set")
        head = cursor.number(8)
        kind = head >> 56
        if kind > 1 or (kind == 1 and head & 0xFF != 1):
            raise DecodeError("an encoded GTID set is of an unknown format")
        count = (head & ~(0xFF << 56)) >> (8 * kind)
        sources: dict[Source, list[Interval]] = {}
        for _ in range(count):
            server = str(uuid.UUID(bytes=cursor.raw(16)))
            tag = ""
            if kind:
                length = cursor.number(1)
                if length & 1 or length > 64:
                    raise cursor.malformed()
                tag = cursor.text(length >> 1)
            (intervals,) = cursor.take("<Q")
            if intervals * 16 > cursor.left:
                raise cursor.short()
            numbers = cursor.take(f"<{2 * intervals}q")
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            sources.setdefault((server, tag), []).extend((first, end - 1) for first, end in pairs)
        cursor.finish()
        try:
            return cls.of(sources)
        except ValueError:
            raise cursor.malformed() from None

    def encode(self) -> bytes:
        """The binary form, as COM_BINLOG_DUMP_GTID wants it: the format with tags only when there is a tag."""
        tagged = any(tag for (_, tag), _ in self.sources)
        head = len(self.sources) << 8 | 1 | 1 << 56 if tagged else len(self.sources)
        parts = [struct.pack("<Q", head)]
        for (server, tag), intervals in self.sources:
            parts.append(uuid.UUID(server).bytes)
            if tagged:
                parts.append(bytes([len(tag) << 1]) + tag.encode())
            parts.append(struct.pack("<Q", len(intervals)))
            parts += [struct.pack("<qq", first, last + 1) for first, last in intervals]
        return b"".join(parts)

    def __str__(self) -> str:
        parts: list[str] = []
        server_before = None
        for (server, tag), intervals in self.sources:
            numbers = ":".join(str(a) if a == b else f"{a}-{b}" for a, b in intervals)
            item = f"{tag}:{numbers}" if tag else numbers
            if server == server_before:
                parts[-1] += f":{item}"
            else:
                parts.append(f"{server}:{item}")
            server_before = server
        return ",".join(parts)

    def __bool__(self) -> bool:
        return bool(self.sources)

    def count(self) -> int:
        """How many transactions the set holds."""
        return sum(last - first + 1 for _, intervals in self.sources for first, last in intervals)

    def contains(self, other: GtidSet) -> bool:
        """Whether every transaction of `other` is in this set."""
        return not other.minus(self)

    def union(self, other: GtidSet) -> GtidSet:
        """The transactions of both sets."""
        sources: dict[Source, list[Interval]] = {source: list(intervals) for source, intervals in self.sources}
        for source, intervals in other.sources:
            sources.setdefault(source, []).extend(intervals)
        return GtidSet(tuple((source, _merged(sources[source])) for source in sorted(sources)))

    def minus(self, other: GtidSet) -> GtidSet:
        """The transactions of this set that are not in `other`."""
        gone = dict(other.sources)
        rest = ((source, tuple(_minus(mine, gone.get(source, ())))) for source, mine in self.sources)
        return GtidSet(tuple((source, intervals) for source, intervals in rest if intervals))

    def add(self, source: Source, numbers: npt.NDArray[np.int64]) -> GtidSet:
        """This set with more transactions of one source, in any order. Costs little for numbers that follow each other."""
        if len(numbers) == 0:
            return self
        if numbers.min() < 1 or numbers.max() >= _END:
            raise DecodeError("a GTID's number is out of range")
        ordered = np.unique(numbers)
        breaks = np.flatnonzero(np.diff(ordered) != 1)
        firsts = ordered[np.concatenate([[0], breaks + 1])].tolist()
        lasts = ordered[np.concatenate([breaks, [len(ordered) - 1]])].tolist()
        return self.union(GtidSet(((source, tuple(zip(firsts, lasts, strict=True))),)))


@dataclass(frozen=True, slots=True)
class MariadbGtids:
    """A MariaDB GTID position: per replication domain the server id and the number of its last transaction, sorted."""

    domains: tuple[tuple[int, int, int], ...] = ()

    @classmethod
    def of(cls, domains: Iterable[tuple[int, int, int]]) -> Self:
        """Build a position of (domain, server id, number). ValueError for a domain that comes twice or a bad number."""
        ordered = tuple(sorted(domains))
        if len({d for d, _, _ in ordered}) != len(ordered):
            raise ValueError("a MariaDB GTID position names a domain twice")
        if any(not (0 <= d < 1 << 32 and 0 <= s < 1 << 32 and 0 <= n < 1 << 64) for d, s, n in ordered):
            raise ValueError("a MariaDB GTID position holds a number that is out of range")
        return cls(ordered)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``domain-server-number,…`` (@@gtid_binlog_pos and the like)."""
        domains = []
        for part in re.sub(r"\s", "", text).split(","):
            if not part:
                continue
            match = _MARIADB.fullmatch(part)
            if match is None:
                raise ValueError("not a MariaDB GTID position: expected domain-server-number")
            domains.append((int(match[1]), int(match[2]), int(match[3])))
        return cls.of(domains)

    def __str__(self) -> str:
        return ",".join(f"{domain}-{server}-{number}" for domain, server, number in self.domains)

    def __bool__(self) -> bool:
        return bool(self.domains)

    def contains(self, other: MariadbGtids) -> bool:
        """Whether this position is at or behind `other` in every domain of `other`."""
        reached = {domain: number for domain, _, number in self.domains}
        return all(reached.get(domain, -1) >= number for domain, _, number in other.domains)

    def advance(self, domain: int, server: int, number: int) -> MariadbGtids:
        """This position with a later transaction of one domain."""
        kept = [entry for entry in self.domains if entry[0] != domain]
        return MariadbGtids(tuple(sorted([*kept, (domain, server, number)])))
