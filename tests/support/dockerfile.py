"""A Dockerfile's steps, to be run on this machine where there is no Docker: its stages, its instructions, its context."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Stage:
    """One stage: its base image and its instructions, in order, as (word, rest)."""

    base: str
    name: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, word: str) -> str:
        """The rest of the last instruction of this word."""
        return [rest for given, rest in self.steps if given == word][-1]

    def environment(self) -> dict[str, str]:
        """What ENV sets."""
        text = " ".join(rest for word, rest in self.steps if word == "ENV")
        return dict(pair.split("=", 1) for pair in text.split())

    def command(self, word: str) -> list[str]:
        """The exec form of ENTRYPOINT, CMD or HEALTHCHECK."""
        rest = self.last(word)
        return [str(part) for part in json.loads(rest[rest.index("[") :])]


def stages(dockerfile: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].steps.append((word, rest.strip()))
    return found


def copy_context(root: Path, target: Path) -> list[str]:
    """Copy what Docker would be sent: the tracked and new files of `root` that .dockerignore lets through."""
    patterns = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    sent = []
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file() and not _ignored(name, patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
            sent.append(name)
    return sent


def _ignored(name: str, patterns: list[str]) -> bool:
    """As Docker decides: the last pattern that matches the file, or a folder above it, counts."""
    above = [name, *(str(parent) for parent in Path(name).parents if str(parent) != ".")]
    ignored = False
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        forms = [plain, plain.removeprefix("**/")]
        if any(_matches(candidate, form) for candidate in above for form in forms):
            ignored = not pattern.startswith("!")
    return ignored


def _matches(name: str, pattern: str) -> bool:
    """Whether a path matches; ``*`` stays within one part."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
