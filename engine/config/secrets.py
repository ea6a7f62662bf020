"""Passwords kept outside the configuration: in a file, or in the AWS SSM Parameter Store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import Problem
from engine.source import Secret


def resolve_password(connection: Mapping[str, Any], problems: list[Problem]) -> Secret | None:
    """Fetch the password that `password_file` or `password_ssm` points to; None when neither is set.

    What goes wrong is added to `problems`. A line break at the end of a file is not part of the password.
    """
    path, parameter = connection.get("password_file"), connection.get("password_ssm")
    if isinstance(path, str) and path:
        return _from_file(path, problems)
    if isinstance(parameter, str) and parameter:
        return _from_ssm(parameter, problems)
    return None


def _from_file(path: str, problems: list[Problem]) -> Secret | None:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        problems.append(Problem("connection.password_file", f"{path} cannot be read: {reason}"))
        return None
    return Secret(text.removesuffix("\n").removesuffix("\r"))


def _from_ssm(parameter: str, problems: list[Problem]) -> Secret | None:
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        problems.append(
            Problem("connection.password_ssm", "needs the AWS client: pip install 'reflex-engine[aws]'"),
        )
        return None
    try:
        answer = boto3.client("ssm").get_parameter(Name=parameter, WithDecryption=True)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        problems.append(Problem("connection.password_ssm", f"{parameter} cannot be read: AWS answered {code}"))
        return None
    except BotoCoreError as error:
        kind = type(error).__name__
        problems.append(Problem("connection.password_ssm", f"{parameter} cannot be read: {kind} (region, credentials)"))
        return None
    return Secret(str(answer["Parameter"]["Value"]))
