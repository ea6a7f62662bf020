"""The control API's runtime without its HTTP part, as a process of its own that a test may kill at any moment.

``python -m tests.support.reconciling FOLDER INTERVAL`` reconciles the state in FOLDER until SIGTERM.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil

from engine.control.config import ControlConfig, parse_control_config
from engine.control.launchers import open_launcher
from engine.control.launchers.place import TOKEN
from engine.control.reconciler import Reconciler
from engine.control.records import Backend, Connection, Database, DesiredState, Instance, SyncMode
from engine.control.secrets import SecretStore, open_secret_store
from engine.control.state import Store
from engine.source import Secret
from tests.support import guard
from tests.support.servers import REFLEX
from tests.support.servers import Database as SourceDatabase
from tests.support.waiting import wait_until


def control_config(folder: Path) -> ControlConfig:
    """A ``control.yaml`` with everything below `folder`."""
    return parse_control_config(
        f"control: {{state: {folder}/control/state.sqlite, data_dir: {folder}/control/instances}}\n"
        f"secrets: {{path: {folder}/control/secrets, key_file: {folder}/control.key}}\n"
    )


class Control:
    """State and secrets of a control API in `folder`, and the process that reconciles them."""

    def __init__(self, folder: Path, interval: float = 0.2) -> None:
        self.folder, self.interval = folder, interval
        self.config = control_config(folder)
        self.store = Store(Path(self.config.control.state))
        self.secrets: SecretStore = open_secret_store(self.config)
        self.account = self.store.ensure_account("default").id
        self.log = folder / "reconciler.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.reconciling", str(self.folder), str(self.interval)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        guard.watch(self._process.pid)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def terminate(self) -> int | None:
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.send_signal(number)
        code = process.wait(60)
        guard.forget(process.pid)
        return code

    def close(self) -> None:
        """End everything, whatever state it is in."""
        self.kill()
        for process in self.engines():
            process.kill()
            psutil.wait_procs([process], 10)
        self.store.close()

    def connection(self, source: SourceDatabase, **changes: Any) -> Connection:
        """Keep a connection to a source, with its password in the secret store."""
        id, moment = uuid4(), datetime.now(UTC)
        fields: dict[str, Any] = {
            "id": id,
            "account_id": self.account,
            "name": f"c-{id.hex[:8]}",
            "backend": Backend.POSTGRES,
            "host": source.server.host,
            "port": source.server.port,
            "available_schemas": (source.name,),
            "user": REFLEX.name,
            "secret_ref": f"connections/{id}/1",
            "sync_mode": SyncMode.LOGICAL,
            "min_sync_interval": 30,
            "created_at": moment,
            "updated_at": moment,
        }
        connection = Connection(**(fields | changes))
        self.secrets.put(connection.secret_ref, Secret(REFLEX.password))
        self.store.create_connection_with_instance(connection)
        return connection

    def instance(self, connection: Connection, **changes: Any) -> UUID:
        """Keep an instance on the first schema of a connection, wanted to run."""
        moment = datetime.now(UTC)
        fields: dict[str, Any] = {
            "id": uuid4(),
            "account_id": self.account,
            "connection_id": connection.id,
            "name": "live",
            "mysql_db": connection.available_schemas[0],
            "sync_mode": connection.sync_mode,
            "sync_interval": 30,
            "instance_size": "nano",
            "log_level": "info",
            "region": "local",
            "created_at": moment,
            "updated_at": moment,
            "desired_state": DesiredState.RUNNING,
        }
        database = Database(**(fields | changes))
        return self.store.create_database(self.account, connection.id, lambda _: database).id

    def wish(self, id: UUID, desired: DesiredState) -> None:
        self.store.wish(id, desired)

    def read(self, id: UUID) -> Instance:
        return self.store.instance(id)

    def wait(self, id: UUID, timeout: float = 90.0, **expected: Any) -> Database:
        """Wait until these fields of the instance's record have these values; returns the record."""

        def found() -> Database | None:
            database = self.store.instance(id).database
            return database if all(getattr(database, name) == value for name, value in expected.items()) else None

        database = wait_until(found, timeout, message=lambda: f"{expected}: {self.read(id)}\n{self.logs()[-4000:]}")
        assert database is not None
        return database

    def logs(self) -> str:
        files = [self.log, *(self.folder / "control" / "instances").glob("*/engine.log")]
        return "\n".join(f"{file}:\n{file.read_text(errors='replace')[-3000:]}" for file in files if file.exists())

    def engines(self) -> list[psutil.Process]:
        """Every living process that a launcher started for an instance here."""
        root = str(self.folder / "control" / "instances")
        found = []
        for process in psutil.process_iter():
            try:
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.cwd().startswith(root) and TOKEN in process.environ():
                    found.append(process)
            except psutil.Error:
                continue
        return found


def main(folder: Path, interval: float) -> None:
    """Reconcile until SIGTERM."""
    from engine import logs

    logs.configure()
    config = control_config(folder)
    store, secrets = Store(Path(config.control.state)), open_secret_store(config)
    reconciler = Reconciler(store, open_launcher(config, secrets), interval=interval)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    reconciler.start()
    while not ended.wait(0.2):
        pass
    reconciler.close()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
