"""Bearer tokens: ``rmk_<id>.<secret>``. The token is shown once; what is kept is the SHA-256 of its secret part.

The secret has 256 random bits, so a plain hash cannot be reversed by trying, and needs no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final
from uuid import UUID

from engine.control.records import Key
from engine.control.rows import now
from engine.control.state import Store
from engine.source import Secret

PREFIX: Final = "rmk_"
_TOKEN = re.compile(r"rmk_([a-z0-9]{1,64})\.([A-Za-z0-9_-]{1,128})", re.ASCII)
_ID_BYTES, _SECRET_BYTES = 8, 32
_NOBODY: Final = hashlib.sha256(b"").digest()


def create_key(store: Store, account_name: str, name: str) -> Secret:
    """Make a key in the account of this name (made too, if there is none), and return its token.

    Raises Conflict when the account has an active key of that name.
    """
    account = store.ensure_account(account_name)
    id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
    store.add_key(Key(id, account.id, name, _digest(secret), now()))
    return Secret(f"{PREFIX}{id}.{secret}")


def authenticate(store: Store, token: str) -> Key | None:
    """The active key that a token belongs to. Takes as long for an unknown key as for a wrong secret of a known one."""
    found = _TOKEN.fullmatch(token)
    if found is None:
        return None
    id, secret = found.groups()
    key = store.key(id)
    matches = hmac.compare_digest(_digest(secret), _NOBODY if key is None else key.digest)
    if key is None or key.revoked_at is not None or not matches:
        return None
    return key


def account_of(store: Store, name: str) -> UUID | None:
    """The id of the account of this name, if there is one."""
    return next((account.id for account in store.accounts() if account.name == name), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
