"""Where instances run: child processes of this machine, or services of Amazon ECS."""

from __future__ import annotations

from pathlib import Path

from engine.control.config import ControlConfig
from engine.control.launchers.launcher import Launcher
from engine.control.secrets.store import SecretStore

__all__ = ["Launcher", "open_launcher"]


def open_launcher(config: ControlConfig, secrets: SecretStore) -> Launcher:
    """The launcher that the configuration chooses. Raises ConfigError when it cannot be used."""
    section = config.launcher
    if section.kind == "local":
        from engine.control.launchers.local import LocalLauncher

        return LocalLauncher(Path(config.control.data_dir), secrets)
    from engine.control.launchers.ecs import EcsLauncher
    from engine.control.launchers.taskdefinition import EcsSettings

    settings = EcsSettings(
        cluster=section.cluster or "",
        image=section.image or "",
        subnets=section.subnets,
        security_groups=section.security_groups,
        execution_role=section.execution_role or "",
        region=section.region or config.control.region,
        log_group=section.log_group,
        task_role=section.task_role,
        assign_public_ip=section.assign_public_ip,
        ephemeral_storage_gb=section.ephemeral_storage_gb,
    )
    return EcsLauncher(settings, secrets)
