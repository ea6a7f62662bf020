"""The control API in this process: its application, a client with a token, and stand-ins for what lies behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from engine.control.app import create_app
from engine.control.contract import TestConnectionAnswer
from engine.control.credentials import Credentials
from engine.control.instances import Instances
from engine.control.keys import create_key
from engine.control.probe import Probed, probe
from engine.control.secrets import SecretStore
from engine.control.secrets.file import FileSecretStore
from engine.control.services import Services
from engine.control.state import Store
from engine.source import Secret

PASSWORD = "hunter2-\u00fcnique-pa$$word"
BODY: dict[str, Any] = {
    "backend": "mysql",
    "name": "example",
    "mysqlHost": "example",
    "mysqlPort": 3306,
    "availableSchemas": ["example"],
    "mysqlUser": "example",
    "mysqlPassword": PASSWORD,
    "syncMode": "poll",
    "syncInterval": 30,
    "instance": {
        "name": "example",
        "mysqlDb": "example",
        "instanceSize": "nano",
        "logLevel": "info",
        "binlogServerId": 1,
    },
}
"""The contract's own example."""


class Control:
    """The API over a state file and a secret store in `folder`; `wakes` is what the reconciler was told."""

    def __init__(
        self,
        folder: Path,
        *,
        rate_limit: int = 0,
        instance: Callable[[httpx.Request], httpx.Response] | None = None,
        probing: Callable[[Probed], TestConnectionAnswer] = probe,
        token: Secret | None = None,
        secrets: SecretStore | None = None,
    ) -> None:
        self.folder = folder
        self.store = Store(folder / "state.sqlite")
        self.secrets = secrets or FileSecretStore(folder / "secrets", folder / "control.key")
        self.credentials = Credentials(self.store, self.secrets)
        self.wakes: list[UUID | None] = []
        transport = None if instance is None else httpx.MockTransport(instance)
        self.instances = Instances(lambda _: token, transport=transport)
        services = Services(
            store=self.store,
            credentials=self.credentials,
            instances=self.instances,
            probe=probing,
            region="local",
            wake=self.wakes.append,
        )
        self.app: FastAPI = create_app(services, rate_limit=rate_limit)
        self.token = self.new_token("default")

    @classmethod
    @contextlib.contextmanager
    def on(cls, folder: Path, **options: Any) -> Iterator[Control]:
        """An API for one block."""
        control = cls(folder, **options)
        try:
            yield control
        finally:
            control.instances.close()
            control.store.close()

    def new_token(self, account: str, name: str = "test") -> str:
        """A token of an account."""
        return create_key(self.store, account, name).reveal()

    def client(self, token: str | None = None, base: str = "/v1") -> httpx.Client:
        """A client with a token (default: the first account's); an empty one is none."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(transport=InProcess(self.app), base_url=f"http://control.test{base}", headers=headers)


class InProcess(httpx.BaseTransport):
    """Gives each request to an ASGI application, in an event loop of its own."""

    def __init__(self, app: Any) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()

        async def answered() -> httpx.Response:
            answer = await self._transport.handle_async_request(request)
            return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

        return asyncio.run(answered())


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """A body without some fields (``instance.name`` names one within)."""
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in body.items()}
    for name in names:
        first, _, second = name.partition(".")
        if second:
            del out[first][second]
        else:
            del out[first]
    return out


def given(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A body with other values; ``instance__name`` names one within."""
    out = without(body)
    for name, value in changes.items():
        first, _, second = name.partition("__")
        if second:
            out[first][second] = value
        else:
            out[first] = value
    return out
