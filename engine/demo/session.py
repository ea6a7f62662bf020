"""The demo from start to end: server, shop, writer, engine, display, comparison, and nothing left behind."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psycopg

from engine.client import ClientError, InstanceClient
from engine.demo.compare import compare_table
from engine.demo.display import Display, Rates, View, display, summary
from engine.demo.engine_process import EngineProcess
from engine.demo.postgres import EmbeddedPostgres
from engine.demo.probes import Probe, current_position
from engine.demo.shop import SAMPLE, TABLES, Counts, Writer, fill
from engine.errors import EngineError
from engine.terminal import text_table

READY_WITHIN = 60.0
REDRAW_EVERY = 0.25
ROLE = "reflex"


def run_demo(*, duration: float | None = None) -> int:
    """Run the demo for `duration` seconds of replication (None: until Ctrl-C).

    Returns 0, or 1 when the replica differs from the source or the invariant was seen broken. Raises EngineError.
    """
    with interruptible() as interrupted:
        try:
            with Demo(display(), interrupted) as demo:
                return demo.run(duration)
        except KeyboardInterrupt:
            with suppress(OSError):  # a terminal that is closed
                print("\nThe demo is over; everything it made is removed.", flush=True)
            return 0


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """SIGTERM, and a terminal that is closed, end the demo as Ctrl-C does; while things are being removed none
    interrupts that. Under nohup, which ignores SIGHUP, the demo outlives its terminal.

    The event is set as well: an exception that a signal raises while an object is being finalised is lost.
    """
    interrupted = threading.Event()

    def interrupt(_number: int, _frame: object) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        interrupted.set()
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    if before[signal.SIGHUP] == signal.SIG_IGN:
        del before[signal.SIGHUP]
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Demo:
    """Holds all parts; leaving the context ends and removes every one of them, the last made first."""

    def __init__(self, out: Display, interrupted: threading.Event) -> None:
        self._out = out
        self._interrupted = interrupted
        self._stack = ExitStack()
        self._counts = Counts()
        self._rates = Rates()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, duration: float | None) -> int:
        """Start everything, show it for `duration` seconds, compare."""
        out, stack = self._out, self._stack
        began = time.monotonic()
        out.say("Starting an embedded PostgreSQL ...")
        postgres = stack.enter_context(EmbeddedPostgres())
        password = _make_database(postgres)

        def connect() -> psycopg.Connection:
            return postgres.connect("shop", ROLE, password)

        source = stack.enter_context(connect())
        fill(source, self._counts)
        out.say(
            f"PostgreSQL {_version(source)} on port {postgres.port}: {sum(self._counts.rows.values()):,} rows in a shop"
        )
        writer = Writer(connect, self._counts)
        stack.callback(writer.stop)
        writer.start()
        folder = Path(tempfile.mkdtemp(prefix="reflex-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        engine = stack.enter_context(EngineProcess(folder, _config(folder, postgres.port, password)))
        client = stack.enter_context(InstanceClient(engine.url))
        out.say(f"The engine serves {engine.url}")
        self._wait_until_ready(engine, client)
        out.say(f"First snapshot complete {time.monotonic() - began:.1f} s after the start")
        _show_sample(out, client)
        probe = Probe(connect, client)
        stack.callback(probe.stop)
        probe.start()
        view = View(engine.url)
        with out:
            seconds = self._watch(view, engine, client, probe, writer, duration)
        probe.stop()
        writer.stop()
        self._refresh(view, engine, client, probe)
        return self._compare(source, client, view, seconds)

    def _watch(
        self,
        view: View,
        engine: EngineProcess,
        client: InstanceClient,
        probe: Probe,
        writer: Writer,
        duration: float | None,
    ) -> float:
        """Redraw until `duration` has passed; returns the seconds that passed."""
        began = time.monotonic()
        while duration is None or time.monotonic() - began < duration:
            self.heed()
            engine.ensure_running()
            if writer.error is not None:
                raise EngineError(f"the demo's writer failed: {type(writer.error).__name__}") from writer.error
            self._refresh(view, engine, client, probe)
            self._out.update(view)
            time.sleep(REDRAW_EVERY)
        return time.monotonic() - began

    def heed(self) -> None:
        """Raise KeyboardInterrupt if there was an interrupt, whatever became of the exception that it raised itself."""
        if self._interrupted.is_set():
            raise KeyboardInterrupt

    def _wait_until_ready(self, engine: EngineProcess, client: InstanceClient) -> None:
        """Wait for the first snapshot. Raises EngineError when it does not come."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            self.heed()
            engine.ensure_running()
            try:
                client.query("SELECT 1")
            except ClientError:
                time.sleep(0.1)
            else:
                return
        raise EngineError("the first snapshot is not complete in time")

    def _refresh(self, view: View, engine: EngineProcess, client: InstanceClient, probe: Probe) -> None:
        try:
            health = client.health()
        except ClientError:
            health = {}
        view.phase = str(health.get("phase", "restarting"))
        view.status = str(health.get("status", "unreachable"))
        view.lag_ms = health.get("lagMs")
        view.memory_cap_mb = health.get("memoryCapMb")
        view.memory_mb = engine.memory_mb
        counts = health.get("rowCounts") or {}
        view.replica_rows = {t: counts.get(f"public.{t}") for t in TABLES}
        view.source_rows = dict(self._counts.rows)
        rates = self._rates.add(time.monotonic(), self._counts.transactions, self._counts.changes)
        view.transactions_rate, view.changes_rate = rates
        view.fresh_p50, view.fresh_p99 = probe.percentile(0.5), probe.percentile(0.99)
        view.invariant_seen, view.invariant_broken = probe.seen, probe.broken

    def _compare(self, source: psycopg.Connection, client: InstanceClient, view: View, seconds: float) -> int:
        """Compare every table once the replica has reached the source's end, and print the summary."""
        end = current_position(source)
        comparisons = [compare_table(source, client, table, end) for table in TABLES]
        for line in summary(comparisons, view, self._counts, seconds):
            self._out.say(line)
        equal = all(c.equal for c in comparisons)
        self._out.say("The replica is EQUAL to the source." if equal else "The replica is DIFFERENT from the source.")
        return 0 if equal and not view.invariant_broken else 1


def _make_database(postgres: EmbeddedPostgres) -> str:
    """A database of a role that may replicate and owns its tables, as an operator would set it up."""
    password = secrets.token_urlsafe(16)
    with postgres.connect() as admin:
        # A password in a statement must be a literal; this one is made of URL-safe characters only.
        admin.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{password}'")
        admin.execute(f"CREATE DATABASE shop OWNER {ROLE}")
    return password


def _config(folder: Path, source_port: int, password: str) -> dict[str, Any]:
    return {
        "version": 1,
        "connection": {
            "name": "demo-shop",
            "backend": "postgres",
            "host": "127.0.0.1",
            "port": source_port,
            "user": ROLE,
            "password": password,
            "tls": {"mode": "disable"},
            "available_schemas": ["shop"],
        },
        "instance": {"name": "demo", "schema": "shop", "sync_mode": "logical", "batch_window_ms": 50},
        "replica": {"path": str(folder / "demo.duckdb")},
        "http": {"host": "127.0.0.1", "port": 0},
    }


def _version(connection: psycopg.Connection) -> str:
    number = connection.info.server_version
    return f"{number // 10000}.{number % 10000}"


def _show_sample(out: Display, client: InstanceClient) -> None:
    answer = client.query(SAMPLE)
    out.say(f"\n{SAMPLE}\n")
    out.say(text_table([c["name"] if isinstance(c, dict) else c for c in answer["columns"]], answer["rows"]))
    out.say(f'\nAsk it yourself: {_program()} query --url {client.url} "SELECT count(*) FROM orders"\n')


def _program() -> str:
    """The command as another shell can run it: after `make demo` it is in .venv/bin and not on the PATH."""
    name = "reflex-engine"
    if shutil.which(name):
        return name
    started_as = sys.argv[0]
    return started_as if Path(started_as).name == name else f"{sys.executable} -m engine.cli"
