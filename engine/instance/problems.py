"""Errors as this API answers them: always ``{"error": "<machine_word>", "message": "<what and how to fix>"}``."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

_WORDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "body_too_large",
    415: "unsupported_media_type",
    500: "internal",
    503: "unavailable",
}


class ApiError(Exception):
    """An answer other than the one asked for: HTTP status, machine word, a message that says how to mend it."""

    def __init__(self, status: int, word: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.word = word
        self.message = message
        self.headers = dict(headers or {})
        super().__init__(message)

    def response(self) -> Response:
        """The error as an HTTP answer."""
        return JSONResponse({"error": self.word, "message": self.message}, self.status, self.headers)


def install(app: FastAPI) -> None:
    """Give every error of the application, and of the framework under it, the API's one form."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_exception)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    word = _WORDS.get(error.status_code, "http_error")
    return ApiError(error.status_code, word, _explained(request, error), error.headers).response()


def _explained(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return "There is nothing at this path. See GET /health, GET /tables, POST /query, POST /sync/*, GET /metrics."
    if error.status_code == 405:
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow") or "another method"
        return f"{request.method} is not possible here: use {allowed}."
    return str(error.detail)
