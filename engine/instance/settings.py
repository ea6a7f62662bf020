"""What the HTTP surface of an instance is told about it, and the limits it states."""

from __future__ import annotations

from dataclasses import dataclass

from engine.source import Secret


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """Fixed facts and limits of one instance. Times in seconds, sizes in the unit of their name."""

    name: str
    backend: str
    sync_mode: str
    """As configured; `auto` until the source was asked (`engine.status.Status.sync_mode`)."""
    token: Secret | None = None
    """The bearer token to ask for. None: only requests to a loopback name are answered, and no browser's from elsewhere."""
    memory_cap_mb: int | None = None
    behind_after: float = 60.0
    """Health is `degraded` when the replica is further behind than this; where it polls, than a round would have it."""
    poll_interval: float = 30.0
    unreachable_after: float = 60.0
    """Health is `unreachable` when the source has not answered for longer than this."""
    max_queries: int = 4
    """Queries that run at the same time."""
    max_waiting: int = 64
    """Queries that may wait for one of those places, or for a position; one more is answered 503 `busy`."""
    query_timeout: float = 30.0
    """How long a query may take when it does not say (`timeout_ms`), from its arrival to its last byte."""
    max_query_timeout: float = 600.0
    json_rows: int = 10_000
    """`max_rows` of a JSON answer that does not say; Arrow and CSV have no limit unless they ask for one."""
    body_limit: int = 1 << 20
    """Bytes of a request body."""
