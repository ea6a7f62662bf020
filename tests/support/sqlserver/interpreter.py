"""Runs the statements of a batch on a session."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.support.sqlserver import ddl
from tests.support.sqlserver import syntax as s
from tests.support.sqlserver.dml import Modification
from tests.support.sqlserver.errors import SqlError, Unknown, invalid_object
from tests.support.sqlserver.procedures import execute, execute_text
from tests.support.sqlserver.response import Response
from tests.support.sqlserver.scalars import Scope
from tests.support.sqlserver.security import SECURITY
from tests.support.sqlserver.selects import Query
from tests.support.sqlserver.session import Session, Translated
from tests.support.sqlserver.statements import parse
from tests.support.sqlserver.store import WaitFor
from tests.support.sqlserver.tokens import RowEncoder
from tests.support.sqlserver.transactions import TRANSACTIONS, abort, autocommitted

BLOCK = 1000
# What ends the batch, not the statement alone.
_FATAL = frozenset((208, 241, 242, 245, 1205, 3952, 3960, 3961, 8114, 8169, 40517))
# What rolls the transaction back, too.
_ABORTING = frozenset((241, 242, 245, 1205, 3960, 3961))
# What may be wrong, or T-SQL that the emulator does not read.
_UNREADABLE = frozenset((102, 156))


class _Return(Exception):
    """RETURN."""


class _Break(Exception):
    """BREAK."""


def run(session: Session, text: str, response: Response) -> None:
    """A whole batch. Errors of the client's making are answered, not raised."""
    session.text = text
    session.variables = {}
    session.response = response
    try:
        statements = parse(text)
    except SqlError as error:
        _fail(session, error, response)
        return
    run_all(session, statements, response)


def run_all(session: Session, statements: list[Any], response: Response) -> None:
    """Statements in turn, with SQL Server's rules for what goes on after an error."""
    try:
        for statement in statements:
            try:
                perform(session, statement, response)
            except SqlError as error:
                _fail(session, error, response)
                if session.switches["xact_abort"] or error.number in _FATAL or error.severity > 16:
                    if session.level and (session.switches["xact_abort"] or error.number in _ABORTING):
                        abort(session, response)
                    return
    except _Return:
        return
    finally:
        response.in_transaction = session.level > 0


def _fail(session: Session, error: SqlError, response: Response) -> None:
    session.error = error.number
    if isinstance(error, Unknown) or error.number in _UNREADABLE:
        session.server.unknown.append(f"{error.message} [{session.text[:200]}]")
    response.message(error)
    response.done(error=True)


def perform(session: Session, statement: Any, response: Response) -> None:
    """One statement."""
    response.check()
    try:
        if isinstance(statement, s.Select | s.SetOperation):
            _select(session, statement, response)
        elif isinstance(statement, s.Insert | s.Update | s.Delete):
            _modify(session, statement, response)
        else:
            _other(session, statement, response)
    finally:
        for context in session.metadata:
            context.close()
        session.metadata.clear()
    if not isinstance(statement, s.Statement) or statement.verb not in ("if", "block", "try", "while"):
        session.error = 0


def retried(session: Session, work: Callable[[], Any]) -> Any:
    """Work that waits for other transactions' locks."""
    while True:
        try:
            with Translated():
                return work()
        except WaitFor as wanted:
            transaction = session.transaction
            assert transaction is not None
            assert session.response is not None
            session.database.wait(transaction, wanted.transaction, session.response.check, session.lock_timeout)


# Queries


def _select(session: Session, node: Any, response: Response) -> None:
    if node.into is not None:
        _select_into(session, node, response)
        return

    def compile_query() -> tuple[Query, dict[str, Any]]:
        with session.database.mutex:
            compiler = session.compiler(session.snapshot())
            compiler.context.waits = True
            query = compiler.query(node)
            return query, compiler.parameters.used(query.sql)

    with autocommitted(session, response, reading=True):
        query, parameters = retried(session, compile_query)
        result = session.start(query.sql, parameters)
        if any(query.variables):
            _assign(session, query, result.fetchall())
            return
        send(session, query, result, response)


def send(session: Session, query: Query, result: Any, response: Response) -> None:
    """A result set, block by block as the client takes it."""
    response.columns(query.names, query.kinds)
    encode = RowEncoder(query.kinds)
    count = 0
    while True:
        with Translated():
            rows = result.fetchmany(BLOCK)
        if not rows:
            break
        count += len(rows)
        response.rows(encode(rows))
        response.check()
    session.row_count = count
    response.done(count=count)


def _assign(session: Session, query: Query, rows: list[tuple[Any, ...]]) -> None:
    session.row_count = len(rows)
    if rows:
        for name, value, kind in zip(query.variables, rows[-1], query.kinds, strict=True):
            if name is None:
                raise SqlError(141, "A SELECT that assigns a variable must not return data.", 15)
            set_variable(session, name, value, kind)


def set_variable(session: Session, name: str, value: Any, kind: Any) -> None:
    """SET or SELECT @x =, in the variable's type."""
    _, wanted = session.variable(name)
    compiler = session.compiler(session.database.committed)
    converted = compiler.convert(compiler.literal(value, kind), wanted)
    if converted.known:
        session.variables[name] = (converted.constant, wanted)
        return
    sql = f"SELECT {converted.sql}"
    session.variables[name] = (session.duck(sql, compiler.parameters.used(sql))[0][0], wanted)


def evaluate(session: Session, node: Any) -> tuple[Any, Any]:
    """An expression's value, as stored, and its type."""
    with session.database.mutex:
        compiler = session.compiler(session.snapshot())
        value = compiler.value(node, Scope())
    if value.known:
        return value.constant, value.kind
    sql = f"SELECT {value.sql}"
    return session.duck(sql, compiler.parameters.used(sql))[0][0], value.kind


def holds(session: Session, node: Any) -> bool:
    """A condition."""
    with session.database.mutex:
        compiler = session.compiler(session.snapshot())
        sql = f"SELECT {compiler.predicate(node, Scope())}"
    return bool(session.duck(sql, compiler.parameters.used(sql))[0][0])


def _select_into(session: Session, node: Any, response: Response) -> None:
    name, node.into = node.into, None
    with session.database.mutex:
        compiler = session.compiler(session.snapshot())
        query = compiler.query(node)
    columns = [s.ColumnDefinition(label, kind) for label, kind in zip(query.names, query.kinds, strict=True)]
    _other(session, s.Statement("create table", values={"name": name, "columns": columns, "constraints": []}), response)
    _modify(session, s.Insert(name, None, node, []), response)


# Changes


def _modify(session: Session, node: Any, response: Response) -> None:
    right = type(node).__name__.lower()

    def work() -> tuple[int, Query | None, list[tuple[Any, ...]]]:
        database = session.database
        assert session.transaction is not None
        with database.writing(session.cursor):
            table = session.lookup_name(_target(session, node))
            if table is None:
                raise invalid_object(".".join(node.table))
            session.find_table((table.schema, table.name))
            session.require(right, table)
            database.intend(session.transaction, table)
            compiler = session.compiler(session.snapshot())
            change = Modification(session, table)
            getattr(change, right)(node, compiler)
            if not node.output:
                return change.count, None, []
            query = change.output(node.output, compiler)
            return change.count, query, session.duck(query.sql)

    with autocommitted(session, response):
        count, query, rows = retried(session, work)
        session.row_count = count
        if query is not None:
            response.columns(query.names, query.kinds)
            response.rows(RowEncoder(query.kinds)(rows) if rows else b"")
        response.done(count=None if session.switches["nocount"] and query is None else count)


def _target(session: Session, node: Any) -> s.Name:
    """The table that an alias of the statement's FROM stands for."""
    if isinstance(node, s.Insert) or node.source is None or len(node.table) > 1:
        return node.table
    waiting = [node.source]
    while waiting:
        item = waiting.pop()
        if isinstance(item, s.Join):
            waiting += [item.left, item.right]
        elif isinstance(item, s.Table) and (item.alias or "").lower() == node.table[0].lower():
            return item.name
    return node.table


def _define(session: Session, node: s.Statement, response: Response) -> None:
    actions = {
        "create table": ddl.create_table,
        "create index": ddl.create_index,
        "add": ddl.alter_table,
        "drop column": ddl.alter_table,
        "alter column": ddl.alter_table,
        "drop constraint": ddl.alter_table,
        "drop table": ddl.drop_tables,
        "truncate": ddl.truncate,
    }
    with autocommitted(session, response):

        def work() -> None:
            with session.database.mutex:
                if node.verb.startswith("create") and not session.allowed("create table", None, None):
                    raise SqlError(262, f"CREATE TABLE permission denied in database '{session.database.name}'.", 14)
                actions[node.verb](session, node)

        retried(session, work)


_DEFINITIONS = frozenset(
    ("create table", "create index", "add", "drop column", "alter column", "drop constraint", "drop table", "truncate")
)


def _other(session: Session, node: s.Statement, response: Response) -> None:
    verb = node.verb
    if verb in _DEFINITIONS:
        _define(session, node, response)
    elif verb in TRANSACTIONS:
        TRANSACTIONS[verb](session, node, response)
    elif verb in SECURITY:
        with session.database.mutex:
            SECURITY[verb](session, node)
    elif verb == "execute":
        args = [(name, None if value is None else evaluate(session, value)) for name, value in node.args]
        execute(session, node.procedure, args, response)
    elif verb == "execute text":
        execute_text(session, str(evaluate(session, node.value)[0]), {}, response)
    else:
        _flow(session, node, response)


def _flow(session: Session, node: s.Statement, response: Response) -> None:
    verb = node.verb
    if verb == "block":
        for inner in node.body:
            perform(session, inner, response)
    elif verb == "if":
        if holds(session, node.condition):
            perform(session, node.then, response)
        elif node.otherwise is not None:
            perform(session, node.otherwise, response)
    elif verb == "while":
        try:
            while holds(session, node.condition):
                perform(session, node.body, response)
        except _Break:
            pass
    elif verb == "break":
        raise _Break
    elif verb == "return":
        raise _Return
    elif verb == "try":
        _try(session, node, response)
    elif verb == "declare":
        for name, kind, value in node.variables:
            session.variables[name] = (None, kind)
            if value is not None:
                set_variable(session, name, *evaluate(session, value))
    elif verb == "assign":
        set_variable(session, node.name, *evaluate(session, node.value))
    elif verb == "print":
        response.message(SqlError(0, str(evaluate(session, node.value)[0]), 0))
    elif verb == "waitfor":
        hours, minutes, seconds = str(evaluate(session, node.value)[0]).split(":")
        _sleep(response, int(hours) * 3600 + int(minutes) * 60 + float(seconds))
    elif verb == "raiserror":
        text, severity, state = (evaluate(session, arg)[0] for arg in node.args[:3])
        error = SqlError(50000 if isinstance(text, str) else text, str(text), severity, state)
        if severity > 10:
            raise error
        response.message(error)
    elif verb == "throw":
        if not node.args:
            raise session.caught or SqlError(10704, "To rethrow an error, a THROW must be in a CATCH block.")
        number, text, state = (evaluate(session, arg)[0] for arg in node.args)
        raise SqlError(number, text, 16, state)
    else:
        raise Unknown(f"the statement {verb}")


def _try(session: Session, node: s.Statement, response: Response) -> None:
    try:
        for inner in node.body:
            perform(session, inner, response)
    except SqlError as error:
        if isinstance(error, Unknown) or error.severity >= 20:
            raise
        if session.transaction is not None and session.level:
            if error.number == 1205:
                abort(session, response)
            elif session.switches["xact_abort"] or error.number in _FATAL:
                session.transaction.doomed = True
        before, session.caught = session.caught, error
        try:
            for inner in node.catch:
                perform(session, inner, response)
        finally:
            session.caught = before


def _sleep(response: Response, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.02))
        response.check()
