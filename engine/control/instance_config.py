"""The configuration of an instance, made from its record and its connection's: ``reflex.yaml`` as a mapping."""

from __future__ import annotations

from typing import Any

from engine.config.model import TlsSection
from engine.control.launchers.launcher import Spec, digest
from engine.control.records import Backend, Instance
from engine.sizes import SIZES

PASSWORD_VARIABLE = "REFLEX_SOURCE_PASSWORD"  # noqa: S105 - a variable's name


def instance_spec(instance: Instance, tls: TlsSection | None = None) -> Spec:
    """What is to run for an instance. Its revision changes with everything in it, a new password included.

    `tls`: how sources are reached (default: encrypted if the source offers it).

    The instance is named by its id: what it makes at the source keeps its name when the instance is renamed, and two
    accounts never share it.
    """
    database, connection = instance.database, instance.connection
    section: dict[str, Any] = {
        "name": database.id.hex,
        "schema": database.mysql_db,
        "sync_mode": str(database.sync_mode),
        "sync_interval": database.sync_interval,
        "instance_size": database.instance_size,
        "log_level": database.log_level,
    }
    if database.binlog_server_id is not None and connection.backend is Backend.MYSQL:
        section["binlog_server_id"] = database.binlog_server_id
    config: dict[str, Any] = literal(
        {
            "version": 1,
            "connection": {
                "name": connection.id.hex,
                "backend": str(connection.backend),
                "host": connection.host,
                "port": connection.port,
                "user": connection.user,
                # Its own only: exposing another schema concerns no instance that runs.
                "available_schemas": [database.mysql_db],
            },
            "instance": section,
        }
    )
    if tls is not None:
        config["connection"]["tls"] = literal(tls.model_dump(exclude_none=True))
    config["connection"]["password"] = f"${{{PASSWORD_VARIABLE}}}"
    size = SIZES[database.instance_size]
    return Spec(
        id=str(database.id),
        config=config,
        secrets={PASSWORD_VARIABLE: connection.secret_ref},
        size=size,
        revision=digest([config, connection.secret_ref, size.cpu_units, size.memory_mb]),
    )


def literal(value: Any) -> Any:
    """A value whose texts are taken as they are: the configuration's ``${...}`` would be replaced otherwise."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value
