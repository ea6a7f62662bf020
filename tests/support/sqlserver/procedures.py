"""EXEC: the system procedures, and text executed as a batch."""

from __future__ import annotations

from typing import Any

from tests.support.sqlserver import cdc, ddl
from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.expressions import ExpressionParser
from tests.support.sqlserver.metadata import Metadata
from tests.support.sqlserver.response import Response
from tests.support.sqlserver.session import Session
from tests.support.sqlserver.syntax import Name
from tests.support.sqlserver.types import BIGINT, BIT, INT, SYSNAME, SqlType
from tests.support.sqlserver.values import sort_guid

Arguments = list[tuple[str | None, tuple[Any, SqlType] | None]]

_ORDER = {
    "sp_rename": ("@objname", "@newname", "@objtype"),
    "sp_cdc_cleanup_change_table": ("@capture_instance", "@low_water_mark", "@threshold"),
    "sp_cdc_enable_table": (
        "@source_schema",
        "@source_name",
        "@capture_instance",
        "@supports_net_changes",
        "@role_name",
    ),
    "sp_cdc_disable_table": ("@source_schema", "@source_name", "@capture_instance"),
    "sp_addrolemember": ("@rolename", "@membername"),
    "sp_executesql": ("@stmt", "@params"),
}


def execute(session: Session, name: Name, args: Arguments, response: Response) -> None:
    """A procedure; error 2812 for one that there is not, and recorded: the emulator may only lack it."""
    label = name[-1].lower()
    if label == "sp_executesql":
        _execute_sql(session, args, response)
        return
    values: dict[str, Any] = {}
    order = _ORDER.get(label, ())
    for place, (parameter, value) in enumerate(args):
        key = parameter or (order[place] if place < len(order) else f"#{place}")
        if value is not None:
            values[key] = value[0]
    if label == "sp_rename":
        with session.database.mutex:
            ddl.rename(session, values["@objname"], values["@newname"], values.get("@objtype"))
    elif label == "sp_addrolemember":
        session.database.users[values["@membername"]].roles.add(values["@rolename"].lower())
    elif label == "sp_cdc_help_jobs":
        _help_jobs(session, response)
    elif label == "sp_cdc_help_change_data_capture":
        raise Unknown("sp_cdc_help_change_data_capture")
    elif label in _CDC:
        _change(session, label, values, response)
    else:
        session.server.unknown.append(f"the procedure {'.'.join(name)}")
        raise SqlError(2812, f"Could not find stored procedure '{'.'.join(name)}'.", 16, 62)
    response.done()


_CDC = frozenset(
    [
        "sp_cdc_enable_db",
        "sp_cdc_disable_db",
        "sp_cdc_enable_table",
        "sp_cdc_disable_table",
        "sp_cdc_cleanup_change_table",
        "sp_cdc_change_job",
        "sp_cdc_start_job",
        "sp_cdc_stop_job",
    ]
)


def _change(session: Session, label: str, values: dict[str, Any], response: Response) -> None:
    from tests.support.sqlserver.interpreter import retried
    from tests.support.sqlserver.transactions import autocommitted

    with autocommitted(session, response):
        retried(session, lambda: cdc.procedure(session, label, values))


def _help_jobs(session: Session, response: Response) -> None:
    from tests.support.sqlserver.interpreter import send

    if not session.is_owner:
        raise SqlError(22904, "Caller is not authorized to initiate the requested action.")
    state = cdc.required(session.database)
    columns = [
        ("job_id", SqlType("uniqueidentifier")),
        ("job_type", SYSNAME),
        ("job_name", SYSNAME),
        ("maxtrans", INT),
        ("maxscans", INT),
        ("continuous", BIT),
        ("pollinginterval", BIGINT),
        ("retention", BIGINT),
        ("threshold", BIGINT),
    ]
    rows: list[tuple[Any, ...]] = []
    if state.jobs:
        guid = sort_guid(session.database.guid.bytes_le)
        rows = [
            (guid, "capture", f"cdc.{session.database.name}_capture", 500, 10, 1, 5, 0, 0),
            (guid, "cleanup", f"cdc.{session.database.name}_cleanup", 0, 0, 0, 0, state.retention, 5000),
        ]
    context = Metadata(session, session.database.committed)
    session.metadata.append(context)
    query = context.rows(columns, rows)
    send(session, query, session.start(query.sql), response)


def _execute_sql(session: Session, args: Arguments, response: Response) -> None:
    """sp_executesql: the statement, its parameters' declaration, their values by name or place."""
    given = [value for _, value in args]
    text = given[0][0] if given and given[0] else None
    if not isinstance(text, str):
        raise SqlError(214, "Procedure expects parameter '@statement' of type 'ntext/nchar/nvarchar'.")
    variables: dict[str, tuple[Any, SqlType]] = {}
    if len(given) > 1 and given[1] is not None:
        parser = ExpressionParser(str(given[1][0]))
        declared = []
        while parser.token.kind == "var":
            label = parser.advance().value.lower()
            declared.append((label, parser.type_name()))
            parser.accept(",")
        named = {name.lower(): value for name, value in args[2:] if name}
        for place, (label, kind) in enumerate(declared):
            value = named.get(label) or (given[2 + place] if 2 + place < len(given) else None)
            variables[label] = (value[0] if value else None, kind)
            if value is not None and value[1] != kind:
                compiler = session.compiler(session.database.committed)
                sql = f"SELECT {compiler.convert(compiler.literal(*value), kind).sql}"
                variables[label] = (session.duck(sql, compiler.parameters.used(sql))[0][0], kind)
    execute_text(session, text, variables, response)


def execute_text(session: Session, text: str, variables: dict[str, tuple[Any, SqlType]], response: Response) -> None:
    """A batch within a batch, with variables of its own."""
    from tests.support.sqlserver.interpreter import perform
    from tests.support.sqlserver.statements import parse

    outer, session.variables = session.variables, variables
    try:
        for statement in parse(text):
            perform(session, statement, response)
    finally:
        session.variables = outer
