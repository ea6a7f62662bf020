"""The fields of ``control.yaml``, and how it is read. Every field has a default, so an empty file works.

Descriptions and errors are made as for ``reflex.yaml`` (`engine.config`): a field's `description` completes the
sentence "must be …", and every problem is told at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.config.loader import read_file, read_mapping, validated
from engine.config.model import Section, TlsSection, Whole
from engine.config.rules import section
from engine.errors import Problem

Text = Annotated[str, Field(min_length=1)]


class ServerTlsSection(Section):
    """`control.tls`: HTTPS, when both are given."""

    cert: str | None = Field(default=None, min_length=1, description="the path of a PEM file with the certificate")
    key: str | None = Field(default=None, min_length=1, description="the path of a PEM file with its key")


class ControlSection(Section):
    """`control`: the API itself."""

    host: str = Field(default="127.0.0.1", min_length=1, description="a host name or an IP address to listen on")
    port: Whole = Field(default=8090, ge=0, le=65535, description="a whole number from 0 (any free port) to 65535")
    state: str = Field(default="./control/state.sqlite", min_length=1, description="the path of the state file")
    data_dir: str = Field(default="./control/instances", min_length=1, description="the path of a folder")
    region: str = Field(default="local", min_length=1, max_length=64, description="a name of 1 to 64 characters")
    reconcile_interval: Whole = Field(default=5, ge=1, le=3600, description="a whole number of seconds from 1 to 3600")
    rate_limit: Whole = Field(
        default=6000, ge=0, le=1_000_000, description="a whole number of requests per minute, 0 for no limit"
    )
    tls: ServerTlsSection = Field(default=ServerTlsSection(), description="a mapping with cert, key")


class SecretsSection(Section):
    """`secrets`: where the passwords of sources are kept."""

    store: Literal["file", "ssm"] = Field(default="file", description="one of file, ssm")
    path: str = Field(default="./control/secrets", min_length=1, description="the path of a folder (store: file)")
    key_file: str = Field(
        default="./control.key", min_length=1, description="the path of the file with the encryption key (store: file)"
    )
    prefix: str = Field(
        default="/reflex",
        pattern=r"^(/[A-Za-z0-9_.-]+)+$",
        description="the first part of parameter names, like /reflex (store: ssm)",
    )
    region: str | None = Field(default=None, min_length=1, description="an AWS region (store: ssm)")


class LauncherSection(Section):
    """`launcher`: where instances run."""

    kind: Literal["local", "ecs"] = Field(default="local", description="one of local, ecs")
    cluster: str | None = Field(default=None, min_length=1, description="the name of an ECS cluster")
    image: str | None = Field(default=None, min_length=1, description="the reference of a container image")
    subnets: tuple[Text, ...] = Field(default=(), description="a list of subnet ids")
    security_groups: tuple[Text, ...] = Field(default=(), description="a list of security group ids")
    execution_role: str | None = Field(default=None, min_length=1, description="the ARN of the task execution role")
    task_role: str | None = Field(default=None, min_length=1, description="the ARN of the task role")
    log_group: str | None = Field(default=None, min_length=1, description="the name of a CloudWatch log group")
    region: str | None = Field(default=None, min_length=1, description="an AWS region")
    assign_public_ip: bool = Field(default=False, description="true or false")
    ephemeral_storage_gb: Whole | None = Field(
        default=None, ge=21, le=200, description="a whole number of GiB from 21 to 200"
    )


class SourcesSection(Section):
    """`sources`: how the instances and test-connection reach source databases."""

    tls: TlsSection = Field(default=TlsSection(), description="a mapping with mode, ca, cert, key")


class ControlConfig(Section):
    """The whole of ``control.yaml``. Build it with `load_control_config`."""

    version: Literal[1] = Field(default=1, description="1")
    control: ControlSection = Field(default=ControlSection(), description="a mapping: the API itself")
    secrets: SecretsSection = Field(default=SecretsSection(), description="a mapping: where secrets are kept")
    launcher: LauncherSection = Field(default=LauncherSection(), description="a mapping: where instances run")
    sources: SourcesSection = Field(default=SourcesSection(), description="a mapping with tls")


def load_control_config(path: str | os.PathLike[str], *, environ: Mapping[str, str] | None = None) -> ControlConfig:
    """Read the configuration. Relative paths in it are relative to the working directory. Raises ConfigError."""
    return parse_control_config(read_file(Path(path), "--config"), environ=environ)


def parse_control_config(text: str, *, environ: Mapping[str, str] | None = None) -> ControlConfig:
    """Build the configuration from YAML or JSON text. Raises ConfigError with every problem found."""
    raw, problems = read_mapping(text, environ=environ, empty=True)
    for rule in (_server_tls, _source_tls, _key_apart, _ecs):
        problems += rule(raw)
    return validated(ControlConfig, raw, problems)


def _server_tls(raw: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _tls_files(section(raw, "control", "tls"), "control.tls", ("cert", "key"))


def _source_tls(raw: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _tls_files(section(raw, "sources", "tls"), "sources.tls", ("ca", "cert", "key"))


def _tls_files(tls: Mapping[str, Any], field: str, names: tuple[str, ...]) -> Iterator[Problem]:
    for one, other in (("cert", "key"), ("key", "cert")):
        if tls.get(one) and not tls.get(other):
            yield Problem(f"{field}.{other}", f"is required when {field}.{one} is set")
    for name in names:
        path = tls.get(name)
        if isinstance(path, str) and path and not os.path.isfile(path):  # noqa: PTH113 - raises for no name, however long
            yield Problem(f"{field}.{name}", "must be the path of a PEM file: there is no such file")


def _key_apart(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """A copy of the data must not bring its key along."""
    secrets, control = section(raw, "secrets"), section(raw, "control")
    key = secrets.get("key_file", SecretsSection.model_fields["key_file"].default)
    folders = {
        "secrets.path": secrets.get("path", SecretsSection.model_fields["path"].default),
        "control.data_dir": control.get("data_dir", ControlSection.model_fields["data_dir"].default),
    }
    for field, folder in folders.items():
        if isinstance(key, str) and isinstance(folder, str) and key and folder:
            if Path(key).absolute().is_relative_to(Path(folder).absolute()):
                yield Problem(
                    "secrets.key_file", f"must not lie within {field}: who copies that folder would have both"
                )


def _ecs(raw: Mapping[str, Any]) -> Iterator[Problem]:
    launcher = section(raw, "launcher")
    if launcher.get("kind") != "ecs":
        return
    for name in ("cluster", "image", "subnets", "execution_role"):
        if not launcher.get(name):
            yield Problem(f"launcher.{name}", "is required for kind ecs")
    if section(raw, "secrets").get("store", "file") != "ssm":
        yield Problem("secrets.store", "must be ssm for launcher.kind ecs: tasks read their secrets by reference")
    region = launcher.get("region") or section(raw, "control").get("region")
    if region is not None and not (isinstance(region, str) and re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", region)):
        yield Problem("launcher.region", "must be an AWS region, like eu-west-1 (default: control.region)")
