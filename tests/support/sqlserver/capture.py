"""The capture job: it reads the log of commits and writes the change tables and cdc.lsn_time_mapping."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.support.sqlserver.catalog import Column
from tests.support.sqlserver.cdc import Cdc, Definition, Instance
from tests.support.sqlserver.convert import Value, key
from tests.support.sqlserver.store import LIVE, Commit, Database
from tests.support.sqlserver.values import DAY, EPOCH_1900, fit

IDLE = dt.timedelta(minutes=5)


def datetime_ticks(moment: dt.datetime) -> int:
    """A moment as `datetime` is stored."""
    since = moment - dt.datetime(1900, 1, 1)
    whole = (EPOCH_1900 + since.days) * DAY
    return fit(whole + since.seconds * 10_000_000 + since.microseconds * 10, "datetime", 3)


def begin(database: Database) -> int:
    """A scan begins: it reads the log up to the commit that is returned, and is under way until `scan` or `fail`."""
    with database.mutex:
        cdc: Cdc = database.cdc
        cdc.scan_started, cdc.scan_ended = database.clock(), None
        if cdc.scan_errors:
            cdc.scans += 1
            cdc.scan_errors = cdc.empty_scans = 0
        return database.committed


def fail(database: Database) -> None:
    """The scan that is under way meets an error: nothing of what it has read is shown."""
    with database.mutex:
        cdc: Cdc = database.cdc
        if cdc.empty_scans or cdc.transactions:
            cdc.scans += 1
            cdc.empty_scans = cdc.transactions = 0
        cdc.scan_errors = 1
        cdc.failed += 1
        cdc.scan_ended = database.clock()


def scan(database: Database, cursor: Any, maximum: int = 500, upto: int | None = None) -> bool:
    """One pass over what was committed since the last (up to one commit); returns whether there was anything to capture."""
    with database.mutex:
        cdc: Cdc | None = database.cdc
        if cdc is None:
            return False
        if cdc.scan_started is None or cdc.scan_ended is not None:
            begin(database)
        last = database.committed if upto is None else upto
        pending = [commit for commit in database.commits if cdc.captured < commit.number <= last][:maximum]
        number = database.committed + 1
        found = 0
        with database.writing(cursor):
            for commit in pending:
                rows = sum(_capture(database, cursor, instance, commit, number) for instance in _involved(cdc, commit))
                if rows:
                    _map(cdc, cursor, number, commit.lsn, commit.began, commit.time, commit.number, commit.first)
                    found += 1
                    cdc.commands += rows
            if not found and not pending:
                found_idle = cdc.last_mapping is not None and database.clock() - cdc.last_mapping > IDLE
                if cdc.instances and (cdc.last_mapping is None or found_idle):
                    # An idle database's time line goes on by entries without a transaction.
                    lsn = database.advance_lsn()
                    now = database.clock()
                    _map(cdc, cursor, number, lsn, now, now, 0, 0)
                    found = -1
        if found:
            database.committed = number
            # The job's own writes are in the log, too.
            database.advance_lsn()
        for commit in pending:
            _define(cdc, commit)
            cdc.captured = commit.number
        if pending:
            cdc.scans += 1
            cdc.empty_scans = 0
            cdc.transactions = found
            captured = cdc.captured
            database.commits = [commit for commit in database.commits if commit.number > captured]
        else:
            cdc.empty_scans += 1
        cdc.scan_ended = database.clock()
        database.changed.notify_all()
        return bool(pending)


def _involved(cdc: Cdc, commit: Commit) -> list[Instance]:
    return [
        instance
        for instance in cdc.instances
        if instance.source.object_id in commit.tables and commit.number > instance.enabled_at
    ]


def _map(
    cdc: Cdc,
    cursor: Any,
    number: int,
    lsn: int,
    began: dt.datetime,
    ended: dt.datetime,
    transaction: int,
    first: int,
) -> None:
    name = f"unhex('{transaction:020x}')" if transaction else "unhex('00')"
    start = f"tsql_lsn({first}::HUGEINT)"
    cursor.execute(
        f"INSERT INTO {cdc.mapping.stored} SELECT tsql_lsn({lsn}::HUGEINT), {datetime_ticks(began)},"
        f" {datetime_ticks(ended)}, {name}, {start}, 0, {number}, {LIVE}, 0, 0"
    )
    cdc.last_mapping = ended


def _define(cdc: Cdc, commit: Commit) -> None:
    for table, command, required in commit.ddl:
        for instance in cdc.of(table):
            if commit.number > instance.enabled_at:
                cdc.history.append(Definition(table, instance, required, command, commit.lsn, commit.time))


def _capture(database: Database, cursor: Any, instance: Instance, commit: Commit, number: int) -> int:
    """Write one commit's changes of one instance; returns how many there were."""
    table = instance.source
    columns = [column for column in instance.captured if column.computed is None]
    primary = table.primary_key
    keys = [table.by_id(one) for one in primary.columns] if primary and primary.clustered else []
    carried = {column.id: column for column in (*columns, *keys)}.values()
    listed = "".join(f", {column.stored}" for column in carried)
    same = " AND ".join(
        f"{key(Value(f'd.{column.stored}', column.kind))} = {key(Value(f'i.{column.stored}', column.kind))}"
        for column in keys
    )
    order = ", ".join(key(Value(f"coalesce(d.{column.stored}, i.{column.stored})", column.kind)) for column in keys)
    gone = {column.id for column in columns if column.dropped_at is not None and commit.number > column.dropped_at}
    differs = {
        column.id: "false" if column.id in gone else f"d.{column.stored} IS DISTINCT FROM i.{column.stored}"
        for column in columns
    }
    any_difference = " OR ".join(differs.values()) or "false"
    values = ", ".join(
        _image(column, differs.get(column.id, "false"), gone=column.id in gone or column.computed is not None)
        for column in instance.captured
    )
    later = "CASE WHEN together = 2 AND d.rid IS NULL THEN 1 ELSE 0 END"
    lsn = f"statement - 1 + row_number() OVER (PARTITION BY statement ORDER BY {later}, place)"
    if database.merges:
        lsn = f"{commit.first} + row_number() OVER (ORDER BY CASE WHEN i.rid IS NULL THEN 1 ELSE 0 END, place)"
    # One change of a row is an update where the clustered key stayed; a key's change is a delete and an insert, as the
    # server's split, sort and collapse of an update make it.
    cursor.execute(
        f"""CREATE OR REPLACE TEMP TABLE changes AS
        WITH d AS (SELECT uw AS statement, rid{listed} FROM {table.stored} WHERE u = {commit.number}),
        i AS (SELECT fw AS statement, rid{listed} FROM {table.stored} WHERE f = {commit.number}),
        paired AS (
            SELECT d, i, coalesce(d.statement, i.statement) AS statement,
                count(*) OVER (PARTITION BY coalesce(d.statement, i.statement)) AS together,
                row_number() OVER (ORDER BY {order or "coalesce(d.rid, i.rid)"}) AS place
            FROM d FULL JOIN i ON d.statement = i.statement AND {same or "d.rid = i.rid"}
            WHERE d.rid IS NULL OR i.rid IS NULL OR {any_difference}
        )
        SELECT d, i, {lsn} AS lsn FROM paired"""
    )
    command = f", lsn - {commit.first}" if instance.table.columns[-1].name == "__$command_id" else ""
    into = ", ".join([*(column.stored for column in instance.table.columns), "rid"])
    operations = "CASE WHEN i.rid IS NULL THEN [1] WHEN d.rid IS NULL THEN [2] ELSE [3, 4] END"
    cursor.execute(
        f"INSERT INTO {instance.table.stored} ({into}, f, u, fw, uw)"
        f" SELECT tsql_lsn({commit.lsn}::HUGEINT), NULL, tsql_lsn(lsn::HUGEINT),"
        f" operation, {_mask(instance, differs)}, {values}{command}, 0, {number}, {LIVE}, 0, 0"
        f" FROM (SELECT d, i, lsn, unnest({operations}) AS operation FROM changes)"
    )
    return int(cursor.execute("SELECT count(*) FROM changes").fetchone()[0])


def _image(column: Column, differs: str, *, gone: bool) -> str:
    """The column in a change row (what is documented of large objects is in the package's docstring)."""
    if gone:
        return "NULL"
    old, new = f"d.{column.stored}", f"i.{column.stored}"
    if column.kind.name in ("text", "ntext", "image"):
        return f"CASE WHEN operation = 2 OR (operation = 4 AND {differs}) THEN {new} END"
    if column.kind.lob:
        return (
            f"CASE WHEN operation = 1 OR (operation = 3 AND {differs}) THEN {old}"
            f" WHEN operation = 2 OR (operation = 4 AND {differs}) THEN {new} END"
        )
    return f"CASE WHEN operation IN (1, 3) THEN {old} ELSE {new} END"


def _mask(instance: Instance, differs: dict[int, str]) -> str:
    """`__$update_mask`: the bit of ordinal 1 is the lowest of the last byte."""
    size = (len(instance.captured) + 7) // 8
    full = ((1 << len(instance.captured)) - 1).to_bytes(size, "big").hex()
    parts = []
    for byte in range(size):
        bits = [
            f"({differs[column.id]})::INTEGER * {1 << place}"
            for place, column in enumerate(instance.captured[8 * byte : 8 * byte + 8])
            if column.id in differs
        ]
        parts.append(f"printf('%02X', {' + '.join(bits) or '0'})")
    return f"CASE WHEN operation < 3 THEN unhex('{full}') ELSE unhex({' || '.join(reversed(parts))}) END"
