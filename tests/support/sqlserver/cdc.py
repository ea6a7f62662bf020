"""Change data capture of one database: its instances, and the procedures that make, end and clean them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from tests.support.sqlserver.catalog import Column, Index, Principal, Table
from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.store import Database, WaitFor
from tests.support.sqlserver.types import DATETIME, INT, LSN, SqlType

MASK = SqlType("varbinary", length=128)


@dataclass
class Instance:
    """A capture instance. `captured` are the source's columns in the order of their ordinals (from 1)."""

    name: str
    source: Table
    table: Table
    start_lsn: int
    enabled_at: int
    role: str | None
    captured: list[Column]
    names: list[str]
    net_changes: bool
    index: Index | None
    created: dt.datetime

    def change_column(self, ordinal: int) -> Column:
        return self.table.columns[4 + ordinal]


@dataclass
class Definition:
    """A row of cdc.ddl_history."""

    source: Table
    instance: Instance
    required: bool
    command: str
    lsn: int
    time: dt.datetime


@dataclass
class Cdc:
    """The state of change data capture in a database."""

    mapping: Table
    instances: list[Instance] = field(default_factory=list)
    history: list[Definition] = field(default_factory=list)
    captured: int = 0
    jobs: bool = False
    retention: int = 4320
    scans: int = 0
    empty_scans: int = 0
    scan_started: dt.datetime | None = None
    scan_ended: dt.datetime | None = None
    scan_errors: int = 0
    failed: int = 0
    transactions: int = 0
    commands: int = 0
    last_mapping: dt.datetime | None = None

    def of(self, table: Table) -> list[Instance]:
        return [instance for instance in self.instances if instance.source is table]

    def named(self, name: str) -> Instance | None:
        return next((one for one in self.instances if one.name.lower() == name.lower()), None)


def system_table(database: Database, name: str, columns: list[tuple[str, SqlType]]) -> Table:
    """A table of the schema cdc."""
    table = Table(database.next_object(), "cdc", name, [], system=True, created=database.clock())
    for number, (label, kind) in enumerate(columns, start=1):
        table.columns.append(Column(number, label, kind, stored=f"c{number}"))
    table.next_column = len(columns) + 1
    database.create_physical(table)
    database.tables[table.object_id] = table
    return table


def enable_database(database: Database) -> None:
    """sys.sp_cdc_enable_db."""
    if database.cdc is not None:
        return
    database.schemas["cdc"] = 5
    database.users["cdc"] = Principal("cdc", 5, "", {"db_owner"})
    mapping = system_table(
        database,
        "lsn_time_mapping",
        [
            ("start_lsn", LSN),
            ("tran_begin_time", DATETIME),
            ("tran_end_time", DATETIME),
            ("tran_id", SqlType("varbinary", length=10)),
            ("tran_begin_lsn", LSN),
        ],
    )
    database.advance_lsn()
    database.cdc = Cdc(mapping, captured=database.committed)


def disable_database(database: Database) -> None:
    """sys.sp_cdc_disable_db."""
    cdc = required(database)
    for instance in cdc.instances:
        drop_table(database, instance.table)
    drop_table(database, cdc.mapping)
    database.cdc = None
    del database.schemas["cdc"]
    del database.users["cdc"]


def drop_table(database: Database, table: Table) -> None:
    """Take a table out of the catalogue."""
    table.dropped = True
    del database.tables[table.object_id]


def required(database: Database) -> Cdc:
    """The database's CDC; error 22901 without it."""
    if database.cdc is None:
        message = f"The database '{database.name}' is not enabled for Change Data Capture."
        raise SqlError(22901, message)
    cdc: Cdc = database.cdc
    return cdc


def enable_table(
    database: Database,
    schema: str,
    name: str,
    *,
    instance: str | None,
    role: str | None,
    columns: str | None,
    net_changes: bool,
    index_name: str | None,
) -> None:
    """sys.sp_cdc_enable_table. It waits for those who write the table, as its schema lock does."""
    cdc = required(database)
    source = database.find(schema, name)
    if source is None or source.system:
        raise SqlError(22931, f"Source table '{schema}.{name}' does not exist in the current database.")
    label = instance or f"{source.schema}_{source.name}"
    if len(label) > 100:
        raise SqlError(22927, f"The capture instance name '{label}' exceeds the length limit of 100 characters.")
    if cdc.named(label) is not None:
        raise SqlError(22926, f"Could not create a capture instance because '{label}' already exists.")
    if len(cdc.of(source)) > 1:
        raise SqlError(22962, f"Two capture instances already exist for source table '{schema}.{name}'.")
    for transaction in database.active:
        if source.object_id in transaction.touched:
            raise WaitFor(transaction)
    index = source.primary_key
    if index_name is not None:
        index = next((one for one in source.indexes if one.unique and one.name.lower() == index_name.lower()), None)
    if net_changes and index is None:
        raise SqlError(22939, "The parameter @supports_net_changes is set to 1, but there is no unique index.")
    captured = _captured(source, columns)
    kinds = [SqlType("binary", length=8) if one.kind.name == "rowversion" else one.kind for one in captured]
    table = system_table(
        database,
        f"{label}_CT",
        [
            ("__$start_lsn", LSN),
            ("__$end_lsn", LSN),
            ("__$seqval", LSN),
            ("__$operation", INT),
            ("__$update_mask", MASK),
            *((one.name, kind) for one, kind in zip(captured, kinds, strict=True)),
            *([("__$command_id", INT)] if database.command_ids else []),
        ],
    )
    lsn = database.advance_lsn()
    names = [column.name for column in captured]
    cdc.instances.append(
        Instance(
            label,
            source,
            table,
            lsn,
            database.committed,
            role,
            captured,
            names,
            net_changes,
            index,
            database.clock(),
        )
    )
    if role and role.lower() not in (user.lower() for user in database.users):
        number = max(user.id for user in database.users.values()) + 1
        database.users[role] = Principal(role, number, "", is_role=True)
    cdc.jobs = True


def _captured(source: Table, text: str | None) -> list[Column]:
    if text is None:
        return list(source.columns)
    names = [part.strip().strip("[]").replace("]]", "]") for part in text.split(",")]
    columns = []
    for name in names:
        column = source.column(name)
        if column is None:
            raise SqlError(22930, f"Could not locate column '{name}' specified in the capture column list.")
        columns.append(column)
    return sorted(columns, key=lambda column: column.id)


def disable_table(database: Database, schema: str, name: str, instance: str) -> None:
    """sys.sp_cdc_disable_table, of one instance or ``all``."""
    cdc = required(database)
    source = database.find(schema, name)
    found = [one for one in cdc.of(source) if instance.lower() in (one.name.lower(), "all")] if source else []
    if not found:
        raise SqlError(22960, f"Change data capture instance '{instance}' has not been enabled for the source table.")
    for one in found:
        remove(database, one)


def remove(database: Database, instance: Instance) -> None:
    """End an instance with all that it captured."""
    cdc = required(database)
    cdc.instances.remove(instance)
    cdc.history = [row for row in cdc.history if row.instance is not instance]
    drop_table(database, instance.table)


def clean_up(database: Database, cursor: Any, instance: Instance, low: bytes | None) -> None:
    """sys.sp_cdc_cleanup_change_table: moves the low end first, then deletes what is below it."""
    cdc = required(database)
    if low is not None:
        known = cursor.execute(f"SELECT count(*) FROM {cdc.mapping.stored} WHERE c1 = unhex('{low.hex()}')").fetchone()
        if not known or not known[0] or int.from_bytes(low, "big") < instance.start_lsn:
            message = (
                f"LSN {low.hex()}, specified as the new low endpoint, is not within the Change Data Capture timeline."
            )
            raise SqlError(22964, message)
        instance.start_lsn = int.from_bytes(low, "big")
    below = f"c1 < tsql_lsn({instance.start_lsn}::HUGEINT)"
    lowest = min(one.start_lsn for one in cdc.instances)
    with database.writing(cursor):
        cursor.execute(f"DELETE FROM {instance.table.stored} WHERE {below}")
        cursor.execute(f"DELETE FROM {cdc.mapping.stored} WHERE c1 < tsql_lsn({lowest}::HUGEINT)")


def procedure(session: Any, name: str, args: dict[str, Any]) -> None:
    """A procedure of CDC."""
    database: Database = session.database
    if not session.is_owner:
        raise SqlError(22904, "Caller is not authorized to initiate the requested action.", 16)
    with database.mutex:
        if name == "sp_cdc_enable_db":
            enable_database(database)
        elif name == "sp_cdc_disable_db":
            disable_database(database)
        elif name == "sp_cdc_enable_table":
            for parameter in ("@source_schema", "@source_name", "@role_name"):
                if parameter not in args:
                    raise SqlError(201, f"Procedure or function '{name}' expects parameter '{parameter}'.", 16, 4)
            enable_table(
                database,
                args["@source_schema"],
                args["@source_name"],
                instance=args.get("@capture_instance"),
                role=args["@role_name"],
                columns=args.get("@captured_column_list"),
                net_changes=bool(args.get("@supports_net_changes")),
                index_name=args.get("@index_name"),
            )
        elif name == "sp_cdc_disable_table":
            disable_table(database, args["@source_schema"], args["@source_name"], args["@capture_instance"])
        elif name == "sp_cdc_cleanup_change_table":
            instance = required(database).named(args["@capture_instance"])
            if instance is None:
                raise SqlError(22908, f"Could not find the capture instance '{args['@capture_instance']}'.")
            clean_up(database, session.cursor, instance, args.get("@low_water_mark"))
        elif name == "sp_cdc_change_job":
            required(database).retention = args.get("@retention") or required(database).retention
        elif name in ("sp_cdc_start_job", "sp_cdc_stop_job"):
            if args.get("@job_type", "capture") == "capture":
                session.server.run_capture_job(database.name, run=name == "sp_cdc_start_job")
        else:
            raise Unknown(f"the procedure {name}")
