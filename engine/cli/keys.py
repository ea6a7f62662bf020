"""The commands that manage the control API's tokens. They work on its state file, whether it runs or not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.control.config import load_control_config
from engine.control.failures import Conflict
from engine.control.keys import account_of, create_key
from engine.control.shapes import time_shape
from engine.control.state import Store, open_store
from engine.errors import ConfigError, Problem
from engine.terminal import text_table

_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


def print_new_key(config_path: str, name: str, account: str) -> int:
    """Make a key and print its token, alone, to standard output. Raises ConfigError."""
    for option, value in (("--name", name), ("--account", account)):
        if not _NAME.fullmatch(value):
            raise ConfigError([Problem(option, "must be 1 to 100 characters, without control characters")])
    with _store(config_path) as store:
        try:
            token = create_key(store, account, name)
        except Conflict as error:
            raise ConfigError([Problem("--name", str(error))]) from error
    print(token.reveal())
    return 0


def print_keys(config_path: str) -> int:
    """Print a line for each key."""
    with _store(config_path) as store:
        accounts = {account.id: account for account in store.accounts()}
        rows: list[list[Any]] = []
        for key in store.all_keys():
            account = accounts[key.account_id]
            revoked = "active" if key.revoked_at is None else f"revoked {time_shape(key.revoked_at)}"
            rows.append([key.id, key.name, account.name, str(account.id), time_shape(key.created_at), revoked])
    print(text_table(["id", "name", "account", "customerId", "created", "state"], rows))
    return 0


def revoke_key(config_path: str, name: str, account: str) -> int:
    """Revoke the active key of this name. Raises ConfigError when there is none."""
    with _store(config_path) as store:
        owner = account_of(store, account)
        if owner is None or not store.revoke_keys(owner, name):
            raise ConfigError([Problem("--name", "the account has no active key of this name")])
    print(f"revoked {name}")
    return 0


@contextmanager
def _store(config_path: str) -> Iterator[Store]:
    store = open_store(load_control_config(config_path).control.state)
    try:
        yield store
    finally:
        store.close()
