"""The catalogue's views as rows: sys.* and INFORMATION_SCHEMA (those of CDC: views_cdc.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.sqlserver import types
from tests.support.sqlserver.capture import datetime_ticks
from tests.support.sqlserver.types import BIGINT, BIT, DATETIME, INT, NTEXT, SMALLINT, SYSNAME, TINYINT, SqlType
from tests.support.sqlserver.values import sort_guid

GUID = SqlType("uniqueidentifier")
DESC = SqlType("nvarchar", length=60)
Columns = dict[str, SqlType]
View = tuple[Columns, Callable[[Any], list[tuple[Any, ...]]]]
VIEWS: dict[str, View] = {}


def view(name: str, /, **columns: SqlType) -> Callable[[Callable[[Any], list[tuple[Any, ...]]]], Any]:
    def add(rows: Callable[[Any], list[tuple[Any, ...]]]) -> Any:
        VIEWS[name] = (columns, rows)
        return rows

    return add


@view(
    "sys.databases",
    name=SYSNAME,
    database_id=INT,
    create_date=DATETIME,
    is_cdc_enabled=BIT,
    snapshot_isolation_state=TINYINT,
    snapshot_isolation_state_desc=DESC,
    is_read_committed_snapshot_on=BIT,
    recovery_model_desc=DESC,
    state=TINYINT,
    state_desc=DESC,
    user_access_desc=DESC,
    is_read_only=BIT,
    collation_name=SYSNAME,
    compatibility_level=TINYINT,
)
def _databases(session: Any) -> list[tuple[Any, ...]]:
    return [
        (
            one.name,
            one.id,
            datetime_ticks(one.created),
            int(one.cdc is not None),
            int(one.snapshot_allowed),
            "ON" if one.snapshot_allowed else "OFF",
            int(one.read_committed_snapshot),
            "SIMPLE" if one.recovery_simple else "FULL",
            0,
            "ONLINE",
            "MULTI_USER",
            0,
            "SQL_Latin1_General_CP1_CI_AS",
            160,
        )
        for one in session.server.databases.values()
    ]


@view("sys.master_files", database_id=INT, file_id=INT, type=TINYINT, size=INT)
def _master_files(session: Any) -> list[tuple[Any, ...]]:
    return [(one.id, number, number - 1, 1024) for one in session.server.databases.values() for number in (1, 2)]


@view(
    "sys.database_recovery_status",
    database_id=INT,
    database_guid=GUID,
    recovery_fork_guid=GUID,
    last_log_backup_lsn=INT,
)
def _recovery(session: Any) -> list[tuple[Any, ...]]:
    return [
        (one.id, sort_guid(one.guid.bytes_le), sort_guid(one.recovery_fork.bytes_le), None)
        for one in session.server.databases.values()
    ]


@view("sys.schemas", name=SYSNAME, schema_id=INT, principal_id=INT)
def _schemas(session: Any) -> list[tuple[Any, ...]]:
    return [(name, number, 1) for name, number in session.database.schemas.items()]


def _visible_tables(session: Any) -> list[Any]:
    """Metadata show what the user has some right to."""
    return [one for one in session.database.tables.values() if session.may_see(one)]


_OBJECT = {
    "name": SYSNAME,
    "object_id": INT,
    "principal_id": INT,
    "schema_id": INT,
    "type": SqlType("char", length=2),
    "type_desc": DESC,
    "create_date": DATETIME,
    "modify_date": DATETIME,
    "is_ms_shipped": BIT,
}


def _object(session: Any, table: Any) -> tuple[Any, ...]:
    schema = session.database.schemas[table.schema]
    made = datetime_ticks(table.created)
    return (table.name, table.object_id, None, schema, "U ", "USER_TABLE", made, made, int(table.system))


@view("sys.tables", **_OBJECT, is_tracked_by_cdc=BIT, temporal_type=TINYINT, is_memory_optimized=BIT, is_external=BIT)
def _tables(session: Any) -> list[tuple[Any, ...]]:
    cdc = session.database.cdc
    return [(*_object(session, one), int(bool(cdc and cdc.of(one))), 0, 0, 0) for one in _visible_tables(session)]


@view("sys.objects", **_OBJECT)
def _objects(session: Any) -> list[tuple[Any, ...]]:
    keys = [
        (
            index.name,
            index.object_id,
            None,
            session.database.schemas[one.schema],
            "PK" if index.primary else "UQ",
            "PRIMARY_KEY_CONSTRAINT" if index.primary else "UNIQUE_CONSTRAINT",
            datetime_ticks(one.created),
            datetime_ticks(one.created),
            0,
        )
        for one in _visible_tables(session)
        for index in one.indexes
        if index.constraint
    ]
    return [_object(session, one) for one in _visible_tables(session)] + keys


_COLUMN = {
    "object_id": INT,
    "name": SYSNAME,
    "column_id": INT,
    "system_type_id": TINYINT,
    "user_type_id": INT,
    "max_length": SMALLINT,
    "precision": TINYINT,
    "scale": TINYINT,
    "collation_name": SYSNAME,
    "is_nullable": BIT,
    "is_rowguidcol": BIT,
    "is_identity": BIT,
    "is_computed": BIT,
    "is_hidden": BIT,
    "is_sparse": BIT,
    "is_column_set": BIT,
    "generated_always_type": TINYINT,
}


def _system_type(user: int) -> int:
    """Types that are made of others: sysname, and those of the CLR."""
    return 231 if user == 256 else 240 if user in (128, 129, 130) else user


def _column(table: Any, column: Any) -> tuple[Any, ...]:
    kind = column.kind
    user = types.IDS[kind.name]
    collation = "Latin1_General_BIN2" if kind.binary_collation else "SQL_Latin1_General_CP1_CI_AS"
    shown = collation if kind.family == "text" and kind.name != "xml" else None
    return (
        table.object_id,
        column.name,
        column.id,
        _system_type(user),
        user,
        kind.max_length,
        *kind.digits,
        shown,
        int(column.nullable),
        0,
        int(bool(column.identity)),
        int(column.computed is not None),
        0,
        0,
        0,
        0,
    )


def _all_columns(session: Any) -> list[tuple[Any, Any]]:
    return [(table, column) for table in _visible_tables(session) for column in table.columns]


@view("sys.columns", **_COLUMN)
def _columns(session: Any) -> list[tuple[Any, ...]]:
    return [_column(*one) for one in _all_columns(session)]


@view("sys.computed_columns", **_COLUMN, definition=NTEXT, is_persisted=BIT)
def _computed(session: Any) -> list[tuple[Any, ...]]:
    return [
        (*_column(table, column), f"({column.computed_text})", int(column.persisted))
        for table, column in _all_columns(session)
        if column.computed is not None
    ]


@view("sys.identity_columns", **_COLUMN, seed_value=BIGINT, increment_value=BIGINT, last_value=BIGINT)
def _identities(session: Any) -> list[tuple[Any, ...]]:
    return [
        (*_column(table, column), *column.identity, table.next_identity and table.next_identity - column.identity[1])
        for table, column in _all_columns(session)
        if column.identity
    ]


@view("sys.types", name=SYSNAME, system_type_id=TINYINT, user_type_id=INT, schema_id=INT, is_user_defined=BIT)
def _types(session: Any) -> list[tuple[Any, ...]]:
    names = {"rowversion": "timestamp"}
    return [(names.get(name, name), _system_type(number), number, 4, 0) for name, number in types.IDS.items()]


def _heaps_and_indexes(session: Any) -> list[tuple[Any, int, Any]]:
    found = []
    for table in _visible_tables(session):
        if not any(index.clustered for index in table.indexes):
            found.append((table, 0, None))
        found += [(table, index.id, index) for index in sorted(table.indexes, key=lambda one: one.id)]
    return found


@view(
    "sys.indexes",
    object_id=INT,
    name=SYSNAME,
    index_id=INT,
    type=TINYINT,
    type_desc=DESC,
    is_unique=BIT,
    is_primary_key=BIT,
    is_unique_constraint=BIT,
    is_disabled=BIT,
    has_filter=BIT,
    is_hypothetical=BIT,
)
def _indexes(session: Any) -> list[tuple[Any, ...]]:
    rows = []
    for table, number, index in _heaps_and_indexes(session):
        if index is None:
            rows.append((table.object_id, None, 0, 0, "HEAP", 0, 0, 0, 0, 0, 0))
            continue
        kind = (1, "CLUSTERED") if index.clustered else (2, "NONCLUSTERED")
        unique = index.constraint and not index.primary
        flags = (index.unique, index.primary, unique, False, index.filtered, False)
        rows.append((table.object_id, index.name, number, *kind, *map(int, flags)))
    return rows


@view(
    "sys.index_columns",
    object_id=INT,
    index_id=INT,
    index_column_id=INT,
    column_id=INT,
    key_ordinal=TINYINT,
    is_descending_key=BIT,
    is_included_column=BIT,
)
def _index_columns(session: Any) -> list[tuple[Any, ...]]:
    return [
        (table.object_id, number, place, column, place, 0, 0)
        for table, number, index in _heaps_and_indexes(session)
        if index is not None
        for place, column in enumerate(index.columns, start=1)
    ]


@view(
    "sys.key_constraints",
    name=SYSNAME,
    object_id=INT,
    parent_object_id=INT,
    type=SqlType("char", length=2),
    unique_index_id=INT,
)
def _keys(session: Any) -> list[tuple[Any, ...]]:
    return [
        (index.name, index.object_id, table.object_id, "PK" if index.primary else "UQ", number)
        for table, number, index in _heaps_and_indexes(session)
        if index is not None and index.constraint
    ]


@view(
    "sys.partitions",
    partition_id=BIGINT,
    object_id=INT,
    index_id=INT,
    partition_number=INT,
    hobt_id=BIGINT,
    rows=BIGINT,
)
def _partitions(session: Any) -> list[tuple[Any, ...]]:
    rows = []
    for table, number, _ in _heaps_and_indexes(session):
        identity = (table.object_id << 16) + number
        rows.append((identity, table.object_id, number, 1, identity, session.count_rows(table)))
    return rows


@view(
    "sys.allocation_units",
    allocation_unit_id=BIGINT,
    type=TINYINT,
    container_id=BIGINT,
    total_pages=BIGINT,
    used_pages=BIGINT,
)
def _allocation_units(session: Any) -> list[tuple[Any, ...]]:
    return [(row[0], 1, row[0], row[5] // 50 + 1, row[5] // 50 + 1) for row in _partitions(session)]


@view(
    "sys.dm_db_partition_stats",
    object_id=INT,
    index_id=INT,
    partition_id=BIGINT,
    row_count=BIGINT,
    used_page_count=BIGINT,
)
def _partition_stats(session: Any) -> list[tuple[Any, ...]]:
    return [(row[1], row[2], row[0], row[5], row[5] // 50 + 1) for row in _partitions(session)]


@view("information_schema.tables", TABLE_CATALOG=SYSNAME, TABLE_SCHEMA=SYSNAME, TABLE_NAME=SYSNAME, TABLE_TYPE=SYSNAME)
def _information_tables(session: Any) -> list[tuple[Any, ...]]:
    return [(session.database.name, one.schema, one.name, "BASE TABLE") for one in _visible_tables(session)]


@view("sys.database_principals", name=SYSNAME, principal_id=INT, type=SqlType("char", length=1), type_desc=DESC)
def _principals(session: Any) -> list[tuple[Any, ...]]:
    return [
        (one.name, one.id, *(("R", "DATABASE_ROLE") if one.is_role else ("S", "SQL_USER")))
        for one in session.database.users.values()
    ]


@view(
    "sys.dm_exec_sessions",
    session_id=SMALLINT,
    login_name=SYSNAME,
    program_name=SYSNAME,
    host_name=SYSNAME,
    database_id=SMALLINT,
    status=DESC,
    open_transaction_count=INT,
    is_user_process=BIT,
    transaction_isolation_level=SMALLINT,
)
def _sessions(session: Any) -> list[tuple[Any, ...]]:
    return [
        (
            one.spid,
            one.login,
            one.application,
            one.host,
            one.database.id,
            "running" if one is session else "sleeping",
            one.level,
            1,
            {"read uncommitted": 1, "read committed": 2, "repeatable read": 3, "serializable": 4}.get(one.isolation, 5),
        )
        for one in session.server.sessions()
    ]
