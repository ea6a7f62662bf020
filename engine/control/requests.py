"""What a request's body makes of a record, and the rules between fields. Raises Invalid (400) and Conflict (409)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID, uuid4

from engine.control import contract
from engine.control.actions import ends
from engine.control.failures import Conflict, Invalid
from engine.control.records import (
    Backend,
    Connection,
    Database,
    PauseSchedule,
    Status,
    SyncMode,
    Tag,
    TagColor,
    sync_modes_of,
)
from engine.control.rows import now

LARGEST_SERVER_ID: Final = 4_294_967_295
"""MySQL's server ids have 32 bits."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_HOST = re.compile(r"[\s\x00-\x1f\x7f/\\,@?#'\"`=;<>]")
"""Drivers read more than a name out of these: a socket's folder, several hosts, parameters."""


def new_connection(body: contract.CreateConnectionBody, account_id: UUID) -> Connection:
    """The connection that a request asks for; its `secret_ref` is one that nothing uses yet."""
    _check_source(body.mysql_host, body.mysql_user, body.mysql_password, body.available_schemas)
    _check_text("name", body.name)
    backend, mode = Backend(body.backend), SyncMode(body.sync_mode)
    _check_mode(mode, sync_modes_of(backend), f"for backend {backend}")
    id, time = uuid4(), now()
    return Connection(
        id=id,
        account_id=account_id,
        name=body.name,
        backend=backend,
        host=body.mysql_host,
        port=body.mysql_port,
        available_schemas=tuple(body.available_schemas),
        user=body.mysql_user,
        secret_ref=password_ref(id),
        sync_mode=mode,
        min_sync_interval=body.sync_interval,
        created_at=time,
        updated_at=time,
    )


def password_ref(connection: UUID) -> str:
    """A place in the secret store for a new password of a connection: never the one of an older password."""
    return f"connections/{connection}/{uuid4().hex[:12]}"


def first_instance(body: contract.CreateInstanceBody, connection: Connection, region: str) -> Database:
    """The instance that comes with a new connection: it takes the connection's mode and interval."""
    return _new_database(
        connection,
        region,
        "instance.",
        name=body.name,
        mysql_db=body.mysql_db,
        sync_mode=connection.sync_mode,
        sync_interval=connection.min_sync_interval,
        instance_size=body.instance_size,
        log_level=body.log_level,
        binlog_server_id=body.binlog_server_id,
    )


def new_database(body: contract.CreateDatabaseBody, connection: Connection, region: str) -> Database:
    """The instance that a request asks for on a connection."""
    return _new_database(
        connection,
        region,
        "",
        name=body.name,
        mysql_db=body.mysql_db,
        sync_mode=connection.sync_mode if body.sync_mode is None else SyncMode(body.sync_mode),
        sync_interval=connection.min_sync_interval if body.sync_interval is None else body.sync_interval,
        instance_size=body.instance_size,
        log_level=body.log_level,
        binlog_server_id=body.binlog_server_id,
        pause_schedule=_schedule(body.pause_schedule),
        tags=_tags(body.tags),
    )


def changed_connection(
    body: contract.ChangeConnectionBody, old: Connection, databases: Sequence[Database], secret_ref: str | None
) -> Connection:
    """What a request makes of a connection. Raises Conflict when instances on it would no longer fit."""
    given = body.model_fields_set
    new = replace(
        old,
        name=body.name if body.name is not None else old.name,
        host=body.mysql_host if body.mysql_host is not None else old.host,
        port=body.mysql_port if body.mysql_port is not None else old.port,
        user=body.mysql_user if body.mysql_user is not None else old.user,
        available_schemas=old.available_schemas if body.available_schemas is None else tuple(body.available_schemas),
        sync_mode=old.sync_mode if body.sync_mode is None else SyncMode(body.sync_mode),
        min_sync_interval=body.sync_interval if body.sync_interval is not None else old.min_sync_interval,
        secret_ref=secret_ref if secret_ref is not None else old.secret_ref,
    )
    _check_source(new.host, new.user, body.mysql_password or "", new.available_schemas)
    _check_text("name", new.name)
    _check_mode(new.sync_mode, sync_modes_of(old.backend), f"for backend {old.backend}")
    for database in databases:
        if database.status is Status.TERMINATED:
            continue
        who = f"the instance {database.id}"
        if "available_schemas" in given and database.mysql_db not in new.available_schemas:
            raise Conflict("schema_in_use", f"availableSchemas: {who} uses a schema that would be missing")
        if "sync_mode" in given and database.sync_mode not in new.allowed_sync_modes:
            raise Conflict("sync_mode_in_use", f"syncMode: {who} is in mode {database.sync_mode}; change it first")
        if "sync_interval" in given and database.sync_interval < new.min_sync_interval:
            message = f"syncInterval: {who} polls every {database.sync_interval} seconds; change it first"
            raise Conflict("sync_interval_in_use", message)
    return new


def changed_database(body: contract.ChangeDatabaseBody, old: Database, connection: Connection) -> Database:
    """What a request makes of an instance. Raises Conflict when it is, or will be, terminated."""
    if ends(old):
        raise Conflict("instance_terminated", "the instance is terminated, or is about to be: nothing of it changes")
    given = body.model_fields_set
    new = replace(
        old,
        name=body.name if body.name is not None else old.name,
        sync_mode=old.sync_mode if body.sync_mode is None else SyncMode(body.sync_mode),
        sync_interval=body.sync_interval if body.sync_interval is not None else old.sync_interval,
        instance_size=body.instance_size if body.instance_size is not None else old.instance_size,
        log_level=body.log_level if body.log_level is not None else old.log_level,
        binlog_server_id=body.binlog_server_id if "binlog_server_id" in given else old.binlog_server_id,
        pause_schedule=_schedule(body.pause_schedule) if "pause_schedule" in given else old.pause_schedule,
        tags=old.tags if body.tags is None else _tags(body.tags),
    )
    _check_database(new, connection, "")
    return new


def _new_database(connection: Connection, region: str, prefix: str, **values: Any) -> Database:
    time = now()
    database = Database(
        id=uuid4(),
        account_id=connection.account_id,
        connection_id=connection.id,
        region=region,
        created_at=time,
        updated_at=time,
        **values,
    )
    _check_database(database, connection, prefix)
    return database


def _check_database(database: Database, connection: Connection, prefix: str) -> None:
    _check_text(f"{prefix}name", database.name)
    if database.mysql_db not in connection.available_schemas:
        raise Invalid(f"{prefix}mysqlDb", "must be one of availableSchemas")
    _check_mode(database.sync_mode, connection.allowed_sync_modes, "on this connection (allowedSyncModes)")
    if database.sync_interval < connection.min_sync_interval:
        raise Invalid(
            f"{prefix}syncInterval",
            f"must be at least {connection.min_sync_interval}, the connection's minSyncInterval",
        )
    if (database.binlog_server_id or 0) > LARGEST_SERVER_ID:
        raise Invalid(f"{prefix}binlogServerId", f"must be at most {LARGEST_SERVER_ID}")


def _check_mode(mode: SyncMode, allowed: Sequence[SyncMode], where: str) -> None:
    if mode not in allowed:
        raise Invalid("syncMode", f"must be one of {', '.join(allowed)} {where}")


def check_source(body: contract.TestConnectionBody) -> None:
    """Refuse what no source can be reached with."""
    _check_source(body.mysql_host, body.mysql_user, body.mysql_password, body.available_schemas or ())
    mode, backend = SyncMode(body.sync_mode), Backend(body.backend)
    _check_mode(mode, sync_modes_of(backend), f"for backend {backend}")


def _check_source(host: str, user: str, password: str, schemas: Sequence[str]) -> None:
    if _NO_HOST.search(host):
        raise Invalid("mysqlHost", "must be one host name or IP address, without a port, path or parameters")
    _check_text("mysqlUser", user)
    if "\0" in password:
        raise Invalid("mysqlPassword", "must not hold a NUL character")
    for index, schema in enumerate(schemas):
        if not schema:
            raise Invalid(f"availableSchemas[{index}]", "must not be empty")
        _check_text(f"availableSchemas[{index}]", schema)


def _check_text(field: str, text: str) -> None:
    if _CONTROL.search(text):
        raise Invalid(field, "must not hold control characters")


def _schedule(body: contract.PauseSchedule | None) -> PauseSchedule | None:
    if body is None:
        return None
    if body.pause_at == body.resume_at:
        raise Invalid("pauseSchedule.resumeAt", "must be another time than pauseAt")
    return PauseSchedule(body.pause_at, body.resume_at, tuple(sorted(set(body.days))))


def _tags(body: Sequence[contract.Tag]) -> tuple[Tag, ...]:
    return tuple(Tag(tag.label, TagColor(tag.color)) for tag in body)
