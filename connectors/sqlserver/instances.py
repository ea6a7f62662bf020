"""Capture instances: the change tables of change data capture, and what each of them holds of its table.

learn.microsoft.com: "cdc.change_tables", "cdc.captured_columns", "cdc.ddl_history". A table has two instances at most.
An instance keeps the columns that it was made with: a column that is added later needs a new instance.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.sqlserver.connection import Connection
from connectors.sqlserver.position import lsn_of
from connectors.sqlserver.types import quoted

_INSTANCES = """
SELECT ct.object_id, ct.source_object_id, ct.capture_instance, ct.start_lsn, ct.create_date FROM cdc.change_tables ct
"""
_CAPTURED = """
SELECT cc.object_id, cc.column_id, cc.column_name, cc.column_ordinal FROM cdc.captured_columns cc
ORDER BY cc.object_id, cc.column_ordinal
"""
_COMMAND_IDS = """
SELECT c.object_id FROM sys.columns c JOIN cdc.change_tables ct ON ct.object_id = c.object_id
WHERE c.name = '__$command_id'
"""
_STARTS = "SELECT ct.object_id, ct.start_lsn FROM cdc.change_tables ct"
_LAST_DDL = "SELECT MAX(h.ddl_lsn) FROM cdc.ddl_history h"
_DDL = "SELECT h.source_object_id, h.ddl_lsn FROM cdc.ddl_history h"


@dataclass(frozen=True, slots=True)
class Instance:
    """One capture instance.

    `start` is the low end of its change table: every change behind it is there. Clean-up moves it, before it deletes
    rows. An instance that has none yet is not in force: the capture job has still to come to where it was made. `ordinals` are the captured columns' places in the update mask, by column id, and `names` their names.
    """

    id: int
    """The object id of the change table, which no other one ever had."""
    source_id: int
    name: str
    start: int
    ordinals: Mapping[int, int]
    names: Mapping[int, str]
    ordered: bool = True
    """Whether the change table has ``__$command_id``, which tells the order of changes within a transaction."""
    created: dt.datetime = dt.datetime.min
    """When it was made, by the server's clock."""

    @property
    def age(self) -> tuple[dt.datetime, int, int]:
        """Sorts instances of one table from the oldest to the newest. Clean-up moves the starts, so they tell last."""
        return self.created, self.start, self.id

    @property
    def change_table(self) -> str:
        return f"[cdc].{quoted(self.name + '_CT')}"


def read_instances(connection: Connection) -> list[Instance]:
    """Every capture instance of the database.

    The instances are read first: what is there then has its columns, and one that is made meanwhile is not seen at all. One
    without columns was disabled meanwhile.
    """
    found = [row for row in connection.query(_INSTANCES) if row[1] is not None and lsn_of(row[3])]
    ordinals: dict[int, dict[int, int]] = defaultdict(dict)
    names: dict[int, dict[int, str]] = defaultdict(dict)
    for object_id, column_id, name, ordinal in connection.query(_CAPTURED):
        ordinals[int(object_id)][int(column_id)] = int(ordinal)
        names[int(object_id)][int(column_id)] = str(name)
    ordered = {int(row[0]) for row in connection.query(_COMMAND_IDS)}
    return [
        Instance(
            *(int(object_id), int(source_id), str(name), lsn_of(start)),
            *(ordinals[int(object_id)], names[int(object_id)], int(object_id) in ordered, created),
        )
        for object_id, source_id, name, start, created in found
        if int(object_id) in ordinals
    ]


@dataclass(frozen=True, slots=True)
class Marks:
    """What changes whenever capture instances or definitions do. `starts`: the low end of every change table."""

    starts: Mapping[int, int]
    ddl: int

    @property
    def definitions(self) -> tuple[frozenset[int], int]:
        """The part that says whether the catalog has to be read again."""
        return frozenset(self.starts), self.ddl


def read_marks(connection: Connection) -> Marks:
    """The marks as they are now; one round trip."""
    starts, ddl = connection.results([_STARTS, _LAST_DDL])
    return Marks({int(i): lsn for i, s in starts if (lsn := lsn_of(s))}, lsn_of(ddl[0][0]))


def read_ddl(connection: Connection, tables: Sequence[int], after: int, upto: int) -> list[int]:
    """Where definitions of these tables (object ids) changed, in the log behind `after` and up to `upto`, in order."""
    followed = set(tables)
    lsns = {lsn_of(lsn) for source_id, lsn in connection.query(_DDL) if source_id in followed}
    return sorted(lsn for lsn in lsns if after < lsn <= upto)
