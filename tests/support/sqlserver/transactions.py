"""BEGIN, COMMIT, ROLLBACK, SAVE, and the settings of a session."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.sqlserver.errors import SqlError, Unknown
from tests.support.sqlserver.response import Response
from tests.support.sqlserver.session import Session

_BEGAN, _COMMITTED, _ROLLED_BACK = 8, 9, 10


def _descriptor(session: Session) -> bytes:
    assert session.transaction is not None
    return struct.pack("<q", -session.transaction.numbers[0])


def begin(session: Session, node: Any, response: Response) -> None:
    if session.level == 0:
        session.transaction = session.database.begin(explicit=True)
        response.change(_BEGAN, _descriptor(session), b"")
    session.level += 1


def commit(session: Session, node: Any, response: Response) -> None:
    """COMMIT; error 3902 without a transaction, 3930 for a doomed one."""
    if session.level == 0 or session.transaction is None:
        raise SqlError(3902, "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.")
    if session.transaction.doomed:
        raise SqlError(3930, "The current transaction cannot be committed and cannot support operations that write.")
    session.level -= 1
    if session.level == 0:
        descriptor = _descriptor(session)
        session.database.commit(session.transaction, session.cursor)
        session.transaction = None
        response.change(_COMMITTED, b"", descriptor)


def rollback(session: Session, node: Any, response: Response) -> None:
    """ROLLBACK; error 3903 without a transaction."""
    if session.level == 0 or session.transaction is None:
        raise SqlError(3903, "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.")
    if node.name is not None:
        if session.transaction.doomed:
            raise SqlError(3931, "The current transaction cannot be rolled back to a savepoint.")
        session.database.rollback(session.transaction, session.cursor, node.name)
        return
    abort(session, response)


def abort(session: Session, response: Response | None) -> None:
    """Roll the whole transaction back."""
    if session.transaction is None:
        return
    descriptor = _descriptor(session)
    session.database.rollback(session.transaction, session.cursor)
    session.transaction = None
    session.level = 0
    if response is not None:
        response.change(_ROLLED_BACK, b"", descriptor)


def save(session: Session, node: Any, response: Response) -> None:
    if session.level == 0 or session.transaction is None:
        raise SqlError(628, "Cannot issue SAVE TRANSACTION when there is no active transaction.")
    session.database.savepoint(session.transaction, node.name)


@contextmanager
def autocommitted(session: Session, response: Response, *, reading: bool = False) -> Iterator[None]:
    """A statement: in the session's transaction, or in one of its own."""
    if session.level:
        if session.transaction is not None and session.transaction.doomed and not reading:
            raise SqlError(
                3930, "The current transaction cannot be committed and cannot support operations that write."
            )
        yield
        return
    if session.switches["implicit_transactions"]:
        begin(session, None, response)
        yield
        return
    session.transaction = session.database.begin(explicit=False)
    try:
        yield
    except BaseException:
        session.database.rollback(session.transaction, session.cursor)
        session.transaction = None
        raise
    session.database.commit(session.transaction, session.cursor)
    session.transaction = None


def isolation(session: Session, node: Any, response: Response) -> None:
    """SET TRANSACTION ISOLATION LEVEL; error 3951 for a change to SNAPSHOT within a transaction."""
    levels = ("read uncommitted", "read committed", "repeatable read", "serializable", "snapshot")
    if node.level not in levels:
        raise SqlError(102, f"Incorrect syntax near '{node.level}'.", 15)
    if node.level in ("repeatable read", "serializable"):
        raise Unknown(f"the isolation level {node.level}")
    if node.level == "snapshot" and session.level and session.isolation != "snapshot":
        raise SqlError(3951, "Transaction failed because it changed to snapshot isolation while in progress.")
    session.isolation = node.level


def switch(session: Session, node: Any, response: Response) -> None:
    must_be_on = ("quoted_identifier", "ansi_nulls", "ansi_padding", "ansi_warnings", "concat_null_yields_null")
    for option in node.options:
        if option in must_be_on and not node.on:
            raise Unknown(f"SET {option.upper()} OFF")
        session.switches[option] = node.on


def number(session: Session, node: Any, response: Response) -> None:
    if node.option == "lock_timeout":
        session.lock_timeout = None if node.value < 0 else node.value / 1000
    if node.option == "rowcount" and node.value:
        raise Unknown("SET ROWCOUNT")


def identity_insert(session: Session, node: Any, response: Response) -> None:
    table = session.find_table(node.table)
    session.require("alter", table)
    session.identity_insert = table.object_id if node.on else None


def use(session: Session, node: Any, response: Response) -> None:
    before = session.database.name
    session.enter(node.name)
    response.change(1, session.database.name, before)


def kill(session: Session, node: Any, response: Response) -> None:
    if session.login != "sa":
        raise SqlError(6102, "User does not have permission to use the KILL statement.", 14)
    session.server.kill(node.spid)


def checkpoint(session: Session, node: Any, response: Response) -> None:
    """Nothing that a client could see."""


TRANSACTIONS: dict[str, Callable[[Session, Any, Response], None]] = {
    "begin": begin,
    "commit": commit,
    "rollback": rollback,
    "save": save,
    "isolation": isolation,
    "switch": switch,
    "number": number,
    "identity_insert": identity_insert,
    "use": use,
    "kill": kill,
    "checkpoint": checkpoint,
}
