"""``/databases``: instances, and what can be asked of them."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from engine.control import actions, contract, requests
from engine.control.records import Database
from engine.control.routes.errors import errors
from engine.control.services import account_of, services_of
from engine.control.shapes import database_shape

router = APIRouter(tags=["databases"])


@router.post(
    "/databases",
    status_code=201,
    response_model=contract.DatabaseAnswer,
    responses=errors(404, 409, body=True),
    summary="Create database",
)
def create_database(request: Request, body: contract.CreateDatabaseBody) -> Response:
    """Register an instance on a connection. It runs once it is provisioned."""
    services = services_of(request)
    database = services.store.create_database(
        account_of(request),
        body.connection_id,
        lambda connection: requests.new_database(body, connection, services.region),
    )
    return JSONResponse({"database": database_shape(database)}, 201)


@router.get("/databases", response_model=contract.DatabasesAnswer, responses=errors(), summary="List databases")
def list_databases(
    request: Request, connection_id: Annotated[UUID | None, Query(alias="connectionId")] = None
) -> Response:
    """Every instance of the account (on one connection), the oldest first."""
    found = services_of(request).store.databases(account_of(request), connection_id)
    return JSONResponse({"databases": [database_shape(database) for database in found]})


@router.get(
    "/databases/{id:uuid}", response_model=contract.DatabaseAnswer, responses=errors(404), summary="Get database"
)
def get_database(request: Request, id: UUID) -> Response:
    """One instance, as it was last seen."""
    return _shown(services_of(request).store.database(account_of(request), id))


@router.patch(
    "/databases/{id:uuid}",
    response_model=contract.DatabaseAnswer,
    responses=errors(404, 409, body=True),
    summary="Change database",
)
def change_database(request: Request, id: UUID, body: contract.ChangeDatabaseBody) -> Response:
    """Change an instance: another size, schedule, tags. What its process has to know restarts it."""
    services = services_of(request)
    database = services.store.change_database(
        account_of(request), id, lambda old, connection: requests.changed_database(body, old, connection)
    )
    services.wake(None)
    return _shown(database)


@router.delete("/databases/{id:uuid}", status_code=204, responses=errors(404, 409), summary="Delete database")
def delete_database(request: Request, id: UUID) -> Response:
    """Forget an instance that never ran, or is terminated. 409 for any other."""
    services = services_of(request)
    services.store.delete_database(account_of(request), id)
    services.credentials.sweep()
    return Response(status_code=204)


@router.get(
    "/databases/{id:uuid}/instance",
    response_model=contract.InstanceAnswer,
    responses=errors(404),
    summary="Get the running instance",
)
def get_instance(request: Request, id: UUID) -> Response:
    """The instance as it is now: its own health and row counts, and what can be asked of it."""
    services = services_of(request)
    database = services.store.database(account_of(request), id)
    health = services.instances.health(database)
    counts = (health or {}).get("rowCounts")
    shape = database_shape(database)
    names = ("status", "desiredState", "endpointUrl", "healthStatus", "lastError")
    return JSONResponse(
        {
            **{name: shape[name] for name in names},
            "health": health,
            "rowCounts": counts if isinstance(counts, dict) else {},
            "availableActions": actions.available(database),
        }
    )


def _asked(request: Request, id: UUID, action: str) -> Database:
    """Write an action's wish, and have the reconciler act on it."""
    services = services_of(request)
    database = services.store.change_database(account_of(request), id, lambda old, _: actions.ACTIONS[action](old))
    services.wake(id if action in {"provision", "resume", "terminate"} else None)
    return database


def _shown(database: Database, status: int = 200) -> Response:
    return JSONResponse({"database": database_shape(database)}, status)


def _add_action(action: str, summary: str, description: str) -> None:
    def route(request: Request, id: UUID) -> Response:
        return _shown(_asked(request, id, action), 202)

    router.post(
        f"/databases/{{id:uuid}}/{action}",
        status_code=202,
        response_model=contract.DatabaseAnswer,
        responses=errors(404, 409),
        summary=summary,
        description=description,
        operation_id=action,
    )(route)


_add_action("provision", "Provision", "Has a registered, failed or stopped instance run.")
_add_action("pause", "Pause", "Ends the instance's process until it is resumed.")
_add_action("resume", "Resume", "Has a paused instance run again.")
_add_action("terminate", "Terminate", "Ends the instance for good, and removes what it made at the source.")
_add_action(
    "pause-replication",
    "Pause replication",
    "Has the instance serve what it has, and follow its source no further; at once, or as soon as it runs.",
)
_add_action("resume-replication", "Resume replication", "Has the instance follow its source again.")


@router.post(
    "/databases/{id:uuid}/reload",
    status_code=202,
    response_model=contract.DatabaseAnswer,
    responses=errors(404, 409, 502, body=True),
    summary="Reload",
)
def reload(request: Request, id: UUID, body: contract.ReloadBody | None = None) -> Response:
    """Load a table, or all of them, anew, while readers keep the old data. 409 unless the instance runs."""
    database = _asked(request, id, "reload")
    services_of(request).instances.reload(database, None if body is None else body.table)
    return _shown(database, 202)
