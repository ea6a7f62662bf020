"""Databases, schemas, logins, users, roles and rights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.sqlserver.catalog import Principal
from tests.support.sqlserver.errors import SqlError, Unknown, invalid_object
from tests.support.sqlserver.session import Session


def _owner(session: Session) -> None:
    if not session.is_owner:
        raise SqlError(15247, "User does not have permission to perform this action.")


def create_schema(session: Session, node: Any) -> None:
    _owner(session)
    schemas = session.database.schemas
    fold = session.database.fold
    if fold(node.name) in map(fold, schemas):
        raise SqlError(2714, f"There is already an object named '{node.name}' in the database.", 16, 6)
    schemas[node.name] = max(5, *schemas.values()) + 1
    session.undo(lambda: schemas.pop(node.name, None))


def drop_schema(session: Session, node: Any) -> None:
    _owner(session)
    name = node.names[0][-1]
    schemas = {one.lower(): one for one in session.database.schemas}
    if name.lower() not in schemas:
        if node.if_exists:
            return
        raise SqlError(15151, f"Cannot drop the schema '{name}', because it does not exist.")
    if any(table.schema.lower() == name.lower() for table in session.database.tables.values()):
        raise SqlError(3729, f"Cannot drop schema '{name}' because it is being referenced by an object.")
    del session.database.schemas[schemas[name.lower()]]


def create_database(session: Session, node: Any) -> None:
    _server_owner(session)
    session.server.add_database(node.name).case_sensitive = "_cs" in node.collation.lower()


def drop_database(session: Session, node: Any) -> None:
    _server_owner(session)
    for name in node.names:
        if name[-1].lower() not in session.server.databases and node.if_exists:
            continue
        session.server.remove_database(name[-1], session)


def _server_owner(session: Session) -> None:
    if session.login != "sa":
        raise SqlError(262, "CREATE DATABASE permission denied in database 'master'.", 14)


def create_login(session: Session, node: Any) -> None:
    _server_owner(session)
    session.server.logins[node.name] = node.password


def drop_login(session: Session, node: Any) -> None:
    _server_owner(session)
    session.server.logins.pop(node.names[0][-1], None)


def create_user(session: Session, node: Any) -> None:
    _owner(session)
    users = session.database.users
    if node.name in users:
        raise SqlError(15023, f"User, group, or role '{node.name}' already exists in the current database.")
    if node.login and node.login not in session.server.logins:
        raise SqlError(15007, f"'{node.login}' is not a valid login or you do not have permission.")
    number = max(one.id for one in users.values()) + 1
    users[node.name] = Principal(node.name, max(number, 6), node.login)


def create_role(session: Session, node: Any) -> None:
    _owner(session)
    users = session.database.users
    users[node.name] = Principal(node.name, max(one.id for one in users.values()) + 1, "", is_role=True)


def drop_user(session: Session, node: Any) -> None:
    _owner(session)
    if session.database.users.pop(node.names[0][-1], None) is None and not node.if_exists:
        raise SqlError(15151, f"Cannot drop the user '{node.names[0][-1]}', because it does not exist.")


def role_member(session: Session, node: Any) -> None:
    _owner(session)
    member = session.database.users.get(node.member)
    if member is None:
        raise SqlError(15410, f"User or role '{node.member}' does not exist in this database.", 11)
    if node.action == "add":
        member.roles.add(node.role.lower())
    else:
        member.roles.discard(node.role.lower())


def right(session: Session, node: Any) -> None:
    """GRANT, DENY and REVOKE."""
    _owner(session)
    grantee = session.database.users.get(node.grantee)
    if grantee is None:
        raise SqlError(15151, f"Cannot find the user '{node.grantee}', because it does not exist.")
    if node.scope == "database":
        scope = "database"
    elif node.scope == "schema":
        scope = f"schema:{node.target[-1].lower()}"
    elif node.scope == "object":
        table = session.lookup_name(node.target)
        if table is None:
            raise invalid_object(".".join(node.target))
        scope = f"object:{table.object_id}"
    else:
        raise Unknown(f"rights on a {node.scope}")
    for name in node.rights:
        entry = (name, scope)
        grantee.grants.discard(entry)
        grantee.denials.discard(entry)
        if node.action == "grant":
            grantee.grants.add(entry)
        elif node.action == "deny":
            grantee.denials.add(entry)


def database_option(session: Session, node: Any) -> None:
    _owner(session)
    database = session.server.databases.get((node.name or session.database.name).lower())
    if database is None:
        raise SqlError(5011, f"User does not have permission to alter database '{node.name}', or it does not exist.")
    if node.option == "allow_snapshot_isolation":
        database.snapshot_allowed = node.on
    elif node.option == "read_committed_snapshot":
        database.read_committed_snapshot = node.on
    elif node.option == "recovery":
        database.recovery_simple = not node.on


SECURITY: dict[str, Callable[[Session, Any], None]] = {
    "create schema": create_schema,
    "drop schema": drop_schema,
    "create database": create_database,
    "drop database": drop_database,
    "create login": create_login,
    "drop login": drop_login,
    "create user": create_user,
    "drop user": drop_user,
    "create role": create_role,
    "drop role": drop_user,
    "role member": role_member,
    "right": right,
    "database option": database_option,
}
