"""What both secret stores promise: files, and SSM as moto plays it over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.config import parse_control_config
from engine.control.failures import SecretMissing, SecretUnavailable
from engine.control.secrets import SecretStore, open_secret_store
from engine.source import Secret
from tests.support.aws import Aws, aws_server
from tests.support.control import BODY, PASSWORD, Control


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with aws_server(monkeypatch) as aws:
        yield aws


def ssm() -> SecretStore:
    return open_secret_store(parse_control_config("secrets: {store: ssm, prefix: /acme/reflex, region: eu-west-1}"))


def files(folder: Path) -> SecretStore:
    chosen = {"path": str(folder / "secrets"), "key_file": str(folder / "key")}
    return open_secret_store(parse_control_config(f"secrets: {chosen}"))


@pytest.fixture(params=["file", "ssm"])
def store(request: pytest.FixtureRequest, aws: Aws, tmp_path: Path) -> SecretStore:
    return ssm() if request.param == "ssm" else files(tmp_path)


def test_put_get_replace_delete(store: SecretStore) -> None:
    with pytest.raises(SecretMissing):
        store.get("connections/a/1")
    store.delete("connections/a/1")
    for password in (PASSWORD, " ", "\u00fc\U0001f511\n{{ssm:x}}", "x" * 4000, "y" * 6000):
        store.put("connections/a/1", Secret(password))
        assert store.get("connections/a/1").reveal() == password
    store.put("connections/a/2", Secret("other"))
    store.delete("connections/a/1")
    store.delete("connections/a/1")
    with pytest.raises(SecretMissing):
        store.get("connections/a/1")
    assert store.get("connections/a/2").reveal() == "other"


@pytest.mark.parametrize("ref", ["a", "../b", "/a/b", "a b/c"])
def test_a_reference_is_checked(store: SecretStore, ref: str) -> None:
    with pytest.raises(ValueError, match="reference"):
        store.put(ref, Secret("x"))


def test_what_is_sent_to_ssm(aws: Aws) -> None:
    store = ssm()
    store.put("connections/a/1", Secret(PASSWORD))
    store.get("connections/a/1")
    store.delete("connections/a/1")
    [put] = aws.of("PutParameter")
    name = "/acme/reflex/connections/a/1"
    assert put == {"Name": name, "Value": PASSWORD, "Type": "SecureString", "Overwrite": True, "Tier": "Standard"}
    assert aws.of("GetParameter") == [{"Name": name, "WithDecryption": True}]
    assert aws.of("DeleteParameter") == [{"Name": name}]
    assert store.reference_for_ecs("connections/a/1") == name


def test_refusals_name_aws_code_and_no_secret(aws: Aws) -> None:
    store = ssm()
    aws.refuse = lambda _: "AccessDeniedException"
    for call in (
        lambda: store.put("connections/a/1", Secret(PASSWORD)),
        lambda: store.get("connections/a/1"),
        lambda: store.delete("connections/a/1"),
    ):
        with pytest.raises(SecretUnavailable, match="AccessDeniedException") as refused:
            call()
        assert not isinstance(refused.value, SecretMissing)
        assert PASSWORD not in repr(refused.value)


def test_the_api_over_ssm(aws: Aws, tmp_path: Path) -> None:
    with Control.on(tmp_path, secrets=ssm()) as control, control.client() as client:
        id = client.post("/connections", json=BODY).json()["connection"]["id"]
        client.post("/connections", json=BODY)
        [kept, cleaned] = [body["Name"] for body in aws.of("PutParameter")]
        assert kept.startswith(f"/acme/reflex/connections/{id}/")
        assert [body["Name"] for body in aws.of("DeleteParameter")] == [cleaned]
        aws.refuse = lambda call: "ThrottlingException" if call.operation == "PutParameter" else None
        refused = client.post("/connections", json={**BODY, "name": "second"})
        assert (refused.status_code, refused.json()["error"]) == (503, "secret_store_unavailable")
        assert PASSWORD not in refused.text
        assert len(client.get("/connections").json()["connections"]) == 1
