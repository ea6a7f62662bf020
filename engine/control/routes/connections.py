"""``/connections``: source database servers."""

from __future__ import annotations

from contextlib import nullcontext
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from engine.control import contract, requests
from engine.control.limits import PROBES_AT_ONCE
from engine.control.probe import Probed
from engine.control.records import Backend, SyncMode
from engine.control.routes.errors import errors
from engine.control.services import Services, account_of, services_of
from engine.control.shapes import connection_shape, database_shape
from engine.instance.problems import ApiError
from engine.source import Secret

router = APIRouter(tags=["connections"])


@router.post(
    "/connections",
    status_code=201,
    response_model=contract.CreateConnectionAnswer,
    responses=errors(409, body=True),
    summary="Create connection",
    description="Creates a new source MySQL connection. "
    "Optionally creates a first database instance in the same request via the instance field.",
)
def create_connection(request: Request, body: contract.CreateConnectionBody) -> Response:
    """Keep a connection, its password, and its first instance: all of them or nothing."""
    services = services_of(request)
    connection = requests.new_connection(body, account_of(request))
    database = None
    if body.instance is not None:
        database = requests.first_instance(body.instance, connection, services.region)
    with services.credentials.put(connection.secret_ref, Secret(body.mysql_password)):
        services.store.create_connection_with_instance(connection, database)
    answer = {"connection": connection_shape(connection)}
    if database is not None:
        answer["database"] = database_shape(database)
    return JSONResponse(answer, 201)


@router.get("/connections", response_model=contract.ConnectionsAnswer, responses=errors(), summary="List connections")
def list_connections(request: Request) -> Response:
    """Every connection of the account, the oldest first."""
    found = services_of(request).store.connections(account_of(request))
    return JSONResponse({"connections": [connection_shape(connection) for connection in found]})


@router.post(
    "/connections/test-connection",
    response_model=contract.TestConnectionAnswer,
    responses=errors(body=True),
    summary="Try a source",
)
def test_credentials(request: Request, body: contract.TestConnectionBody) -> Response:
    """Try a source before a connection to it is made. Nothing is kept, and nothing changes at the source."""
    requests.check_source(body)
    probed = Probed(
        backend=Backend(body.backend),
        host=body.mysql_host,
        port=body.mysql_port,
        user=body.mysql_user,
        password=Secret(body.mysql_password),
        schemas=tuple(body.available_schemas or ()),
        sync_mode=SyncMode(body.sync_mode),
    )
    return _tested(services_of(request), probed)


@router.get(
    "/connections/{id:uuid}", response_model=contract.ConnectionAnswer, responses=errors(404), summary="Get connection"
)
def get_connection(request: Request, id: UUID) -> Response:
    """One connection."""
    connection = services_of(request).store.connection(account_of(request), id)
    return JSONResponse({"connection": connection_shape(connection)})


@router.patch(
    "/connections/{id:uuid}",
    response_model=contract.ConnectionAnswer,
    responses=errors(404, 409, body=True),
    summary="Change connection",
)
def change_connection(request: Request, id: UUID, body: contract.ChangeConnectionBody) -> Response:
    """Change a connection; its instances follow. A new password takes the old one's place."""
    services, account = services_of(request), account_of(request)
    services.store.connection(account, id)
    new_ref = None if body.mysql_password is None else requests.password_ref(id)
    put = (
        nullcontext()
        if new_ref is None or body.mysql_password is None
        else services.credentials.put(new_ref, Secret(body.mysql_password))
    )
    with put:
        connection = services.store.change_connection(
            account, id, lambda old, databases: requests.changed_connection(body, old, databases, new_ref)
        )
    services.wake(None)
    return JSONResponse({"connection": connection_shape(connection)})


@router.delete("/connections/{id:uuid}", status_code=204, responses=errors(404, 409), summary="Delete connection")
def delete_connection(request: Request, id: UUID) -> Response:
    """Forget a connection and its password. 409 while there are instances on it."""
    services = services_of(request)
    services.store.delete_connection(account_of(request), id)
    services.credentials.sweep()
    return Response(status_code=204)


@router.post(
    "/connections/{id:uuid}/test-connection",
    response_model=contract.TestConnectionAnswer,
    responses=errors(404),
    summary="Try a connection",
)
def test_connection(request: Request, id: UUID) -> Response:
    """Try a connection with the password that is kept of it."""
    services = services_of(request)
    connection = services.store.connection(account_of(request), id)
    probed = Probed(
        backend=connection.backend,
        host=connection.host,
        port=connection.port,
        user=connection.user,
        password=services.credentials.password(connection.secret_ref),
        schemas=connection.available_schemas,
        sync_mode=connection.sync_mode,
    )
    return _tested(services, probed)


def _tested(services: Services, probed: Probed) -> Response:
    if not services.probes.acquire(blocking=False):
        message = f"{PROBES_AT_ONCE} sources are being tried now: try again in a few seconds."
        raise ApiError(429, "too_many_requests", message, {"Retry-After": "5"})
    try:
        answer = services.probe(probed)
    finally:
        services.probes.release()
    return JSONResponse(answer.model_dump(mode="json", by_alias=True, exclude_unset=True))
