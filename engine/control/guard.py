"""What every request passes before it reaches a route: its token, the limits, the form of its body.

The token is asked for first, also at paths that do not exist: nobody without one learns anything here.
"""

from __future__ import annotations

import asyncio
import math
from typing import Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.control.failures import ControlError
from engine.control.keys import authenticate
from engine.control.limits import BODY_LIMIT, BODY_TIMEOUT, REFUSALS_PER_MINUTE, RateLimit
from engine.control.problems import answer_to
from engine.control.records import Key
from engine.control.state import Store
from engine.instance.problems import ApiError

log = structlog.get_logger(__name__)

OPEN_PATHS: Final = frozenset({"/livez", "/openapi.json", "/docs", "/v1/openapi.json", "/v1/docs"})
"""Answered to everyone: a health check has no token, and the contract is no secret."""

_HEADERS: Final = {"x-content-type-options": "nosniff", "cache-control": "no-store", "referrer-policy": "no-referrer"}


class Guard:
    """ASGI middleware: refuses what may not be answered, and turns an unexpected error into the API's form.

    What it lets through has the key in ``scope["state"]["key"]`` and a body that is complete.
    """

    def __init__(self, app: ASGIApp, store: Store, *, rate_limit: int) -> None:
        self._app = app
        self._store = store
        self._requests = RateLimit(rate_limit)
        self._refusals = RateLimit(REFUSALS_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            if scope["path"] not in OPEN_PATHS:
                scope.setdefault("state", {})["key"] = await self._admitted(scope)
            body = await _body(scope, receive)
            await self._app(scope, body, send_guarded)
        except ApiError as error:
            await error.response()(scope, receive, send_guarded)
        except Exception as error:
            # The message of an unexpected error may hold anything, so only its kind and place are told.
            log.exception("request_failed", path=scope["path"], error=type(error).__name__)
            if not started:
                answer = ApiError(500, "internal", "The control API failed to answer; its log says where.")
                await answer.response()(scope, receive, send_guarded)

    async def _admitted(self, scope: Scope) -> Key:
        """The key that the request shows. Raises ApiError: 401, 429, or 503 while the state cannot be read."""
        address = str((scope.get("client") or ("?",))[0])
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        key = None
        if scheme.lower() == "bearer":
            try:
                key = await run_in_threadpool(authenticate, self._store, token.strip())
            except ControlError as error:
                raise answer_to(error) from error
        if key is None:
            _refuse_for(self._refusals.wait(address))
            message = "Send a token as 'Authorization: Bearer rmk_...'; `reflex-engine keys create` makes one."
            raise ApiError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        _refuse_for(self._requests.wait(key.id))
        return key


def _refuse_for(seconds: float) -> None:
    if seconds > 0:
        after = math.ceil(seconds)
        message = f"Too many requests: try again in {after} s."
        raise ApiError(429, "too_many_requests", message, {"Retry-After": str(after)})


async def _body(scope: Scope, receive: Receive) -> Receive:
    """Read the whole body, within the limits, and return what gives it to the application."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > BODY_LIMIT:
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    break
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > BODY_LIMIT:
                    raise _too_large()
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        message_ = f"The request's body did not arrive within {BODY_TIMEOUT:g} s."
        raise ApiError(408, "request_timeout", message_, {"Connection": "close"}) from None
    body = b"".join(chunks)
    if body and not _is_json(headers.get("content-type", "")):
        message_ = "Send the body as JSON, with 'Content-Type: application/json'."
        raise ApiError(415, "unsupported_media_type", message_)
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _too_large() -> ApiError:
    return ApiError(413, "body_too_large", f"A request body may have {BODY_LIMIT} bytes at most.")
