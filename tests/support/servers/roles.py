"""The users of a test server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psycopg import sql


class Role(NamedTuple):
    """A database user and its password."""

    name: str
    password: str


SUPERUSER = Role("postgres", "superuser-pass-93f1")
ROOT = Role("root", "root-pass-93f1")
"""The superuser of MySQL and MariaDB."""
SA = Role("sa", "Sa-pass-93f1")
"""The superuser of SQL Server."""
APP = Role("app", "app-pass-27c4")
"""Owns the test databases and their tables, as an application would."""
REFLEX = Role("reflex", "reflex-pass-never-logged-58b0")
"""What the engine connects as: LOGIN REPLICATION, no superuser, member of `app`."""


def creation() -> Sequence[sql.Composed]:
    """The statements that make the roles on a new server."""
    return (
        sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(sql.Identifier(APP.name), APP.password),
        sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}").format(sql.Identifier(REFLEX.name), REFLEX.password),
        sql.SQL("GRANT {} TO {}").format(sql.Identifier(APP.name), sql.Identifier(REFLEX.name)),
    )
