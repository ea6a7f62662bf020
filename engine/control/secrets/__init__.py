"""Where the passwords of sources, and the tokens of instances, are kept: never in the state file."""

from __future__ import annotations

from engine.control.config import ControlConfig
from engine.control.secrets.store import SecretStore

__all__ = ["SecretStore", "open_secret_store"]


def open_secret_store(config: ControlConfig) -> SecretStore:
    """The store that the configuration chooses. Raises ConfigError when it cannot be used."""
    if config.secrets.store == "ssm":
        from engine.control.secrets.ssm import SsmSecretStore

        return SsmSecretStore(config.secrets.prefix, region=config.secrets.region)
    from engine.control.secrets.file import FileSecretStore

    return FileSecretStore(config.secrets.path, config.secrets.key_file)
