"""Secrets in the AWS SSM Parameter Store: one SecureString per reference, named ``<prefix>/<reference>``.

Credentials come from where AWS's own tools look for them; calls are retried by the client for a few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from engine.control.failures import SecretMissing, SecretUnavailable
from engine.control.secrets.store import checked
from engine.errors import ConfigError, Problem
from engine.source import Secret

_TIMEOUT: Final = 5
_ATTEMPTS: Final = 4
_MISSING: Final = frozenset({"ParameterNotFound", "ParameterVersionNotFound"})
_STANDARD_BYTES: Final = 4096
"""What a standard parameter holds; larger ones (to 8 KB) cost money and have to be asked for."""


class SsmSecretStore:
    """See `engine.control.secrets.store.SecretStore`. Raises ConfigError without the AWS client or a region."""

    def __init__(self, prefix: str, *, region: str | None = None) -> None:
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            message = "ssm needs the AWS client: pip install 'reflex-engine[aws]'"
            raise ConfigError([Problem("secrets.store", message)]) from None
        config = Config(
            connect_timeout=_TIMEOUT,
            read_timeout=_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )
        try:
            self._client: Any = boto3.client("ssm", region_name=region, config=config)
        except BotoCoreError as error:
            message = f"the AWS client cannot be set up ({type(error).__name__}): name a region"
            raise ConfigError([Problem("secrets.region", message)]) from error
        self._prefix = prefix.rstrip("/")

    def put(self, ref: str, secret: Secret) -> None:
        value = secret.reveal()
        tier = "Advanced" if len(value.encode()) > _STANDARD_BYTES else "Standard"
        with _translated("written"):
            self._client.put_parameter(
                Name=self._name(ref), Value=value, Type="SecureString", Overwrite=True, Tier=tier
            )

    def get(self, ref: str) -> Secret:
        with _translated("read"):
            answer = self._client.get_parameter(Name=self._name(ref), WithDecryption=True)
        return Secret(str(answer["Parameter"]["Value"]))

    def delete(self, ref: str) -> None:
        try:
            with _translated("deleted"):
                self._client.delete_parameter(Name=self._name(ref))
        except SecretMissing:
            pass

    def reference_for_ecs(self, ref: str) -> str:
        """The parameter's name: within one region and account ECS takes it in place of an ARN."""
        return self._name(ref)

    def _name(self, ref: str) -> str:
        return f"{self._prefix}/{checked(ref)}"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        if code in _MISSING:
            raise SecretMissing("there is no such secret") from None
        raise SecretUnavailable(f"a secret cannot be {what}: AWS answered {code}") from None
    except BotoCoreError as error:
        raise SecretUnavailable(f"a secret cannot be {what}: {type(error).__name__}") from None
