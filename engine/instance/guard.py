"""Who may ask: the token, or on loopback without one, nobody but programs of this machine.

A page in a browser on this machine can reach loopback too. Without a token it is kept out by the Host header (a name that
was rebound to 127.0.0.1 is not ours), by Origin and Sec-Fetch-Site, and by asking for a JSON content type, which a
page of another site cannot send without a preflight request that nobody answers.
"""

from __future__ import annotations

import hmac

import structlog
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.instance.page import PAGE, PAGE_HEADERS
from engine.instance.problems import ApiError
from engine.instance.settings import InstanceSettings

log = structlog.get_logger(__name__)

OPEN_PATHS = frozenset({"/livez", "/readyz"})
"""Answered to everyone: a container's health check has no token."""

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_COMMON_HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store", "referrer-policy": "no-referrer"}


class Guard:
    """ASGI middleware: refuses what may not be answered, and turns an unexpected error into the API's form."""

    def __init__(self, app: ASGIApp, settings: InstanceSettings) -> None:
        self._app = app
        self._token = None if settings.token is None else settings.token.reveal().encode()
        self._body_limit = settings.body_limit

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
                extra = [(k.encode(), v.encode()) for k, v in _COMMON_HEADERS.items() if k.encode() not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:
            # The message of an unexpected error may hold anything, so only its kind and place are told.
            log.exception("request_failed", path=scope["path"], error=type(error).__name__)
            if not started:
                answer = ApiError(500, "internal", "The engine failed to answer; its log says where.").response()
                await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        path, method = scope["path"], scope["method"]
        if path not in OPEN_PATHS:
            problem = self._loopback_problem(headers, method) if self._token is None else self._token_problem(headers)
            if problem is not None:
                wants_page = path == "/" and method == "GET" and "text/html" in headers.get("accept", "")
                if problem.status == 401 and wants_page:
                    # The page itself holds no data: it asks for the token, and then for the data with it.
                    return HTMLResponse(PAGE, 401, {**PAGE_HEADERS, **problem.headers})
                return problem.response()
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._body_limit:
            return too_large(self._body_limit).response()
        return None

    def _token_problem(self, headers: Headers) -> ApiError | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token or b""):
            return None
        message = "Send the instance's token (http.token of its configuration) as 'Authorization: Bearer <token>'."
        return ApiError(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})

    def _loopback_problem(self, headers: Headers, method: str) -> ApiError | None:
        host = headers.get("host", "")
        if _host_name(host) not in _LOOPBACK_NAMES:
            message = "Without a token only loopback names are answered: use http://127.0.0.1 or set http.token."
            return ApiError(403, "host_not_allowed", message)
        origin = headers.get("origin")
        foreign_origin = origin is not None and origin.lower() != f"http://{host.lower()}"
        foreign_site = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if method not in ("GET", "HEAD") and (foreign_origin or foreign_site):
            return ApiError(
                403, "cross_origin", "Requests of other sites' pages are refused: set http.token to allow them."
            )
        return None


def too_large(limit: int) -> ApiError:
    """The error of a body over the limit."""
    return ApiError(413, "body_too_large", f"A request body may have {limit} bytes at most.")


def _host_name(host: str) -> str:
    """The name in a Host header, without its port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]
