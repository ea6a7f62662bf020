"""control.yaml: an empty file works, and what is wrong is told by dotted field, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.control.config import ControlConfig, load_control_config, parse_control_config
from engine.errors import ConfigError

ECS: dict[str, Any] = {
    "control": {"region": "eu-west-1"},
    "secrets": {"store": "ssm"},
    "launcher": {
        "kind": "ecs",
        "cluster": "reflex",
        "image": "registry.example/reflex:1",
        "subnets": ["subnet-1"],
        "execution_role": "arn:aws:iam::1:role/x",
    },
}


def problems(raw: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_control_config(raw if isinstance(raw, str) else json.dumps(raw), environ={})
    return {p.field: p.message for p in caught.value.problems}


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "version: 1"])
def test_an_empty_file_has_every_stated_default(text: str) -> None:
    c = parse_control_config(text)
    assert (c.control.host, c.control.port, c.control.region, c.control.reconcile_interval) == (
        "127.0.0.1",
        8090,
        "local",
        5,
    )
    assert (c.control.state, c.control.data_dir) == ("./control/state.sqlite", "./control/instances")
    assert (c.secrets.store, c.secrets.path, c.secrets.prefix) == ("file", "./control/secrets", "/reflex")
    assert (c.launcher.kind, c.sources.tls.mode) == ("local", "prefer")


def test_files_and_references(tmp_path: Path) -> None:
    file = tmp_path / "control.yaml"
    file.write_text("control: {port: 0, region: '${REGION}'}\n")
    assert load_control_config(file, environ={"REGION": "eu-west-1"}).control.region == "eu-west-1"
    with pytest.raises(ConfigError, match="--config"):
        load_control_config(tmp_path / "missing.yaml")


def test_ecs_is_complete_or_says_what_is_missing() -> None:
    assert isinstance(parse_control_config(json.dumps(ECS)), ControlConfig)
    assert set(problems({"launcher": {"kind": "ecs"}, "control": {"region": "here"}})) == {
        "launcher.cluster",
        "launcher.image",
        "launcher.subnets",
        "launcher.execution_role",
        "launcher.region",
        "secrets.store",
    }


def test_a_tasks_disk_has_the_bounds_of_fargate() -> None:
    def disk(gib: int) -> str:
        return json.dumps({**ECS, "launcher": {**ECS["launcher"], "ephemeral_storage_gb": gib}})

    assert parse_control_config(disk(200)).launcher.ephemeral_storage_gb == 200
    for gib in (20, 201):
        assert set(problems(disk(gib))) == {"launcher.ephemeral_storage_gb"}


def test_everything_wrong_is_told_by_dotted_field() -> None:
    found = problems(
        {
            "version": 2,
            "control": {"port": 70000, "reconcile_interval": 0, "hots": "x", "tls": {"cert": "/nowhere.pem"}},
            "secrets": {"store": "vault", "prefix": "no-slash", "key_file": "./control/secrets/key"},
            "launcher": {"kind": "docker", "subnets": "subnet-1"},
            "sources": {"tls": {"mode": "sure"}},
        }
    )
    assert set(found) == {
        "version",
        "control.port",
        "control.reconcile_interval",
        "control.hots",
        "control.tls.cert",
        "control.tls.key",
        "secrets.store",
        "secrets.prefix",
        "secrets.key_file",
        "launcher.kind",
        "launcher.subnets",
        "sources.tls.mode",
    }
    assert "did you mean host" in found["control.hots"]
    assert found["control.port"] == "must be a whole number from 0 (any free port) to 65535"


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_a_path_that_no_file_can_have_is_told_like_one_that_is_missing(path: str) -> None:
    found = problems({"sources": {"tls": {"ca": path}}})
    assert found == {"sources.tls.ca": "must be the path of a PEM file: there is no such file"}


@pytest.mark.parametrize("text", ["[1]", "text", "a: [", "control: 5"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert problems(text)
