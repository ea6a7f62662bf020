"""Asking running instances how they are, over their own HTTP API; many at once, each within a bounded time."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from engine.control.decision import Health
from engine.control.records import HealthStatus
from engine.source import Secret

ANSWERS_WITHIN = 5.0
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where an instance answers, and the token that it asks for."""

    endpoint: str
    token: Secret | None = None


class Watch:
    """A client of every instance. Its methods never raise for what an instance does."""

    def __init__(self) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE, keepalive_expiry=60)
        # Proxies of the environment are for the outside world.
        self._http = httpx.Client(timeout=ANSWERS_WITHIN, limits=limits, trust_env=False)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="watch")

    def health(self, addresses: Mapping[str, Address]) -> dict[str, Health | None]:
        """How each of them is; None for one that did not answer as an instance does."""
        found = self._pool.map(self._health, addresses.values())
        return dict(zip(addresses, found, strict=True))

    def set_replication(self, address: Address, *, paused: bool) -> bool:
        """Pause replication, or let it go on; whether the instance took it."""
        answer = self._ask("POST", address, "/sync/pause" if paused else "/sync/resume")
        return answer is not None and answer.status_code == httpx.codes.ACCEPTED

    def close(self) -> None:
        """Close every connection."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def _health(self, address: Address) -> Health | None:
        ready = self._ask("GET", address, "/readyz")
        answer = None if ready is None else self._ask("GET", address, "/health")
        if ready is None or answer is None:
            return None
        try:
            return _health(answer.json(), ready=ready.status_code == httpx.codes.OK)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _ask(self, method: str, address: Address, path: str) -> httpx.Response | None:
        headers = {} if address.token is None else {"Authorization": f"Bearer {address.token.reveal()}"}
        if method == "POST":
            headers["Content-Type"] = "application/json"
        try:
            return self._http.request(method, f"{address.endpoint}{path}", headers=headers)
        except httpx.HTTPError:
            return None


def _health(body: Mapping[str, Any], *, ready: bool) -> Health:
    error = body["lastError"]
    return Health(
        status=HealthStatus(body["status"]),
        ready=ready,
        paused=body["phase"] == "paused",
        error=None if error is None else str(error["message"]),
    )
