"""What the state and the secret store refuse, and why; `engine.control.problems` says which HTTP answer each becomes.

ControlError
├── NotFound          no such object in this account
├── Conflict          the state of things forbids it: a name is taken, an object is in use
├── Invalid           a value does not fit others: names the field
├── StateUnusable     the state file cannot be used
└── SecretUnavailable the secret store does not give, or take, a secret
    └── SecretMissing there is none of that reference
"""

from __future__ import annotations

from engine.errors import EngineError


class ControlError(EngineError):
    """Base of what the control API refuses on purpose."""

    word = "control"


class NotFound(ControlError):
    """There is no such object, or it belongs to another account."""

    word = "not_found"


class Conflict(ControlError):
    """The request fits no longer, or not yet: `word` is what the answer's `error` says."""

    def __init__(self, word: str, message: str) -> None:
        self.word = word
        super().__init__(message)


class Invalid(ControlError):
    """`field` (as the request names it) has a value that does not fit the rest."""

    word = "validation_error"

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class StateUnusable(ControlError):
    """The state file cannot be opened, read or written."""

    word = "state_unusable"


class SecretUnavailable(ControlError):
    """The secret store failed. The message names neither the secret nor its value."""

    word = "secret_store_unavailable"


class SecretMissing(SecretUnavailable):
    """The secret store works, and has nothing under the reference."""

    word = "secret_missing"
