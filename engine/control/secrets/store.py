"""The seam to a secret store.

A reference is a path of two or more parts of letters, digits, ``-`` and ``_`` (``connections/<id>/<version>``). It is
no secret itself; it is kept in the state file and shown in logs.
"""

from __future__ import annotations

import re
from typing import Protocol

from engine.source import Secret

_REFERENCE = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)+")


class SecretStore(Protocol):
    """Keeps secrets under references. Methods may be called from any thread, and repeated.

    All raise SecretUnavailable when the store cannot be reached or refuses; no message holds a secret.
    """

    def put(self, ref: str, secret: Secret) -> None:
        """Keep a secret durably, in place of what was there."""
        ...

    def get(self, ref: str) -> Secret:
        """The secret of this reference. Raises SecretMissing when there is none."""
        ...

    def delete(self, ref: str) -> None:
        """Forget a secret; nothing happens when there is none."""
        ...

    def reference_for_ecs(self, ref: str) -> str:
        """What a task definition's `secrets[].valueFrom` names. Raises SecretUnavailable where ECS cannot read."""
        ...


def checked(ref: str) -> str:
    """The reference, if it is one: it becomes part of a path. Raises ValueError."""
    if not _REFERENCE.fullmatch(ref):
        raise ValueError("not a reference of a secret")
    return ref
