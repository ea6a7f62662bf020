"""Passwords on their way into the secret store and out of it, in step with the state file.

The two cannot be written in one transaction. So a secret is noted in the state file before it is put, and the note goes
in the transaction that makes a connection use it; what is noted and unused is swept away later. A crash at any point
leaves at most a secret that nothing points to, for a while, and never a connection without its password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from engine.control.failures import ControlError, SecretUnavailable
from engine.control.secrets import SecretStore
from engine.control.state import Store
from engine.source import Secret

SWEEP_EVERY: Final = 60.0
"""Seconds between two sweeps."""

log = structlog.get_logger(__name__)


class Credentials:
    """Puts and removes the passwords of connections."""

    def __init__(self, store: Store, secrets: SecretStore) -> None:
        self._store = store
        self._secrets = secrets

    def password(self, ref: str) -> Secret:
        """The password under a connection's `secret_ref`. Raises SecretUnavailable."""
        return self._secrets.get(ref)

    @contextmanager
    def put(self, ref: str, password: Secret) -> Iterator[None]:
        """Put a password, for a block that makes a connection use it. When the block raises, it is removed again."""
        self._store.expect_secret(ref)
        try:
            self._secrets.put(ref, password)
            yield
        except BaseException:
            self._remove(ref)
            raise

    def sweep(self) -> int:
        """Remove the secrets that nothing uses; returns how many. What cannot be removed now is tried next time."""
        return sum(self._remove(ref) for ref in self._store.stray_secrets())

    def _remove(self, ref: str) -> bool:
        try:
            self._secrets.delete(ref)
            self._store.forget_secret(ref)
        except (SecretUnavailable, ControlError) as error:
            log.warning("secret_not_removed", error=error.word)
            return False
        return True
