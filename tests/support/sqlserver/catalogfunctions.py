"""Functions that ask the session or the catalogue: name, result type, and how to compute it in Python."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.support.sqlserver.capture import datetime_ticks
from tests.support.sqlserver.catalog import Table
from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.types import BIGINT, DATETIME, IDS, INT, LSN, SYSNAME, SqlType, make
from tests.support.sqlserver.values import SECOND, pack_offset, read_moment

if TYPE_CHECKING:
    from tests.support.sqlserver.metadata import Metadata


def _type_name(context: Metadata, number: int) -> str | None:
    names = {number: name for name, number in IDS.items()}
    return {"rowversion": "timestamp"}.get(names.get(number, ""), names.get(number))


def _object_id(context: Metadata, name: str, kind: str | None = None) -> int | None:
    table = context.session.lookup(name)
    return table.object_id if table is not None and (kind is None or kind.upper() == "U") else None


def _by_id(context: Metadata, number: int) -> Table | None:
    return context.database.tables.get(number)


def _column_property(context: Metadata, number: int, name: str, wanted: str) -> int | None:
    table = _by_id(context, number)
    column = table.column(name) if table else None
    if column is None:
        return None
    flags = {
        "iscomputed": column.computed is not None,
        "isidentity": bool(column.identity),
        "allowsnull": column.nullable,
        "isdeterministic": column.computed is not None,
    }
    if wanted.lower() == "columnid":
        return column.id
    if wanted.lower() not in flags:
        raise Unknown(f"COLUMNPROPERTY {wanted}")
    if wanted.lower() == "isdeterministic" and column.computed is None:
        return None
    return int(flags[wanted.lower()])


def _server_property(context: Metadata, name: str) -> str:
    known = {"productversion": "16.0.1000.6", "engineedition": "3", "edition": "Enterprise Edition (64-bit)"}
    known |= {"servername": "emulator", "machinename": "emulator", "collation": "SQL_Latin1_General_CP1_CI_AS"}
    known |= {"productlevel": "RTM", "productmajorversion": "16"}
    if name.lower() not in known:
        raise Unknown(f"SERVERPROPERTY {name}")
    value = known[name.lower()]
    return f"int:{value}" if name.lower() == "engineedition" else f"nvarchar(128):{value}"


def _min_lsn(context: Metadata, name: str) -> bytes:
    cdc = context.database.cdc
    instance = cdc.named(name) if cdc and name else None
    return instance.start_lsn.to_bytes(10, "big") if instance else bytes(10)


def _lsn_to_time(context: Metadata, lsn: bytes) -> int | None:
    return context.mapping("max(c3)", f"c1 = unhex('{lsn.hex()}')")


def _time_to_lsn(context: Metadata, operator: str, ticks: int | str) -> bytes | None:
    if isinstance(ticks, str):
        ticks = read_moment(ticks, "datetime", 3)
    forms = {
        "smallest greater than": ("min", ">"),
        "smallest greater than or equal": ("min", ">="),
        "largest less than": ("max", "<"),
        "largest less than or equal": ("max", "<="),
    }
    if operator.lower() not in forms:
        raise SqlError(1005, "Invalid relational operator.")
    pick, test = forms[operator.lower()]
    return context.mapping(f"{pick}(c1)", f"c3 {test} {ticks}")


def _now(context: Metadata, *, utc: bool = False) -> dt.datetime:
    # The emulator's server lives in UTC.
    return context.session.server.clock()


def _ticks(moment: dt.datetime) -> int:
    since = moment - dt.datetime(1, 1, 1)
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 10


def _database(context: Metadata, name: str | None) -> Any:
    if name is None:
        return context.database
    return context.session.server.databases.get(str(name).lower())


def _ident_current(context: Metadata, name: str) -> int | None:
    table = context.session.lookup(name)
    if table is None or table.identity is None or table.identity.identity is None:
        return None
    seed, step = table.identity.identity
    return seed if table.next_identity is None else table.next_identity - step


DATETIME2 = SqlType("datetime2", scale=7)
GUID = SqlType("uniqueidentifier")
FUNCTIONS: dict[str, tuple[SqlType, Callable[..., Any]]] = {
    "object_id": (INT, _object_id),
    "object_name": (SYSNAME, lambda c, number, *_: (found := _by_id(c, number)) and found.name),
    "object_schema_name": (SYSNAME, lambda c, number, *_: (found := _by_id(c, number)) and found.schema),
    "schema_id": (INT, lambda c, name="dbo": c.database.schemas.get(name)),
    "schema_name": (
        SYSNAME,
        lambda c, number=1: next((name for name, one in c.database.schemas.items() if one == number), None),
    ),
    "db_name": (
        SYSNAME,
        lambda c, number=None: (
            c.database.name
            if number is None
            else next((one.name for one in c.session.server.databases.values() if one.id == number), None)
        ),
    ),
    "db_id": (INT, lambda c, name=None: (found := _database(c, name)) and found.id),
    "has_dbaccess": (INT, lambda c, name: int(c.session.server.may_enter(c.session.login, name))),
    "type_name": (SYSNAME, _type_name),
    "type_id": (INT, lambda c, name: make(name, []).name and None),
    "columnproperty": (INT, _column_property),
    "serverproperty": (SqlType("sql_variant"), _server_property),
    "suser_sname": (SYSNAME, lambda c: c.session.login),
    "suser_name": (SYSNAME, lambda c: c.session.login),
    "original_login": (SYSNAME, lambda c: c.session.login),
    "user_name": (SYSNAME, lambda c: c.session.principal.name),
    "current_user": (SYSNAME, lambda c: c.session.principal.name),
    "app_name": (SYSNAME, lambda c: c.session.application),
    "host_name": (SYSNAME, lambda c: c.session.host),
    "is_member": (INT, lambda c, name: int(c.session.is_member(name))),
    "is_rolemember": (INT, lambda c, name: int(c.session.is_member(name))),
    "is_srvrolemember": (INT, lambda c, name: int(name.lower() == "sysadmin" and c.session.login == "sa")),
    "has_perms_by_name": (INT, lambda c, *args: c.session.has_permission(*args)),
    "xact_state": (SqlType("smallint"), lambda c: c.session.transaction_state),
    "scope_identity": (SqlType("numeric", precision=38), lambda c: c.session.identity),
    "ident_current": (SqlType("numeric", precision=38), _ident_current),
    "getdate": (DATETIME, lambda c: datetime_ticks(_now(c))),
    "current_timestamp": (DATETIME, lambda c: datetime_ticks(_now(c))),
    "getutcdate": (DATETIME, lambda c: datetime_ticks(_now(c))),
    "sysdatetime": (DATETIME2, lambda c: _ticks(_now(c))),
    "sysutcdatetime": (DATETIME2, lambda c: _ticks(_now(c))),
    "sysdatetimeoffset": (SqlType("datetimeoffset", scale=7), lambda c: pack_offset(_ticks(_now(c)), 0)),
    "error_number": (INT, lambda c: c.session.caught and c.session.caught.number),
    "error_severity": (INT, lambda c: c.session.caught and c.session.caught.severity),
    "error_state": (INT, lambda c: c.session.caught and c.session.caught.state),
    "error_message": (SqlType("nvarchar", length=4000), lambda c: c.session.caught and c.session.caught.message),
    "sys.fn_cdc_get_max_lsn": (LSN, lambda c: c.maximum()),
    "sys.fn_cdc_get_min_lsn": (LSN, _min_lsn),
    "sys.fn_cdc_map_lsn_to_time": (DATETIME, _lsn_to_time),
    "sys.fn_cdc_map_time_to_lsn": (LSN, _time_to_lsn),
    "current_transaction_id": (BIGINT, lambda c: c.session.transaction.numbers[0] * -1 if c.session.transaction else 0),
}
