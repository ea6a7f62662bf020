"""The engine of the demo: ``reflex-engine run`` as a child process, configured like any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.demo.postgres import end_with_parent
from engine.errors import EngineError

LISTENS_WITHIN = 30.0
STOP_WITHIN = 12.0


class EngineProcess:
    """One instance, run in `folder` with `config` (the mapping of a ``reflex.yaml``). A context manager."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self._folder = folder
        self._config = config
        self._log = folder / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        file = self._folder / "reflex.yaml"
        file.touch(mode=0o600)
        file.write_text(json.dumps(self._config))
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.cli", "run", "--config", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={k: v for k, v in os.environ.items() if not k.startswith("REFLEX_")},
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - only async-signal-safe work is done in it
            )
        try:
            self.url = self._wait_for_url()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def memory_mb(self) -> int | None:
        """The process's resident set in MiB, None once it is gone."""
        import psutil

        try:
            return int(psutil.Process(self._process.pid).memory_info().rss) >> 20 if self._process else None
        except psutil.Error:
            return None

    def ensure_running(self) -> None:
        """Raises EngineError with the log's last words when the process has ended."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else None
            raise EngineError(f"the engine ended with exit code {code}; its last words:\n{self._last_words()}")

    def stop(self) -> int | None:
        """End it as an operator would; returns its exit code (None if it had to be killed)."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + LISTENS_WITHIN
        while time.monotonic() < deadline:
            for line in self._log.read_text(errors="replace").splitlines():
                url = _url(line)
                if url:
                    return url
            self.ensure_running()
            time.sleep(0.05)
        raise EngineError(f"the engine does not listen; its last words:\n{self._last_words()}")

    def _last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])


def _url(line: str) -> str | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return str(event["url"]) if isinstance(event, dict) and "url" in event else None
