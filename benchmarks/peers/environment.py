"""Virtual environments for the peers, made when first needed and kept under `.servers/` (git-ignored)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class PeerFailed(RuntimeError):
    """A peer's process ended badly; the message carries the end of its standard error."""


def python(kind: str = "") -> Path:
    """The interpreter of the environment that `requirements[-kind].txt` describes; installs it when it is not there
    or the file has changed since."""
    requirements = HERE / (f"requirements-{kind}.txt" if kind else "requirements.txt")
    home = ROOT / ".servers" / (f"bench-{kind}" if kind else "bench-peers")
    interpreter = home / "bin" / "python"
    stamp = home / "installed.txt"
    wanted = requirements.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([interpreter, "-I", "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
        stamp.write_text(wanted)
    return interpreter


def versions(interpreter: Path, packages: list[str]) -> dict[str, str]:
    """The installed versions of these packages in that environment."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    out = subprocess.run([interpreter, "-I", "-c", code, *packages], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(out)
    return found


def run(interpreter: Path, script: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Run one peer script to its end. Its JSON result, with `wall_s` added: seconds from spawning it to its exit.

    Raises PeerFailed when it fails or takes longer than `timeout` seconds.
    """
    process = start(interpreter, script, arguments)
    return finish(process, timeout)


def start(interpreter: Path, script: str, arguments: dict[str, Any]) -> tuple[subprocess.Popen[str], float]:
    """Spawn a peer script with its arguments as one JSON text; returns the process and the time it was spawned."""
    began = time.time()
    process = subprocess.Popen(
        [interpreter, "-I", HERE / f"{script}.py", json.dumps(arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),  # Debezium leaves a folder of logs where it runs
    )
    return process, began


def finish(started: tuple[subprocess.Popen[str], float], timeout: float) -> dict[str, Any]:
    """Wait for a started peer and read its result; see `run`."""
    process, began = started
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise PeerFailed(f"no end within {timeout:.0f} s") from error
    wall = time.time() - began
    if process.returncode != 0:
        raise PeerFailed(err.strip()[-800:] or f"exit code {process.returncode}")
    answers = [line for line in out.splitlines() if line.startswith("{")]  # Debezium logs to standard output, too
    if not answers:
        raise PeerFailed(err.strip()[-800:] or "no result")
    result: dict[str, Any] = json.loads(answers[-1])
    return {**result, "wall_s": wall}


if __name__ == "__main__":
    for name in sys.argv[1:] or ["", "extension"]:
        print(python(name))
