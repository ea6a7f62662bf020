"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def describe(server_version: str, peers: dict[str, str]) -> dict[str, object]:
    """CPU, cores, memory, kernel, and the versions of all that takes part."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) >> 20
    own = {name: importlib.metadata.version(name) for name in ("duckdb", "pyarrow", "psycopg", "numpy")}
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "postgres": server_version,
        "engine": own,
        "peers": peers,
        "load_1m": round(os.getloadavg()[0], 2),
    }


def line(machine: dict[str, object]) -> str:
    """The machine in one line."""
    engine, peers = machine["engine"], machine["peers"]
    assert isinstance(engine, dict)
    assert isinstance(peers, dict)
    names = ", ".join(f"{name} {version}" for name, version in {**engine, **peers}.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"CPython {machine['python']}, PostgreSQL {machine['postgres']}, {names}"
    )
