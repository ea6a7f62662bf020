"""What the events of a run are to the assembler, and what its transactions are called. Vectors over many events."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from connectors.columnar import Offsets
from connectors.mysql import events as kinds
from connectors.mysql.eventruns import Events
from connectors.mysql.events import ROLES, Role
from connectors.mysql.progress import Groups, Progress, one_group
from connectors.mysql.transactions import gtid_run, mariadb_gtid_run, parse_gtid, parse_mariadb_gtid
from engine.errors import DecodeError, ResyncRequired

Roles = npt.NDArray[np.uint8]

BEGUN = 100
"""A plain BEGIN: the transaction goes on to its COMMIT or XID."""

_POST_HEADER = 13
_BEGIN, _COMMIT = np.frombuffer(b"BEGIN", np.uint8), np.frombuffer(b"COMMIT", np.uint8)
_SINGLE = 1 | 64 | 128
"""Flags of a MariaDB transaction that is looked at by itself: standalone, prepared, completed."""


def mark_roles(run: Events) -> Roles:
    """The role of each event; plain BEGIN and COMMIT statements are told from the others, uncommon GTIDs are RARE."""
    roles = ROLES[run.types].copy()
    queries = np.flatnonzero(run.types == kinds.QUERY)
    if len(queries):
        _mark(run, roles, queries, _BEGIN, BEGUN)
        _mark(run, roles, queries, _COMMIT, Role.COMMIT)
    roles[run.types == kinds.GTID_TAGGED] = Role.RARE
    begins = np.flatnonzero(run.types == kinds.MARIADB_GTID)
    if len(begins):
        flags = run.u8[run.body[begins] + 12]
        roles[begins[flags & _SINGLE != 0]] = Role.RARE
    return roles


def _mark(run: Events, roles: Roles, queries: Offsets, word: npt.NDArray[np.uint8], role: int) -> None:
    """Give the role to those of the QUERY events whose statement is exactly this word."""
    body, end = run.body[queries], run.end[queries]
    long = end - body >= _POST_HEADER + 1 + len(word)
    queries, body, end = queries[long], body[long], end[long]
    status = run.u8[body + 11].astype(np.int64) | run.u8[body + 12].astype(np.int64) << 8
    length = end - body - _POST_HEADER - status - run.u8[body + 8] - 1
    is_word = length == len(word)
    queries, end = queries[is_word], end[is_word]
    text = run.u8[end[:, None] + np.arange(-len(word), 0)]
    roles[queries[(text == word).all(axis=1)]] = role


def read_groups(run: Events, begins: Offsets, progress: Progress) -> Groups:
    """The transactions that begin at these events (of type GTID, ANONYMOUS_GTID, or plain ones of MariaDB).

    Raises ResyncRequired for one without a GTID where the stream goes by them.
    """
    if not progress.by_gtid or not len(begins):
        return Groups(np.zeros(len(begins), np.int64), np.zeros(len(begins), np.int64))
    types = run.types[begins]
    kind = int(types[0])
    if kinds.ANONYMOUS_GTID in types:
        raise ResyncRequired("the server wrote a transaction without a GTID: gtid_mode was switched")
    if bool((types != kind).any()):
        raise DecodeError("GTIDs of MySQL and of MariaDB are mixed")
    body, end = run.body[begins], run.end[begins]
    if kind == kinds.GTID:
        found = gtid_run(run.u8, body, end)
        return Groups(found.which, found.numbers, servers=tuple((server, "") for server in found.servers))
    plain = mariadb_gtid_run(run.u8, body, end)
    pairs = np.stack([plain.domains, run.servers[begins]], axis=1)
    if bool((pairs == pairs[0]).all()):
        distinct, codes = pairs[:1], np.zeros(len(pairs), np.int64)
    else:
        distinct, codes = np.unique(pairs, axis=0, return_inverse=True)
    domains = tuple((int(domain), int(server)) for domain, server in distinct)
    return Groups(codes.reshape(-1).astype(np.int64), plain.numbers.astype(np.int64), domains=domains)


def commit_clock(run: Events, begin: int | None, commit: int) -> float:
    """When the transaction with these events committed, by the source's clock (MySQL: to the microsecond)."""
    if begin is not None and int(run.types[begin]) == kinds.GTID:
        committed = int(gtid_run(run.u8, run.body[begin : begin + 1], run.end[begin : begin + 1]).committed[0])
        if committed:
            return committed / 1e6
    return float(run.timestamps[commit])


def single_group(run: Events, index: int, progress: Progress) -> Groups:
    """The transaction that begins at this one event."""
    kind = int(run.types[index])
    if not progress.by_gtid:
        return one_group()
    if kind == kinds.MARIADB_GTID:
        mariadb = parse_mariadb_gtid(run.body_of(index))
        return one_group(domain=(mariadb.domain, int(run.servers[index])), number=mariadb.number)
    gtid = parse_gtid(run.body_of(index), kind)
    return one_group(server=(gtid.server, gtid.tag), number=gtid.number)
