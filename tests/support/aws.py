"""AWS as moto plays it, over HTTP: every request is kept, so that a test sees what was really sent."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

REGION = "eu-west-1"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: the operation (``CreateService``) and its JSON body."""

    operation: str
    body: dict[str, Any]


@dataclass(slots=True)
class Aws:
    """The running server. `refuse` may give an error code for an operation, which is then answered instead."""

    url: str
    calls: list[Call] = field(default_factory=list)
    refuse: Callable[[Call], str | None] = lambda _: None

    def counts(self) -> Counter[str]:
        return Counter(call.operation for call in self.calls)

    def of(self, operation: str) -> list[dict[str, Any]]:
        """The bodies of every request of one operation, in order."""
        return [call.body for call in self.calls if call.operation == operation]


class _Recorder:
    def __init__(self, app: Any, aws: Aws) -> None:
        self._app, self._aws = app, aws

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        target = environ.get("HTTP_X_AMZ_TARGET")
        if target is not None:
            raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = BytesIO(raw)
            call = Call(target.rpartition(".")[2], json.loads(raw or b"{}"))
            self._aws.calls.append(call)
            code = self._aws.refuse(call)
            if code is not None:
                start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
                return [json.dumps({"__type": code, "message": "refused by the test"}).encode()]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


@contextmanager
def aws_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """A fresh AWS on loopback; boto3 in this process finds it by its environment."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.moto_api._internal.models import moto_api_backend

    moto_api_backend.reset()
    aws = Aws("")
    app = _Recorder(DomainDispatcherApplication(create_backend_app), aws)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    thread = threading.Thread(target=server.serve_forever, name="aws", daemon=True)
    thread.start()
    aws.url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "MOTO_ACCOUNT_ID": DEFAULT_ACCOUNT_ID,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    try:
        yield aws
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
