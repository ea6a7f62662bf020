"""``POST /query``: from the request's body to an answer that is streamed, bounded and cancelled when it should be."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.changes import Position
from engine.errors import EngineError, ReplicaError
from engine.instance.encoding import MEDIA_TYPES, Tally, encode, negotiate
from engine.instance.flight import Ended, Flight, Started
from engine.instance.guard import too_large
from engine.instance.metrics import QueryMetrics
from engine.instance.problems import ApiError
from engine.instance.settings import InstanceSettings
from engine.replica.reads import Form, QueryCancelled, QueryFailed, QueryRefused, ReplicaReads
from engine.status import Commands, StatusBoard

log = structlog.get_logger(__name__)

_HELD_BACK = 1 << 16
"""Bytes made before the answer begins: an error until then still has its own HTTP status."""
_BATCH_ROWS = 4096
_POLL = 0.005
"""Seconds between looks at the replica's position while a query waits for one."""


class QueryRequest(BaseModel):
    """The body of ``POST /query``. Unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sql: str
    params: list[Any] | dict[str, Any] | None = None
    after: str | None = None
    timeout_ms: int | None = Field(default=None, ge=1)
    max_rows: int | None = Field(default=None, ge=1)


async def read_json(request: Request, limit: int, *, optional: bool = False) -> Any:
    """The request's body as JSON; None for no body when that is allowed. Raises ApiError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    if optional and not body:
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", "Send the body as JSON, with 'Content-Type: application/json'.")
    try:
        return json.loads(bytes(body).decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "invalid_json", "The body is not valid JSON (UTF-8, not nested too deeply).") from None


def validated(model: type[BaseModel], body: Any) -> Any:
    """`body` as `model`. Raises ApiError that names every field that is wrong, and what is allowed."""
    if not isinstance(body, dict):
        raise ApiError(400, "invalid_request", "The body must be a JSON object.")
    try:
        return model.model_validate(body)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {_explained(model, e)}" for e in error.errors()]
        raise ApiError(400, "invalid_request", "; ".join(dict.fromkeys(wrong))) from None


def _explained(model: type[BaseModel], error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"unknown field (known: {', '.join(model.model_fields)})"
    return str(error["msg"])


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class QueryService:
    """Runs queries, a bounded number at a time, in threads of its own."""

    def __init__(self, reads: ReplicaReads, board: StatusBoard, commands: Commands, settings: InstanceSettings) -> None:
        self._reads = reads
        self._board = board
        self._commands = commands
        self._settings = settings
        self.metrics = QueryMetrics()
        self._executor = ThreadPoolExecutor(settings.max_queries, thread_name_prefix="query")
        self._places = asyncio.Semaphore(settings.max_queries)
        self._flights: set[Flight] = set()

    def close(self) -> None:
        """Cancel every query and take no more."""
        for flight in tuple(self._flights):
            flight.cancel("shutdown")
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request) -> Response:
        """The answer to one request. Raises ApiError."""
        arrived = time.monotonic()
        outcome, form = "refused", None
        try:
            asked: QueryRequest = validated(QueryRequest, await read_json(request, self._settings.body_limit))
            form = negotiate(request.headers.get("accept", ""))
            if form is None:
                types = ", ".join(kind.partition(";")[0] for kind in MEDIA_TYPES.values())
                raise ApiError(406, "not_acceptable", f"Ask for one of: {types}.")
            answer = await self._run(request, asked, form, arrived)
            outcome = "ok"
            return answer
        except ClientDisconnect:
            return Response(status_code=499)
        except ApiError as error:
            outcome = error.word
            raise
        finally:
            self.metrics.count(outcome, form, time.monotonic() - arrived)

    async def _run(self, request: Request, asked: QueryRequest, form: Form, arrived: float) -> Response:
        seconds = self._seconds(asked)
        _refuse_surrogates(asked)
        if not self._board.current.ready:
            raise ApiError(
                503, "not_ready", "The first snapshot is not complete yet: see GET /health for its progress."
            )
        after = self._position(asked.after)
        if len(self._flights) >= self._settings.max_queries + self._settings.max_waiting:
            raise ApiError(503, "busy", "Too many queries are waiting already: try again later.", {"Retry-After": "1"})
        flight = Flight(seconds - (time.monotonic() - arrived))
        self._flights.add(flight)
        self.metrics.in_flight = len(self._flights)
        flight.watch_client(request.receive)
        streaming = False
        try:
            if after is not None:
                await self._reach(after, asked.after or "", flight)
            await self._take_place(flight)
            max_rows = asked.max_rows or (self._settings.json_rows if form is Form.JSON else None)
            self._launch(flight, asked, form, max_rows)
            answer = await self._begin(flight, form)
            streaming = isinstance(answer, _Stream)
            return answer
        except EngineError as error:
            raise self._problem(error, flight, seconds) from error
        finally:
            if not streaming:
                self._end(flight)

    def _seconds(self, asked: QueryRequest) -> float:
        if asked.timeout_ms is None:
            return self._settings.query_timeout
        longest = round(self._settings.max_query_timeout * 1000)
        if asked.timeout_ms > longest:
            raise ApiError(400, "invalid_request", f"timeout_ms: at most {longest}")
        return asked.timeout_ms / 1000

    def _position(self, text: str | None) -> Position | None:
        if text is None:
            return None
        try:
            return self._commands.parse_position(text)
        except ValueError as error:
            message = f"after: {error}. Send a position that /query or /health gave."
            raise ApiError(400, "invalid_position", message) from None

    async def _reach(self, wanted: Position, text: str, flight: Flight) -> None:
        """Wait until readers see `wanted`."""
        while True:
            position = self._board.current.position
            try:
                if position is not None and position.covers(wanted):
                    return
            except TypeError:
                raise ApiError(400, "invalid_position", "after: a position of another kind of source.") from None
            if flight.cancelled == "timeout":
                message = f"The replica has not reached {text} in time: it is at {position}. Raise timeout_ms, or see /health."
                raise ApiError(504, "position_not_reached", message)
            if flight.cancelled is not None:
                raise QueryCancelled(flight.cancelled)
            await asyncio.sleep(_POLL)

    async def _take_place(self, flight: Flight) -> None:
        """Wait for one of the places, as long as the query may take."""
        waiting = asyncio.ensure_future(self._places.acquire())
        try:
            while not waiting.done():
                if flight.cancelled is not None:
                    raise QueryCancelled(flight.cancelled)
                await asyncio.wait([waiting], timeout=0.05)
        except BaseException:
            if not waiting.cancel() and not waiting.cancelled():
                self._places.release()
            raise

    def _launch(self, flight: Flight, asked: QueryRequest, form: Form, max_rows: int | None) -> None:
        def work(flight: Flight) -> None:
            with self._reads.session() as session:
                flight.board(session)
                limit = None if max_rows is None else max_rows + 1
                batch = _BATCH_ROWS if limit is None else min(_BATCH_ROWS, limit)
                answer = session.query(asked.sql, asked.params, form, limit=limit, batch_rows=batch)
                tally = Tally()
                flight.send(Started(answer.position))
                flight.send_all(encode(answer, form, max_rows, tally))
            flight.send(Ended(tally))

        self.metrics.running += 1
        done = flight.launch(self._executor, work)
        done.add_done_callback(self._give_place_back)

    def _give_place_back(self, _: asyncio.Future[None]) -> None:
        self.metrics.running -= 1
        self._places.release()

    async def _begin(self, flight: Flight, form: Form) -> Response:
        """Take what comes until the answer is whole, or long enough to begin sending it."""
        headers = {"Content-Type": MEDIA_TYPES[form], "Vary": "Accept"}
        chunks: list[bytes] = []
        size = 0
        while size < _HELD_BACK:
            item = await flight.next()
            if isinstance(item, EngineError):
                raise item
            if isinstance(item, Started):
                if item.position is not None and _fits_header(item.position):
                    headers["X-Reflex-Position"] = item.position
            elif isinstance(item, Ended):
                self.metrics.rows += item.tally.rows
                headers["X-Reflex-Truncated"] = "true" if item.tally.truncated else "false"
                return Response(b"".join(chunks), headers=headers)
            else:
                chunks.append(item)
                size += len(item)
        return _Stream(self, flight, chunks, headers)

    def _problem(self, error: EngineError, flight: Flight, seconds: float) -> ApiError:
        if isinstance(error, QueryCancelled) or flight.cancelled is not None:
            if flight.cancelled == "timeout":
                message = f"The query took longer than {round(seconds * 1000)} ms and was cancelled: raise timeout_ms."
                return ApiError(504, "query_timeout", message)
            return ApiError(503, "query_cancelled", "The query was cancelled: the instance is stopping.")
        if isinstance(error, QueryRefused | QueryFailed):
            return ApiError(400, error.word, str(error))
        if isinstance(error, ReplicaError):
            if error.fatal:
                self._board.set_check("replica", "failed", str(error))
            log.error("query_failed", error=error.word, fatal=error.fatal)
            return ApiError(503, "replica_unavailable", "The replica cannot be read now: see GET /health.")
        log.error("query_failed", error=error.word, message=str(error), exc_info=error.__cause__)
        return ApiError(500, "internal", "The engine failed to answer; its log says where.")

    def _end(self, flight: Flight) -> None:
        flight.land()
        self._flights.discard(flight)
        self.metrics.in_flight = len(self._flights)


class _Stream(Response):
    """An answer that is sent while it is made. Cut off without its end when it fails: no client takes it for whole."""

    def __init__(self, service: QueryService, flight: Flight, first: list[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._service = service
        self._flight = flight
        self._first = first

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"".join(self._first), "more_body": True})
            self._first = []
            while True:
                item = await self._flight.next()
                if isinstance(item, Ended):
                    self._service.metrics.rows += item.tally.rows
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                if isinstance(item, EngineError):
                    word = self._flight.cancelled or item.word
                    log.warning("answer_cut_off", error=word)
                    self._service.metrics.cut_off += 1
                    return
                if isinstance(item, bytes):
                    await send({"type": "http.response.body", "body": item, "more_body": True})
        finally:
            self._service._end(self._flight)  # noqa: SLF001 - the two halves of one answer


def _fits_header(text: str) -> bool:
    """Whether clients take it as a header's value: a GTID set can be long, and holds line ends as MySQL prints it."""
    return len(text) <= 4096 and text.isascii() and text.isprintable()


def _refuse_surrogates(asked: QueryRequest) -> None:
    """JSON can spell half a character, a lone surrogate; no text of DuckDB can hold it."""
    try:
        json.dumps([asked.sql, asked.params], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(400, "invalid_request", "The text holds a lone surrogate, which is no character.") from None
