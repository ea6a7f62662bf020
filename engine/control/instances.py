"""The HTTP APIs of running instances, as the control API asks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import httpx

from engine.control.failures import Conflict
from engine.control.records import Database
from engine.instance.problems import ApiError
from engine.source import Secret

TIMEOUT: Final = 5.0
"""Seconds that an instance may take to answer."""

TokenOf = Callable[[UUID], Secret | None]
"""Gives the bearer token of an instance's API, None when it asks for none."""


class Instances:
    """Asks instances. May be used from any thread; close it at the end."""

    def __init__(self, token_of: TokenOf, *, transport: httpx.BaseTransport | None = None) -> None:
        self._token_of = token_of
        self._http = httpx.Client(timeout=TIMEOUT, transport=transport, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def health(self, database: Database) -> dict[str, Any] | None:
        """The instance's own ``GET /health``; None when it does not run, or does not answer as it should."""
        if database.endpoint_url is None:
            return None
        try:
            answer = self._http.get(f"{database.endpoint_url}/health", headers=self._headers(database))
            body = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None
        return body if isinstance(body, dict) and "status" in body and answer.status_code in (200, 503) else None

    def reload(self, database: Database, table: str | None) -> None:
        """Have the instance load a table, or everything, anew.

        Raises Conflict when it does not run, ApiError when it has no such table (404) or does not do it (502).
        """
        body = {} if table is None else {"table": table}
        if database.endpoint_url is None:
            raise Conflict("instance_not_running", f"the instance is {database.status}, and has no address")
        try:
            answer = self._http.post(f"{database.endpoint_url}/sync/reload", json=body, headers=self._headers(database))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            message = f"The instance does not answer ({type(error).__name__}): try again when it is healthy."
            raise ApiError(502, "instance_unreachable", message) from error
        if answer.status_code == 404 and table is not None:
            raise ApiError(404, "unknown_table", "table: the instance has no such table; GET /tables there lists them.")
        if answer.status_code >= 400:
            message = f"The instance refused ({answer.status_code}): its log says why."
            raise ApiError(502, "instance_refused", message)

    def _headers(self, database: Database) -> dict[str, str]:
        token = self._token_of(database.id)
        return {} if token is None else {"Authorization": f"Bearer {token.reveal()}"}
