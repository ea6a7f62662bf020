"""How far a stream has come: file, offset and GTIDs, advanced by many transactions at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from connectors.columnar import Offsets
from connectors.mysql.gtids import GtidSet, MariadbGtids, Source
from connectors.mysql.position import BinlogPosition

Gtids = GtidSet | MariadbGtids | None

_U64 = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Groups:
    """The GTIDs of transactions, in the order of the log: for each its number and which of the sources counted it.

    `servers` are MySQL's UUIDs with their tags, `domains` MariaDB's domains with the server ids. With neither, the
    stream does not go by GTIDs.
    """

    codes: Offsets
    numbers: Offsets
    servers: tuple[Source, ...] = ()
    domains: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.numbers)

    def span(self, lo: int, hi: int) -> Groups:
        """Transactions `lo` to `hi` (exclusive)."""
        return Groups(self.codes[lo:hi], self.numbers[lo:hi], self.servers, self.domains)

    def then(self, others: Groups) -> Groups:
        """These transactions followed by others."""
        known = len(self.servers) + len(self.domains)
        return Groups(
            np.concatenate([self.codes, others.codes + known]),
            np.concatenate([self.numbers, others.numbers]),
            (*self.servers, *others.servers),
            (*self.domains, *others.domains),
        )

    def added_to(self, gtids: Gtids) -> Gtids:
        """`gtids` with these transactions committed, too."""
        if gtids is None or not len(self):
            return gtids
        if self.domains:
            return self._added_to_domains(gtids if isinstance(gtids, MariadbGtids) else MariadbGtids())
        result = gtids if isinstance(gtids, GtidSet) else GtidSet()
        for code, server in enumerate(self.servers):
            numbers = self.numbers if len(self.servers) == 1 else self.numbers[self.codes == code]
            result = result.add(server, numbers)
        return result

    def _added_to_domains(self, gtids: MariadbGtids) -> MariadbGtids:
        """A domain stands where its last transaction in the log is, whichever server counted it."""
        last: dict[int, tuple[int, int]] = {}
        for code, (domain, server) in enumerate(self.domains):
            places = np.flatnonzero(self.codes == code)
            if len(places):
                last[domain] = max(last.get(domain, (-1, 0)), (int(places[-1]), server))
        for domain, (place, server) in last.items():
            gtids = gtids.advance(domain, server, int(self.numbers[place]) & _U64)
        return gtids


def one_group(*, server: Source | None = None, domain: tuple[int, int] | None = None, number: int = 0) -> Groups:
    """A single transaction's; of neither a server nor a domain: in a stream that does not go by GTIDs."""
    numbers = np.array([number], np.uint64).astype(np.int64)
    servers = () if server is None else (server,)
    domains = () if domain is None else (domain,)
    return Groups(np.zeros(1, np.int64), numbers, servers, domains)


class Progress:
    """What a stream has taken in. GTIDs count where `start` has them, otherwise file and offset."""

    def __init__(self, start: BinlogPosition) -> None:
        self.gtids: Gtids = start.gtids
        self.file, self.offset = start.file, start.offset

    @property
    def by_gtid(self) -> bool:
        """Whether transactions are told apart by their GTIDs."""
        return self.gtids is not None

    @property
    def position(self) -> BinlogPosition:
        """Everything committed so far."""
        return BinlogPosition(self.file, self.offset if self.file else 0, self.gtids)

    def move(self, file: str, offset: int) -> None:
        """Everything before this place is committed."""
        if file:
            self.file, self.offset = file, offset

    def commit(self, groups: Groups) -> None:
        """These transactions are committed."""
        self.gtids = groups.added_to(self.gtids)

    def first_covering(self, boundary: BinlogPosition, groups: Groups, file: str, ends: Offsets) -> int | None:
        """How many of `groups` must commit so that the position covers `boundary`; None: all of them do not.

        `ends` are the offsets in `file` where they end.
        """

        def covers(count: int) -> bool:
            if not count:
                return self.position.covers(boundary)
            offset = int(ends[count - 1]) if file else 0
            return BinlogPosition(file, offset, groups.span(0, count).added_to(self.gtids)).covers(boundary)

        return _first(covers, len(groups))


def _first(holds: Callable[[int], bool], most: int) -> int | None:
    """The least count from 0 to `most` for which it holds (and then for all greater ones); None: for none."""
    if not holds(most):
        return None
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
