"""Instances on ECS, against moto over HTTP: what is sent, what is made of what is seen, and how many calls it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from moto.backends import get_backend

from engine.config.loader import parse_config
from engine.control.decision import Health
from engine.control.launchers.ecs import EcsLauncher
from engine.control.launchers.launcher import Presence
from engine.control.launchers.taskdefinition import EcsSettings, family
from engine.control.reconciler import Reconciler
from engine.control.records import Backend, Connection, Database, DesiredState, HealthStatus, Status, SyncMode
from engine.control.secrets.ssm import SsmSecretStore
from engine.control.state import Store, token_ref
from engine.errors import PreconditionError, TransientError
from engine.sizes import SIZES
from engine.source import Secret
from tests.support.aws import REGION, Aws, aws_server

RUN, PAUSE, TERMINATE = DesiredState.RUNNING, DesiredState.PAUSED, DesiredState.TERMINATED
PASSWORD = "a-password-that-is-nowhere"
ACCOUNT = "123456789012"


class AllWell:
    """Instances that answer wherever they have an address; what they are asked for is kept."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def health(self, addresses: Any) -> dict[str, Health | None]:
        self.asked.append(dict(addresses))
        return dict.fromkeys(addresses, Health(HealthStatus.OK, ready=True))

    def set_replication(self, address: Any, *, paused: bool) -> bool:
        return True

    def close(self) -> None:
        pass


@dataclass
class Fleet:
    aws: Aws
    store: Store
    secrets: SsmSecretStore
    settings: EcsSettings
    watch: AllWell
    moment: datetime = datetime(2024, 1, 1, tzinfo=UTC)

    def __post_init__(self) -> None:
        self.account = self.store.ensure_account("default").id
        self.restart()

    def restart(self) -> None:
        """Another control API on the same state: nothing is remembered."""
        self.launcher = EcsLauncher(self.settings, self.secrets)
        self.reconciler = Reconciler(self.store, self.launcher, watch=self.watch, clock=lambda: self.moment)

    def passes(self, count: int = 1, seconds: float = 30) -> None:
        for _ in range(count):
            self.moment += timedelta(seconds=seconds)
            self.reconciler.run_once()

    def connection(self) -> Connection:
        id = uuid4()
        connection = Connection(
            id=id,
            account_id=self.account,
            name=id.hex,
            backend=Backend.POSTGRES,
            host="db.example",
            port=5432,
            available_schemas=("shop",),
            user="reflex",
            secret_ref=f"connections/{id}/1",
            sync_mode=SyncMode.LOGICAL,
            min_sync_interval=30,
            created_at=self.moment,
            updated_at=self.moment,
        )
        self.secrets.put(connection.secret_ref, Secret(PASSWORD))
        self.store.create_connection_with_instance(connection)
        return connection

    def instance(self, connection: Connection, **changes: Any) -> UUID:
        database = Database(
            id=uuid4(),
            account_id=self.account,
            connection_id=connection.id,
            name="live",
            mysql_db="shop",
            sync_mode=SyncMode.LOGICAL,
            sync_interval=30,
            instance_size="nano",
            log_level="info",
            region=REGION,
            created_at=self.moment,
            updated_at=self.moment,
            desired_state=RUN,
        )
        database = replace(database, **changes)
        return self.store.create_database(self.account, connection.id, lambda _: database).id

    def read(self, id: UUID) -> Database:
        return self.store.instance(id).database

    def service(self, id: UUID) -> Any:
        """ECS's own record of a service, to play what moto does not: tasks that start, and deployments that fail."""
        return ecs_backend().services[f"{self.settings.cluster}:{family(str(id))}"]

    def task_starts(self, id: UUID) -> Any:
        service = self.service(id)
        service.running_count, service.pending_count = 1, 0
        return self.run(service.task_definition, f"service:{family(str(id))}")

    def run(self, definition: str, group: str) -> Any:
        network = {"awsvpcConfiguration": {"subnets": [*self.settings.subnets], "securityGroups": []}}
        (task,) = ecs_backend().run_task(
            self.settings.cluster, definition, 1, {}, "", [], "FARGATE", network, group=group
        )
        self.hold(task)
        return task

    @staticmethod
    def hold(task: Any, status: str = "RUNNING", code: int | None = None) -> None:
        """Keep a task in one state, as moto would move it on each time it is asked for."""
        task._transitions, task._status = [], status
        task.desired_status = "STOPPED" if status == "STOPPED" else "RUNNING"
        task.containers[0].exitCode = code

    def tasks_of(self, group: str) -> list[Any]:
        return [task for task in ecs_backend().tasks[self.settings.cluster].values() if task.group == group]


def ecs_backend() -> Any:
    return get_backend("ecs")[ACCOUNT][REGION]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    with aws_server(monkeypatch) as aws:
        boto3.client("ecs").create_cluster(clusterName="reflex")
        subnets = boto3.client("ec2").describe_subnets()["Subnets"]
        settings = EcsSettings(
            cluster="reflex",
            image="registry.example/reflex-engine:1.2.3",
            subnets=(subnets[0]["SubnetId"],),
            security_groups=(),
            execution_role=f"arn:aws:iam::{ACCOUNT}:role/reflex-execution",
            region=REGION,
            log_group="/reflex/instances",
        )
        store = Store(tmp_path / "state.sqlite")
        fleet = Fleet(aws, store, SsmSecretStore("/reflex", region=REGION), settings, AllWell())
        aws.calls.clear()
        yield fleet
        fleet.launcher.close()
        store.close()


class TestLife:
    def test_launched_as_a_task_definition_and_a_service(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection(), instance_size="medium")
        fleet.passes()
        (definition,) = fleet.aws.of("RegisterTaskDefinition")
        size = SIZES["medium"]
        assert (definition["cpu"], definition["memory"]) == (str(size.cpu_units), str(size.memory_mb))
        assert (definition["family"], definition["networkMode"]) == (f"reflex-{id}", "awsvpc")
        assert definition["requiresCompatibilities"] == ["FARGATE"]
        assert definition["executionRoleArn"] == fleet.settings.execution_role
        assert "taskRoleArn" not in definition
        (container,) = definition["containerDefinitions"]
        assert container["image"] == "registry.example/reflex-engine:1.2.3"
        assert container["stopTimeout"] > 10
        assert "/livez" in container["healthCheck"]["command"][-1]
        assert container["logConfiguration"]["options"]["awslogs-group"] == "/reflex/instances"
        secrets = {secret["name"]: secret["valueFrom"] for secret in container["secrets"]}
        connection = fleet.store.instance(id).connection
        assert secrets == {
            "REFLEX_SOURCE_PASSWORD": f"/reflex/{connection.secret_ref}",
            "REFLEX_HTTP_TOKEN": f"/reflex/{token_ref(id)}",
        }
        # What the container is told is a configuration that the engine takes.
        environment = {item["name"]: item["value"] for item in container["environment"]}
        config = parse_config(environment["REFLEX_CONFIG"], environ=dict.fromkeys(secrets, "given-by-ecs"))
        assert (config.http.host, config.token, config.size.name) == ("0.0.0.0", "given-by-ecs", "medium")
        (service,) = fleet.aws.of("CreateService")
        assert (service["desiredCount"], service["launchType"]) == (1, "FARGATE")
        deployment = service["deploymentConfiguration"]
        assert (deployment["minimumHealthyPercent"], deployment["maximumPercent"]) == (0, 100), "never two at a time"
        assert deployment["deploymentCircuitBreaker"] == {"enable": True, "rollback": False}
        assert service["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "DISABLED"
        assert fleet.read(id).status is Status.DEPLOYING

    def test_running_at_the_tasks_address_with_its_token(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes()
        fleet.task_starts(id)
        fleet.passes()
        database = fleet.read(id)
        assert (database.status, database.health_status) == (Status.RUNNING, HealthStatus.OK)
        assert database.endpoint_url is not None
        assert database.endpoint_url.startswith("http://10.")
        address = fleet.watch.asked[-1][str(id)]
        assert address.endpoint == database.endpoint_url
        assert address.token == fleet.secrets.get(token_ref(id))

    def test_pause_is_a_count_of_zero_and_resume_makes_nothing_new(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes()
        task = fleet.task_starts(id)
        fleet.passes()
        fleet.store.wish(id, PAUSE)
        fleet.aws.calls.clear()
        fleet.passes()
        (update,) = fleet.aws.of("UpdateService")
        assert update == {"cluster": "reflex", "service": family(str(id)), "desiredCount": 0}
        fleet.hold(task, "STOPPED", 0)
        fleet.passes()
        assert (fleet.read(id).status, fleet.read(id).endpoint_url) == (Status.PAUSED, None)
        fleet.store.wish(id, RUN)
        fleet.restart()
        fleet.aws.calls.clear()
        fleet.passes()
        (update,) = fleet.aws.of("UpdateService")
        assert update["desiredCount"] == 1
        assert fleet.aws.of("RegisterTaskDefinition") == []
        assert fleet.read(id).status is Status.RESUMING

    @pytest.mark.parametrize("change", [{"instance_size": "large"}, {"log_level": "debug"}])
    def test_resize_is_a_new_revision_of_the_same_family(self, fleet: Fleet, change: dict[str, Any]) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes()
        fleet.task_starts(id)
        fleet.passes()
        fleet.store.change_database(fleet.account, id, lambda old, _: replace(old, **change))
        fleet.aws.calls.clear()
        fleet.passes(3)
        (definition,) = fleet.aws.of("RegisterTaskDefinition")
        assert definition["family"] == f"reflex-{id}"
        (update,) = fleet.aws.of("UpdateService")
        assert update["taskDefinition"].endswith(f"reflex-{id}:2")
        if "instance_size" in change:
            assert (definition["cpu"], definition["memory"]) == ("2048", "8192")
        assert fleet.read(id).status is Status.DEPLOYING
        fleet.task_starts(id)
        fleet.passes()
        assert fleet.read(id).status is Status.RUNNING

    def test_a_new_password_is_a_new_reference(self, fleet: Fleet) -> None:
        connection = fleet.connection()
        fleet.instance(connection)
        fleet.passes()
        ref = f"connections/{connection.id}/2"
        fleet.secrets.put(ref, Secret("another"))
        fleet.store.change_connection(fleet.account, connection.id, lambda old, _: replace(old, secret_ref=ref))
        fleet.passes()
        secrets = fleet.aws.of("RegisterTaskDefinition")[-1]["containerDefinitions"][0]["secrets"]
        assert f"/reflex/{ref}" in [secret["valueFrom"] for secret in secrets]

    def test_another_image_replaces_what_runs(self, fleet: Fleet) -> None:
        fleet.instance(fleet.connection())
        fleet.passes(2)
        fleet.settings = replace(fleet.settings, image="registry.example/reflex-engine:2.0.0")
        fleet.restart()
        fleet.passes(2)
        images = [d["containerDefinitions"][0]["image"] for d in fleet.aws.of("RegisterTaskDefinition")]
        assert images == ["registry.example/reflex-engine:1.2.3", "registry.example/reflex-engine:2.0.0"]

    def test_terminated_leaves_nothing_at_the_source_nor_at_aws(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes()
        task = fleet.task_starts(id)
        fleet.passes()
        fleet.store.wish(id, TERMINATE)
        fleet.passes()
        fleet.hold(task, "STOPPED", 0)
        fleet.passes()
        (teardown,) = fleet.aws.of("RunTask")
        assert teardown["overrides"]["containerOverrides"] == [{"name": "engine", "command": ["teardown"]}]
        assert teardown["launchType"] == "FARGATE"
        (clearing,) = fleet.tasks_of(teardown["group"])
        fleet.hold(clearing)
        fleet.passes(2)
        assert fleet.read(id).status is Status.TERMINATING
        assert len(fleet.aws.of("RunTask")) == 1
        fleet.hold(clearing, "STOPPED", 0)
        fleet.restart()
        fleet.passes(2)
        assert (fleet.read(id).status, fleet.read(id).last_error) == (Status.TERMINATED, None)
        assert fleet.service(id).status == "INACTIVE"
        assert boto3.client("ecs").list_task_definitions(familyPrefix=f"reflex-{id}")["taskDefinitionArns"] == []
        names = boto3.client("ssm").describe_parameters()["Parameters"]
        assert [p["Name"] for p in names if str(id) in p["Name"]] == []
        assert fleet.store.instances_to_reconcile() == []


class TestTrouble:
    def test_a_deployment_that_ecs_gave_up_is_failed_and_tried_again(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes(2)
        task = fleet.task_starts(id)
        fleet.hold(task, "STOPPED", 3)
        task.stopped_reason = "Essential container in task exited"
        fleet.service(id).deployments[0]["rolloutState"] = "FAILED"
        fleet.passes(1, seconds=1)
        fleet.passes(1, seconds=1)
        failed = fleet.read(id)
        assert failed.status is Status.FAILED
        assert failed.last_error == "Essential container in task exited (ended with exit code 3)"
        fleet.aws.calls.clear()
        fleet.passes(2, seconds=300)
        assert all(update["forceNewDeployment"] for update in fleet.aws.of("UpdateService"))
        assert fleet.aws.of("UpdateService")

    @pytest.mark.parametrize("operation", ["RegisterTaskDefinition", "CreateService", "PutParameter"])
    def test_killed_between_any_two_calls_it_converges(self, fleet: Fleet, operation: str) -> None:
        """What was done before the kill is found again: one service, one task definition in use."""
        id = fleet.instance(fleet.connection())

        real = fleet.launcher._ecs.meta.events
        real.register("after-call.ecs", lambda model, **_: killed_after(model.name, operation))
        if operation == "PutParameter":
            put = fleet.secrets.put

            def put_and_die(ref: str, secret: Secret) -> None:
                put(ref, secret)
                raise KeyboardInterrupt

            fleet.launcher._secrets = type("Dying", (), {"put": staticmethod(put_and_die), "get": fleet.secrets.get})()
        with pytest.raises(KeyboardInterrupt):
            fleet.passes()
        fleet.restart()
        fleet.passes(2)
        fleet.task_starts(id)
        fleet.passes()
        assert fleet.read(id).status is Status.RUNNING
        assert len(ecs_backend().services) == 1
        assert fleet.aws.counts()["CreateService"] == 1

    def test_a_service_that_cannot_be_created_leaves_one_task_definition_however_often_it_is_tried(
        self, fleet: Fleet
    ) -> None:
        id = fleet.instance(fleet.connection())
        fleet.aws.refuse = lambda call: "InvalidParameterException" if call.operation == "CreateService" else None
        fleet.passes(6)
        assert fleet.read(id).status is Status.FAILED
        assert fleet.aws.counts()["CreateService"] > 1
        assert fleet.aws.counts()["RegisterTaskDefinition"] == 1
        fleet.aws.refuse = lambda _: None
        fleet.passes(4)
        fleet.task_starts(id)
        fleet.passes()
        assert fleet.read(id).status is Status.RUNNING
        assert fleet.aws.counts()["RegisterTaskDefinition"] == 1

    def test_errors_are_told_by_their_code(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection())
        fleet.aws.refuse = lambda call: "AccessDeniedException" if call.operation == "CreateService" else None
        fleet.passes()
        denied = fleet.read(id)
        assert denied.status is Status.FAILED
        assert "AccessDeniedException" in (denied.last_error or "")
        assert "CreateService" in (denied.last_error or "")
        fleet.aws.refuse = lambda _: None
        fleet.passes(2)
        assert (fleet.read(id).status, fleet.read(id).last_error) == (Status.DEPLOYING, None)

    def test_while_nothing_can_be_seen_nothing_is_written(self, fleet: Fleet) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes()
        before = fleet.read(id)
        fleet.aws.refuse = lambda call: "ClusterNotFoundException" if call.operation == "DescribeServices" else None
        with pytest.raises(PreconditionError):
            fleet.passes()
        fleet.launcher._ecs.meta.config.retries["total_max_attempts"] = 1
        fleet.aws.refuse = lambda call: "ThrottlingException" if call.operation == "DescribeServices" else None
        with pytest.raises(TransientError):
            fleet.passes()
        assert fleet.read(id) == before

    def test_no_secret_is_sent_to_ecs_or_kept(self, fleet: Fleet, tmp_path: Path) -> None:
        id = fleet.instance(fleet.connection())
        fleet.passes()
        token = fleet.secrets.get(token_ref(id)).reveal()
        for call in fleet.aws.calls:
            if call.operation not in ("PutParameter",):
                assert PASSWORD not in json.dumps(call.body)
                assert token not in json.dumps(call.body)
        for file in tmp_path.iterdir():
            assert PASSWORD.encode() not in file.read_bytes()
            assert token.encode() not in file.read_bytes()


def killed_after(name: str, operation: str) -> None:
    if name == operation:
        raise KeyboardInterrupt


def test_200_instances_take_a_bounded_number_of_calls(fleet: Fleet) -> None:
    connection = fleet.connection()
    ids = [fleet.instance(connection) for _ in range(200)]
    fleet.passes()
    for id in ids:
        fleet.task_starts(id)
    fleet.passes()
    assert {fleet.read(id).status for id in ids} == {Status.RUNNING}
    fleet.aws.calls.clear()
    fleet.passes()
    counts = fleet.aws.counts()
    assert set(counts) == {"DescribeServices", "ListTasks", "DescribeTasks"}, "nothing is asked for one by one"
    assert counts["DescribeServices"] == 20
    assert counts["ListTasks"] <= 3
    assert counts["DescribeTasks"] == 2
    assert fleet.launcher.observe([str(ids[0])])[str(ids[0])].presence is Presence.RUNNING
