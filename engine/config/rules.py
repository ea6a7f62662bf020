"""Rules between the fields of the configuration.

They look at the raw mapping rather than at the finished model, so that a broken rule is reported beside the broken
fields and not only once those are mended. A value of the wrong type is passed over here: its field's own error says so.
"""

from __future__ import annotations

import ipaddress
import os.path
from collections.abc import Iterator, Mapping
from typing import Any

from engine.config.model import CDC_MODES
from engine.errors import Problem

Raw = Mapping[str, Any]


def broken_rules(raw: Raw) -> list[Problem]:
    """Every rule that the configuration breaks."""
    rules = (_sync_mode, _schema, _token, _tls, _one_password, _replica_file)
    return [problem for rule in rules for problem in rule(raw)]


def is_loopback(host: str) -> bool:
    """Whether a listening address is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def section(raw: Raw, *path: str) -> Raw:
    """The mapping at `path`, empty when there is none."""
    node: Any = raw
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _sync_mode(raw: Raw) -> Iterator[Problem]:
    backend, mode = section(raw, "connection").get("backend"), section(raw, "instance").get("sync_mode")
    if not isinstance(backend, str) or backend not in CDC_MODES or mode not in {"poll", *CDC_MODES.values()}:
        return
    allowed = ("poll", CDC_MODES[backend], "auto")
    if mode not in allowed:
        yield Problem("instance.sync_mode", f"must be one of {', '.join(allowed)} for backend {backend}")


def _schema(raw: Raw) -> Iterator[Problem]:
    available = section(raw, "connection").get("available_schemas")
    schema = section(raw, "instance").get("schema")
    if not isinstance(available, list) or not available or not all(isinstance(a, str) for a in available):
        return
    if schema is None and len(available) > 1:
        yield Problem("instance.schema", f"is required: one of connection.available_schemas ({', '.join(available)})")
    elif isinstance(schema, str) and schema not in available:
        yield Problem("instance.schema", f"must be one of connection.available_schemas ({', '.join(available)})")
    if section(raw, "connection").get("backend") in {"postgres", "mssql"}:
        for index, entry in enumerate(available):
            database, dot, schema = entry.partition(".")
            if not database or (dot and not schema):
                yield Problem(f"connection.available_schemas[{index}]", "must be a database, or database.schema")


def _token(raw: Raw) -> Iterator[Problem]:
    http = section(raw, "http")
    host = http.get("host", "127.0.0.1")
    if isinstance(host, str) and not is_loopback(host) and http.get("token") in {None, ""}:
        yield Problem("http.token", "is required when http.host is not a loopback address (127.0.0.1, ::1, localhost)")


def _tls(raw: Raw) -> Iterator[Problem]:
    tls = section(raw, "connection", "tls")
    for one, other in (("cert", "key"), ("key", "cert")):
        if tls.get(one) and not tls.get(other):
            yield Problem(f"connection.tls.{other}", f"is required when connection.tls.{one} is set")
    for name in ("ca", "cert", "key"):
        path = tls.get(name)
        if isinstance(path, str) and path and not os.path.isfile(path):  # noqa: PTH113 - raises for no name, however long
            yield Problem(f"connection.tls.{name}", "must be the path of a PEM file: there is no such file")


def _one_password(raw: Raw) -> Iterator[Problem]:
    given = [n for n in ("password", "password_file", "password_ssm") if n in section(raw, "connection")]
    for name in given[1:]:
        yield Problem(f"connection.{name}", f"must not be set beside connection.{given[0]}: one of them is enough")


def _replica_file(raw: Raw) -> Iterator[Problem]:
    path = section(raw, "replica").get("path")
    if isinstance(path, str) and path and os.path.isdir(path):  # noqa: PTH112 - raises for no name, however long
        yield Problem("replica.path", "must be the path of a file: there is a folder of that name")
