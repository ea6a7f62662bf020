"""The engine as a user runs it: `reflex-engine run` in a process of its own, asked over HTTP."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from benchmarks.server import Server, free_port

ROOT = Path(__file__).resolve().parent.parent
ENGINE = Path(sys.executable).parent / "reflex-engine"


class EngineFailed(RuntimeError):
    """The engine ended, or did not get where it should; carries the end of its log."""


class Instance:
    """One instance of the engine with its folder (configuration, replica, log). Started and stopped as often as wished."""

    def __init__(
        self,
        server: Server,
        folder: Path,
        *,
        size: str,
        batch_window_ms: int = 50,
        include: tuple[str, ...] = ("*",),
        connection: dict[str, Any] | None = None,
    ) -> None:
        """`connection`: that section of the configuration, if the source is not `server`."""
        mysql = connection is not None and connection.get("backend") == "mysql"
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.replica = folder / "replica.duckdb"
        self.port = free_port()
        self.config = folder / "reflex.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "version": 1,
                    "connection": connection
                    or {
                        "name": "bench",
                        "backend": "postgres",
                        "host": "127.0.0.1",
                        "port": server.port,
                        "user": "reflex",
                        "password": "unused",
                        "available_schemas": ["shop"],
                    },
                    "instance": {
                        "name": "bench",
                        "schema": "shop",
                        "sync_mode": "binlog" if mysql else "logical",
                        "instance_size": size,
                        "batch_window_ms": batch_window_ms,
                    },
                    "tables": {"include": list(include)},
                    "replica": {"path": str(self.replica)},
                    "http": {"host": "127.0.0.1", "port": self.port},
                }
            )
        )
        self.log = folder / "log.jsonl"
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=600, trust_env=False, verify=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Spawn the process and return at once; `started_at` is when (seconds since the epoch)."""
        with self.log.open("ab") as log:
            self.started_at = time.time()
            self._process = subprocess.Popen(
                [ENGINE, "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def stop(self) -> None:
        """Ask it to end (SIGTERM) and wait; a process that does not within a minute is killed, and that is an error."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise EngineFailed("the engine did not end within 60 s of SIGTERM") from error

    def teardown(self) -> None:
        """Drop the slot and the publication."""
        command = [str(ENGINE), "teardown", "--config", str(self.config)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise EngineFailed(f"teardown failed: {(done.stdout + done.stderr)[-800:]}")

    def wait_ready(self, timeout: float) -> float:
        """Wait until queries are served; returns when that was (seconds since the epoch)."""
        return self._wait(timeout, "ready", lambda: self._http.get("/readyz").status_code == 200)

    def wait_alive(self, timeout: float = 60) -> float:
        """Wait until the HTTP surface answers at all; returns when that was."""
        return self._wait(timeout, "alive", lambda: self._http.get("/livez").status_code == 200)

    def _wait(self, timeout: float, what: str, condition: Any) -> float:
        deadline = time.monotonic() + timeout
        while True:
            try:
                if condition():
                    return time.time()
            except httpx.TransportError:
                pass
            if self._process is None or self._process.poll() is not None:
                raise EngineFailed(f"the engine ended before it was {what}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise EngineFailed(f"the engine was not {what} within {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(0.01)

    def query(self, sql: str, *, after: str | None = None, timeout: float = 120) -> dict[str, Any]:
        """Ask a question; with `after` the answer waits for that position. Keys as in the interface."""
        body: dict[str, Any] = {"sql": sql, "timeout_ms": int(timeout * 1000)}
        if after is not None:
            body["after"] = after
        reply = self._http.post("/query", json=body, timeout=timeout + 5)
        if reply.status_code != 200:
            raise EngineFailed(f"POST /query: {reply.status_code} {reply.text[:400]}\n{self.log_tail()}")
        answer: dict[str, Any] = reply.json()
        return answer

    def visible(self, after: str, timeout: float = 300) -> float:
        """Wait until the position `after` is visible through `/query`; returns when that was."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                self.query("SELECT 1", after=after, timeout=min(left, 590))
                return time.time()
            except EngineFailed as error:
                # The surface is up before the replica and the source are.
                starting = ": 503" in str(error) or "has not been opened yet" in str(error)
                if not starting or left <= 0 or self._process is None or self._process.poll() is not None:
                    raise
                time.sleep(0.01)

    def health(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.get("/health").json()
        return answer

    def peak_mb(self) -> float:
        """Peak resident set (VmHWM) of the engine and its children together, in MB."""
        pids = [self.pid, *(child.pid for child in psutil.Process(self.pid).children(recursive=True))]
        return sum(peak_mb(pid) for pid in pids)

    def cpu_s(self) -> float:
        """Processor seconds that the engine has used since it was started."""
        used = psutil.Process(self.pid).cpu_times()
        return float(used.user + used.system)

    def log_tail(self, size: int = 1500) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace")


def peak_mb(pid: int) -> float:
    """VmHWM of a living process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def reset_peak(pid: int) -> None:
    """Forget the peak so far: VmHWM starts again from what is resident now (Linux, `man 5 proc`, clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
