"""The ECS task definition of an instance, as a plain value. Nothing here speaks to AWS.

Facts from the ECS API reference (RegisterTaskDefinition, ContainerDefinition) and the Fargate table of CPU and memory
values, of which the sizes of `engine.sizes` are members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.control.launchers.launcher import Spec, digest

CONTAINER = "engine"
PORT = 8080
DATA = "/data"
TOKEN_VARIABLE = "REFLEX_HTTP_TOKEN"  # noqa: S105 - a variable's name
REVISION_LABEL = "engine.revision"
STOP_TIMEOUT = 30
"""Seconds between SIGTERM and SIGKILL; the engine ends itself within ten."""
_ALIVE = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/livez', timeout=4)"


@dataclass(frozen=True, slots=True)
class EcsSettings:
    """Where and as whom tasks run: the `launcher` section of ``control.yaml``."""

    cluster: str
    image: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    execution_role: str
    """Role by which ECS fetches the image and the secrets, and writes the log."""
    region: str
    log_group: str | None = None
    """CloudWatch log group of the engines' logs; None keeps none."""
    task_role: str | None = None
    """Role of the engine itself; it needs none."""
    assign_public_ip: bool = False
    ephemeral_storage_gb: int | None = None
    """GiB of the task's own disk, 21 to 200; None is Fargate's 20. The replica is on it."""

    def fingerprint(self) -> str:
        """Changes with every setting that a running task would have to be replaced for."""
        shaping = {k: v for k, v in asdict(self).items() if k not in ("cluster", "subnets", "security_groups")}
        return digest(shaping)


def family(id: str) -> str:
    """The name of an instance's task definitions, and of its service."""
    return f"reflex-{id}"


def label(spec: Spec, settings: EcsSettings) -> str:
    """What a task definition says it was made from."""
    return f"{spec.revision}/{settings.fingerprint()}"


def revision_of(definition: Mapping[str, Any], settings: EcsSettings) -> str | None:
    """The `Spec.revision` of a definition; None when it was made with other settings, and has to be made again."""
    for container in definition.get("containerDefinitions", ()):
        revision, _, fingerprint = str(container.get("dockerLabels", {}).get(REVISION_LABEL, "")).partition("/")
        if revision and fingerprint == settings.fingerprint():
            return revision
    return None


def task_definition(spec: Spec, settings: EcsSettings, secrets: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of RegisterTaskDefinition. `secrets`: variable to `valueFrom`; the values are ECS's to fetch."""
    http = {"host": "0.0.0.0", "port": PORT, "token": f"${{{TOKEN_VARIABLE}}}"}
    definition: dict[str, Any] = {
        "family": family(spec.id),
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": str(spec.size.cpu_units),
        "memory": str(spec.size.memory_mb),
        "executionRoleArn": settings.execution_role,
        "containerDefinitions": [
            {
                "name": CONTAINER,
                "image": settings.image,
                "essential": True,
                "memory": spec.size.memory_mb,
                "command": ["run"],
                "portMappings": [{"containerPort": PORT, "hostPort": PORT, "protocol": "tcp"}],
                "environment": [
                    {"name": "REFLEX_CONFIG", "value": spec.text(f"{DATA}/replica.duckdb", http)},
                    {"name": "REFLEX_PORT", "value": str(PORT)},
                ],
                "secrets": [{"name": name, "valueFrom": secrets[name]} for name in sorted(secrets)],
                "healthCheck": {
                    "command": ["CMD", "python", "-c", _ALIVE],
                    "interval": 15,
                    "timeout": 5,
                    "retries": 3,
                    "startPeriod": 60,
                },
                "stopTimeout": STOP_TIMEOUT,
                "linuxParameters": {"initProcessEnabled": True},
                "dockerLabels": {REVISION_LABEL: label(spec, settings)},
            }
        ],
        "tags": tags(spec.id),
    }
    if settings.log_group is not None:
        definition["containerDefinitions"][0]["logConfiguration"] = {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": settings.log_group,
                "awslogs-region": settings.region,
                "awslogs-stream-prefix": spec.id,
            },
        }
    if settings.task_role is not None:
        definition["taskRoleArn"] = settings.task_role
    if settings.ephemeral_storage_gb is not None:
        definition["ephemeralStorage"] = {"sizeInGiB": settings.ephemeral_storage_gb}
    return definition


def tags(id: str) -> list[dict[str, str]]:
    """What the project's objects at AWS are recognised by (also in IAM conditions)."""
    return [{"key": "reflex-engine", "value": "instance"}, {"key": "reflex-engine:database", "value": id}]


def network(settings: EcsSettings) -> dict[str, Any]:
    """The `networkConfiguration` of services and tasks."""
    return {
        "awsvpcConfiguration": {
            "subnets": list(settings.subnets),
            "securityGroups": list(settings.security_groups),
            "assignPublicIp": "ENABLED" if settings.assign_public_ip else "DISABLED",
        }
    }
