"""The container and what is deployed with it, as far as a machine without Docker can run its own steps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine.config.loader import parse_config
from engine.control.config import parse_control_config
from tests.support import guard
from tests.support.dockerfile import Stage, copy_context, stages
from tests.support.servers import REFLEX, Database
from tests.support.waiting import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BUILD, FINAL = stages(ROOT / "Dockerfile")
UID = 10001


class TestDockerfile:
    def test_pinned_slim_and_not_root(self) -> None:
        assert BUILD.base == FINAL.base
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", FINAL.base)
        assert FINAL.last("USER") == str(UID)
        assert FINAL.last("STOPSIGNAL") == "SIGTERM"
        assert (FINAL.command("ENTRYPOINT"), FINAL.command("CMD")) == (["reflex-engine"], ["run"])
        assert "/livez" in FINAL.command("HEALTHCHECK")[-1]
        # Nothing of the build but what was installed comes along.
        assert [rest for word, rest in FINAL.steps if word in ("COPY", "ADD")] == [
            "--from=build /opt/reflex /opt/reflex"
        ]

    def test_only_what_is_needed_is_sent(self, tmp_path: Path) -> None:
        sent = copy_context(ROOT, tmp_path)
        assert {name.partition("/")[0] for name in sent} == {
            "LICENSE",
            "README.md",
            "connectors",
            "deploy",
            "engine",
            "pyproject.toml",
        }
        assert [name for name in sent if name.startswith("deploy/")] == ["deploy/constraints.txt"]

    def test_every_dependency_has_a_pinned_version(self) -> None:
        pinned = {
            line.partition("==")[0] for line in (DEPLOY / "constraints.txt").read_text().splitlines() if "==" in line
        }
        import tomllib

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = {
            re.split(r"[\[<>=!~ ]", requirement)[0].lower()
            for requirement in [*project["dependencies"], *project["optional-dependencies"]["aws"]]
        }
        assert wanted - pinned == set()


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """What the build stage makes, from the context that Docker would be sent, in folders of this machine."""
    # Not below pytest's own folders, which only their owner may enter: the process is another user's.
    folder = Path(tempfile.mkdtemp(prefix="reflex-image-"))
    folder.chmod(0o755)
    try:
        yield build(folder)
    finally:
        shutil.rmtree(folder)


def build(folder: Path) -> Path:
    prefix, source = folder / "opt", folder / "src"
    source.mkdir()
    copy_context(ROOT, source)
    python = Path(sys.executable).resolve().parent
    environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}", "PIP_ROOT_USER_ACTION": "ignore"}
    environment.pop("PYTHONPATH", None)
    for word, rest in BUILD.steps:
        if word != "RUN":
            continue
        command = rest.replace("/opt/reflex", str(prefix)).replace("python -m venv", f"{sys.executable} -m venv")
        # Sets of wheels are kept by pip where Docker keeps layers.
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=source, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(source)
    return prefix


def as_the_image_says(stage: Stage, prefix: Path, **more: str) -> dict[str, str]:
    """The environment of the container: nothing of this machine's."""
    environment = {name: value.replace("/opt/reflex", str(prefix)) for name, value in stage.environment().items()}
    return {**environment, "PATH": environment["PATH"].replace("$PATH", "/usr/bin:/bin"), **more}


def the_images_user(installed: Path) -> dict[str, Any]:
    """The arguments that make a process the image's user; none where that user cannot enter this machine's Python."""
    identity: dict[str, Any] = {"user": UID, "group": UID, "extra_groups": []}
    if os.geteuid() != 0:
        return {}
    try:
        subprocess.run([installed / "bin" / "python", "-c", ""], cwd="/", check=True, **identity)
    except (PermissionError, subprocess.CalledProcessError):
        return {}
    return identity


@pytest.mark.slow
class TestImage:
    def test_it_runs_is_healthy_and_ends_in_time_and_goes_on_where_it_was(
        self, installed: Path, postgres: Database, tmp_path: Path
    ) -> None:
        postgres.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        postgres.execute("INSERT INTO orders SELECT generate_series(1, 100)")
        data = installed.parent / "data"
        data.mkdir(mode=0o750, exist_ok=True)
        identity = the_images_user(installed)
        if identity:
            os.chown(data, UID, UID)
        port = free_port()
        config = {
            "connection": {**postgres.connection_config(), "password": "${SHOP_DB_PASSWORD}"},
            "instance": {"name": "in-a-container", "schema": postgres.name, "sync_mode": "logical"},
            "replica": {"path": str(data / "shop.duckdb")},
            "http": {"host": "0.0.0.0", "port": port, "token": "${REFLEX_TOKEN}"},
        }
        environment = as_the_image_says(
            FINAL,
            installed,
            REFLEX_CONFIG=json.dumps(config),
            REFLEX_PORT=str(port),
            REFLEX_TOKEN="a-token",
            SHOP_DB_PASSWORD=REFLEX.password,
            HOME=str(data),
        )
        log = tmp_path / "log"
        command = [*FINAL.command("ENTRYPOINT"), *FINAL.command("CMD")]
        command[0] = str(installed / "bin" / command[0])
        health = FINAL.command("HEALTHCHECK")
        health[0] = str(installed / "bin" / health[0])
        http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer a-token"}, trust_env=False
        )

        def count() -> int:
            answer = http.post("/query", json={"sql": "SELECT count(*) FROM orders"})
            assert answer.status_code == 200, answer.text
            return int(answer.json()["rows"][0][0])

        with http:
            for expected in (100, 150):
                with log.open("ab") as output:
                    process = subprocess.Popen(
                        command, cwd=data, env=environment, stdout=output, stderr=output, **identity
                    )
                guard.watch(process.pid)
                try:
                    wait_until(
                        lambda: http.get("/readyz").status_code == 200,
                        60,
                        ignore=(httpx.TransportError,),
                        message=lambda: log.read_text()[-3000:],
                    )
                    wait_until(lambda: count() == expected, 30)  # noqa: B023 - called at once
                    assert subprocess.run(health, env=environment, timeout=10, check=False).returncode == 0
                    assert httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 401
                    began = time.monotonic()
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(30) == 0
                    assert time.monotonic() - began < 10
                finally:
                    if process.poll() is None:
                        process.kill()
                    process.wait()
                    guard.forget(process.pid)
                assert subprocess.run(health, env=environment, capture_output=True, check=False).returncode != 0
                postgres.execute("INSERT INTO orders SELECT generate_series(101, 150) ON CONFLICT DO NOTHING")
        events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        names = [event.get("event") for event in events]
        again = len(names) - names[::-1].index("started")
        assert "tables_loaded" in names[:again]
        assert "tables_loaded" not in names[again:], "it went on from the replica"
        assert REFLEX.password not in log.read_text()

    def test_every_backend_and_the_control_api_are_in_it(self, installed: Path) -> None:
        names = "psycopg, pymssql, pymysql, pymysqlreplication, boto3, cryptography, engine.control.app"
        done = subprocess.run(
            [installed / "bin" / "python", "-c", f"import {names}"],
            env=as_the_image_says(FINAL, installed),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


class TestDeploy:
    def test_compose_gives_the_engine_a_configuration_that_it_takes(self) -> None:
        services = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())["services"]
        environment = services["engine"]["environment"]
        config = parse_config(
            environment["REFLEX_CONFIG"].replace("$$", "$"),
            environ={"SHOP_DB_PASSWORD": "geheim", "REFLEX_TOKEN": "a-token"},
        )
        assert (config.connection.host, config.connection.password.reveal()) == ("source", "geheim")
        assert (config.token, config.http.port) == ("a-token", 8080)
        assert Path(config.replica.path).parent == Path(FINAL.last("WORKDIR"))
        assert "wal_level=logical" in services["source"]["command"]

    def test_the_control_api_may_do_what_it_does_and_no_more(self) -> None:
        """The policy's actions at ECS and SSM, beside the calls in the code."""
        code = (ROOT / "engine/control/launchers/ecs.py").read_text()
        calls = set(re.findall(r"self\._ecs\.(\w+)\(", code)) | set(re.findall(r"get_paginator\(\"(\w+)\"", code))
        calls -= {"get_paginator", "close"}
        store = (ROOT / "engine/control/secrets/ssm.py").read_text()
        wanted = {f"ecs:{camel(call)}" for call in calls}
        wanted |= {f"ssm:{camel(call)}" for call in re.findall(r"self\._client\.(\w+)\(", store)}
        # What is tagged while it is created needs this one, and tasks are started as a role.
        wanted |= {"ecs:TagResource", "iam:PassRole"}
        text = (DEPLOY / "ecs" / "main.tf").read_text()
        policy = text[text.index('"aws_iam_policy_document" "control"') :]
        allowed = {
            action for listed in re.findall(r"\bactions\s*=\s*\[(.*?)\]", policy, re.DOTALL)
            for action in re.findall(r'"([^"]+)"', listed)
        }  # fmt: skip
        assert allowed == wanted

    def test_terraforms_output_is_a_configuration_that_the_control_api_takes(self) -> None:
        text = (DEPLOY / "ecs" / "outputs.tf").read_text()
        body = text[text.index("launcher = {") : text.rindex("}\n  })")]
        keys = re.findall(r"^\s+(\w+)\s+=", body, re.MULTILINE)
        launcher = {key: ["x"] if key in ("subnets", "security_groups") else "x" for key in keys}
        launcher |= {"kind": "ecs", "region": "eu-west-1"}
        config = parse_control_config(yaml.safe_dump({"launcher": launcher, "secrets": {"store": "ssm"}}), environ={})
        assert config.launcher.execution_role == "x"

    def test_terraform_finds_it_valid(self, tmp_path: Path) -> None:
        plugins = os.environ.get("TERRAFORM_PLUGINS", "/opt/tf-plugins")
        if shutil.which("terraform") is None or not Path(plugins).is_dir():
            pytest.skip("terraform, or its AWS provider on the disk, is missing")
        folder = tmp_path / "ecs"
        shutil.copytree(DEPLOY / "ecs", folder)
        settings = tmp_path / "settings.tfrc"
        settings.write_text(f'provider_installation {{ filesystem_mirror {{ path = "{plugins}" }} }}\n')
        environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(settings), "CHECKPOINT_DISABLE": "1"}
        for command in (["fmt", "-check"], ["init", "-input=false", "-backend=false"], ["validate"]):
            done = subprocess.run(
                ["terraform", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)


def camel(call: str) -> str:
    return "".join(part.capitalize() for part in call.split("_"))
