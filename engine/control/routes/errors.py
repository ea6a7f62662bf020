"""The error answers that a route's description lists."""

from __future__ import annotations

from typing import Any

from engine.control.contract import Error

_MEANINGS = {
    400: "The request does not fit the contract: the message names the field",
    401: "No valid token",
    404: "No such object in this account",
    408: "The body did not arrive in time",
    409: "It fits no longer, or not yet: a name is taken, an object is in use",
    413: "The body is too large",
    415: "The body is no JSON",
    429: "Too many requests",
    502: "The instance does not answer, or refuses",
    503: "State or secret store cannot be used now",
}
_WITH_BODY = (408, 413, 415)


def errors(*statuses: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """The given error answers, and those that every route has."""
    every = sorted({*statuses, 400, 401, 429, 503, *(_WITH_BODY if body else ())})
    return {status: {"model": Error, "description": _MEANINGS[status]} for status in every}
