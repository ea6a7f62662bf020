"""Instances on Amazon ECS (Fargate): one service per instance, with one task; paused is a desired count of 0.

What is there is asked in bulk: ten services and a hundred tasks a call, and each task definition once (they never
change). A deployment ends the old task before it starts the new one. The replica is on the task's own disk, so a new task
builds it again. Facts from the ECS API reference; tested against moto.
"""

from __future__ import annotations

import itertools
import secrets as randomness
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import structlog

from engine.control.failures import SecretMissing
from engine.control.launchers import taskdefinition
from engine.control.launchers.launcher import Ending, Observation, Presence, Spec
from engine.control.launchers.taskdefinition import CONTAINER, PORT, TOKEN_VARIABLE, EcsSettings, family
from engine.control.secrets.store import SecretStore
from engine.control.state import token_ref
from engine.errors import ConfigError, PreconditionError, Problem, TransientError
from engine.source import Secret

log = structlog.get_logger(__name__)

SERVICES_PER_CALL = 10
TASKS_PER_CALL = 100
PASSING = frozenset({
    "InternalFailure", "RequestLimitExceeded", "RequestTimeout", "ServerException", "ServiceUnavailable",
    "ThrottledException", "ThrottlingException", "TooManyRequestsException", "UpdateInProgressException",
})  # fmt: skip
"""Error codes of AWS that pass by themselves."""

Json = dict[str, Any]


class EcsLauncher:
    """Runs instances as ECS services. Raises ConfigError without boto3."""

    ends_instances = False

    def __init__(self, settings: EcsSettings, secrets: SecretStore) -> None:
        self._settings = settings
        self._secrets = secrets
        self._ecs = _client(settings.region)
        self._revisions: dict[str, str | None] = {}
        """What each task definition was made from, by its ARN."""
        self._tokens: dict[str, Secret] = {}
        """Made once for each instance, never changed: asked for once, for the parameter store answers few calls."""

    def observe(self, ids: Sequence[str]) -> Mapping[str, Observation]:
        """See `Launcher`."""
        with _translated("observe"):
            services = self._services(ids)
            tasks = self._tasks() if services else []
        return {id: self._observation(id, services.get(id), tasks) for id in ids}

    def launch(self, spec: Spec) -> None:
        with _translated("launch"):
            service = self._services([spec.id]).get(spec.id)
            if (
                service is not None
                and service["desiredCount"] > 0
                and _primary(service).get("rolloutState") != "FAILED"
            ):
                return
            self._deploy(spec, service)

    def resize(self, spec: Spec) -> None:
        """Deploys the other revision; ECS ends the old task first."""
        with _translated("resize"):
            service = self._services([spec.id]).get(spec.id)
            if service is None or self._revision(service["taskDefinition"]) != spec.revision:
                self._deploy(spec, service)

    def stop(self, id: str) -> None:
        with _translated("stop"):
            self._ecs.update_service(cluster=self._settings.cluster, service=family(id), desiredCount=0)

    def clear(self, spec: Spec) -> None:
        """Runs ``teardown`` as a task of its own, where the source is reached from."""
        with _translated("clear"):
            service = self._services([spec.id])[spec.id]
            self._ecs.run_task(
                cluster=self._settings.cluster,
                taskDefinition=service["taskDefinition"],
                launchType="FARGATE",
                count=1,
                group=_clearing(spec.id),
                networkConfiguration=taskdefinition.network(self._settings),
                overrides={"containerOverrides": [{"name": CONTAINER, "command": ["teardown"]}]},
                tags=taskdefinition.tags(spec.id),
            )

    def remove(self, id: str) -> None:
        """The service goes last: as long as it is there, the rest is looked for again."""
        with _translated("remove"):
            for page in self._ecs.get_paginator("list_task_definitions").paginate(familyPrefix=family(id)):
                for arn in page["taskDefinitionArns"]:
                    self._ecs.deregister_task_definition(taskDefinition=arn)
            self._secrets.delete(token_ref(UUID(id)))
            self._tokens.pop(id, None)
            if self._services([id]):
                self._ecs.delete_service(cluster=self._settings.cluster, service=family(id), force=True)

    def token(self, id: str) -> Secret | None:
        if id not in self._tokens:
            self._tokens[id] = self._secrets.get(token_ref(UUID(id)))
        return self._tokens[id]

    def close(self) -> None:
        """The services are ECS's: they go on."""
        self._ecs.close()

    def _deploy(self, spec: Spec, service: Json | None) -> None:
        definition = self._latest(spec.id) if service is None else service["taskDefinition"]
        if definition is None or self._revision(definition) != spec.revision:
            definition = self._register(spec)
        common = {
            "cluster": self._settings.cluster,
            "taskDefinition": definition,
            "desiredCount": 1,
            "networkConfiguration": taskdefinition.network(self._settings),
            "deploymentConfiguration": {
                "minimumHealthyPercent": 0,
                "maximumPercent": 100,
                "deploymentCircuitBreaker": {"enable": True, "rollback": False},
            },
        }
        if service is not None:
            self._ecs.update_service(service=family(spec.id), forceNewDeployment=True, **common)
            return
        self._ecs.create_service(
            serviceName=family(spec.id),
            launchType="FARGATE",
            tags=taskdefinition.tags(spec.id),
            propagateTags="SERVICE",
            **common,
        )

    def _latest(self, id: str) -> str | None:
        """The task definition of a service that could not be created yet: each attempt would leave another one."""
        answer = self._ecs.list_task_definitions(familyPrefix=family(id), sort="DESC", maxResults=1)
        return next((str(arn) for arn in answer["taskDefinitionArns"]), None)

    def _register(self, spec: Spec) -> str:
        ref = token_ref(UUID(spec.id))
        if not self._has(ref):
            self._secrets.put(ref, Secret(randomness.token_urlsafe(32)))
        references = {variable: self._secrets.reference_for_ecs(entry) for variable, entry in spec.secrets.items()}
        references[TOKEN_VARIABLE] = self._secrets.reference_for_ecs(ref)
        answer = self._ecs.register_task_definition(**taskdefinition.task_definition(spec, self._settings, references))
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    def _has(self, ref: str) -> bool:
        try:
            self._secrets.get(ref)
        except SecretMissing:
            return False
        return True

    def _services(self, ids: Sequence[str]) -> dict[str, Json]:
        """The services that exist (or are on their way out), by the instance's id."""
        found = {}
        for some in _batches(ids, SERVICES_PER_CALL):
            names = {family(id): id for id in some}
            answer = self._ecs.describe_services(cluster=self._settings.cluster, services=list(names))
            for service in answer["services"]:
                if service["status"] != "INACTIVE":
                    found[names[service["serviceName"]]] = service
        return found

    def _tasks(self) -> list[Json]:
        """Every task in the cluster, those that ended within the hour too."""
        arns: list[str] = []
        for wanted in ("RUNNING", "STOPPED"):
            pages = self._ecs.get_paginator("list_tasks").paginate(
                cluster=self._settings.cluster, desiredStatus=wanted, launchType="FARGATE"
            )
            arns += itertools.chain.from_iterable(page["taskArns"] for page in pages)
        tasks: list[Json] = []
        for some in _batches(arns, TASKS_PER_CALL):
            tasks += self._ecs.describe_tasks(cluster=self._settings.cluster, tasks=list(some))["tasks"]
        return tasks

    def _revision(self, arn: str) -> str | None:
        if arn not in self._revisions:
            definition = self._ecs.describe_task_definition(taskDefinition=arn)["taskDefinition"]
            self._revisions[arn] = taskdefinition.revision_of(definition, self._settings)
        return self._revisions[arn]

    def _observation(self, id: str, service: Json | None, tasks: Sequence[Json]) -> Observation:
        if service is None:
            return Observation(Presence.ABSENT, self_healing=True)
        with _translated("observe"):
            revision = self._revision(service["taskDefinition"])
        mine = [task for task in tasks if task.get("group") == f"service:{family(id)}"]
        if service["status"] == "DRAINING":
            return Observation(Presence.STOPPING, revision, self_healing=True)
        if service["desiredCount"] == 0:
            return self._stopped(id, service, revision, tasks)
        primary = _primary(service)
        if primary.get("rolloutState") == "FAILED":
            return Observation(Presence.IDLE, revision, ended=_ending(mine), self_healing=True)
        endpoint = None
        for task in mine:
            if task.get("lastStatus") == "RUNNING" and task["taskDefinitionArn"] == service["taskDefinition"]:
                endpoint = _endpoint(task)
        return Observation(Presence.RUNNING, revision, endpoint, self_healing=True)

    def _stopped(self, id: str, service: Json, revision: str | None, tasks: Sequence[Json]) -> Observation:
        if service["runningCount"] or service["pendingCount"]:
            return Observation(Presence.STOPPING, revision, self_healing=True)
        clearing = [task for task in tasks if task.get("group") == _clearing(id)]
        if any(task["lastStatus"] != "STOPPED" for task in clearing):
            return Observation(Presence.CLEARING, revision, self_healing=True)
        done = _ending(clearing) if clearing else None
        return Observation(Presence.IDLE, revision, cleared=done, self_healing=True)


def _primary(service: Json) -> Json:
    """The deployment that the service is moving to."""
    for deployment in service.get("deployments", ()):
        if deployment["status"] == "PRIMARY":
            return dict(deployment)
    return {}


def _endpoint(task: Json) -> str | None:
    for attachment in task.get("attachments", ()):
        for detail in attachment.get("details", ()):
            if detail["name"] == "privateIPv4Address":
                return f"http://{detail['value']}:{PORT}"
    return None


def _ending(tasks: Sequence[Json]) -> Ending:
    """How the last of these tasks ended."""
    ended = [task for task in tasks if task["lastStatus"] == "STOPPED"]
    if not ended:
        return Ending(None, "ECS could not start the task")
    # Naive and aware times never mix: all of them come from the same service.
    last = max(ended, key=lambda task: str(task.get("stoppedAt", "")))
    code = next((c.get("exitCode") for c in last.get("containers", ()) if c.get("name") == CONTAINER), None)
    return Ending(code, str(last.get("stoppedReason") or "the task ended"))


def _clearing(id: str) -> str:
    """The group of the tasks that clear an instance's source."""
    return f"reflex-teardown:{id}"


def _batches(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _client(region: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError(
            [Problem("launcher.kind", "ecs needs the AWS client: pip install 'reflex-engine[aws]'")]
        ) from None
    settings = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=5, read_timeout=20)
    return boto3.client("ecs", region_name=region, config=settings)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """AWS's errors as the engine's: by their code, and with it only (their text may name others' resources)."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        log.warning("ecs_refused", call=error.operation_name, code=code, said=error.response["Error"].get("Message"))
        message = f"ECS answered {code} to {error.operation_name} ({what})"
        if code in PASSING or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise TransientError(message) from None
        raise PreconditionError(
            message, "See the control API's log; check the launcher section and its IAM rights."
        ) from None
    except NoCredentialsError:
        raise PreconditionError("no AWS credentials are found", "Give the control API a role or a profile.") from None
    except BotoCoreError as error:
        raise TransientError(f"ECS cannot be reached ({what}): {type(error).__name__}") from None
