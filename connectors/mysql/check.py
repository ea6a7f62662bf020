"""The preconditions of a MySQL or MariaDB source, each with the statement that mends it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from connectors.mysql.cascades import read_cascades
from connectors.mysql.catalog import Catalog, CatalogTable
from connectors.mysql.connection import Connection, Connections
from connectors.mysql.failures import DRIVER_ERRORS, number_of
from connectors.mysql.grants import LOCK, LOOK, READ, STREAM, Grants
from connectors.mysql.selection import RIGHT, partly_readable, select
from connectors.mysql.types import quoted
from engine.errors import ConfigError, EngineError, PreconditionError
from engine.schema import Identity
from engine.source import Check, SourceOptions

_SHORT_RETENTION = 86_400
_NAMED_AT_MOST = 10
_OFF = frozenset({"", "OFF", "0", "NO"})
_RESTART = "in the server's option file ([mysqld]), and restart it"


def refuse_unsuitable(connection: Connection) -> None:
    """Raise PreconditionError when the server, or the user, cannot do row-based replication at all."""
    settings = _settings(connection)
    failed = [c for c in (_log_bin(settings), _format(connection, settings)) if not c.ok and not c.warning]
    grants = Grants.read(connection)
    failed += [c for c in (_right(grants, STREAM), _right(grants, LOOK)) if not c.ok]
    for each in failed:
        raise PreconditionError(f"{each.detail}.", each.remedy)


def check(connections: Connections, options: SourceOptions) -> list[Check]:
    """Verify everything; a failure to connect is itself a failed check."""
    checks: list[Check] = []
    try:
        with connections.session("connecting") as connection:
            settings = _settings(connection)
            grants = Grants.read(connection)
            checks += [_connected(connection), _log_bin(settings), _format(connection, settings)]
            checks += [_metadata(connection, settings), _right(grants, STREAM), _right(grants, LOOK)]
            checks += _server_id(connection, settings, options)
            checks += _own_log(connection, settings, options)
            checks.append(_retention(connection, settings))
            if not connection.server.mariadb:
                checks.append(_gtids(settings))
            checks += _tables(connection, settings, grants, options)
    except PreconditionError as error:
        detail = str(error).removesuffix(error.remedy).strip()
        checks.append(Check("configuration", ok=False, detail=detail, remedy=error.remedy))
    except ConfigError as error:
        checks.append(Check("configuration", ok=False, detail=str(error)))
    except EngineError as error:
        checks.append(Check("connection", ok=False, detail=str(error)))
    return checks


def _settings(connection: Connection) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in connection.query("SHOW GLOBAL VARIABLES")}


def _mend(connection: Connection, name: str, value: str) -> str:
    """The statement that sets a global variable for good."""
    if connection.server.mariadb:
        return f"SET GLOBAL {name} = {value}; and keep it by `{name} = {value}` in the server's option file."
    return f"SET PERSIST {name} = {value};"


def _connected(connection: Connection) -> Check:
    tls = "with TLS" if connection.encrypted else "without TLS"
    name = "MariaDB" if connection.server.mariadb else "MySQL"
    return Check("connection", ok=True, detail=f"{name} {connection.server.text}, {tls}")


def _log_bin(settings: Mapping[str, str]) -> Check:
    ok = settings.get("log_bin", "OFF").upper() not in _OFF
    remedy = f"Put `log_bin = binlog` and a `server_id` {_RESTART} (Amazon RDS: turn automated backups on)."
    detail = f"the server writes {'a' if ok else 'no'} binary log"
    return Check("log_bin", ok=ok, detail=detail, remedy="" if ok else remedy)


def _format(connection: Connection, settings: Mapping[str, str]) -> Check:
    value = settings.get("binlog_format", "ROW").upper()
    detail = f"binlog_format is {value}"
    if value == "ROW":
        return Check("binlog_format", ok=True, detail=detail)
    if value == "MIXED":
        detail += ": tables that are changed by logged statements are loaded again"
    return Check(
        "binlog_format",
        ok=False,
        detail=detail,
        remedy=_mend(connection, "binlog_format", "'ROW'"),
        warning=value == "MIXED",
    )


def _metadata(connection: Connection, settings: Mapping[str, str]) -> Check:
    value = settings.get("binlog_row_metadata", "").upper() or "NO_LOG"
    detail = f"binlog_row_metadata is {value}"
    if value == "FULL":
        return Check("binlog_row_metadata", ok=True, detail=detail)
    detail += ": the log does not name columns and labels"
    remedy = _mend(connection, "binlog_row_metadata", "'FULL'")
    return Check("binlog_row_metadata", ok=False, detail=detail, remedy=remedy, warning=True)


def _right(grants: Grants, right: str) -> Check:
    ok = grants.everywhere(right)
    detail = f"{grants.account} {'has' if ok else 'lacks'} {right}"
    return Check(f"grant {right}", ok=ok, detail=detail, remedy="" if ok else grants.statement(right))


def _server_id(connection: Connection, settings: Mapping[str, str], options: SourceOptions) -> Iterator[Check]:
    own = int(settings.get("server_id", "0"))
    if own == 0:
        remedy = f"Put a `server_id` {_RESTART}."
        yield Check("server_id", ok=False, detail="the server's own server_id is 0", remedy=remedy)
    wanted = options.server_id
    if wanted is None:
        yield Check("binlog_server_id", ok=True, detail="a server id is chosen at every start")
        return
    who = "the server itself" if wanted == own else _other_replica(connection, wanted, options)
    if who:
        remedy = "Choose another `instance.binlog_server_id`: every replica of a server has its own."
        yield Check("binlog_server_id", ok=False, detail=f"{wanted} is the id of {who}", remedy=remedy)
    else:
        yield Check("binlog_server_id", ok=True, detail=f"no other replica is known under {wanted}")


def _other_replica(connection: Connection, server_id: int, options: SourceOptions) -> str:
    """Who else streams under this id, as far as we may know."""
    statement = "SHOW SLAVE HOSTS" if connection.server.mariadb else "SHOW REPLICAS"
    try:
        rows = connection.rows(statement)
    except DRIVER_ERRORS as error:
        if number_of(error) is None:
            raise
        return ""
    mine = f"reflex:{options.instance}"
    for row in rows:
        fields = {str(name).lower(): value for name, value in row.items()}
        if int(fields["server_id"]) == server_id and fields.get("host") != mine:
            return "another replica that streams now"
    return ""


def _own_log(connection: Connection, settings: Mapping[str, str], options: SourceOptions) -> Iterator[Check]:
    """What the server leaves out of its log: databases by its filters, and what it receives as a replica."""
    try:
        rows = connection.rows(connection.server.log_status)
    except DRIVER_ERRORS as error:
        if number_of(error) is None:
            raise
        rows = []
    for row in rows:
        only = {n for n in str(row.get("Binlog_Do_DB") or "").split(",") if n}
        never = set(str(row.get("Binlog_Ignore_DB") or "").split(","))
        if (only and options.database not in only) or options.database in never:
            remedy = f"Take {options.database} into `binlog_do_db`, or out of `binlog_ignore_db`, {_RESTART}."
            yield Check("binlog filters", ok=False, detail=f"{options.database} is not logged", remedy=remedy)
    logged = settings.get("log_replica_updates", settings.get("log_slave_updates", "ON")).upper()
    if logged in _OFF and _is_replica(connection):
        detail = "the server is a replica and does not log what it receives (log_replica_updates)"
        remedy = f"Put `log_slave_updates = ON` (MySQL: `log_replica_updates`) {_RESTART}."
        yield Check("log_replica_updates", ok=False, detail=detail, remedy=remedy)


def _is_replica(connection: Connection) -> bool:
    statement = "SHOW ALL SLAVES STATUS" if connection.server.mariadb else "SHOW REPLICA STATUS"
    try:
        return bool(connection.query(statement))
    except DRIVER_ERRORS as error:
        if number_of(error) is None:
            raise
        return False


def _retention(connection: Connection, settings: Mapping[str, str]) -> Check:
    days = float(settings.get("expire_logs_days", "0"))
    seconds = int(settings.get("binlog_expire_logs_seconds", "0")) or round(days * 86_400)
    if settings.get("binlog_expire_logs_auto_purge", "ON").upper() in _OFF:
        seconds = 0
    if not seconds:
        return Check("retention", ok=True, detail="binary logs are kept until they are purged by hand")
    hours = f"{seconds / 3600:g} h"
    if seconds >= _SHORT_RETENTION:
        return Check("retention", ok=True, detail=f"binary logs are kept for {hours}")
    detail = f"binary logs are kept for {hours} only: an engine that is away for longer loads everything again"
    variable, value = ("binlog_expire_logs_seconds", "604800")
    if variable not in settings:  # MariaDB before 10.6
        variable, value = ("expire_logs_days", "7")
    remedy = f"{_mend(connection, variable, value)} (Amazon RDS: mysql.rds_set_configuration)"
    return Check("retention", ok=False, detail=detail, remedy=remedy, warning=True)


def _gtids(settings: Mapping[str, str]) -> Check:
    mode = settings.get("gtid_mode", "OFF").upper()
    if mode == "ON":
        return Check("gtid_mode", ok=True, detail="gtid_mode is ON: the stream can follow a fail-over")
    steps = ["enforce_gtid_consistency = ON", *(f"gtid_mode = {m}" for m in ("OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"))]
    remedy = " ".join(f"SET PERSIST {step};" for step in steps)
    detail = f"gtid_mode is {mode}: a position holds on this server only, and loading takes a short lock on the tables"
    return Check("gtid_mode", ok=False, detail=detail, remedy=remedy, warning=True)


def _tables(
    connection: Connection, settings: Mapping[str, str], grants: Grants, options: SourceOptions
) -> Iterator[Check]:
    tables, left_out = select(connection, options)
    if not tables:
        remedy = f"Correct `instance.schema` and `tables`, or: {grants.statement(READ, options.database)}"
        yield Check("tables", ok=False, detail=f"no table of {options.database} is to be replicated", remedy=remedy)
    else:
        yield Check("tables", ok=True, detail=f"{len(tables)} tables: {_some([t.id.name for t in tables])}")
    yield from (each.check() for each in left_out)
    candidates = Catalog(connection, options).candidates()
    for table in candidates:
        if table.hindrance and not table.lost_key:
            detail = f"{table.id} is not replicated: {table.hindrance}"
            yield Check("tables", ok=False, detail=detail, remedy="Leave it out (`tables.exclude`).", warning=True)
    readable = not any(each.name == RIGHT for each in left_out)
    followable = [t for t in candidates if not t.hindrance]
    yield from _rights(connection, settings, grants, options, followable, readable=readable)
    for each in partly_readable(connection, options, tables, grants):
        detail = f"{grants.account} may read some columns of {each.id} only, and the log has all:"
        detail += " the table is loaded again after every change"
        remedy = grants.statement(READ, each.id.schema, each.id.name) + " Or leave it out (`tables.exclude`)."
        yield Check(RIGHT, ok=False, detail=detail, remedy=remedy, warning=True)
    yield from _keys(connection, settings, tables)
    yield from _generated(connection, tables)
    yield from _engines(tables)
    yield from _cascades(connection, options, tables)
    yield from _stated_types(tables)


def _rights(
    connection: Connection,
    settings: Mapping[str, str],
    grants: Grants,
    options: SourceOptions,
    tables: Sequence[CatalogTable],
    *,
    readable: bool,
) -> Iterator[Check]:
    if readable:
        yield Check(RIGHT, ok=True, detail=f"{grants.account} may read {options.database}")
    if connection.server.mariadb:
        return
    by_gtid = settings.get("gtid_mode", "OFF").upper() == "ON"
    locked = [t for t in tables if t.schema.identity is Identity.ROW or not by_gtid]
    if locked:
        ok = grants.on_database(LOCK, options.database)
        why = "tables without a key" if by_gtid else "tables of a server without GTIDs"
        detail = f"{why} are loaded under a short lock: {_some([str(t.id) for t in locked])}"
        remedy = "" if ok else grants.statement(LOCK, options.database)
        yield Check("grant LOCK TABLES", ok=ok, detail=detail, remedy=remedy)


def _keys(connection: Connection, settings: Mapping[str, str], tables: Sequence[CatalogTable]) -> Iterator[Check]:
    image = settings.get("binlog_row_image", "FULL").upper()
    full = image in {"FULL", "FULL_NODUP"}
    keyless = [t for t in tables if t.schema.identity is Identity.ROW]
    detail = f"binlog_row_image is {image}"
    if full or not keyless:
        yield Check("binlog_row_image", ok=True, detail=detail)
    else:
        detail += ": tables without a key are loaded again after every update or delete"
        remedy = _mend(connection, "binlog_row_image", "'FULL'") + " Or give them primary keys."
        yield Check("binlog_row_image", ok=False, detail=detail, remedy=remedy, warning=True)
    for table in keyless:
        remedy = f"ALTER TABLE {quoted(table.id.schema)}.{quoted(table.id.name)} ADD PRIMARY KEY (...);"
        detail = f"{table.id} has no primary key (or unique key without NULL): its rows are compared as a whole"
        yield Check("key", ok=False, detail=detail, remedy=remedy, warning=True)
    for table in tables:
        if table.unstreamed:
            detail = f"{table.id} is loaded again after every change: {table.unstreamed}"
            remedy = "Leave it out (`tables.exclude`), or what of it that is (`tables.columns`)."
            yield Check("stream", ok=False, detail=detail, remedy=remedy, warning=True)


def _generated(connection: Connection, tables: Sequence[CatalogTable]) -> Iterator[Check]:
    if not connection.server.mariadb:
        return
    computing = [str(t.id) for t in tables if any(d.generated for d in t.replicated)]
    if computing:
        detail = (
            "MariaDB may leave generated columns out of its log (always when an update changes them, from 11.8 on);"
        )
        detail += f" these are loaded again then: {_some(computing)}"
        remedy = "Leave the generated columns out (`tables.columns`), or the tables (`tables.exclude`)."
        yield Check("generated columns", ok=False, detail=detail, remedy=remedy, warning=True)


def _engines(tables: Sequence[CatalogTable]) -> Iterator[Check]:
    plain = [t for t in tables if not t.transactional]
    if plain:
        detail = f"without transactions, so that half a statement can be read: {_some([str(t.id) for t in plain])}"
        yield Check("storage engine", ok=False, detail=detail, remedy="ALTER TABLE ... ENGINE = InnoDB;", warning=True)


def _cascades(connection: Connection, options: SourceOptions, tables: Iterable[CatalogTable]) -> Iterator[Check]:
    try:
        cascades = read_cascades(connection, options.database)
    except DRIVER_ERRORS as error:
        if number_of(error) is None:
            raise
        return
    children = sorted({str(c) for t in tables for c in cascades.of_any_change(t.id)})
    if children:
        detail = f"foreign keys change rows without the log, so these are loaded again then: {_some(children)}"
        remedy = "Do in the application what ON DELETE and ON UPDATE do, or upgrade to MySQL 9.6 or later."
        yield Check("foreign keys", ok=False, detail=detail, remedy=remedy, warning=True)


def _stated_types(tables: Sequence[CatalogTable]) -> Iterator[Check]:
    for table in tables:
        for column in table.schema.columns:
            if column.rule is not None:
                detail = f"{table.id}.{column.name} ({column.source_type}) is {column.type}: {column.rule}"
                yield Check("types", ok=True, detail=detail, warning=True)


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return ", ".join(names[:_NAMED_AT_MOST]) + more
