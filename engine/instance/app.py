"""The HTTP surface of one instance: paths, and what each is answered from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict
from starlette.responses import HTMLResponse, JSONResponse, Response

from engine.errors import EngineError, ReplicaError
from engine.instance import metrics, tables
from engine.instance.counts import RowCounts
from engine.instance.guard import Guard
from engine.instance.health import health, sync_mode
from engine.instance.page import PAGE, PAGE_HEADERS
from engine.instance.problems import ApiError, install
from engine.instance.query import QueryService, read_json, validated
from engine.instance.settings import InstanceSettings
from engine.replica.reads import ReplicaReads
from engine.schema import TableId, TableSchema
from engine.status import Commands, StatusBoard

_UNHEALTHY = ("unreachable", "cap_exceeded")


class ReloadRequest(BaseModel):
    """The body of ``POST /sync/reload``; no table: all of them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    table: str | None = None


class NoFields(BaseModel):
    """The body of ``POST /sync/pause`` and ``/sync/resume``: none, or an empty object."""

    model_config = ConfigDict(extra="forbid", strict=True)


def create_app(*, board: StatusBoard, commands: Commands, reads: ReplicaReads, settings: InstanceSettings) -> FastAPI:
    """The application that serves one instance. It starts and stops nothing but its own query threads."""
    queries = QueryService(reads, board, commands, settings)
    counts = RowCounts(reads, board)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queries.close()

    app = FastAPI(
        title="reflex-engine instance",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    install(app)
    app.add_middleware(Guard, settings=settings)
    _add_health(app, board, settings, counts, queries)
    _add_tables(app, board, reads, counts, settings)
    _add_sync(app, board, commands, settings)

    @app.post("/query")
    async def query(request: Request) -> Response:
        return await queries.answer(request)

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    return app


def _add_health(
    app: FastAPI, board: StatusBoard, settings: InstanceSettings, counts: RowCounts, queries: QueryService
) -> None:
    @app.api_route("/livez", methods=["GET", "HEAD"])
    async def livez() -> Response:
        return JSONResponse({"status": "alive"})

    @app.api_route("/readyz", methods=["GET", "HEAD"])
    async def readyz() -> Response:
        if board.current.ready:
            return JSONResponse({"status": "ready"})
        raise ApiError(503, "not_ready", "The first snapshot is not complete yet: see GET /health for its progress.")

    @app.get("/health")
    async def read_health() -> Response:
        row_counts = await run_in_threadpool(counts.current)
        body = health(board.current, settings, row_counts)
        return JSONResponse(body, 503 if body["status"] in _UNHEALTHY else 200)

    @app.get("/metrics")
    async def read_metrics() -> Response:
        row_counts = await run_in_threadpool(counts.current)
        text = metrics.render(board.current, settings, row_counts, queries.metrics)
        return Response(text, headers={"Content-Type": metrics.CONTENT_TYPE})


def _add_tables(
    app: FastAPI, board: StatusBoard, reads: ReplicaReads, counts: RowCounts, settings: InstanceSettings
) -> None:
    def polled() -> bool:
        return sync_mode(board.current, settings) == "poll"

    def read() -> tuple[Mapping[TableId, TableSchema], Mapping[TableId, int]]:
        try:
            with reads.session() as session:
                layouts = session.layouts()
        except EngineError as error:
            if isinstance(error, ReplicaError) and error.fatal:
                board.set_check("replica", "failed", str(error))
            message = "The replica cannot be read now: see GET /health."
            raise ApiError(503, "replica_unavailable", message) from error
        return layouts, counts.current()

    @app.get("/tables")
    async def list_tables() -> Response:
        layouts, row_counts = await run_in_threadpool(read)
        return JSONResponse({"tables": tables.listed(layouts, board.current.tables, row_counts, polled=polled())})

    @app.get("/tables/{name:path}")
    async def describe_table(name: str, request: Request) -> Response:
        layouts, row_counts = await run_in_threadpool(read)
        statuses = board.current.tables
        table = tables.named(request.scope["raw_path"], name, {*layouts, *statuses})
        about = (layouts.get(table), statuses.get(table), row_counts.get(table))
        return JSONResponse(tables.described(table, *about, polled=polled()))


def _add_sync(app: FastAPI, board: StatusBoard, commands: Commands, settings: InstanceSettings) -> None:
    async def body(request: Request, model: type[BaseModel]) -> Any:
        given = await read_json(request, settings.body_limit, optional=True)
        return validated(model, {} if given is None else given)

    def accepted(action: str, **more: Any) -> Response:
        return JSONResponse({"accepted": action, **more}, 202)

    @app.post("/sync/pause")
    async def pause(request: Request) -> Response:
        await body(request, NoFields)
        commands.pause()
        return accepted("pause")

    @app.post("/sync/resume")
    async def resume(request: Request) -> Response:
        await body(request, NoFields)
        commands.resume()
        return accepted("resume")

    @app.post("/sync/reload")
    async def reload(request: Request) -> Response:
        asked = await body(request, ReloadRequest)
        table = None if asked.table is None else tables.by_text(asked.table, board.current.tables)
        try:
            commands.reload(table)
        except KeyError:
            raise tables.unknown() from None
        return accepted("reload", table=asked.table)
