"""Fetches database servers (and sysbench, PgBouncer) that this machine does not have, without installing anything.

    python -m tests.support.fetch_servers [NAME ...]

Each server comes from another Debian suite of the machine's own mirror, by a private apt configuration (its own lists,
cache and an empty package database), is unpacked into ``.servers/NAME`` and started by that folder's own dynamic
loader, so that it neither needs nor touches the machine's libraries. Idempotent: what is there is kept. Needs no root.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ROOT / ".servers"
APT_SOURCES = Path("/etc/apt")
KEYRINGS = Path("/usr/share/keyrings")

# What packages depend on to be configured on a machine, and a server in a folder does not need to run.
NOT_NEEDED = (
    *("adduser", "base-passwd", "debconf*", "init-system-helpers", "libc-bin", "libc-l10n", "libdebconfclient0"),
    *("libjson-perl", "libipc-run-perl", "libio-pty-perl", "libllvm*", "libperl*", "libsemanage*", "libsepol*"),
    *("libtext-*", "libz3-4", "locales", "login*", "netbase", "openssl", "passwd", "perl*", "postgresql-client-common"),
    *("postgresql-common*", "procps", "libproc2*", "sensible-utils", "ssl-cert", "systemd", "libsystemd-shared"),
    *("sysvinit-utils", "tzdata", "ucf", "libpam-modules*", "libmount1", "libblkid1", "gcc-*-base"),
)


@dataclass(frozen=True, slots=True)
class Server:
    """One server to fetch: the Debian suite and packages, the folders of programs, and which of them to wrap.

    `own_folder`: the folders of programs are named for the version, so that their being on the machine says that this
    very server is installed.
    """

    name: str
    suite: str
    packages: tuple[str, ...]
    bins: tuple[str, ...]
    programs: tuple[str, ...] = ("*",)
    not_needed: tuple[str, ...] = NOT_NEEDED
    own_folder: bool = False


def _postgres(version: int, suite: str) -> Server:
    name = f"postgresql-{version}"
    return Server(name, suite, (name,), (f"usr/lib/postgresql/{version}/bin",), own_folder=True)


def _mariadb(version: str, suite: str) -> Server:
    return Server(f"mariadb-{version}", suite, ("mariadb-server-core",), ("usr/sbin",), ("mariadbd",))


CATALOG = {
    server.name: server
    for server in (
        _postgres(15, "bookworm"),
        _postgres(17, "trixie"),
        _postgres(18, "sid"),
        # The server alone: the fixtures talk to it by the driver.
        Server("mysql-9.7", "sid", ("mysql-server-core",), ("usr/sbin",), ("mysqld",)),
        _mariadb("10.11", "bookworm"),
        _mariadb("11.8", "trixie"),
        Server("sysbench", "bookworm", ("sysbench",), ("usr/bin",), ("sysbench",)),
        Server("pgbouncer", "bookworm", ("pgbouncer",), ("usr/sbin",), ("pgbouncer",)),
    )
}


class FetchError(Exception):
    """A server cannot be had here; the message says why."""


def debian_mirror() -> str:
    """The address of the Debian archive that this machine's own apt configuration uses."""
    for path in sorted(APT_SOURCES.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, flags=re.MULTILINE))
            if "deb" in fields.get("Types", "").split() and "main" in fields.get("Components", "").split():
                for uri in fields.get("URIs", "").split():
                    if re.search(r"/debian/?$", uri):
                        return str(uri)
    for path in (APT_SOURCES / "sources.list", *sorted(APT_SOURCES.glob("sources.list.d/*.list"))):
        if path.exists():
            for line in path.read_text().splitlines():
                found = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+/debian/?)\s+\S+\s+.*\bmain\b", line)
                if found:
                    return found[1]
    raise FetchError("no Debian mirror in this machine's apt sources")


class PrivateApt:
    """apt with lists, cache and package database in a folder of ours; proxies and credentials stay the machine's."""

    def __init__(self, home: Path, suite: str) -> None:
        self.home = home
        self.archives = home / "archives"
        for folder in ("state/lists/partial", "cache/archives/partial", "archives", "preferences.d"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "status").touch()
        keyring = KEYRINGS / "debian-archive-keyring.gpg"
        signed = f"[signed-by={keyring}] " if keyring.exists() else ""
        (home / "sources.list").write_text(f"deb {signed}{debian_mirror()} {suite} main\n")
        self._options: list[str] = []
        for name, value in {
            "Dir::Etc::sourcelist": home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": home / "preferences.d",
            "Dir::State": home / "state",
            "Dir::State::status": home / "status",
            "Dir::Cache": home / "cache",
            "Acquire::Check-Valid-Until": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "",
            "APT::Install-Recommends": "false",
        }.items():
            self._options += ["-o", f"{name}={value}"]

    def run(self, *arguments: str) -> str:
        """Run apt-get; returns what it printed. FetchError when it fails."""
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "-qq", *self._options, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.archives, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            # The mirror's address is the machine's own business.
            said = re.sub(r"\S+://\S+", "<mirror>", done.stderr.strip())
            raise FetchError(f"apt-get {' '.join(arguments[:3])} failed:\n{said}")
        return done.stdout

    def download(self, packages: Sequence[str], not_needed: Sequence[str]) -> list[Path]:
        """Download packages with everything they depend on, less what is not needed; returns the files."""
        self.run("update")
        plan = re.findall(r"^Inst (\S+) \((\S+)", self.run("install", "--simulate", *packages), flags=re.MULTILINE)
        wanted = [f"{n}={v}" for n, v in plan if not any(fnmatch.fnmatch(n, pattern) for pattern in not_needed)]
        if not wanted:
            raise FetchError(f"apt-get plans to install nothing for {' '.join(packages)}")
        self.run("download", *wanted)
        return sorted(self.archives.glob("*.deb"))


def wrap(folder: Path, server: Server) -> None:
    """Put a script in place of each program that starts it by the folder's own loader and libraries.

    The program itself moves to ``.elf/``. It sees the script as its own path (``--argv0``), so that it finds its
    sibling programs (initdb calls postgres) and its files relative to it. The scripts hold no absolute path.
    """
    loaders = [path for path in folder.rglob("ld-linux*.so.*") if path.is_file()]
    if not loaders:
        raise FetchError(f"{server.name}: no dynamic loader among its packages")
    loader = min(loaders, key=lambda path: len(path.parts)).relative_to(folder)
    folders = (*folder.glob("lib/*-linux-gnu"), *folder.glob("usr/lib/*-linux-gnu"))
    libraries = [path.relative_to(folder) for path in folders if any(path.glob("*.so*"))]
    for bin_folder in server.bins:
        programs = folder / bin_folder
        top = "/".join([".."] * len(Path(bin_folder).parts))
        paths = ":".join(f"$top/{path}" for path in libraries)
        (programs / ".elf").mkdir()
        for program in sorted(programs.iterdir()):
            wanted = any(fnmatch.fnmatch(program.name, pattern) for pattern in server.programs)
            if not (wanted and program.is_file() and program.read_bytes()[:4] == b"\x7fELF"):
                continue
            program.rename(programs / ".elf" / program.name)
            program.write_text(
                "#!/bin/sh\n"
                f'here=$(dirname "$(readlink -f "$0")")\ntop="$here/{top}"\n'
                f'exec "$top/{loader}" --argv0 "$here/{program.name}" --library-path "{paths}" '
                f'"$here/.elf/{program.name}" "$@"\n'
            )
            program.chmod(0o755)


def fetch(server: Server, *, servers: Path = SERVERS) -> bool:
    """Fetch one server unless it is there or installed; returns whether it was. FetchError when it cannot be had."""
    target = servers / server.name
    if target.is_dir() or (server.own_folder and any(("/" / Path(folder)).is_dir() for folder in server.bins)):
        return False
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise FetchError(f"{tool} is not on this machine: servers can be fetched on Debian only")
    servers.mkdir(exist_ok=True)
    # Unpacked beside the target and renamed at the end, so that a broken run leaves nothing half done.
    with tempfile.TemporaryDirectory(prefix=f".{server.name}-", dir=servers) as scratch:
        folder = Path(scratch) / "root"
        folder.mkdir()
        for archive in PrivateApt(Path(scratch) / "apt", server.suite).download(server.packages, server.not_needed):
            subprocess.run(["dpkg-deb", "--extract", archive, folder], check=True, stdin=subprocess.DEVNULL)
        wrap(folder, server)
        shutil.rmtree(folder / "usr/share/doc", ignore_errors=True)
        shutil.rmtree(folder / "usr/share/locale", ignore_errors=True)
        shutil.rmtree(folder / "usr/share/man", ignore_errors=True)
        folder.chmod(0o755)
        folder.rename(target)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Fetch the named servers (default: all); prints one line each."""
    parser = argparse.ArgumentParser(description="Fetch database servers into .servers/ (Debian only).")
    parser.add_argument("names", nargs="*", choices=[[], *CATALOG], help=f"of: {', '.join(CATALOG)}; default: all")
    names = parser.parse_args(arguments).names or list(CATALOG)
    failed = False
    for name in names:
        try:
            print(f"{name}: {'fetched' if fetch(CATALOG[name]) else 'is there'}", flush=True)
        except FetchError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
