"""The preconditions of a PostgreSQL source, each with the statement that mends it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from connectors.postgres import publication
from connectors.postgres.catalog import Catalog, CatalogTable, require_schema
from connectors.postgres.connection import Connection, Connections, fetch, fetch_one
from connectors.postgres.failures import remedies
from connectors.postgres.selection import clashes, column_clashes, may_read, owned
from connectors.postgres.slot import read_slot
from connectors.postgres.types import quoted
from engine.errors import ConfigError, EngineError, PreconditionError
from engine.schema import Identity
from engine.source import Check, SourceOptions

_LONG_TRANSACTION = 60
_NAMED_AT_MOST = 10


def refuse_unsuitable(connection: Connection) -> None:
    """Raise PreconditionError when the server or the role cannot do logical replication at all."""
    for failed in (c for c in (_wal_level(connection), _replication_right(connection)) if not c.ok):
        raise PreconditionError(f"{failed.detail}.", failed.remedy)


def check(connections: Connections, options: SourceOptions, base: str) -> list[Check]:
    """Verify everything; a failure to connect is itself a failed check."""
    checks: list[Check] = []
    try:
        with connections.session("connecting") as connection:
            checks += [connected(connection), _wal_level(connection), _replication_right(connection)]
            checks.append(_slots(connection, base))
            checks += _own_slot(connection, base)
            checks.append(_senders(connection, base))
            checks.append(_retention(connection))
            checks += _running_transactions(connection)
            require_schema(connection, options.schema)
            checks += _tables(connection, options, base)
        if all(c.ok for c in checks if c.name in ("wal_level", "replication right")):
            checks.append(_replication_connection(connections))
    except (ConfigError, PreconditionError) as error:
        checks.append(Check("configuration", ok=False, detail=str(error)))
    except EngineError as error:
        checks.append(Check("connection", ok=False, detail=str(error)))
    return checks


def _setting(connection: Connection, name: str) -> str:
    row = fetch_one(connection, "SELECT pg_catalog.current_setting(%s, true)", [name])
    return "" if row is None or row[0] is None else str(row[0])


def connected(connection: Connection) -> Check:
    """Which server answers, and how."""
    version = _setting(connection, "server_version")
    tls = "with TLS" if connection.pgconn.ssl_in_use else "without TLS"
    return Check("connection", ok=True, detail=f"PostgreSQL {version}, {tls}")


def _wal_level(connection: Connection) -> Check:
    level = _setting(connection, "wal_level")
    remedy = (
        "ALTER SYSTEM SET wal_level = 'logical'; -- and restart the server (Amazon RDS: set rds.logical_replication = 1 in"
        " the parameter group; Google Cloud SQL: the flag cloudsql.logical_decoding = on; Azure: the parameter wal_level)"
    )
    if level == "logical":
        remedy = ""
    return Check("wal_level", ok=level == "logical", detail=f"wal_level is {level}", remedy=remedy)


def _replication_right(connection: Connection) -> Check:
    row = fetch_one(
        connection,
        """SELECT r.rolname, r.rolreplication OR r.rolsuper
                  OR EXISTS (SELECT FROM pg_catalog.pg_roles m
                             WHERE m.rolname IN ('rds_replication', 'rdsadmin', 'cloudsqlsuperuser')
                               AND pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER')),
                  EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication')
           FROM pg_catalog.pg_roles r WHERE r.rolname = current_user""",
    )
    assert row is not None
    role, ok, rds = row
    grant = f"GRANT rds_replication TO {quoted(role)};" if rds else f"ALTER ROLE {quoted(role)} REPLICATION;"
    detail = f"role {role} {'may' if ok else 'may not'} start replication"
    return Check("replication right", ok=ok, detail=detail, remedy="" if ok else grant)


def _replication_connection(connections: Connections) -> Check:
    try:
        with connections.session("opening a replication connection", replication=True):
            return Check("replication connection", ok=True, detail="the server accepts replication connections")
    except EngineError as error:
        remedy = "Let the role in for this database by a line in pg_hba.conf."
        return Check("replication connection", ok=False, detail=str(error), remedy=remedy)


def _slots(connection: Connection, base: str) -> Check:
    """One permanent slot, and a temporary one while a table loads beside the stream."""
    most = int(_setting(connection, "max_replication_slots") or 0)
    row = fetch_one(
        connection,
        "SELECT pg_catalog.count(*), coalesce(pg_catalog.bool_or(slot_name = %s), false) "
        "FROM pg_catalog.pg_replication_slots",
        [base],
    )
    assert row is not None
    used, exists = row
    needed = 1 if exists else 2
    ok = most - used >= needed
    remedy = f"ALTER SYSTEM SET max_replication_slots = {used + needed}; and restart the server."
    detail = f"{used} of {most} replication slots are in use"
    return Check("replication slots", ok=ok, detail=detail, remedy="" if ok else remedy)


def _own_slot(connection: Connection, base: str) -> Iterator[Check]:
    """Whether the slot that this instance made before can still be streamed from."""
    found = read_slot(connection, base)
    if found is None:
        return
    if found.lost:
        detail = f"replication slot {base} is lost: {found.lost}; the next start loads every table anew"
        remedy = "Nothing needs to be done. To avoid it: keep the engine running, or raise max_slot_wal_keep_size."
        yield Check("replication slot", ok=False, detail=detail, remedy=remedy, warning=True)
    else:
        yield Check("replication slot", ok=True, detail=f"replication slot {base} stands at {found.confirmed}")


def _senders(connection: Connection, base: str) -> Check:
    most = int(_setting(connection, "max_wal_senders") or 0)
    row = fetch_one(
        connection,
        """SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r
           WHERE r.pid NOT IN (SELECT active_pid FROM pg_catalog.pg_replication_slots
                               WHERE slot_name = %s AND active_pid IS NOT NULL)""",
        [base],
    )
    used = 0 if row is None else row[0]
    ok = most - used >= 2
    remedy = f"ALTER SYSTEM SET max_wal_senders = {used + 2}; and restart the server."
    detail = f"{used} of {most} WAL senders are in use"
    return Check("WAL senders", ok=ok, detail=detail, remedy="" if ok else remedy)


def _retention(connection: Connection) -> Check:
    kept = _setting(connection, "max_slot_wal_keep_size")
    bounded = kept not in ("-1", "")
    detail = f"max_slot_wal_keep_size is {kept or 'not known to this version'}"
    remedy = (
        "A stopped engine makes the server keep WAL without limit. To bound it: "
        "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();"
    )
    return Check("WAL retention", ok=bounded, detail=detail, remedy="" if bounded else remedy, warning=True)


def _running_transactions(connection: Connection) -> Iterator[Check]:
    row = fetch_one(
        connection,
        """SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
           WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
             AND xact_start < pg_catalog.now() - pg_catalog.make_interval(secs => %s)""",
        [_LONG_TRANSACTION],
    )
    if row is not None and row[0]:
        detail = f"{row[0]} transactions have been writing for over {_LONG_TRANSACTION} s; a snapshot waits for them"
        remedy = "SELECT pid, xact_start, state FROM pg_stat_activity WHERE backend_xid IS NOT NULL;"
        yield Check("running transactions", ok=False, detail=detail, remedy=remedy, warning=True)


def _tables(connection: Connection, options: SourceOptions, base: str) -> Iterator[Check]:
    names = publication.publication_names(base)
    candidates = Catalog(connection, options, names).candidates()
    tables = [t for t in candidates if not t.hindrance]
    yield Check(
        "tables",
        ok=bool(tables),
        detail=f"{len(tables)} tables are chosen",
        remedy="" if tables else "Nothing matches `tables.include`, or the role sees no table.",
        warning=True,
    )
    for table in candidates:
        if table.lost_key:
            detail = f"tables.columns.{table.id}.exclude: {table.hindrance}"
            yield Check("configuration", ok=False, detail=detail, remedy=f"Take {', '.join(table.lost_key)} out of it.")
        elif table.hindrance:
            detail = f"{table.id} cannot be followed: {table.hindrance}"
            remedy = f"ALTER TABLE {_name(table)} SET LOGGED;" if "unlogged" in table.hindrance else ""
            yield Check("followable", ok=False, detail=detail, remedy=remedy, warning=True)
    yield from _select_rights(connection, tables)
    yield from _row_security(connection, tables)
    yield from _publication_rights(connection, tables, base)
    yield from _identities(connection, tables)
    yield from _clashes(tables)
    yield from _stated_types(tables)


def _select_rights(connection: Connection, tables: Sequence[CatalogTable]) -> Iterator[Check]:
    refused = [t for t in tables if not may_read(connection, t)]
    role = _current_role(connection)
    schemas = sorted({t.id.schema for t in refused})
    statements = [f"GRANT USAGE ON SCHEMA {quoted(s)} TO {role}" for s in schemas]
    statements += [f"GRANT SELECT ON {_name(t)} TO {role}" for t in refused]
    detail = f"{_some([str(t.id) for t in refused])} cannot be read" if refused else "every table can be read"
    yield Check("SELECT right", ok=not refused, detail=detail, remedy=remedies(statements))


def _row_security(connection: Connection, tables: Sequence[CatalogTable]) -> Iterator[Check]:
    guarded = []
    for table in tables:
        if table.row_security:
            row = fetch_one(connection, "SELECT pg_catalog.row_security_active(%s::int8::oid)", [table.oid])
            if row is not None and row[0]:
                guarded.append(str(table.id))
    if guarded:
        role = _current_role(connection)
        detail = f"row-level security would hide rows of {_some(guarded)} from role {role}"
        yield Check("row-level security", ok=False, detail=detail, remedy=f"ALTER ROLE {role} BYPASSRLS;")


def _publication_rights(connection: Connection, tables: Sequence[CatalogTable], base: str) -> Iterator[Check]:
    """What `publication.ensure` would run, and whether this role may."""
    generated = connection.info.server_version >= 180000
    may_create = _yes(connection, "has_database_privilege(pg_catalog.current_database(), 'CREATE')")
    held: set[int] = set()
    for wanted in publication.wanted_publications(base, tables):
        found = publication.read_publication(connection, wanted.name)
        if found is None and not may_create and {t.oid for t in wanted.tables} <= held:
            continue
        if found is not None and not found.ours:
            held = {t.oid for t in tables if found.holds(t)}
            ok = found.fits(wanted, generated=generated)
            detail = f"publication {wanted.name} belongs to another role and {'fits' if ok else 'does not fit'}"
        else:
            missing = [t for t in wanted.tables if found is None or not found.holds(t)]
            foreign = [t for t in missing if not owned(connection, t)]
            ok = not foreign and (found is not None or may_create)
            detail = f"publication {wanted.name} {'can be prepared' if ok else 'cannot be prepared by this role'}"
            if foreign:
                detail += f": it does not own {_some([str(t.id) for t in foreign])}"
            elif not ok:
                detail += ": it may not create anything in this database"
        statements = publication.mending(connection, wanted, found, remove=False)
        remedy = "" if ok else f"{remedies(statements)} -- as a superuser, or as the owner of all these tables"
        yield Check("publication", ok=ok, detail=detail, remedy=remedy)


def _identities(connection: Connection, tables: Sequence[CatalogTable]) -> Iterator[Check]:
    counting = _setting(connection, "track_counts") == "on"
    inserts = [t for t in tables if t.schema.identity is Identity.INSERTS]
    for table in inserts:
        remedy = f"ALTER TABLE {_name(table)} REPLICA IDENTITY FULL; -- or give it a primary key"
        detail = f"{table.id} has no replica identity: it is loaded again after every update or delete"
        yield Check("replica identity", ok=False, detail=detail, remedy=remedy, warning=True)
    if inserts and not counting:
        detail = "track_counts is off: updates and deletes of tables without a replica identity go unnoticed"
        remedy = "ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();"
        yield Check("track_counts", ok=False, detail=detail, remedy=remedy)
    for table in tables:
        if table.schema.identity is Identity.RELOAD:
            columns = ", ".join(table.unstreamed)
            detail = f"{table.id} is loaded again after every change: generated columns ({columns}) are not streamed"
            remedy = "Exclude them (`tables.columns`), or upgrade to PostgreSQL 18 (stored ones)."
            yield Check("generated columns", ok=False, detail=detail, remedy=remedy, warning=True)


def _clashes(tables: Sequence[CatalogTable]) -> Iterator[Check]:
    pairs = clashes([t.id for t in tables])
    pairs += [(f"{t.id}.{a}", f"{t.id}.{b}") for t in tables for a, b in column_clashes(t.schema)]
    for one, other in pairs:
        detail = f"{one} and {other} differ only in case, which the replica cannot tell apart"
        remedy = "Rename one, or leave it out (`tables.exclude`, `tables.columns`)."
        yield Check("identifiers", ok=False, detail=detail, remedy=remedy)


def _stated_types(tables: Sequence[CatalogTable]) -> Iterator[Check]:
    for table in tables:
        for column in table.schema.columns:
            if column.rule is not None:
                detail = f"{table.id}.{column.name} ({column.source_type}) is {column.type}: {column.rule}"
                yield Check("types", ok=True, detail=detail, warning=True)


def _yes(connection: Connection, function: str) -> bool:
    row = fetch_one(connection, f"SELECT pg_catalog.{function}")
    return row is not None and bool(row[0])


def _current_role(connection: Connection) -> str:
    return quoted(str(fetch(connection, "SELECT current_user")[0][0]))


def _name(table: CatalogTable) -> str:
    return f"{quoted(table.id.schema)}.{quoted(table.id.name)}"


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
