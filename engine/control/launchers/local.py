"""Instances as child processes of this machine: ``reflex-engine run``, each in a folder and on a loopback port of its own.

The processes have sessions of their own and survive the control API when it is killed; the next one knows them again
by the notes in their folders (`engine.control.launchers.place`). When it ends in order, it ends them. Configuration and
password travel in the process's environment, so that no file and no command line holds them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import structlog

from engine.control.launchers.launcher import Observation, Presence, Spec
from engine.control.launchers.place import TOKEN, Note, Place, process_of
from engine.control.lock import hold
from engine.control.secrets.store import SecretStore
from engine.errors import PreconditionError, TransientError
from engine.source import Secret

log = structlog.get_logger(__name__)

STOP_WITHIN = 15.0
"""Seconds after which a process that was asked to end is killed; an engine ends itself within ten."""
HOST = "127.0.0.1"
ENDING = (Presence.STOPPING, Presence.CLEARING)
RUN, TEARDOWN = "run", "teardown"
PASSED_ON = frozenset({
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "TMPDIR", "TZ", "VIRTUAL_ENV",
})  # fmt: skip
"""What an instance sees of the control API's environment: nothing that may hold a secret."""


class LocalLauncher:
    """Runs instances below `folder`. Raises ConfigError when another control API uses it already."""

    ends_instances = True

    def __init__(self, folder: Path, secrets: SecretStore) -> None:
        self._folder = folder.absolute()
        self._secrets = secrets
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = hold(self._folder / "launcher.lock", "control.data_dir", self._folder)

    def observe(self, ids: Sequence[str]) -> Mapping[str, Observation]:
        """See `Launcher`. Kills what was asked to end too long ago."""
        seen = {}
        for id in ids:
            try:
                seen[id] = self._observe(id)
            except OSError as error:
                # One folder that cannot be read (or written) says nothing of the others.
                log.error("instance_not_seen", database=id, error=error.strerror)
        return seen

    def launch(self, spec: Spec) -> None:
        place = self._place(spec.id)
        note = place.read()
        if note is not None and self._alive(spec.id, note):
            return
        self._start(spec, RUN, _usable(note.port if note is not None else 0))

    def resize(self, spec: Spec) -> None:
        """Ends the process; `launch` starts the other one from the same replica."""
        self.stop(spec.id)

    def stop(self, id: str) -> None:
        place = self._place(id)
        note = place.read()
        if note is None or note.stopping_since is not None or not self._alive(id, note):
            return
        # The wish is kept first: an end that follows it was asked for, whoever sees it.
        note = place.write(replace(note, stopping_since=time.time()))
        self._signal(id, note, signal.SIGTERM)

    def clear(self, spec: Spec) -> None:
        note = self._place(spec.id).read()
        if note is not None and self._alive(spec.id, note):
            return
        self._start(spec, TEARDOWN, note.port if note is not None else 0)

    def remove(self, id: str) -> None:
        place = self._place(id)
        note = place.read()
        if note is not None and self._alive(id, note):
            raise TransientError("the instance's process still runs")
        place.remove()
        self._children.pop(id, None)

    def token(self, id: str) -> Secret | None:
        """None: an instance on loopback answers the programs of this machine."""
        del id
        return None

    def close(self) -> None:
        """End every process, all at once, and wait until they are gone."""
        ids = [entry.name for entry in self._folder.iterdir() if _is_id(entry.name)]
        for id in ids:
            try:
                self.stop(id)
            except OSError as error:
                log.error("instance_not_ended", database=id, error=error.strerror)
        deadline = time.monotonic() + STOP_WITHIN + 5
        while any(seen.presence in ENDING for seen in self.observe(ids).values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._lock.close()

    def _observe(self, id: str) -> Observation:
        place = self._place(id)
        note = place.read()
        if note is None:
            return Observation(Presence.IDLE if place.folder.exists() else Presence.ABSENT)
        place.bound_log()
        process = self._process(id, note)
        if process is not None:
            if note.pid is None:
                note = place.write(replace(note, pid=process))
            if note.task == TEARDOWN:
                return Observation(Presence.CLEARING, note.revision)
            if note.stopping_since is not None:
                # The clock may have been set back meanwhile, too.
                if abs(time.time() - note.stopping_since) > STOP_WITHIN:
                    log.warning("instance_killed", database=id)
                    self._signal(id, note, signal.SIGKILL)
                return Observation(Presence.STOPPING, note.revision)
            return Observation(Presence.RUNNING, note.revision, f"http://{HOST}:{note.port}")
        child = self._children.get(id)
        code = None if child is None else child.returncode
        if note.task == TEARDOWN:
            return Observation(Presence.IDLE, note.revision, cleared=place.ending(code, note.token))
        ended = None if note.stopping_since is not None else place.ending(code, note.token)
        return Observation(Presence.IDLE, note.revision, ended=ended)

    def _start(self, spec: Spec, task: str, port: int) -> None:
        place = self._place(spec.id)
        place.prepare()
        token = uuid.uuid4().hex
        environment = {name: value for name, value in os.environ.items() if name in PASSED_ON}
        environment |= {variable: self._secrets.get(ref).reveal() for variable, ref in spec.secrets.items()}
        environment |= {"REFLEX_CONFIG": spec.text(str(place.replica), {"host": HOST, "port": port}), TOKEN: token}
        note = place.write(Note(task, token, spec.revision, port))
        place.mark_log(token)
        with place.log.open("ab") as output:
            try:
                child = subprocess.Popen(
                    [sys.executable, "-m", "engine.cli", task],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=place.folder,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise TransientError(f"the instance's process cannot be started: {error.strerror}") from None
            except ValueError:
                message = "the password, or a name, holds a character that no process can be given"
                raise PreconditionError(message, "Change it at the source, and in the connection.") from None
        self._children[spec.id] = child
        place.write(replace(note, pid=child.pid))
        log.info("process_started", database=spec.id, task=task, pid=child.pid, port=port)

    def _alive(self, id: str, note: Note) -> bool:
        return self._process(id, note) is not None

    def _process(self, id: str, note: Note) -> int | None:
        """The number of the note's process, if that lives. Also reaps it, when it is a child of this process."""
        child = self._children.get(id)
        if child is not None and child.pid == note.pid:
            return child.pid if child.poll() is None else None
        process = process_of(note)
        return None if process is None else process.pid

    def _signal(self, id: str, note: Note, number: signal.Signals) -> None:
        child = self._children.get(id)
        if child is not None and child.pid == note.pid:
            child.send_signal(number)
            return
        process = process_of(note)
        if process is not None:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                return

    def _place(self, id: str) -> Place:
        return Place(self._folder / str(uuid.UUID(id)))


def _is_id(name: str) -> bool:
    """Whether a folder's name is an instance's: others (``lost+found``) are nobody's."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _usable(port: int) -> int:
    """`port` if nothing listens on it (0: there is none yet), else a free one: an address stays as long as it can."""
    for candidate in (port, 0) if port else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TransientError("this machine has no free port")
