"""The control API's requests beyond the first: lists, changes, actions, who may see what, what is kept of a password."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event, Semaphore
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from engine.control.contract import TestConnectionAnswer
from engine.control.failures import SecretMissing, SecretUnavailable
from engine.control.limits import PROBES_AT_ONCE
from engine.control.probe import Probed
from engine.control.records import DesiredState, HealthStatus, Status
from engine.control.rows import now
from engine.source import Secret
from tests.support.control import BODY, PASSWORD, Control, given, without

HEALTH = {"status": "degraded", "phase": "streaming", "rowCounts": {"public.orders": 5}}


class FakeInstance:
    """An instance's own API: remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes, str | None]] = []
        self.answer: httpx.Response | Exception = httpx.Response(200, json=HEALTH)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append((request.method, str(request.url), request.content, request.headers.get("authorization")))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def instance() -> FakeInstance:
    return FakeInstance()


@pytest.fixture
def control(tmp_path: Path, instance: FakeInstance) -> Iterator[Control]:
    with Control.on(tmp_path, instance=instance, token=Secret("instance-token")) as control:
        yield control


@pytest.fixture
def client(control: Control) -> Iterator[httpx.Client]:
    with control.client() as client:
        yield client


@pytest.fixture
def made(client: httpx.Client) -> dict[str, Any]:
    """A binlog connection with two schemas and an instance on the first."""
    body = given(BODY, availableSchemas=["example", "audit"], syncMode="binlog", syncInterval=60)
    answer: dict[str, Any] = client.post("/connections", json=body).json()
    return answer


def error(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error", "message"}
    return answer.status_code, body["error"]


def account(control: Control) -> UUID:
    return control.store.ensure_account("default").id


class TestConnections:
    def test_list_and_get(self, client: httpx.Client, made: dict[str, Any]) -> None:
        second = client.post("/connections", json=without(given(BODY, name="second"), "instance")).json()
        assert client.get("/connections").json() == {"connections": [made["connection"], second["connection"]]}
        one = client.get(f"/connections/{made['connection']['id']}")
        assert (one.status_code, one.json()) == (200, {"connection": made["connection"]})

    def test_change(self, client: httpx.Client, made: dict[str, Any], control: Control) -> None:
        id = made["connection"]["id"]
        changes = {"name": "new", "mysqlHost": "h2", "mysqlPort": 3307, "mysqlUser": "u2", "syncInterval": 30}
        answer = client.patch(f"/connections/{id}", json={**changes, "availableSchemas": ["new", "example"]})
        assert answer.status_code == 200
        changed = answer.json()["connection"]
        assert changed["updatedAt"] > made["connection"]["updatedAt"]
        del changes["syncInterval"]
        expected = made["connection"] | changes | {"minSyncInterval": 30, "availableSchemas": ["new", "example"]}
        assert changed == expected | {"updatedAt": changed["updatedAt"]}
        assert client.get(f"/connections/{id}").json()["connection"] == changed
        assert control.wakes == [None]
        assert client.patch(f"/connections/{id}", json={}).json()["connection"] == changed

    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"availableSchemas": ["audit"]}, "schema_in_use"),
            ({"syncMode": "poll"}, "sync_mode_in_use"),
            ({"syncInterval": 61}, "sync_interval_in_use"),
            ({"name": "second"}, "name_taken"),
            ({"mysqlHost": "SECOND.example"}, "binlog_server_id_taken"),
        ],
    )
    def test_what_instances_or_others_use_stays(
        self, client: httpx.Client, made: dict[str, Any], changes: dict[str, Any], word: str
    ) -> None:
        client.post("/connections", json=given(BODY, name="second", mysqlHost="second.example"))
        id = made["connection"]["id"]
        assert error(client.patch(f"/connections/{id}", json=changes)) == (409, word)
        assert client.get(f"/connections/{id}").json()["connection"] == made["connection"]

    @pytest.mark.parametrize(
        "changes",
        [{"backend": "postgres"}, {"name": ""}, {"name": None}, {"syncMode": "cdc"}, {"mysqlHost": "a/b"}, {"id": "x"}],
    )
    def test_changes_that_do_not_fit(self, client: httpx.Client, made: dict[str, Any], changes: dict[str, Any]) -> None:
        answer = client.patch(f"/connections/{made['connection']['id']}", json=changes)
        assert error(answer) == (400, "validation_error")
        assert answer.json()["message"].startswith(next(iter(changes)))

    def test_delete(self, client: httpx.Client, made: dict[str, Any], control: Control) -> None:
        id, database = made["connection"]["id"], made["database"]["id"]
        assert error(client.delete(f"/connections/{id}")) == (409, "connection_in_use")
        assert client.delete(f"/databases/{database}").status_code == 204
        ref = control.store.connection(account(control), UUID(id)).secret_ref
        assert client.delete(f"/connections/{id}").status_code == 204
        assert error(client.get(f"/connections/{id}")) == (404, "not_found")
        assert error(client.delete(f"/connections/{id}")) == (404, "not_found")
        with pytest.raises(SecretMissing):
            control.secrets.get(ref)
        assert client.post("/connections", json=BODY).status_code == 201, "the name is free again"


class TestPasswords:
    def test_another_password_takes_the_old_ones_place(
        self, client: httpx.Client, made: dict[str, Any], control: Control
    ) -> None:
        id = made["connection"]["id"]
        old = control.store.connection(account(control), UUID(id)).secret_ref
        answer = client.patch(f"/connections/{id}", json={"mysqlPassword": "the-second-one"})
        assert "the-second-one" not in answer.text
        assert answer.json()["connection"]["updatedAt"] > made["connection"]["updatedAt"]
        new = control.store.connection(account(control), UUID(id)).secret_ref
        assert control.secrets.get(new).reveal() == "the-second-one"
        assert new != old
        # Instances that start with the old one meanwhile find it, for a while.
        assert control.credentials.sweep() == 0
        assert control.store.stray_secrets(now() + timedelta(hours=1)) == [old]

    def test_a_refused_change_leaves_no_secret_behind(
        self, client: httpx.Client, made: dict[str, Any], control: Control
    ) -> None:
        id = made["connection"]["id"]
        body = {"mysqlPassword": "the-second-one", "syncMode": "poll"}
        assert error(client.patch(f"/connections/{id}", json=body)) == (409, "sync_mode_in_use")
        assert error(client.patch(f"/connections/{uuid4()}", json={"mysqlPassword": "x"})) == (404, "not_found")
        ref = control.store.connection(account(control), UUID(id)).secret_ref
        files = [path for path in (control.folder / "secrets").rglob("*") if path.is_file()]
        assert files == [control.folder / "secrets" / ref]
        assert control.secrets.get(ref).reveal() == PASSWORD

    def test_a_store_that_fails_keeps_the_connection_out(
        self, client: httpx.Client, control: Control, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise SecretUnavailable("a secret cannot be written: AWS answered ThrottlingException")

        monkeypatch.setattr(control.secrets, "put", fail)
        assert error(client.post("/connections", json=BODY)) == (503, "secret_store_unavailable")
        assert client.get("/connections").json() == {"connections": []}
        monkeypatch.undo()
        assert client.post("/connections", json=BODY).status_code == 201

    def test_a_kill_between_secret_and_state_leaves_a_stray_that_is_swept(
        self, client: httpx.Client, control: Control, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        ref = "connections/a/1"
        monkeypatch.setattr(control.credentials, "_remove", lambda _: None)
        with pytest.raises(Killed), control.credentials.put(ref, Secret(PASSWORD)):
            raise Killed
        monkeypatch.undo()
        assert control.secrets.get(ref).reveal() == PASSWORD
        assert control.credentials.sweep() == 0, "it may be about to be used"
        monkeypatch.setattr(control.store, "stray_secrets", lambda: [ref])
        assert control.credentials.sweep() == 1
        with pytest.raises(SecretMissing):
            control.secrets.get(ref)

    def test_nothing_on_the_disk_holds_a_password(
        self, client: httpx.Client, made: dict[str, Any], control: Control
    ) -> None:
        client.patch(f"/connections/{made['connection']['id']}", json={"mysqlPassword": "the-second-one"})
        client.post("/connections", json=given(BODY, mysqlPort=0))
        client.post("/connections", json=BODY)
        for path in control.folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                for secret in (PASSWORD, "the-second-one", control.token.partition(".")[2]):
                    assert secret.encode() not in data, path


def test_of_fifty_creations_at_once_exactly_one_is_made(control: Control) -> None:
    def create(_: int) -> int:
        with control.client() as client:
            return client.post("/connections", json=BODY).status_code

    with ThreadPoolExecutor(50) as pool:
        found = sorted(pool.map(create, range(50)))
    assert found == [201] + [409] * 49
    with control.client() as client:
        assert len(client.get("/connections").json()["connections"]) == 1
        assert len(client.get("/databases").json()["databases"]) == 1
    assert len([path for path in (control.folder / "secrets").rglob("*") if path.is_file()]) == 1
    assert control.store.stray_secrets(now() + timedelta(hours=1)) == []


class TestDatabases:
    def test_create_takes_the_connections_settings(self, client: httpx.Client, made: dict[str, Any]) -> None:
        body = {"connectionId": made["connection"]["id"], "name": "second", "mysqlDb": "audit"}
        answer = client.post("/databases", json=body)
        assert answer.status_code == 201
        database = answer.json()["database"]
        assert (database["syncMode"], database["syncInterval"], database["status"]) == ("binlog", 60, "registered")
        more = body | {
            "syncMode": "poll",
            "syncInterval": 90,
            "instanceSize": "2xlarge",
            "logLevel": "warn",
            "binlogServerId": 2,
            "tags": [{"label": "prod", "color": "red"}, {"label": "", "color": "blue"}],
            "pauseSchedule": {"pauseAt": "22:00", "resumeAt": "06:00", "days": [5, 0, 5]},
        }
        third = client.post("/databases", json=more).json()["database"]
        assert third | {k: v for k, v in more.items() if k != "pauseSchedule"} == third
        assert third["pauseSchedule"] == {"pauseAt": "22:00", "resumeAt": "06:00", "days": [0, 5]}
        assert (third["taskCpu"], third["taskMemoryMb"]) == (8192, 32768)
        listed = client.get("/databases").json()["databases"]
        assert listed == [made["database"], database, third]
        on_it = client.get("/databases", params={"connectionId": made["connection"]["id"]}).json()["databases"]
        assert on_it == listed
        assert client.get("/databases", params={"connectionId": str(uuid4())}).json() == {"databases": []}
        assert error(client.get("/databases", params={"connectionId": "x"})) == (400, "validation_error")

    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("mysqlDb", {"mysqlDb": "other"}),
            ("syncMode", {"syncMode": "logical"}),
            ("syncInterval", {"syncInterval": 59}),
            ("syncInterval", {"syncInterval": 3601}),
            ("instanceSize", {"instanceSize": "huge"}),
            ("name", {"name": ""}),
            ("tags[0].label", {"tags": [{"label": "x" * 31, "color": "red"}]}),
            ("tags[0].color", {"tags": [{"label": "x", "color": "pink"}]}),
            ("pauseSchedule.pauseAt", {"pauseSchedule": {"pauseAt": "24:00", "resumeAt": "06:00", "days": []}}),
            ("pauseSchedule.resumeAt", {"pauseSchedule": {"pauseAt": "06:00", "resumeAt": "06:00", "days": []}}),
            ("pauseSchedule.days[0]", {"pauseSchedule": {"pauseAt": "05:00", "resumeAt": "06:00", "days": [7]}}),
            ("status", {"status": "running"}),
            ("connectionId", {"connectionId": "x"}),
        ],
    )
    def test_what_does_not_fit(
        self, client: httpx.Client, made: dict[str, Any], field: str, changes: dict[str, Any]
    ) -> None:
        good = {"connectionId": made["connection"]["id"], "name": "second", "mysqlDb": "audit"}
        answer = client.post("/databases", json=good | changes)
        assert error(answer) == (400, "validation_error")
        assert answer.json()["message"].partition(":")[0] == field
        if field not in ("connectionId", "mysqlDb"):
            answer = client.patch(f"/databases/{made['database']['id']}", json=changes)
            assert error(answer) == (400, "validation_error")
            assert answer.json()["message"].partition(":")[0] == field

    def test_conflicts(self, client: httpx.Client, made: dict[str, Any]) -> None:
        good = {"connectionId": made["connection"]["id"], "name": "second", "mysqlDb": "audit"}
        assert error(client.post("/databases", json=good | {"binlogServerId": 1})) == (409, "binlog_server_id_taken")
        assert error(client.post("/databases", json=good | {"connectionId": str(uuid4())})) == (404, "not_found")

    def test_change(self, client: httpx.Client, made: dict[str, Any], control: Control) -> None:
        id = made["database"]["id"]
        schedule = {"pauseAt": "22:00", "resumeAt": "06:00", "days": []}
        changes = {
            "name": "renamed",
            "instanceSize": "large",
            "logLevel": "debug",
            "syncInterval": 120,
            "syncMode": "poll",
            "tags": [{"label": "a", "color": "teal"}],
            "pauseSchedule": schedule,
            "binlogServerId": None,
        }
        changed = client.patch(f"/databases/{id}", json=changes).json()["database"]
        assert changed | changes == changed
        assert (changed["taskCpu"], changed["taskMemoryMb"]) == (2048, 8192)
        assert control.wakes == [None]
        kept = client.patch(f"/databases/{id}", json={"tags": []}).json()["database"]
        assert (kept["tags"], kept["pauseSchedule"], kept["name"]) == ([], schedule, "renamed")
        assert (
            client.patch(f"/databases/{id}", json={"pauseSchedule": None}).json()["database"]["pauseSchedule"] is None
        )
        assert client.get(f"/databases/{id}").json()["database"]["pauseSchedule"] is None


class TestActions:
    def test_a_life(self, client: httpx.Client, made: dict[str, Any], control: Control) -> None:
        id = made["database"]["id"]

        def ask(action: str) -> Any:
            answer = client.post(f"/databases/{id}/{action}")
            return answer.json()["database"]["desiredState"] if answer.status_code == 202 else error(answer)

        def actions() -> list[str]:
            found: list[str] = client.get(f"/databases/{id}/instance").json()["availableActions"]
            return found

        for action in ("pause", "resume", "pause-replication", "resume-replication", "reload"):
            assert ask(action) == (409, "instance_not_provisioned")
        assert actions() == ["provision", "terminate", "delete"]
        assert ask("provision") == "running"
        assert ask("provision") == "running", "asked twice is asked once"
        assert control.wakes == [UUID(id), UUID(id)]
        assert actions() == ["pause", "pause-replication", "terminate"]
        assert error(client.delete(f"/databases/{id}")) == (409, "instance_active")
        assert ask("reload") == (409, "instance_not_running")
        assert ask("pause") == "paused"
        assert ask("provision") == (409, "instance_paused")
        assert actions() == ["resume", "pause-replication", "terminate"]
        assert ask("resume") == "running"
        control.store.record_status(UUID(id), status=Status.FAILED)
        assert actions() == ["provision", "pause", "pause-replication", "terminate"]
        assert ask("terminate") == "terminated"
        assert ask("terminate") == "terminated"
        for action in ("provision", "pause", "resume", "reload", "pause-replication"):
            assert ask(action) == (409, "instance_terminated")
        assert error(client.patch(f"/databases/{id}", json={"name": "x"})) == (409, "instance_terminated")
        control.store.record_status(UUID(id), status=Status.TERMINATED)
        assert actions() == ["delete"]
        assert client.delete(f"/databases/{id}").status_code == 204
        assert error(client.get(f"/databases/{id}")) == (404, "not_found")

    def test_replication_is_paused_by_a_wish(
        self, client: httpx.Client, made: dict[str, Any], control: Control
    ) -> None:
        id = made["database"]["id"]
        client.post(f"/databases/{id}/provision")
        assert client.post(f"/databases/{id}/pause-replication").status_code == 202
        assert control.store.instance(UUID(id)).database.replication_paused
        assert client.post(f"/databases/{id}/resume-replication").status_code == 202
        assert not control.store.instance(UUID(id)).database.replication_paused

    def test_the_running_instance_is_shown_and_reloaded(
        self, client: httpx.Client, made: dict[str, Any], control: Control, instance: FakeInstance
    ) -> None:
        id = made["database"]["id"]
        empty = client.get(f"/databases/{id}/instance").json()
        assert (empty["health"], empty["rowCounts"], empty["endpointUrl"]) == (None, {}, None)
        client.post(f"/databases/{id}/provision")
        control.store.record_status(
            UUID(id),
            status=Status.RUNNING,
            endpoint_url="http://127.0.0.1:9",
            health_status=HealthStatus.DEGRADED,
            last_error="it was slow",
        )
        shown = client.get(f"/databases/{id}/instance").json()
        assert shown == {
            "status": "running",
            "desiredState": "running",
            "endpointUrl": "http://127.0.0.1:9",
            "healthStatus": "degraded",
            "health": HEALTH,
            "rowCounts": {"public.orders": 5},
            "availableActions": ["pause", "pause-replication", "reload", "terminate"],
            "lastError": "it was slow",
        }
        for body in (None, {}, {"table": "public.orders"}):
            assert client.post(f"/databases/{id}/reload", json=body).status_code == 202
        assert [(m, u.rpartition("9")[2], b) for m, u, b, _ in instance.asked] == [
            ("GET", "/health", b""),
            ("POST", "/sync/reload", b"{}"),
            ("POST", "/sync/reload", b"{}"),
            ("POST", "/sync/reload", b'{"table":"public.orders"}'),
        ]
        assert {token for *_, token in instance.asked} == {"Bearer instance-token"}
        for answer, expected in (
            (httpx.Response(404), (404, "unknown_table")),
            (httpx.Response(500), (502, "instance_refused")),
            (httpx.ConnectError("row of alice"), (502, "instance_unreachable")),
        ):
            instance.answer = answer
            told = client.post(f"/databases/{id}/reload", json={"table": "t"})
            assert error(told) == expected
            assert "alice" not in told.text
            assert client.get(f"/databases/{id}/instance").json()["health"] is None


def test_another_accounts_objects_are_not_there(control: Control, made: dict[str, Any]) -> None:
    connection, database = made["connection"]["id"], made["database"]["id"]
    with control.client(control.new_token("stranger")) as stranger:
        assert stranger.get("/connections").json() == {"connections": []}
        assert stranger.get("/databases").json() == {"databases": []}
        for method, path, body in (
            ("GET", f"/connections/{connection}", None),
            ("PATCH", f"/connections/{connection}", {"name": "mine", "mysqlPassword": "mine"}),
            ("DELETE", f"/connections/{connection}", None),
            ("POST", f"/connections/{connection}/test-connection", None),
            ("POST", "/databases", {"connectionId": connection, "name": "n", "mysqlDb": "example"}),
            ("GET", f"/databases/{database}", None),
            ("PATCH", f"/databases/{database}", {"name": "mine"}),
            ("DELETE", f"/databases/{database}", None),
            ("GET", f"/databases/{database}/instance", None),
            *(("POST", f"/databases/{database}/{action}", None) for action in ("provision", "terminate", "reload")),
        ):
            assert error(stranger.request(method, path, json=body)) == (404, "not_found"), (method, path)
        theirs = stranger.post("/connections", json=BODY)
        assert theirs.status_code == 201, "names and server ids are each account's own"
        assert theirs.json()["connection"]["customerId"] != made["connection"]["customerId"]
    with control.client(control.new_token("default", "second")) as colleague:
        assert colleague.get(f"/databases/{database}").json()["database"] == made["database"]
    assert control.store.instance(UUID(database)).database.desired_state is not DesiredState.TERMINATED


def test_sources_are_tried_a_few_at_a_time_so_that_others_are_answered(tmp_path: Path) -> None:
    asked, answered = Semaphore(0), Event()

    def slow(_: Probed) -> TestConnectionAnswer:
        asked.release()
        assert answered.wait(30)
        raise SecretUnavailable("whatever: the place is free again after an error, too")

    body = {name: BODY[name] for name in ("mysqlHost", "mysqlUser", "mysqlPassword")}
    with (
        Control.on(tmp_path, probing=slow) as control,
        control.client() as client,
        ThreadPoolExecutor(PROBES_AT_ONCE) as others,
    ):

        def attempt() -> int:
            with control.client() as another:
                return another.post("/connections/test-connection", json=body).status_code

        trying = [others.submit(attempt) for _ in range(PROBES_AT_ONCE)]
        try:
            for _ in trying:
                assert asked.acquire(timeout=30)
            refused = client.post("/connections/test-connection", json=body)
            assert error(refused) == (429, "too_many_requests")
            assert client.get("/connections").status_code == 200
        finally:
            answered.set()
        assert {one.result() for one in trying} == {503}
        assert client.post("/connections/test-connection", json=body).status_code == 503
