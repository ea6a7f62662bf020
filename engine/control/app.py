"""The HTTP surface of the control API."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from starlette.responses import JSONResponse, Response

from engine import __version__
from engine.control import problems
from engine.control.failures import Invalid
from engine.control.guard import Guard
from engine.control.routes import connections, databases
from engine.control.services import Services

BASE = "/v1"

_BEARER = HTTPBearer(auto_error=False, bearerFormat="rmk_<id>.<secret>", description="`reflex-engine keys create`")


def create_app(services: Services, *, rate_limit: int = 0) -> FastAPI:
    """The application. It starts and stops nothing; `rate_limit` is requests per minute and key, 0 for no limit."""
    app = FastAPI(
        title="reflex-engine control API",
        version=__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    app.state.base = BASE
    app.state.routers = (connections.router, databases.router)
    problems.install(app)
    app.add_middleware(Guard, store=services.store, rate_limit=rate_limit)
    for router in app.state.routers:
        # The guard has looked at the token already; the bearer says so in the document.
        app.include_router(router, prefix=BASE, dependencies=[Depends(_BEARER), Depends(_known_parameters)])
    _add_documents(app)
    return app


def _known_parameters(request: Request) -> None:
    """Refuse query parameters that would be passed over."""
    known = {"connectionId"} if (request.method, request.scope["path"]) == ("GET", f"{BASE}/databases") else set()
    for name in request.query_params:
        if name not in known:
            raise Invalid(name, "is not a known parameter")


def _add_documents(app: FastAPI) -> None:
    document: dict[str, Any] = {}

    async def openapi() -> Response:
        if not document:
            document.update(openapi_document(app))
        return JSONResponse(document)

    async def docs() -> Response:
        return get_swagger_ui_html(openapi_url=f"{BASE}/openapi.json", title=app.title)

    for prefix in (BASE, ""):
        app.add_api_route(f"{prefix}/openapi.json", openapi, include_in_schema=False)
        app.add_api_route(f"{prefix}/docs", docs, include_in_schema=False)

    @app.api_route("/livez", methods=["GET", "HEAD"], include_in_schema=False)
    async def livez() -> Response:
        return JSONResponse({"status": "alive"})


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The contract: paths below the base path, without the framework's own error answers and titles."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, servers=[{"url": BASE}])
    document["paths"] = {path.removeprefix(BASE): item for path, item in document["paths"].items()}
    for item in document["paths"].values():
        for operation in item.values():
            operation["responses"].pop("422", None)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for schema in schemas.values():
        _tidy(schema)
    return document


def _tidy(schema: Any) -> None:
    """Leave out the titles that are made of the fields' names; bounds of whole numbers are whole."""
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):
            del schema["title"]
        for bound in ("minimum", "maximum"):
            if isinstance(schema.get(bound), float):
                schema[bound] = int(schema[bound])
        for inner in schema.values():
            _tidy(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _tidy(inner)
