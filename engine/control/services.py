"""What the routes work with: made once, when the application is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from uuid import UUID

from fastapi import Request

from engine.control.contract import TestConnectionAnswer
from engine.control.credentials import Credentials
from engine.control.instances import Instances
from engine.control.limits import PROBES_AT_ONCE
from engine.control.probe import Probed
from engine.control.records import Key
from engine.control.state import Store

Probe = Callable[[Probed], TestConnectionAnswer]
"""Tries a source; see `engine.control.probe.probe`."""


@dataclass(frozen=True, slots=True)
class Services:
    """State, secrets, instances, sources; and how to have the reconciler look at once."""

    store: Store
    credentials: Credentials
    instances: Instances
    probe: Probe
    region: str
    wake: Callable[[UUID | None], None]
    """Has the reconciler look at once; with an id, try that instance again without waiting."""
    probes: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(PROBES_AT_ONCE))
    """One is held while a source is tried."""


def services_of(request: Request) -> Services:
    """The application's services."""
    services: Services = request.app.state.services
    return services


def account_of(request: Request) -> UUID:
    """The account that the request's token belongs to."""
    key: Key = request.state.key
    return key.account_id
