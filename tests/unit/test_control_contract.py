"""``POST /connections`` as its contract states it: the document field by field, and what is answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from engine.control.app import openapi_document
from tests.support.control import BODY, PASSWORD, Control, given, without

NAME = {"type": "string", "minLength": 1, "maxLength": 100}
TEXT = {"type": "string", "minLength": 1}
UUID_ = {"type": "string", "format": "uuid"}
TIME = {"type": "string", "format": "date-time"}
STRING: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
BACKENDS = {"type": "string", "enum": ["mysql", "postgres", "mssql"]}
MODES = {"type": "string", "enum": ["poll", "binlog", "logical", "cdc"]}
SIZES = {"type": "string", "enum": ["nano", "small", "medium", "large", "xlarge", "2xlarge"]}
LEVELS = {"type": "string", "enum": ["info", "debug", "warn", "error"]}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}

# name: (schema, required?, default)
CREATE_CONNECTION: dict[str, Any] = {
    "backend": (BACKENDS, False, "mysql"),
    "name": (NAME, True, None),
    "mysqlHost": (TEXT, True, None),
    "mysqlPort": (PORT, False, 3306),
    "availableSchemas": ({"type": "array", "items": STRING, "minItems": 1}, True, None),
    "mysqlUser": (TEXT, True, None),
    "mysqlPassword": (TEXT, True, None),
    "syncMode": (MODES, False, "poll"),
    "syncInterval": ({"type": "integer", "minimum": 5, "maximum": 3600}, False, 30),
    "instance": ("CreateInstanceBody", False, None),
}
CREATE_INSTANCE: dict[str, Any] = {
    "name": (NAME, True, None),
    "mysqlDb": (TEXT, True, None),
    "instanceSize": (SIZES, False, "nano"),
    "logLevel": (LEVELS, False, "info"),
    "binlogServerId": ({"type": "integer", "minimum": 1}, False, None),
}
CONNECTION = {
    "id": (UUID_, True, None),
    "customerId": (UUID_, True, None),
    "name": (STRING, True, None),
    "backend": (BACKENDS, True, None),
    "mysqlHost": (STRING, True, None),
    "mysqlPort": (PORT, True, None),
    "availableSchemas": ({"type": "array", "items": STRING}, True, None),
    "mysqlUser": (STRING, True, None),
    "allowedSyncModes": ({"type": "array", "items": MODES}, True, None),
    "minSyncInterval": (INTEGER, True, None),
    "createdAt": (TIME, True, None),
    "updatedAt": (TIME, True, None),
}


def nullable(schema: Any) -> Any:
    choice = {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
    return {"anyOf": [choice, {"type": "null"}]}


DATABASE = {
    "id": (UUID_, True, None),
    "customerId": (UUID_, True, None),
    "connectionId": (UUID_, True, None),
    "name": (STRING, True, None),
    "mysqlDb": (STRING, True, None),
    "syncMode": (MODES, True, None),
    "syncInterval": (INTEGER, True, None),
    "taskCpu": (INTEGER, True, None),
    "taskMemoryMb": (INTEGER, True, None),
    "logLevel": (LEVELS, True, None),
    "status": (
        {
            "type": "string",
            "enum": [
                "registered",
                "building",
                "deploying",
                "running",
                "pausing",
                "paused",
                "resuming",
                "terminating",
                "terminated",
                "failed",
                "stopped",
            ],
        },
        True,
        None,
    ),
    "lastError": (nullable(STRING), False, None),
    "endpointUrl": (nullable(STRING), False, None),
    "healthStatus": (
        nullable({"type": "string", "enum": ["ok", "degraded", "unreachable", "cap_exceeded"]}),
        False,
        None,
    ),
    "buildComputeOverride": (nullable(STRING), False, None),
    "instanceSize": (SIZES, True, None),
    "region": (STRING, True, None),
    "binlogServerId": (nullable(INTEGER), False, None),
    "desiredState": (nullable(STRING), False, None),
    "reflexdbCustomDomain": (nullable(STRING), False, None),
    "pauseSchedule": (nullable("PauseSchedule"), False, None),
    "tags": ({"type": "array", "items": {"$ref": "#/components/schemas/Tag"}}, True, None),
    "createdAt": (TIME, True, None),
    "updatedAt": (TIME, True, None),
}
TAG = {
    "label": ({"type": "string", "maxLength": 30}, True, None),
    "color": (
        {"type": "string", "enum": ["gray", "red", "orange", "yellow", "green", "teal", "blue", "purple"]},
        True,
        None,
    ),
}
ERROR = {"error": (STRING, True, None), "message": (STRING, False, None)}
TABLES: dict[str, dict[str, Any]] = {
    "CreateConnectionBody": CREATE_CONNECTION,
    "CreateInstanceBody": CREATE_INSTANCE,
    "Connection": CONNECTION,
    "Database": DATABASE,
    "Tag": TAG,
    "Error": ERROR,
}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control.on(tmp_path) as control:
        yield control


class TestDocument:
    @pytest.mark.parametrize("name", TABLES)
    def test_every_field_is_as_the_contract_has_it(self, control: Control, name: str) -> None:
        schema = openapi_document(control.app)["components"]["schemas"][name]
        table = TABLES[name]
        assert schema["type"] == "object"
        assert list(schema["properties"]) == list(table)
        assert set(schema["required"]) == {field for field, (_, required, _) in table.items() if required}
        for field, (expected, _, default) in table.items():
            found = dict(schema["properties"][field])
            found.pop("description", None)
            assert found.pop("default", None) == default, field
            wanted = {"$ref": f"#/components/schemas/{expected}"} if isinstance(expected, str) else expected
            assert found == wanted, field

    def test_pause_schedule(self, control: Control) -> None:
        schema = openapi_document(control.app)["components"]["schemas"]["PauseSchedule"]
        assert set(schema["required"]) == {"pauseAt", "resumeAt", "days"}
        assert schema["properties"]["pauseAt"]["type"] == schema["properties"]["resumeAt"]["type"] == "string"
        assert schema["properties"]["days"]["items"]["type"] == "integer"

    def test_the_operation(self, control: Control) -> None:
        document = openapi_document(control.app)
        assert document["servers"] == [{"url": "/v1"}]
        operation = document["paths"]["/connections"]["post"]
        content = operation["requestBody"]["content"]
        assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/CreateConnectionBody"}}}
        answers = {
            status: answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            for status, answer in operation["responses"].items()
        }
        assert answers.pop("201") == "CreateConnectionAnswer"
        assert {"400", "401", "409"} <= set(answers)
        assert set(answers.values()) == {"Error"}
        answer = document["components"]["schemas"]["CreateConnectionAnswer"]
        assert answer["required"] == ["connection"]
        assert list(answer["properties"]) == ["connection", "database"]
        assert operation["security"]
        assert "422" not in str(document["paths"])

    def test_it_is_served_to_everyone(self, control: Control) -> None:
        for base in ("", "/v1"):
            with control.client("", base) as client:
                assert client.get("/openapi.json").json() == openapi_document(control.app)
                assert "text/html" in client.get("/docs").headers["content-type"]


UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class TestCreation:
    def test_the_contracts_example(self, control: Control) -> None:
        with control.client() as client:
            answer = client.post("/connections", json=BODY)
        assert answer.status_code == 201
        body = answer.json()
        assert PASSWORD not in answer.text
        connection, database = body["connection"], body["database"]
        assert set(body) == {"connection", "database"}
        assert set(connection) == set(CONNECTION)
        assert set(database) == set(DATABASE)
        for ids in (connection["id"], connection["customerId"], database["id"]):
            assert str(UUID(ids)) == ids
        for times in (connection["createdAt"], connection["updatedAt"], database["createdAt"]):
            assert UTC.fullmatch(times)
        expected = {name: BODY[name] for name in ("name", "backend", "mysqlHost", "mysqlPort", "mysqlUser")}
        assert connection | expected == connection
        assert connection["availableSchemas"] == ["example"]
        assert (connection["allowedSyncModes"], connection["minSyncInterval"]) == (["poll"], 30)
        assert database["customerId"] == connection["customerId"]
        assert database["connectionId"] == connection["id"]
        assert database | BODY["instance"] | {"syncMode": "poll", "syncInterval": 30} == database
        assert (database["taskCpu"], database["taskMemoryMb"]) == (256, 512)
        assert (database["status"], database["desiredState"], database["region"]) == ("registered", None, "local")
        assert (database["tags"], database["pauseSchedule"]) == ([], None)
        assert control.secrets.get(
            control.store.connections(UUID(connection["customerId"]))[0].secret_ref
        ).reveal() == (PASSWORD)

    def test_defaults(self, control: Control) -> None:
        body = without(BODY, "backend", "mysqlPort", "syncMode", "syncInterval", "instance")
        with control.client() as client:
            answer = client.post("/connections", json=body).json()
        assert set(answer) == {"connection"}
        connection = answer["connection"]
        assert (connection["backend"], connection["mysqlPort"]) == ("mysql", 3306)
        assert (connection["allowedSyncModes"], connection["minSyncInterval"]) == (["poll"], 30)
        with control.client() as client:
            body = without(
                given(BODY, name="two"), "instance.instanceSize", "instance.logLevel", "instance.binlogServerId"
            )
            database = client.post("/connections", json=body).json()["database"]
        assert (database["instanceSize"], database["logLevel"], database["binlogServerId"]) == ("nano", "info", None)

    @pytest.mark.parametrize(
        ("backend", "mode", "allowed"),
        [
            ("mysql", "poll", ["poll"]),
            ("mysql", "binlog", ["poll", "binlog"]),
            ("postgres", "poll", ["poll"]),
            ("postgres", "logical", ["poll", "logical"]),
            ("mssql", "poll", ["poll"]),
            ("mssql", "cdc", ["poll", "cdc"]),
        ],
    )
    def test_modes_that_fit(self, control: Control, backend: str, mode: str, allowed: list[str]) -> None:
        with control.client() as client:
            body = given(BODY, backend=backend, syncMode=mode, syncInterval=60)
            answer = client.post("/connections", json=body).json()
        assert answer["connection"]["allowedSyncModes"] == allowed
        assert answer["connection"]["minSyncInterval"] == 60
        assert (answer["database"]["syncMode"], answer["database"]["syncInterval"]) == (mode, 60)

    @pytest.mark.parametrize(
        "values",
        [
            {"name": "x"},
            {"name": "x" * 100, "instance__name": "y" * 100},
            {"mysqlPort": 1},
            {"mysqlPort": 65535},
            {"mysqlPort": 3306.0},
            {"syncInterval": 5},
            {"syncInterval": 3600},
            {"instance__binlogServerId": 4_294_967_295},
            {"mysqlHost": "2001:db8::1"},
            {"mysqlHost": "d\u00f6main.example", "mysqlUser": "\u00fcser", "name": "\U0001f600"},
            {"availableSchemas": ["a", "example"]},
            {"mysqlPassword": " "},
            *({"instance__instanceSize": size} for size in SIZES["enum"]),
            *({"instance__logLevel": level} for level in LEVELS["enum"]),
        ],
        ids=str,
    )
    def test_what_is_within_bounds(self, control: Control, values: dict[str, Any]) -> None:
        with control.client() as client:
            assert client.post("/connections", json=given(BODY, **values)).status_code == 201

    @pytest.mark.parametrize(
        ("field", "body"),
        [
            *((name, without(BODY, name)) for name, (_, required, _) in CREATE_CONNECTION.items() if required),
            *((f"instance.{n}", without(BODY, f"instance.{n}")) for n in ("name", "mysqlDb")),
            *((name, given(BODY, **{name: None})) for name in CREATE_CONNECTION),
            *((f"instance.{n}", given(BODY, **{f"instance__{n}": None})) for n in CREATE_INSTANCE),
            *((name, given(BODY, **{name: {"a": 1}})) for name in CREATE_CONNECTION if name != "instance"),
            *((n, given(BODY, **{n: ""})) for n in ("name", "mysqlHost", "mysqlUser", "mysqlPassword")),
            ("instance.name", given(BODY, instance__name="")),
            ("instance.mysqlDb", given(BODY, instance__mysqlDb="")),
            ("backend", given(BODY, backend="oracle")),
            ("backend", given(BODY, backend="MySQL")),
            ("name", given(BODY, name="x" * 101)),
            ("name", given(BODY, name=5)),
            ("name", given(BODY, name="a\nb")),
            ("mysqlHost", given(BODY, mysqlHost="/var/run/postgresql")),
            ("mysqlHost", given(BODY, mysqlHost="a,b")),
            ("mysqlPort", given(BODY, mysqlPort=0)),
            ("mysqlPort", given(BODY, mysqlPort=65536)),
            ("mysqlPort", given(BODY, mysqlPort="3306")),
            ("mysqlPort", given(BODY, mysqlPort=3306.5)),
            ("mysqlPort", given(BODY, mysqlPort=True)),
            ("availableSchemas", given(BODY, availableSchemas=[])),
            ("availableSchemas", given(BODY, availableSchemas="example")),
            ("availableSchemas[1]", given(BODY, availableSchemas=["example", 5])),
            ("availableSchemas[1]", given(BODY, availableSchemas=["example", ""])),
            ("mysqlPassword", given(BODY, mysqlPassword=PASSWORD + "\0")),
            ("syncMode", given(BODY, syncMode="auto")),
            ("syncMode", given(BODY, syncMode="logical")),
            ("syncMode", given(BODY, syncMode="cdc")),
            ("syncMode", given(BODY, backend="postgres", syncMode="binlog")),
            ("syncMode", given(BODY, backend="mssql", syncMode="logical")),
            ("syncInterval", given(BODY, syncInterval=4)),
            ("syncInterval", given(BODY, syncInterval=3601)),
            ("syncInterval", given(BODY, syncInterval="30")),
            ("instance", given(BODY, instance=[])),
            ("instance.name", given(BODY, instance__name="x" * 101)),
            ("instance.mysqlDb", given(BODY, instance__mysqlDb="other")),
            ("instance.instanceSize", given(BODY, instance__instanceSize="huge")),
            ("instance.logLevel", given(BODY, instance__logLevel="trace")),
            ("instance.binlogServerId", given(BODY, instance__binlogServerId=0)),
            ("instance.binlogServerId", given(BODY, instance__binlogServerId=4_294_967_296)),
            ("instance.binlogServerId", given(BODY, instance__binlogServerId=10**30)),
            ("passwrod", given(BODY, passwrod=PASSWORD)),
            ("mysql_host", given(BODY, mysql_host="h")),
            ("instance.syncMode", given(BODY, instance__syncMode="poll")),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_not_is_refused_by_name_and_nothing_is_kept(
        self, control: Control, field: str, body: dict[str, Any]
    ) -> None:
        with control.client() as client:
            answer = client.post("/connections", json=body)
            assert answer.status_code == 400
            assert set(answer.json()) == {"error", "message"}
            assert answer.json()["error"] == "validation_error"
            told = [problem.partition(":")[0] for problem in answer.json()["message"].split("; ")]
            assert told == [field]
            assert PASSWORD not in answer.text
            assert client.get("/connections").json() == {"connections": []}
        assert control.store.stray_secrets() == []
        assert not [path for path in (control.folder / "secrets").rglob("*") if path.is_file()]

    def test_every_wrong_field_is_told_at_once(self, control: Control) -> None:
        with control.client() as client:
            message = client.post("/connections", json={"name": "", "mysqlPort": 0, "extra": 1}).json()["message"]
        told = {problem.partition(":")[0] for problem in message.split("; ")}
        assert told == {
            "name",
            "mysqlPort",
            "extra",
            "mysqlHost",
            "availableSchemas",
            "mysqlUser",
            "mysqlPassword",
        }

    def test_a_lone_surrogate_is_refused(self, control: Control) -> None:
        with control.client() as client:
            content = b'{"name": "\\ud800", "mysqlHost": "h", "availableSchemas": ["a"], "mysqlUser": "u", "mysqlPassword": "p"}'
            answer = client.post("/connections", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith("name: ")
