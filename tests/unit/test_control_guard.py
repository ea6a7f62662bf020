"""What every request passes: tokens, limits, the form of bodies; and errors that have one form, whatever made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from engine.cli import main
from engine.control.failures import StateUnusable
from engine.control.keys import authenticate
from engine.control.limits import BODY_LIMIT, RateLimit
from engine.control.state import Store
from tests.support.control import BODY, PASSWORD, Control, given

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    with Control.on(tmp_path) as control:
        yield control


def error(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error", "message"}
    assert isinstance(body["message"], str)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, body["error"]


class TestTokens:
    def test_only_an_active_token_is_let_in(self, control: Control) -> None:
        good = control.token
        id, _, secret = good.removeprefix("rmk_").partition(".")
        other = control.new_token("default", "other").partition(".")[2]
        wrong = [
            "",
            "x",
            "rmk_",
            f"rmk_{id}",
            f"rmk_{id}.",
            secret,
            f"{id}.{secret}",
            f"rmk_{id}.{secret[:-1]}",
            f"rmk_{id}.{secret}x",
            f"rmk_{id}.{other}",
            f"rmk_{'0' * 16}.{secret}",
            f"RMK_{id}.{secret}",
        ]
        for token in wrong:
            with control.client(token) as client:
                for path in ("/connections", "/nothing", "/databases/x"):
                    answer = client.get(path)
                    assert error(answer) == (401, "unauthorized"), token
                    assert answer.headers["www-authenticate"] == "Bearer"
                assert error(client.post("/connections", content=b"{not json", headers=JSON)) == (401, "unauthorized")
        with control.client("") as client:
            for scheme in ("Basic", "", "bearer2"):
                answer = client.get("/connections", headers={"Authorization": f"{scheme} {good}"})
                assert error(answer) == (401, "unauthorized")
            assert client.get("/connections", headers={"Authorization": f"bearer  {good} "}).status_code == 200
            assert client.get("/connections", headers=[(b"Authorization", b"Bearer \xff\xfe")]).status_code == 401

    def test_a_revoked_token_ends_at_once(self, control: Control) -> None:
        with control.client() as client:
            assert client.get("/connections").status_code == 200
            control.store.revoke_keys(control.store.ensure_account("default").id, "test")
            assert client.get("/connections").status_code == 401

    def test_what_is_kept_is_a_digest(self, control: Control) -> None:
        secret = control.token.partition(".")[2]
        [key] = control.store.all_keys()
        assert key.digest == hashlib.sha256(secret.encode()).digest()
        assert len(secret) >= 43
        assert authenticate(control.store, control.token) == key

    def test_a_health_check_needs_none(self, control: Control) -> None:
        with control.client("", base="") as client:
            assert client.get("/livez").json() == {"status": "alive"}
            assert client.head("/livez").status_code == 200


class TestForms:
    @pytest.mark.parametrize(
        ("method", "path", "options", "expected"),
        [
            ("GET", "/nothing", {}, (404, "not_found")),
            ("GET", "/connections/", {}, (404, "not_found")),
            ("GET", "/connections/not-an-id", {}, (404, "not_found")),
            ("GET", "/connections/00000000-0000-0000-0000-000000000000", {}, (404, "not_found")),
            ("GET", "/connections", {"params": {"name": "x"}}, (400, "validation_error")),
            ("GET", "/databases", {"params": {"connection_id": "x"}}, (400, "validation_error")),
            ("PATCH", "/connections/test-connection", {}, (405, "method_not_allowed")),
            ("PUT", "/connections", {}, (405, "method_not_allowed")),
            ("OPTIONS", "/connections", {}, (405, "method_not_allowed")),
            ("POST", "/connections", {"content": b"{}"}, (415, "unsupported_media_type")),
            (
                "POST",
                "/connections",
                {"content": b"a=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
                (415, "unsupported_media_type"),
            ),
            ("POST", "/connections", {}, (400, "validation_error")),
            ("POST", "/connections", {"content": b"{", "headers": JSON}, (400, "validation_error")),
            ("POST", "/connections", {"content": b'{"a": "\xc3"}', "headers": JSON}, (400, "bad_request")),
            ("POST", "/connections", {"content": b"[" * 100_000, "headers": JSON}, (400, "bad_request")),
            (
                "POST",
                "/connections",
                {"content": b'{"name":' + b"1" * 9999 + b"}", "headers": JSON},
                (400, "bad_request"),
            ),
            ("POST", "/connections", {"json": []}, (400, "validation_error")),
            ("POST", "/connections", {"json": "text"}, (400, "validation_error")),
            ("POST", "/connections", {"content": b"null", "headers": JSON}, (400, "validation_error")),
            ("POST", "/connections", {"json": {"name": "x" * (BODY_LIMIT + 1)}}, (413, "body_too_large")),
        ],
        ids=str,
    )
    def test_errors_have_one_form(
        self, control: Control, method: str, path: str, options: dict[str, Any], expected: tuple[int, str]
    ) -> None:
        with control.client() as client:
            answer = client.request(method, path, **options)
            assert error(answer) == expected
            assert answer.headers["x-content-type-options"] == "nosniff"

    def test_a_path_says_all_its_methods(self, control: Control) -> None:
        with control.client() as client:
            assert client.put("/connections").headers["allow"] == "GET, POST"
            assert client.put(f"/databases/{'0' * 32}").headers["allow"] == "DELETE, GET, PATCH"
        with control.client("", base="") as client:
            assert client.post("/livez").status_code == 405

    def test_a_body_without_a_length_is_limited_too(self, control: Control) -> None:
        def chunks() -> Iterator[bytes]:
            for _ in range(BODY_LIMIT // 65536 + 1):
                yield b" " * 65536

        with control.client() as client:
            assert error(client.post("/connections", content=chunks(), headers=JSON)) == (413, "body_too_large")

    def test_json_may_say_its_charset(self, control: Control) -> None:
        with control.client() as client:
            headers = {"Content-Type": "Application/JSON; charset=utf-8"}
            assert client.post("/connections", content=json.dumps(BODY), headers=headers).status_code == 201

    def test_what_fails_inside_tells_nothing(
        self, control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError(PASSWORD)

        monkeypatch.setattr(control.store, "create_connection_with_instance", fail)
        with control.client() as client:
            answer = client.post("/connections", json=BODY)
        assert error(answer) == (500, "internal")
        assert PASSWORD not in answer.text

    def test_a_state_that_cannot_be_read_is_said(self, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise StateUnusable("the state file cannot be used (SQLITE_FULL)")

        with control.client() as client:
            monkeypatch.setattr(control.store, "connections", fail)
            assert error(client.get("/connections")) == (503, "state_unusable")
            monkeypatch.setattr(control.store, "key", fail)
            assert error(client.get("/connections")) == (503, "state_unusable")


class TestLimits:
    def test_a_bucket_fills_with_time(self) -> None:
        time = 0.0
        limit = RateLimit(60, clock=lambda: time)
        assert [limit.wait("a") for _ in range(10)] == [0.0] * 10
        assert limit.wait("a") == pytest.approx(1.0)
        assert limit.wait("b") == 0.0, "each name has its own"
        time = 0.5
        assert limit.wait("a") == pytest.approx(0.5)
        time = 1.0
        assert limit.wait("a") == 0.0
        assert limit.wait("a") > 0
        time = 1000.0
        assert [limit.wait("a") for _ in range(11)][-2:] == [0.0, pytest.approx(1.0)]
        assert [RateLimit(0).wait("a") for _ in range(100)] == [0.0] * 100

    def test_too_many_requests_of_one_key(self, tmp_path: Path) -> None:
        with Control.on(tmp_path, rate_limit=60) as control:
            with control.client() as client:
                found = [client.get("/connections") for _ in range(12)]
                assert [a.status_code for a in found[:10]] == [200] * 10
                assert error(found[11]) == (429, "too_many_requests")
                assert int(found[11].headers["retry-after"]) >= 1
            with control.client(control.new_token("default", "other")) as client:
                assert client.get("/connections").status_code == 200

    def test_too_many_wrong_tokens_of_one_address(self, control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.control.guard.REFUSALS_PER_MINUTE", 60)
        with control.client("rmk_0.wrong") as client:
            found = [client.get("/connections").status_code for _ in range(12)]
        assert found[0] == 401
        assert found[-1] == 429
        with control.client() as client:
            assert client.get("/connections").status_code == 200, "who has a token is let in"


class TestCommands:
    @pytest.fixture
    def config(self, tmp_path: Path) -> str:
        file = tmp_path / "control.yaml"
        file.write_text(json.dumps({"control": {"state": str(tmp_path / "state" / "state.sqlite")}}))
        return str(file)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["keys", *arguments])

    def test_create_list_revoke(self, config: str, tmp_path: Path) -> None:
        made = self.run("create", "--config", config, "--name", "ops")
        assert (made.exit_code, made.stderr) == (0, "")
        token = made.stdout.removesuffix("\n")
        assert token.startswith("rmk_")
        store = Store(tmp_path / "state" / "state.sqlite")
        key = authenticate(store, token)
        assert key is not None
        other = self.run("create", "--config", config, "--name", "ops", "--account", "acme")
        assert other.exit_code == 0
        again = self.run("create", "--config", config, "--name", "ops")
        assert (again.exit_code, again.stdout) == (2, "")
        assert again.stderr.startswith("--name: ")
        listed = self.run("list", "--config", config).stdout
        assert listed.count("active") == 2
        assert all(word in listed for word in ("ops", "default", "acme", str(key.account_id), key.id))
        assert token.partition(".")[2] not in listed
        gone = self.run("revoke", "--config", config, "--name", "ops")
        assert (gone.exit_code, gone.stdout) == (0, "revoked ops\n")
        assert authenticate(store, token) is None
        assert authenticate(store, other.stdout.strip()) is not None
        assert "revoked 20" in self.run("list", "--config", config).stdout
        assert self.run("revoke", "--config", config, "--name", "ops").exit_code == 2
        assert self.run("revoke", "--config", config, "--name", "ops", "--account", "nobody").exit_code == 2
        store.close()

    def test_usage(self, config: str, tmp_path: Path) -> None:
        assert self.run("create", "--name", "ops").exit_code == 2
        assert self.run("create", "--config", config, "--name", "a\nb").exit_code == 2
        assert self.run("list", "--config", str(tmp_path / "missing")).exit_code == 2
        (tmp_path / "state").write_text("a file where the folder should be")
        broken = self.run("list", "--config", config)
        assert broken.exit_code == 2
        assert "control.state" in broken.stderr
        assert "cannot be opened" in broken.stderr


def test_a_message_never_repeats_what_was_sent(control: Control) -> None:
    odd = {name: PASSWORD for name in BODY if name != "mysqlPassword"}
    with control.client() as client:
        for body in (odd, given(BODY, mysqlHost=f"{PASSWORD}/x"), given(BODY, instance__mysqlDb=PASSWORD)):
            answer = client.post("/connections", json=body)
            assert answer.status_code == 400
            assert "hunter2" not in answer.text
        odd_id = client.get("/databases", params={"connectionId": "zzz"})
        assert odd_id.json() == {"error": "validation_error", "message": "connectionId: must be a UUID"}
