"""Errors as the control API answers them: always ``{"error": "<machine_word>", "message": "<what and how to fix>"}``.

No message holds a value of the request: any of them may be a password in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from engine.config.loader import dotted
from engine.control.failures import Conflict, ControlError, Invalid, NotFound, SecretUnavailable, StateUnusable
from engine.instance.problems import ApiError

_WORDS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
}


def answer_to(error: ControlError) -> ApiError:
    """The HTTP answer to what the control API refuses."""
    match error:
        case NotFound():
            return ApiError(404, error.word, str(error))
        case Conflict():
            return ApiError(409, error.word, str(error))
        case Invalid():
            return ApiError(400, error.word, str(error))
        case SecretUnavailable() | StateUnusable():
            return ApiError(503, error.word, f"{error}. Try again; the log of the control API says more.")
        case _:
            return ApiError(500, "internal", "The control API failed to answer; its log says where.")


def install(app: FastAPI) -> None:
    """Give every error of the application, and of the framework under it, the API's one form."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(ControlError, _control_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_exception)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _control_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ControlError)
    return answer_to(error).response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid(error.errors()).response()


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    word = _WORDS.get(error.status_code, "http_error")
    headers = {"Allow": _allowed(request, error)} if error.status_code == 405 else error.headers
    return ApiError(error.status_code, word, _explained(request, error), headers).response()


def _explained(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return "There is nothing at this path. GET /v1/openapi.json lists what there is."
    if error.status_code == 405:
        return f"{request.method} is not possible here: use {_allowed(request, error)}."
    if error.status_code == 400:
        return "The request's body is no JSON that can be read."
    return str(error.detail)


def _allowed(request: Request, error: HTTPException) -> str:
    """Every method that the path has: the framework names those of the first route only."""
    routers: Sequence[APIRouter] = request.app.state.routers
    path = request.scope["path"].removeprefix(request.app.state.base)
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    found = {m for route in routes if route.path_regex.match(path) for m in route.methods or ()}
    given = {name.lower(): value for name, value in (error.headers or {}).items()}.get("allow", "GET")
    return ", ".join(sorted(found)) or given


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The answer to a request that does not fit the contract: every field that is wrong, and what is allowed there.

    A path that holds no id names nothing that exists.
    """
    if any(error["loc"][:1] == ("path",) for error in errors):
        return ApiError(404, "not_found", "There is nothing of this id: ids are UUIDs.")
    told = dict.fromkeys(_told(error) for error in errors)
    return ApiError(400, "validation_error", "; ".join(told))


def _told(error: Mapping[str, Any]) -> str:
    kind, place = error["type"], error["loc"]
    if kind == "json_invalid":
        return "body: must be valid JSON"
    field = dotted(place[1:]) if len(place) > 1 else "body"
    if kind == "missing":
        return f"{field}: is required"
    if kind == "extra_forbidden":
        return f"{field}: is not a known field"
    if kind in ("model_attributes_type", "model_type", "dict_type"):
        return f"{field}: must be an object"
    if kind == "value_error":
        context = error.get("ctx", {}).get("error")
        reason = str(context) if isinstance(context, ValueError) else "is not valid"
        return f"{field}: {reason}" if reason.startswith("must") else f"{field}: must be a whole number"
    if kind == "uuid_parsing":
        return f"{field}: must be a UUID"
    message = re.sub(r"^(Input|String|List|Value) should ", "must ", str(error["msg"])).removesuffix(
        " after validation, not 0"
    )
    return f"{field}: {message}"
