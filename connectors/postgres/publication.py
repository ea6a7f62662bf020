"""The two publications of an instance, and the tables in them.

A table without a replica identity must never be in a publication of updates: the application's UPDATE would fail. So
there is one publication for what can be followed in full, and one of inserts and truncates for the rest. Both publish
partitioned tables through their root. Publications that a DBA made under these names are accepted when they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from connectors.postgres.catalog import CatalogTable, published
from connectors.postgres.connection import Connection, fetch, fetch_one
from connectors.postgres.failures import INSUFFICIENT_PRIVILEGE, remedies
from engine.errors import PreconditionError, TransientError
from engine.schema import TableId

_LOCK_TIMEOUT = "5s"
_ATTEMPTS = 5
FULL, INSERTS = "insert, update, delete, truncate", "insert, truncate"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A publication as it should be."""

    name: str
    publish: str
    tables: tuple[CatalogTable, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A table in a publication. `narrowed`: by a row filter or a column list."""

    oid: int
    id: TableId
    partitioned: bool
    narrowed: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication as it is. `ours`: this role may alter it. `whole`: the members' oids less those that are narrowed."""

    name: str
    ours: bool
    all_tables: bool
    publish: str
    via_root: bool
    generated: bool
    members: tuple[Member, ...]
    whole: frozenset[int]
    schemas: tuple[str, ...] = ()

    def holds(self, table: CatalogTable) -> bool:
        """Whether the table's rows are published whole."""
        return self.all_tables or table.oid in self.whole or table.id.schema in self.schemas

    def fits(self, wanted: Wanted, *, generated: bool) -> bool:
        """Whether everything that is wanted is published, though perhaps more."""
        mine, needed = set(self.publish.split(", ")), set(wanted.publish.split(", "))
        whole = needed <= mine and (self.generated or not generated)
        root = self.via_root or not any(t.partitioned for t in wanted.tables)
        return whole and root and all(map(self.holds, wanted.tables))


class Ensured(NamedTuple):
    """The publications to stream from, whether something had to be changed for it, and what was found right.

    `traces`: as `catalog.published` gives them, of the tables asked for, from before the look that found all in order.
    """

    names: tuple[str, ...]
    changed: bool
    traces: Mapping[int, str]


def publication_names(base: str) -> tuple[str, str]:
    """The names of the two publications: of all changes, and of inserts only."""
    return base, f"{base}_inserts"


def wanted_publications(base: str, tables: Iterable[CatalogTable]) -> tuple[Wanted, Wanted]:
    """Distribute tables over the two publications."""
    tables = tuple(tables)
    full, inserts = publication_names(base)
    return (
        Wanted(full, FULL, tuple(t for t in tables if t.publishes_updates)),
        Wanted(inserts, INSERTS, tuple(t for t in tables if not t.publishes_updates)),
    )


def read_publication(connection: Connection, name: str) -> Publication | None:
    """Look a publication up; None if there is none."""
    version = connection.info.server_version
    generated = "p.pubgencols = 's'" if version >= 180000 else "true"
    row = fetch_one(
        connection,
        f"""SELECT p.oid::int8, pg_catalog.pg_has_role(p.pubowner, 'USAGE'), p.puballtables, p.pubinsert, p.pubupdate,
                   p.pubdelete, p.pubtruncate, {"p.pubviaroot" if version >= 130000 else "false"}, {generated}
            FROM pg_catalog.pg_publication p WHERE p.pubname = %s""",
        [name],
    )
    if row is None:
        return None
    oid, ours, everything, *actions, via_root, gencols = row
    narrowed = "(r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)" if version >= 150000 else "false"
    members = fetch(
        connection,
        f"""SELECT c.oid::int8, n.nspname, c.relname, c.relkind = 'p', {narrowed}
            FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid::int8 = %s""",
        [oid],
    )
    schemas: list[tuple[Any, ...]] = []
    if version >= 150000:
        schemas = fetch(
            connection,
            """SELECT n.nspname FROM pg_catalog.pg_publication_namespace s
               JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid::int8 = %s""",
            [oid],
        )
    names = ("insert", "update", "delete", "truncate")
    return Publication(
        name=name,
        ours=ours,
        all_tables=everything,
        publish=", ".join(n for n, on in zip(names, actions, strict=True) if on),
        via_root=via_root,
        generated=gencols,
        members=tuple(Member(m[0], TableId(m[1], m[2]), m[3], m[4]) for m in members),
        whole=frozenset(m[0] for m in members if not m[4]),
        schemas=tuple(s for (s,) in schemas),
    )


def mending(connection: Connection, wanted: Wanted, found: Publication | None, *, remove: bool) -> list[str]:
    """The statements that make a publication what is wanted; none when it is so already.

    `remove`: take out tables that are not wanted.
    """
    version = connection.info.server_version
    name = sql.Identifier(wanted.name)
    options = _options(wanted.publish, version)
    out: list[sql.Composable] = []
    if found is None:
        tables = sql.SQL("FOR TABLE {} ").format(_listed(wanted.tables)) if wanted.tables else sql.SQL("")
        out.append(sql.SQL("CREATE PUBLICATION {} {}WITH ({})").format(name, tables, options))
        return [statement.as_string(connection) for statement in out]
    if (found.publish, found.via_root or version < 130000, found.generated) != (wanted.publish, True, True):
        out.append(sql.SQL("ALTER PUBLICATION {} SET ({})").format(name, options))
    needed = {t.oid for t in wanted.tables}
    surplus = [m for m in found.members if (m.narrowed and m.oid in needed) or (remove and m.oid not in needed)]
    if surplus:
        listed = sql.SQL(", ").join(only(m.id, partitioned=m.partitioned) for m in surplus)
        out.append(sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(name, listed))
    missing = [t for t in wanted.tables if not found.holds(t)]
    if missing:
        out.append(sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(name, _listed(missing)))
    return [statement.as_string(connection) for statement in out]


def ensure(connection: Connection, base: str, tables: Sequence[CatalogTable], *, remove: bool) -> Ensured:
    """Make or adopt both publications in one transaction. `remove`: take out tables that are not named.

    Tables that the publications cannot hold for want of a right raise PreconditionError with the statements for
    someone who has it. Waits at most a few seconds for a table that is being altered (TransientError).
    """
    changed = False
    oids = [t.oid for t in tables]
    for _ in range(_ATTEMPTS):
        traces = published(connection, publication_names(base), oids)
        names, mended = _ensure(connection, base, tables, remove=remove)
        if not mended:
            return Ensured(names, changed, traces)
        changed = True
    raise TransientError("preparing the publications: someone else keeps altering them.")


def _ensure(
    connection: Connection, base: str, tables: Sequence[CatalogTable], *, remove: bool
) -> tuple[tuple[str, ...], bool]:
    """The publications to stream from, and whether statements had to be run for them to be right."""
    if _server_cannot_publish(connection):
        return _accept_only(connection, base, tables), False
    generated = connection.info.server_version >= 180000
    statements: list[str] = []
    names: list[str] = []
    held: set[int] = set()
    for wanted in wanted_publications(base, tables):
        found = read_publication(connection, wanted.name)
        if found is not None and not found.ours:
            if not found.fits(wanted, generated=generated):
                raise _not_ours(connection, wanted, found)
            held |= {t.oid for t in tables if found.holds(t)}
        else:
            if found is None and {t.oid for t in wanted.tables} <= held and not _may_create(connection):
                continue
            statements += mending(connection, wanted, found, remove=remove)
        names.append(wanted.name)
    # A table that changes places must leave one publication before the server lets it lose its replica identity there.
    statements.sort(key=lambda s: "DROP TABLE" not in s)
    if statements:
        _execute(connection, statements)
    return tuple(names), bool(statements)


def drop(connection: Connection, base: str) -> list[str]:
    """Drop the publications that this role may drop; returns the names."""
    dropped = []
    for name in publication_names(base):
        found = read_publication(connection, name)
        if found is not None and found.ours:
            connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
            dropped.append(name)
    return dropped


def _execute(connection: Connection, statements: Sequence[str]) -> None:
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            for statement in statements:
                connection.execute(statement.encode())
    except psycopg.Error as error:
        if error.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        raise PreconditionError(
            f"preparing the publications: {error.diag.message_primary} (SQLSTATE {error.sqlstate}).",
            f"Let someone who may do so run: {remedies(statements)}",
        ) from None


def _not_ours(connection: Connection, wanted: Wanted, found: Publication) -> PreconditionError:
    statements = remedies(mending(connection, wanted, found, remove=False))
    return PreconditionError(
        f"publication {wanted.name} belongs to another role and does not publish what is needed.",
        f"Let its owner run: {statements}",
    )


def _accept_only(connection: Connection, base: str, tables: Sequence[CatalogTable]) -> tuple[str, ...]:
    """On a standby nothing can be made: the publications must be there already."""
    names = []
    for wanted in wanted_publications(base, tables):
        found = read_publication(connection, wanted.name)
        if found is None and not wanted.tables:
            continue
        if found is None or not found.fits(wanted, generated=connection.info.server_version >= 180000):
            statements = remedies(mending(connection, wanted, found, remove=False))
            raise PreconditionError(
                f"this server is a standby and publication {wanted.name} is missing or does not fit.",
                f"Run on the primary: {statements}",
            )
        names.append(wanted.name)
    return tuple(names)


def _server_cannot_publish(connection: Connection) -> bool:
    row = fetch_one(connection, "SELECT pg_catalog.pg_is_in_recovery()")
    return row is not None and bool(row[0])


def _may_create(connection: Connection) -> bool:
    row = fetch_one(connection, "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
    return row is not None and bool(row[0])


def _options(publish: str, version: int) -> sql.Composable:
    parts = [sql.SQL("publish = {}").format(sql.Literal(publish))]
    if version >= 130000:
        parts.append(sql.SQL("publish_via_partition_root = true").format())
    if version >= 180000:
        parts.append(sql.SQL("publish_generated_columns = stored").format())
    return sql.SQL(", ").join(parts)


def _listed(tables: Iterable[CatalogTable]) -> sql.Composable:
    return sql.SQL(", ").join(only(t.id, partitioned=t.partitioned) for t in tables)


def only(table: TableId, *, partitioned: bool) -> sql.Composable:
    """A table by itself: without ONLY, its inheritance children would be published with it."""
    name = sql.Identifier(table.schema, table.name)
    return name if partitioned else sql.SQL("ONLY {}").format(name)
