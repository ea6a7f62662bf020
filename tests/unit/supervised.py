"""A process that supervises fake parts: ``python -m tests.unit.supervised BEHAVIOUR PORT`` (see test_supervisor)."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

from engine import logs
from engine.cli.errors import report
from engine.config import Config, parse_config
from engine.errors import CapExceeded, ConfigError, PreconditionError, Problem, ReplicaError
from engine.status import StatusBoard
from engine.supervisor import run_instance
from engine.supervisor.wiring import Wiring

FAILURES: dict[str, BaseException | None] = {
    "config": ConfigError([Problem("connection.user", "is refused")]),
    "precondition": PreconditionError("wal_level is replica.", "ALTER SYSTEM SET wal_level = logical;"),
    "replica": ReplicaError("the file is of a newer engine"),
    "fatal": ReplicaError("the database is invalid", fatal=True),
    "cap": CapExceeded("out of memory"),
    "unexpected": ValueError("row 17 of alice"),
    "fails and hangs": ValueError("row 18 of alice"),
    "returns": None,
}


class FakeReplica:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour

    def close(self) -> None:
        if self.behaviour == "fails and hangs":
            time.sleep(60)
        print("replica closed", flush=True)


class FakePipeline:
    def __init__(self, behaviour: str, board: StatusBoard) -> None:
        self.behaviour = behaviour
        self.board = board
        self.stopping = threading.Event()

    def run(self) -> None:
        print("pipeline runs", flush=True)
        if self.behaviour in FAILURES:
            failure = FAILURES[self.behaviour]
            if failure is not None:
                raise failure
            return
        self.stopping.wait()
        if self.behaviour == "hangs":
            time.sleep(60)
        print("pipeline stopped", flush=True)

    def stop(self) -> None:
        self.stopping.set()

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def hold(self) -> None: ...

    def release(self) -> None: ...


class FakeWiring(Wiring):
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour

    def replica(self, config: Config) -> Any:
        return FakeReplica(self.behaviour)

    def pipeline(self, config: Config, replica: Any, board: StatusBoard) -> Any:
        return FakePipeline(self.behaviour, board)

    def app(self, config: Config, replica: Any, board: StatusBoard, commands: Any) -> Any:
        async def answer(scope: Any, _receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
            if scope["type"] == "http":
                body = json.dumps({"cap": board.current.cap_exceeded, "pid": os.getpid()}).encode()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": body})

        return answer


def main() -> None:
    config = parse_config(
        json.dumps(
            {
                "connection": {
                    "backend": "postgres",
                    "host": "127.0.0.1",
                    "user": "u",
                    "password": "hunter2",
                    "available_schemas": ["shop"],
                },
                "instance": {"name": "supervised"},
                "http": {"port": int(sys.argv[2])},
            }
        )
    )
    logs.configure("info", config.secrets)
    try:
        sys.exit(run_instance(config, FakeWiring(sys.argv[1])))
    except Exception as error:
        sys.exit(report(error, as_log=True))


if __name__ == "__main__":
    main()
